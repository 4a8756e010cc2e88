"""A ray caster in JAX: analytic boxes, spheres and cone frusta on a table, Lambert shading.

Batched under jit and vmap, on any device. No shadows: it is to be fast, not photorealistic. The
primitives are looped over with the nearest hit carried along: unrolled, XLA computes them again
inside its fusions, many times slower.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from air_jax.render.scene import Box, Catalogue, Frustum, Scene, Sphere, View

# XLA does not compute what this returns again inside the fusions that use it.
_once = jax.lax.optimization_barrier

_FAR = 1e6
_RAYS_IN_CACHE = 2**16
_TINY = 1e-9


class _Primitives(NamedTuple):
    """Of every model the primitives of one shape, padded to as many as the richest model has.

    Attributes:
      geometry: six numbers each (see `_hit_box` and so on), `[models, parts, 6]`.
      exists: 1 for those that are not padding, `[models, parts]`.
      colours: its own and the checker's other one, `[models, parts, 2, 3]`.
      rows: of the checker, `[models, parts]`.
      turns: 1 for those that look different when they are turned, `[models, parts]`.
    """

    geometry: np.ndarray
    exists: np.ndarray
    colours: np.ndarray
    rows: np.ndarray
    turns: np.ndarray


def _geometry(part: Box | Sphere | Frustum) -> list[float]:
    if isinstance(part, Box):
        return [*part.centre, *part.half]
    if isinstance(part, Sphere):
        return [*part.centre, part.radius, 0.0, 0.0]
    return [*part.z, *part.radius, *map(float, part.closed)]


def _turns(part: Box | Sphere | Frustum) -> bool:
    """Whether a turn about the object's axis is seen."""
    if isinstance(part, Box):
        return True
    if isinstance(part, Sphere):
        return any(part.centre[:2])
    return part.checker is not None


@functools.lru_cache
def _tables(catalogue: Catalogue) -> dict[type, _Primitives]:
    tables = {}
    for shape in _HIT:
        of_model = [[p for p in model.parts if isinstance(p, shape)] for model in catalogue]
        width = max(map(len, of_model))
        padded = (len(catalogue), width)
        table = _Primitives(
            *(np.zeros((*padded, *rest), np.float32) for rest in ((6,), (), (2, 3), (), ()))
        )
        for place in np.ndindex(padded):
            parts = of_model[place[0]]
            if place[1] < len(parts):
                part = parts[place[1]]
                other = getattr(part, "checker", None) or part.colour
                table.geometry[place], table.exists[place] = _geometry(part), 1.0
                table.colours[place], table.rows[place] = (part.colour, other), 1.0
                table.turns[place] = _turns(part)
                if isinstance(part, Frustum):
                    table.rows[place] = part.rows
        if width:
            tables[shape] = table
    return tables


