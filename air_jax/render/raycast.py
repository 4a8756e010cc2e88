"""A ray caster in JAX: analytic boxes, spheres and cone frusta on a table, Lambert shading.

Batched under jit and vmap, on any device. No shadows: it is to be fast, not photorealistic. The
primitives are looped over with the nearest hit carried along: unrolled, XLA computes them again
inside its fusions, many times slower. It also inlines a loop of a single turn (one solid has one
primitive of each shape), so that the ground is met last, in a loop of two turns.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from air_jax.render import primitives
from air_jax.render.primitives import FAR, TINY
from air_jax.render.scene import Scene, View

# What this returns is not computed again inside fusions that use it; on CPUs XLA drops it early.
_once = jax.lax.optimization_barrier

_RAYS_IN_CACHE = 2**16


def axes(camera: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a camera has to its right, above it and behind it.

    Args:
      camera: azimuth and elevation, radians, and distance, `[3]`.

    Returns:
      Unit vectors in the world, `[3]` each.
    """
    azimuth, elevation, _ = camera
    behind = jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            -jnp.cos(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
        ]
    )
    right = jnp.stack([jnp.cos(azimuth), jnp.sin(azimuth), jnp.zeros(())])
    return right, jnp.cross(behind, right), behind


def half_width(view: View) -> float:
    """Half of the image's side, at a distance of 1."""
    return float(np.tan(np.radians(view.field_of_view) / 2))


def _rays(camera: jax.Array, view: View) -> tuple[Any, Any]:
    """Origin `(x, y, z)` of scalars, unit directions `(x, y, z)` of `[R]`, line by line."""
    right, up, behind = axes(camera)
    size, samples = view.image_size, view.supersampling
    side = (2 * (np.arange(size * samples) + 0.5) / (size * samples) - 1) * half_width(view)
    v, u = np.broadcast_arrays(-side[:, None], side)
    u, v = u.ravel(), v.ravel()
    directions = [right[i] * u + up[i] * v - behind[i] for i in range(3)]
    norm = np.sqrt(u * u + v * v + 1)
    origin = camera[2] * behind
    return tuple(origin), tuple(direction / norm for direction in directions)


def _in_frame(pose, o, d):
    """A ray in an object's own frame, of which t is still the world's distance."""
    x, y, cos, sin, inverse = pose
    o = (o[0] - x, o[1] - y, o[2])
    o, d = (
        ((cos * v[0] + sin * v[1]) * inverse, (cos * v[1] - sin * v[0]) * inverse, v[2] * inverse)
        for v in (o, d)
    )
    return o, d


class _Nearest(NamedTuple):
    """What each ray has met first so far, `[R]` each.

    Attributes:
      distance: to it.
      cosine: of its normal to the light, 0 in the shade.
      surface: which of those that `looks` lists.
      turning: derivative of the cosine as the object turns, or None.
    """

    distance: jax.Array
    cosine: jax.Array
    surface: jax.Array
    turning: jax.Array | None


def _meet(shape, geometry, rows, pose, exists, place, rays, light, nearest):
    """Whether a primitive is nearer."""
    o, d = _in_frame(pose, *rays)
    hit = primitives.HIT[shape](geometry, rows, o, d)
    _, _, cos, sin, _ = pose
    light = (cos * light[0] + sin * light[1], cos * light[1] - sin * light[0], light[2])
    normal = hit.normal
    # A skin is seen from both sides.
    facing = jnp.sign(-sum(n * v for n, v in zip(normal, d, strict=True)))
    squared = sum(n * n for n in normal)
    length = facing * jax.lax.rsqrt(jnp.maximum(squared, TINY))
    cosine = length * sum(n * v for n, v in zip(normal, light, strict=True))
    turning = None
    if nearest.turning is not None:
        turning = length * (normal[0] * light[1] - normal[1] * light[0])
        turning = jnp.where(cosine > 0, turning, 0.0)
    here = (hit.distance < nearest.distance) & (exists > 0.5)
    surface = 2 * place + jnp.where(hit.other, 1, 0)
    met = _Nearest(hit.distance, jnp.maximum(cosine, 0.0), surface, turning)
    return jax.tree.map(lambda new, old: jnp.where(here, new, old), met, nearest)


