"""What rays meet: boxes, spheres and cone frusta, as tables that a traced program can look up.

Each in its object's own frame, x, y and z as separate arrays. How they are put together is
`raycast`'s.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from air_jax.render.scene import Box, Catalogue, Frustum, Sphere

FAR = 1e6  # distance of what no ray meets
TINY = 1e-9


class Primitives(NamedTuple):
    """Of every model the primitives of one shape, padded to as many as the richest model has.

    Attributes:
      geometry: six numbers each (see `_box` and so on), `[models, parts, 6]`.
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
def tables(catalogue: Catalogue) -> dict[type, Primitives]:
    """The catalogue's primitives by shape, those of the shapes that it has."""
    of_shape = {}
    for shape in HIT:
        of_model = [[p for p in model.parts if isinstance(p, shape)] for model in catalogue]
        width = max(map(len, of_model))
        padded = (len(catalogue), width)
        table = Primitives(
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
            of_shape[shape] = table
    return of_shape


def _safe(value: jax.Array) -> jax.Array:
    """Away from zero."""
    return jnp.where(jnp.abs(value) < TINY, TINY, value)


def _roots(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether `a t^2 + 2 b t + c = 0` has roots, and these, ascending where a > 0."""
    inside = b * b - a * c
    root = jnp.sqrt(jnp.maximum(inside, TINY * TINY))
    a = _safe(a)
    return inside > 0, (-b - root) / a, (-b + root) / a


class Hit(NamedTuple):
    """Where rays meet a primitive, in the object's frame, `[R]` each.

    Attributes:
      distance: along the ray, `FAR` for none.
      normal: `(x, y, z)`, of any length, of any side.
      other: whether the checker has its other colour there.
    """

    distance: jax.Array
    normal: tuple[Any, ...]
    other: Any


def _box(geometry, rows, o, d):
    """Of a box: centre and half sides."""
    del rows
    near, far = jnp.full_like(d[0], -FAR), jnp.full_like(d[0], FAR)
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
    return Hit(jnp.where(hit, near, FAR), tuple(normal), False)


def _sphere(geometry, rows, o, d):
    """Of a sphere: centre and radius."""
    del rows
    x, y, z = (o[i] - geometry[i] for i in range(3))
    a = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    b = d[0] * x + d[1] * y + d[2] * z
    hit, near, _ = _roots(a, b, x * x + y * y + z * z - geometry[3] ** 2)
    hit &= near > 0
    t = jnp.where(hit, near, 0.0)
    normal = (x + t * d[0], y + t * d[1], z + t * d[2])
    return Hit(jnp.where(hit, near, FAR), normal, False)


def _frustum(geometry, rows, o, d):
    """Of a frustum: its ends' z, radii, and whether they are closed."""
    low, high, radius_low, radius_high, closed_low, closed_high = geometry
    slope = (radius_high - radius_low) / _safe(high - low)
    radius = radius_low + slope * (o[2] - low)
    a = d[0] ** 2 + d[1] ** 2 - (slope * d[2]) ** 2
    b = d[0] * o[0] + d[1] * o[1] - slope * radius * d[2]
    hit, *both = _roots(a, b, o[0] ** 2 + o[1] ** 2 - radius**2)
    side = jnp.full_like(d[0], FAR)
    for t in both:
        z = o[2] + t * d[2]
        valid = hit & (t > 0) & (z >= low) & (z <= high) & (t < side)
        side = jnp.where(valid, t, side)
    end = jnp.full_like(d[0], FAR)
    inverse = 1.0 / _safe(d[2])
    for z, limit, closed in ((low, radius_low, closed_low), (high, radius_high, closed_high)):
        t = (z - o[2]) * inverse
        squared = (o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2
        valid = (closed > 0) & (t > 0) & (squared <= limit**2) & (t < end)
        end = jnp.where(valid, t, end)
    on_end = end < side
    t = jnp.where(side < FAR, side, 0.0)
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
    return Hit(jnp.minimum(side, end), normal, other)


HIT = {Box: _box, Sphere: _sphere, Frustum: _frustum}