def axes(camera: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a camera `[3]` has to its right, above it and behind it: unit vectors `[3]`."""
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
    """Origin `(x, y, z)` of scalars, unit directions `(x, y, z)` of `[R]`, a pixel's in a row."""
    right, up, behind = axes(camera)
    size, samples = view.image_size, view.supersampling
    side = (2 * (np.arange(size * samples) + 0.5) / (size * samples) - 1) * half_width(view)
    # Ordered by pixel, then by sample within it.
    side = side.reshape(size, samples)
    v, u = np.broadcast_arrays(-side[:, None, :, None], side[None, :, None, :])
    u, v = u.reshape(-1), v.reshape(-1)
    directions = [right[i] * u + up[i] * v - behind[i] for i in range(3)]
    norm = np.sqrt(u * u + v * v + 1)
    origin = camera[2] * behind
    return tuple(origin), tuple(direction / norm for direction in directions)


def _safe(value: jax.Array) -> jax.Array:
    """Away from zero."""
    return jnp.where(jnp.abs(value) < _TINY, _TINY, value)


def _roots(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether `a t^2 + 2 b t + c = 0` has roots, and these, ascending where a > 0."""
    inside = b * b - a * c
    root = jnp.sqrt(jnp.maximum(inside, _TINY * _TINY))
    a = _safe(a)
    return inside > 0, (-b - root) / a, (-b + root) / a


class _Hit(NamedTuple):
    """Where rays meet a primitive, in the object's frame, `[R]` each.

    Attributes:
      distance: along the ray, `_FAR` for none.
      normal: `(x, y, z)`, of any length, of any side.
      other: whether the checker has its other colour there.
    """

    distance: jax.Array
    normal: tuple[Any, ...]
    other: Any


def _hit_box(geometry, rows, o, d):
    """Of a box: centre and half sides."""
    del rows
    near, far = jnp.full_like(d[0], -_FAR), jnp.full_like(d[0], _FAR)
    normal = [jnp.zeros_like(d[0])] * 3
    for i in range(3):
        inverse = 1.0 / _safe(d[i])
        at = (geometry[i] - o[i]) * inverse
        reach = geometry[3 + i] * jnp.abs(inverse)
        # The ray enters by the side that it meets last.
        later = at - reach > near
        near, far = jnp.maximum(near, at - reach), jnp.minimum(far, at + reach)
        normal = [jnp.where(later, float(i == j), part) for j, part in enumerate(normal)]
    hit = (near < far) & (near > 0)
    return _Hit(jnp.where(hit, near, _FAR), tuple(normal), False)


def _hit_sphere(geometry, rows, o, d):
    """Of a sphere: centre and radius."""
    del rows
    x, y, z = (o[i] - geometry[i] for i in range(3))
    a = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    b = d[0] * x + d[1] * y + d[2] * z
    hit, near, _ = _roots(a, b, x * x + y * y + z * z - geometry[3] ** 2)
    hit &= near > 0
    t = jnp.where(hit, near, 0.0)
    normal = (x + t * d[0], y + t * d[1], z + t * d[2])
    return _Hit(jnp.where(hit, near, _FAR), normal, False)


def _hit_frustum(geometry, rows, o, d):
    """Of a frustum: its ends' z, radii, and whether they are closed."""
    low, high, radius_low, radius_high, closed_low, closed_high = geometry
    slope = (radius_high - radius_low) / _safe(high - low)
    radius = radius_low + slope * (o[2] - low)
    a = d[0] ** 2 + d[1] ** 2 - (slope * d[2]) ** 2
    b = d[0] * o[0] + d[1] * o[1] - slope * radius * d[2]
    hit, *both = _roots(a, b, o[0] ** 2 + o[1] ** 2 - radius**2)
    side = jnp.full_like(d[0], _FAR)
    for t in both:
        z = o[2] + t * d[2]
        valid = hit & (t > 0) & (z >= low) & (z <= high) & (t < side)
        side = jnp.where(valid, t, side)
    end = jnp.full_like(d[0], _FAR)
    inverse = 1.0 / _safe(d[2])
    for z, limit, closed in ((low, radius_low, closed_low), (high, radius_high, closed_high)):
        t = (z - o[2]) * inverse
        squared = (o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2
        valid = (closed > 0) & (t > 0) & (squared <= limit**2) & (t < end)
        end = jnp.where(valid, t, end)
    on_end = end < side
    t = jnp.where(side < _FAR, side, 0.0)
    x, y, z = (o[i] + t * d[i] for i in range(3))
    normal = (
        jnp.where(on_end, 0.0, x),
        jnp.where(on_end, 0.0, y),
        jnp.where(on_end, 1.0, -slope * (radius_low + slope * (z - low))),
    )
    height = jnp.clip((z - low) / _safe(high - low), 0.0, 0.999)
    # Not `%`: XLA calls a function for each number.
    row = jnp.floor(height * rows)
    is_odd = row - 2 * jnp.floor(row / 2) > 0.5
    other = ~on_end & ((y < 0) ^ is_odd)
    return _Hit(jnp.minimum(side, end), normal, other)


_HIT = {Box: _hit_box, Sphere: _hit_sphere, Frustum: _hit_frustum}


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
      surface: its place among the primitives' colours, two of each; -1 for nothing.
      turning: derivative of the cosine as the object turns, or None.
    """

    distance: jax.Array
    cosine: jax.Array
    surface: jax.Array
    turning: jax.Array | None


def _meet(shape, geometry, rows, pose, exists, place, rays, light, nearest):
    """Whether a primitive is nearer."""
    o, d = _in_frame(pose, *rays)
    hit = _HIT[shape](geometry, rows, o, d)
    _, _, cos, sin, _ = pose
    light = (cos * light[0] + sin * light[1], cos * light[1] - sin * light[0], light[2])
    normal = hit.normal
    # A skin is seen from both sides.
    facing = jnp.sign(-sum(n * v for n, v in zip(normal, d, strict=True)))
    squared = sum(n * n for n in normal)
    length = facing * jax.lax.rsqrt(jnp.maximum(squared, _TINY))
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
      distance: to an object; 1e6 where there is none but the table.
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
    """Follows the rays of one scene, a pixel's in a row.

    Args:
      scene: without batch axes.
      view: catalogue, sizes, supersampling.
      with_turning: whether that is wanted.
    """
    o, d = rays = _rays(scene.camera, view)
    light = _light(scene.light)
    k = scene.identity.shape[0]
    turned = jnp.cos(scene.yaw), jnp.sin(scene.yaw), 1.0 / scene.scale
    poses = jnp.stack([scene.position[:, 0], scene.position[:, 1], *turned], axis=-1)
    far, nothing = jnp.full_like(d[0], _FAR), jnp.zeros_like(d[0])
    surface = jnp.full(far.shape, -1, jnp.int32)
    nearest = _Nearest(far, nothing, surface, nothing if with_turning else None)
    first = 0
    for shape, table in _tables(view.catalogue).items():
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

    table_t = -o[2] / jnp.minimum(d[2], -_TINY)
    on_table = (jnp.abs(o[0] + table_t * d[0]) <= view.table_half[0]) & (
        jnp.abs(o[1] + table_t * d[1]) <= view.table_half[1]
    )
    is_object = (nearest.distance < table_t) & (nearest.distance < _FAR)
    distance = jnp.where(is_object, nearest.distance, table_t)
    return Cast(
        points=tuple(o[i] + distance * d[i] for i in range(3)),
        distance=jnp.where(is_object, nearest.distance, _FAR),
        surface=jnp.where(
            is_object, nearest.surface, jnp.where(on_table, 2 * first, 2 * first + 1)
        ),
        cosine=jnp.where(is_object, nearest.cosine, jnp.maximum(light[2], 0.0)),
        turning=None if nearest.turning is None else jnp.where(is_object, nearest.turning, 0.0),
    )


def looks(scene: Scene, view: View) -> tuple[jax.Array, jax.Array]:
    """Colours `[S, 3]` and poses `(x, y, yaw)`, `[S, 3]`, of what a scene's rays may meet.

    Two surfaces for each primitive, one of each of its checker's colours; then the table and the
    floor, whose poses are zeros. So is the yaw of what looks alike from all sides.
    """
    colours, poses = [], []
    poses_of = jnp.concatenate([scene.position, scene.yaw[:, None]], axis=-1)
    for table in _tables(view.catalogue).values():
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
    """Colours `[3, R]` in the light."""
    ambient, directional = brightness
    return jnp.minimum(colours * (ambient + directional * cosine), 1.0)


def _render_one(scene: Scene, view: View) -> jax.Array:
    """One scene, `[H, W, 3]`."""
    met = cast(scene, view)
    colours, _ = looks(scene, view)
    image = shade(choose(colours, met.surface), met.cosine, scene.brightness)
    size, samples = view.image_size, view.supersampling
    return image.reshape(3, size, size, samples**2).mean(-1).transpose(1, 2, 0)


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