class Cast(NamedTuple):
    """What the rays of a scene meet, `[R]` each.

    Attributes:
      points: `(x, y, z)` where, in the world.
      distance: to an object; 1e6 where there is none but the table or the floor.
      surface: which of those that `looks` lists.
      cosine: of its normal to the light, 0 in the shade.
      turning: derivative of the cosine as the object turns, per radian; None if not asked for.
    """

    points: tuple[jax.Array, ...]
    distance: jax.Array
    surface: jax.Array
    cosine: jax.Array
    turning: jax.Array | None


def cast(scene: Scene, view: View, *, with_turning: bool = False) -> Cast:
    """Follows the rays of one scene, line by line, `supersampling` of them along a pixel's side.

    What they meet first is looked up by identity in tables of each shape's primitives, so that the
    program is the same for all scenes of a catalogue.

    Args:
      scene: without batch axes, K objects, each there with presence > 0.5.
      view: catalogue, sizes, supersampling; R is (image_size * supersampling)^2.
      with_turning: whether that is wanted; only gradients need it.
    """
    o, d = rays = _rays(scene.camera, view)
    light = _light(scene.light)
    k = scene.identity.shape[0]
    turned = jnp.cos(scene.yaw), jnp.sin(scene.yaw), 1.0 / scene.scale
    poses = jnp.stack([scene.position[:, 0], scene.position[:, 1], *turned], axis=-1)
    far, nothing = jnp.full_like(d[0], FAR), jnp.zeros_like(d[0])
    surface = jnp.zeros_like(far, jnp.int32)
    nearest = _Nearest(far, nothing, surface, nothing if with_turning else None)
    first = 0
    for shape, table in primitives.tables(view.catalogue).items():
        width = table.exists.shape[1]
        geometry = jnp.asarray(table.geometry)[scene.identity].reshape(k * width, 6)
        rows = jnp.asarray(table.rows)[scene.identity].reshape(k * width)
        exists = jnp.asarray(table.exists)[scene.identity] * scene.presence[:, None]
        exists = exists.reshape(k * width)
        pose = jnp.repeat(poses, width, axis=0)

        def meet(i, nearest, shape=shape, of_each=(geometry, rows, pose, exists), first=first):
            geometry, rows, pose, exists = (leaf[i] for leaf in of_each)
            this = tuple(geometry), rows, tuple(pose), exists, first + i
            return _meet(shape, *this, rays, light, nearest)

        nearest = _once(jax.lax.fori_loop(0, k * width, meet, nearest))
        first += k * width

    nearest = _meet_ground(view, 2 * first, rays, light, nearest)
    is_object = nearest.surface < 2 * first
    return Cast(
        points=tuple(o[i] + nearest.distance * d[i] for i in range(3)),
        distance=jnp.where(is_object, nearest.distance, FAR),
        surface=nearest.surface,
        cosine=nearest.cosine,
        turning=nearest.turning,
    )


def _meet_ground(view, first_surface, rays, light, nearest):
    """Where nothing stands in the way: the floor, which has no end, then in its place the table."""
    o, d = rays
    t = jnp.minimum(-o[2] / jnp.minimum(d[2], -TINY), FAR)
    met = nearest._replace(
        distance=t,
        cosine=jnp.full_like(t, jnp.maximum(light[2], 0.0)),
        turning=jax.tree.map(jnp.zeros_like, nearest.turning),
    )
    halves = jnp.array([[jnp.inf, jnp.inf], view.table_half])

    def meet(i, nearest):
        here = t <= nearest.distance
        for axis in range(2):
            here &= jnp.abs(o[axis] + t * d[axis]) <= halves[i, axis]
        this = met._replace(surface=jnp.full_like(nearest.surface, first_surface + 1 - i))
        return jax.tree.map(lambda new, old: jnp.where(here, new, old), this, nearest)

    return jax.lax.fori_loop(0, 2, meet, nearest)


