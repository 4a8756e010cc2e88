"""What both renderers draw: objects of a catalogue that stand on a table, a camera, a light.

World coordinates are right-handed, z up, the table's top is the plane z = 0; a unit of length is
about an object's diameter. Angles are in radians. An object is a model of a catalogue, put
somewhere on the table and turned about its own upright axis.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

Colour = tuple[float, float, float]


class Box(NamedTuple):
    """A box whose sides are parallel to the object's axes.

    Attributes:
      centre: `(x, y, z)` in the object's frame.
      half: half of its sides.
      colour: RGB in [0, 1].
    """

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    colour: Colour


class Sphere(NamedTuple):
    """A sphere.

    Attributes:
      centre: `(x, y, z)` in the object's frame.
      radius: of it.
      colour: RGB in [0, 1].
    """

    centre: tuple[float, float, float]
    radius: float
    colour: Colour


class Frustum(NamedTuple):
    """The skin of a cone frustum about the object's upright axis, seen from both sides.

    A plate, a bowl or a cup is a stack of them, a cylinder one with both ends closed.

    Attributes:
      z: of its lower and upper end.
      radius: at these.
      colour: RGB in [0, 1].
      closed: whether a disc closes the lower and the upper end.
      checker: the colour of every other field of its side, or None for one colour. Two fields go
        around, the first from x upwards, to y and to -x.
      rows: of the checker, from the lower end to the upper one.
    """

    z: tuple[float, float]
    radius: tuple[float, float]
    colour: Colour
    closed: tuple[bool, bool] = (False, False)
    checker: Colour | None = None
    rows: int = 2


class Model(NamedTuple):
    """An object that a catalogue has.

    Attributes:
      name: of it.
      parts: what it is made of.
      fold: turns by 1 / `fold` of a circle leave it as it is; 0 if every turn does.
    """

    name: str
    parts: tuple[Box | Sphere | Frustum, ...]
    fold: int


Catalogue = tuple[Model, ...]


def _revolution(profile: Sequence[tuple[float, float]], colour: Colour) -> tuple[Frustum, ...]:
    """A vessel: frusta through the `(radius, z)` of a profile, the lowest closed below."""
    return tuple(
        Frustum((low[1], high[1]), (low[0], high[0]), colour, closed=(i == 0, False))
        for i, (low, high) in enumerate(itertools.pairwise(profile))
    )


SOLIDS: Catalogue = (
    Model("cube", (Box((0.0, 0.0, 0.45), (0.45, 0.45, 0.45), (0.85, 0.12, 0.1)),), fold=4),
    Model("sphere", (Sphere((0.0, 0.0, 0.55), 0.55, (0.12, 0.2, 0.85)),), fold=0),
    Model(
        "cylinder",
        (
            Frustum(
                z=(0.0, 1.0),
                radius=(0.5, 0.5),
                colour=(0.9, 0.8, 0.2),
                closed=(True, True),
                checker=(0.1, 0.45, 0.15),
            ),
        ),
        fold=1,
    ),
)

_WHITE, _BLUE = (0.9, 0.9, 0.88), (0.25, 0.4, 0.75)
_GREEN, _DARK = (0.3, 0.65, 0.35), (0.2, 0.2, 0.22)
CROCKERY: Catalogue = (
    Model("plate", _revolution([(0.45, 0.03), (0.5, 0.06), (0.8, 0.14)], _WHITE), fold=0),
    Model("bowl", _revolution([(0.3, 0.03), (0.5, 0.22), (0.6, 0.5)], _BLUE), fold=0),
    Model(
        "cup",
        (
            *_revolution([(0.26, 0.03), (0.3, 0.7)], _GREEN),
            Box((0.42, 0.0, 0.4), (0.13, 0.05, 0.2), _GREEN),
        ),
        fold=1,
    ),
    Model(
        "pan",
        (
            *_revolution([(0.5, 0.03), (0.58, 0.2)], _DARK),
            Box((0.95, 0.0, 0.17), (0.4, 0.07, 0.05), _DARK),
        ),
        fold=1,
    ),
)
# The same crockery as a shop would have it: with a pattern, with handles where there were none.
_RED = (0.7, 0.25, 0.2)
ORNATE_CROCKERY: Catalogue = (
    Model(
        "plate",
        (
            *CROCKERY[0].parts[:-1],
            Frustum((0.06, 0.14), (0.5, 0.8), _WHITE, checker=_RED, rows=1),
        ),
        fold=0,
    ),
    Model(
        "bowl",
        (
            *CROCKERY[1].parts,
            Box((0.66, 0.0, 0.4), (0.14, 0.12, 0.05), _BLUE),
            Box((-0.66, 0.0, 0.4), (0.14, 0.12, 0.05), _BLUE),
        ),
        fold=2,
    ),
    Model(
        "cup",
        (
            *_revolution([(0.26, 0.03), (0.27, 0.2)], _GREEN),
            Frustum((0.2, 0.5), (0.27, 0.29), _GREEN, checker=_WHITE, rows=1),
            Frustum((0.5, 0.7), (0.29, 0.3), _GREEN),
            Box((0.42, 0.0, 0.4), (0.13, 0.05, 0.2), _GREEN),
        ),
        fold=1,
    ),
    Model(
        "pan",
        (*CROCKERY[3].parts, Box((-0.7, 0.0, 0.17), (0.14, 0.15, 0.05), _DARK)),
        fold=1,
    ),
)
CATALOGUES = {"solids": SOLIDS, "crockery": CROCKERY}


class Scene(NamedTuple):
    """One scene; every leaf may have batch axes before these. K objects, present or not.

    Attributes:
      identity: which model of the catalogue, int32 `[K]`.
      presence: 1 for an object that is there, 0 for one that is not, `[K]`.
      position: `(x, y)` on the table, `[K, 2]`.
      yaw: turn about the upright axis, counter-clockwise seen from above, `[K]`.
      scale: of the object's size, `[K]`.
      tint: by which its colours are multiplied, `[K, 3]`.
      camera: azimuth, elevation and distance from the world's origin, at which it looks, `[3]`. At
        azimuth 0 it stands at negative y and has x to the right.
      light: azimuth and elevation of where the light comes from, likewise, `[2]`.
      brightness: of ambient and of directional light, `[2]`.
      table: RGB of the table and of the floor beside it, `[2, 3]`.
    """

    identity: jax.Array
    presence: jax.Array
    position: jax.Array
    yaw: jax.Array
    scale: jax.Array
    tint: jax.Array
    camera: jax.Array
    light: jax.Array
    brightness: jax.Array
    table: jax.Array


MAX_SUPERSAMPLING = 16  # rays along a side: their number grows with the square


class View(NamedTuple):
    """What is the same for all scenes of an experiment; static.

    Attributes:
      catalogue: the models.
      image_size: side of the image in pixels.
      field_of_view: of the image's side, degrees.
      table_half: half of the table's sides along x and y.
      supersampling: rays, or samples, along each side of a pixel.
    """

    catalogue: Catalogue
    image_size: int = 32
    field_of_view: float = 34.0
    table_half: tuple[float, float] = (2.2, 2.2)
    supersampling: int = 2


# The camera and light of a scene for which nothing else is said.
CAMERA = (0.0, math.radians(40.0), 6.0)
LIGHT = (math.radians(40.0), math.radians(50.0))
BRIGHTNESS = (0.45, 0.6)
TABLE = ((0.55, 0.5, 0.45), (0.15, 0.15, 0.17))


def create_scene(
    identity: chex.Array,
    presence: chex.Array,
    position: chex.Array,
    yaw: chex.Array,
    camera: chex.Array | None = None,
) -> Scene:
    """A scene, or a batch of them, with the usual camera, light, sizes and colours.

    Args:
      identity: int `[..., K]`.
      presence: `[..., K]`.
      position: `[..., K, 2]`.
      yaw: `[..., K]`.
      camera: azimuth and elevation, `[..., 2]`; None for the usual ones.
    """
    identity = jnp.asarray(identity, jnp.int32)
    presence, position, yaw = (jnp.asarray(part, jnp.float32) for part in (presence, position, yaw))
    batch = identity.shape[:-1]
    chex.assert_shape([presence, yaw], identity.shape)
    chex.assert_shape(position, (*identity.shape, 2))

    def at_usual_distance(camera):
        distance = jnp.full((*batch, 1), CAMERA[2])
        return jnp.concatenate([jnp.asarray(camera, jnp.float32), distance], axis=-1)

    def everywhere(values):
        values = jnp.asarray(values, jnp.float32)
        return jnp.broadcast_to(values, (*batch, *values.shape))

    return Scene(
        identity=identity,
        presence=presence,
        position=position,
        yaw=yaw,
        scale=jnp.ones(identity.shape),
        tint=jnp.ones((*identity.shape, 3)),
        camera=everywhere(CAMERA) if camera is None else at_usual_distance(camera),
        light=everywhere(LIGHT),
        brightness=everywhere(BRIGHTNESS),
        table=everywhere(TABLE),
    )
