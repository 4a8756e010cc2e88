"""The ray caster with a gradient of its own: edges move with the surfaces that they bound.

A ray meets one surface or another, so that the derivative of what it sees knows nothing of edges,
and those are where an image changes. Seen from the surface's side (Loper and Black, OpenDR: An
Approximate Differentiable Renderer, ECCV 2014), a point of an object keeps its colour but for what
the light does as it turns, and moves across the image as its pose and the camera say: the image
changes by minus its slope times that motion. At an edge it is the nearer surface that moves. So one
casting of rays and one pass backward give all derivatives, instead of two more images for each.

Approximate: the image's slope is a difference between neighbouring rays, at the border only half of
one, and where two objects cross the edge counts as the nearer one's.
"""

import functools

import jax
import jax.numpy as jnp

from air_jax.render import raycast
from air_jax.render.scene import Scene, View

_NEAR = 1e-3  # in units of length


def render(scene: Scene, view: View, *, at_once: int | None = None) -> jax.Array:
    """Draws scenes as `raycast.render`, with a gradient that knows of edges.

    Args:
      scene: leaves with the same batch axes, any number of them. Position, yaw, and the camera's
        azimuth and elevation have a gradient, tint, table and brightness the usual one, scale,
        light and presence none.
      view: catalogue, sizes, supersampling.
      at_once: see `raycast.render`.

    Returns:
      float32 `[..., H, W, 3]` in [0, 1].
    """
    return _render(scene, view, at_once)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _render(scene: Scene, view: View, at_once: int | None) -> jax.Array:
    # Where nobody asks for a derivative, nothing of it is prepared.
    return raycast.render(scene, view, at_once=at_once)


@_render.defjvp
def _render_with_motion(view, at_once, primals, tangents):
    def render_moving(scene):
        return raycast.batched(_render_one, scene, view, at_once)

    return jax.jvp(render_moving, primals, tangents)


def _render_one(scene: Scene, view: View) -> jax.Array:
    fixed = jax.lax.stop_gradient(scene)
    met = raycast.cast(fixed, view, with_turning=True)
    assert met.turning is not None
    colours, poses = raycast.looks(scene, view)
    of_rays = raycast.choose(jnp.concatenate([colours, poses], axis=-1), met.surface)
    colours, poses = of_rays[:3], of_rays[3:]
    place = jax.lax.stop_gradient(poses)
    moved = poses - place  # zeros, with a gradient
    image = raycast.shade(colours, met.cosine + met.turning * moved[2], scene.brightness)

    x, y, z = met.points
    points = jnp.stack(
        [
            x + moved[0] - moved[2] * (y - place[1]),
            y + moved[1] + moved[2] * (x - place[0]),
            z,
        ]
    )
    motion = _project(points, scene.camera, view)
    motion -= jax.lax.stop_gradient(motion)
    side = view.image_size * view.supersampling
    image, motion, distance = (
        part.reshape(-1, side, side) for part in (image, motion, met.distance)
    )
    for axis, across in ((2, motion[0]), (1, motion[1])):
        image += _change(image, across, distance[0], axis)
    return raycast.pixels(image, view)


def _project(points: jax.Array, camera: jax.Array, view: View) -> jax.Array:
    """Where points `[3, R]` are in the image: to the right and down, in rays, `[2, R]`.

    Zeros for those at the camera itself: of a camera on the table, the table's.
    """
    axes = jnp.stack(raycast.axes(camera))
    points = points - (camera[2] * axes[2])[:, None]
    right, up, behind = jnp.dot(axes, points, precision=jax.lax.Precision.HIGHEST)
    is_before = -behind > _NEAR
    seen = jnp.stack([right, -up]) / jnp.where(is_before, -behind, 1.0)
    in_rays = view.image_size * view.supersampling / 2 / raycast.half_width(view)
    return jnp.where(is_before, seen, 0.0) * in_rays


def _change(image: jax.Array, motion: jax.Array, distance: jax.Array, axis: int) -> jax.Array:
    """What motion along an axis does to an image `[3, H, W]`: zeros, with a gradient.

    Args:
      image: what is moved; no gradient.
      motion: along the axis, `[H, W]`, in rays.
      distance: of what is seen, `[H, W]`.
      axis: of the image.
    """
    length = image.shape[axis]

    def pair(values, along):
        before = jax.lax.slice_in_dim(values, 0, length - 1, axis=along)
        return before, jax.lax.slice_in_dim(values, 1, length, axis=along)

    one, other = pair(jax.lax.stop_gradient(image), axis)
    near, far = pair(distance, axis - 1)
    of_one, of_other = pair(motion, axis - 1)
    change = -0.5 * (other - one) * jnp.where(near < far, of_one, of_other)

    def padded(before, after):
        widths = [(0, 0)] * image.ndim
        widths[axis] = (before, after)
        return jnp.pad(change, widths)

    # Half of it is each neighbour's.
    return padded(0, 1) + padded(1, 0)