def looks(scene: Scene, view: View) -> tuple[jax.Array, jax.Array]:
    """What a scene's rays may meet: S surfaces.

    Two for each primitive that the K objects may have, one of each of its checker's colours; then
    the table and the floor.

    Args:
      scene: without batch axes.
      view: for its catalogue.

    Returns:
      Colours `[S, 3]`, and poses `(x, y, yaw)`, units of length and radians, `[S, 3]`: zeros for
      the last two, and for the yaw of what looks alike from all sides.
    """
    colours, poses = [], []
    poses_of = jnp.concatenate([scene.position, scene.yaw[:, None]], axis=-1)
    for table in primitives.tables(view.catalogue).values():
        tinted = jnp.asarray(table.colours)[scene.identity] * scene.tint[:, None, None]
        colours.append(tinted.reshape(-1, 3))
        turns = jnp.asarray(table.turns)[scene.identity]
        moves = jnp.stack([jnp.ones_like(turns), jnp.ones_like(turns), turns], axis=-1)
        pose = (poses_of[:, None] * moves)[:, :, None]
        poses.append(jnp.broadcast_to(pose, tinted.shape).reshape(-1, 3))
    poses.append(jnp.zeros_like(scene.table))
    return jnp.concatenate([*colours, scene.table]), jnp.concatenate(poses)


def choose(values: jax.Array, surface: jax.Array) -> jax.Array:
    """Of values of all surfaces `[S, F]` those of the ones that rays meet, `[F, R]`."""
    # As a product of matrices: a gather would be computed again wherever it is used.
    chosen = (jnp.arange(len(values))[:, None] == surface).astype(jnp.float32)
    return jnp.dot(values.T, chosen, precision=jax.lax.Precision.HIGHEST)


def shade(colours: jax.Array, cosine: jax.Array, brightness: jax.Array) -> jax.Array:
    """Colours in the light (Lambert).

    Args:
      colours: `[3, R]`.
      cosine: of the normal to the light, 0 in the shade, `[R]`.
      brightness: ambient and directional, `[2]`.

    Returns:
      `[3, R]`, at most 1.
    """
    ambient, directional = brightness
    return jnp.minimum(colours * (ambient + directional * cosine), 1.0)


def _render_one(scene: Scene, view: View) -> jax.Array:
    """One scene, `[H, W, 3]`."""
    met = cast(scene, view)
    colours, _ = looks(scene, view)
    image = shade(choose(colours, met.surface), met.cosine, scene.brightness)
    return pixels(image, view)


def pixels(rays: jax.Array, view: View) -> jax.Array:
    """The means of each pixel's rays, `[3, R]` or the same as an image, to `[H, W, 3]`."""
    size, samples = view.image_size, view.supersampling
    return rays.reshape(3, size, samples, size, samples).mean((2, 4)).transpose(1, 2, 0)


def _light(light: jax.Array) -> jax.Array:
    """Where it comes from, a unit vector."""
    azimuth, elevation = light
    return jnp.stack(
        [
            jnp.sin(azimuth) * jnp.cos(elevation),
            -jnp.cos(azimuth) * jnp.cos(elevation),
            jnp.sin(elevation),
        ]
    )


def render(scene: Scene, view: View, *, at_once: int | None = None) -> jax.Array:
    """Draws scenes.

    Args:
      scene: leaves with the same batch axes, any number of them.
      view: catalogue, sizes, supersampling.
      at_once: scenes that are drawn at a time; None for what was fastest where it was measured: on
        CPUs as many as their caches hold the rays of, elsewhere all.

    Returns:
      float32 `[..., H, W, 3]` in [0, 1].
    """
    return batched(_render_one, scene, view, at_once)


def batched(
    one: Callable[..., jax.Array], scene: Scene, view: View, at_once: int | None
) -> jax.Array:
    """Draws scenes by what draws a single one; see `render`."""
    batch = scene.identity.shape[:-1]
    one = functools.partial(one, view=view)
    if not batch:
        return one(scene)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(batch) :]), scene)
    if at_once is None and jax.default_backend() == "cpu":
        at_once = max(1, _RAYS_IN_CACHE // (view.image_size * view.supersampling) ** 2)
    num_scenes = len(flat.identity)
    if at_once is None or at_once >= num_scenes:
        images = jax.vmap(one)(flat)
    else:
        images = jax.lax.map(one, flat, batch_size=at_once)
    return images.reshape(*batch, *images.shape[1:])
