"""What MuJoCo draws as triangles: the parts of a catalogue's models, the table, the floor.

A circle is a polygon of the same area, so that a part covers what it does for `raycast`. The
processes that draw import this module for its types, and not JAX: `scene`, which needs JAX, is
imported where it is used.
"""

import collections
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from air_jax.render.scene import Box, Catalogue, Colour, Frustum, Sphere

# Segments of a whole circle, and by how much its radius is too long that it has a circle's area.
SEGMENTS = 32
_SWELL = math.sqrt(2 * math.pi / SEGMENTS / math.sin(2 * math.pi / SEGMENTS))
# From the origin along x and y to where the floor is no longer flat, in the world's units.
FLOOR_HALF = 100.0
# Likewise to where the ramp at its end ends, and how high that is.
RAMP_HALF, RAMP_HEIGHT = 1500.0, 900.0


class Surface(NamedTuple):
    """Triangles that are seen from the side that their normals point to.

    Attributes:
      vertices: float32 `[V, 3]`.
      normals: of the vertices, of length 1, float32 `[V, 3]`.
      faces: three vertices each, counter-clockwise, int32 `[F, 3]`.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


class ColouredMesh(NamedTuple):
    """All that has one colour in a model of a catalogue.

    Attributes:
      model: index into the catalogue.
      colour: RGB in [0, 1].
      surface: in the object's frame.
    """

    model: int
    colour: tuple[float, float, float]
    surface: Surface


def _join(surfaces: Sequence[Surface]) -> Surface:
    first = np.cumsum([0, *(len(surface.vertices) for surface in surfaces)], dtype=np.int32)
    return Surface(
        np.concatenate([surface.vertices for surface in surfaces]),
        np.concatenate([surface.normals for surface in surfaces]),
        np.concatenate([surface.faces + n for surface, n in zip(surfaces, first, strict=False)]),
    )


def _sheet(points: np.ndarray, facing: ArrayLike, *, both_sides: bool = False) -> Surface:
    """A grid of points as triangles, each turned to where it is facing, `[rows, columns, 3]`.

    No vertex is shared with another sheet or with the other side, so that edges stay sharp.
    """
    normals = np.broadcast_to(np.asarray(facing, float), points.shape).reshape(-1, 3)
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    index = np.arange(points.shape[0] * points.shape[1]).reshape(points.shape[:2])
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    vertices = points.reshape(-1, 3)
    corner = vertices[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    has_area = np.linalg.norm(across, axis=-1) > 1e-9  # not at a pole
    faces, across = faces[has_area], across[has_area]
    turned = (across * normals[faces].mean(1)).sum(-1) < 0
    faces = np.where(turned[:, None], faces[:, ::-1], faces)
    front = Surface(vertices.astype(np.float32), normals.astype(np.float32), faces.astype(np.int32))
    if not both_sides:
        return front
    return _join([front, front._replace(normals=-front.normals, faces=front.faces[:, ::-1])])


def _box_surface(part: "Box") -> Surface:
    sheets = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            corners = np.full((2, 2, 3), side)
            corners[..., (axis + 1) % 3] = [[-1, -1], [1, 1]]
            corners[..., (axis + 2) % 3] = [[-1, 1], [-1, 1]]
            points = np.array(part.centre) + corners * np.array(part.half)
            sheets.append(_sheet(points, side * np.eye(3)[axis]))
    return _join(sheets)


def _sphere_surface(part: "Sphere") -> Surface:
    around = np.linspace(0, 2 * np.pi, SEGMENTS + 1)
    above = np.linspace(-np.pi / 2, np.pi / 2, SEGMENTS // 2 + 1)[:, None]
    upright = np.broadcast_to(np.sin(above), (len(above), len(around)))
    normals = np.stack(
        [np.cos(above) * np.cos(around), np.cos(above) * np.sin(around), upright], -1
    )
    return _sheet(np.array(part.centre) + _SWELL * part.radius * normals, normals)


def _frustum_surfaces(part: "Frustum") -> list[tuple["Colour", Surface]]:
    """A frustum's colours and what has them. A solid one needs no inside."""
    both_sides = not all(part.closed)
    low, high = part.z
    radius_low, radius_high = part.radius
    slope = (radius_high - radius_low) / (high - low)

    def ring(start: float, turn: float, z: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        segments = round(SEGMENTS * turn)
        angle = 2 * np.pi * np.linspace(start, start + turn, segments + 1)
        direction = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
        radii = [radius_low + slope * (height - low) for height in z]
        points = [
            _SWELL * radius * direction + [0, 0, height]
            for radius, height in zip(radii, z, strict=True)
        ]
        return np.stack(points), direction - [0, 0, slope]

    surfaces: list[tuple[Colour, Surface]] = []
    if part.checker is None:
        side = _sheet(*ring(0.0, 1.0, part.z), both_sides=both_sides)
        surfaces.append((part.colour, side))
    else:
        levels = np.linspace(low, high, part.rows + 1).tolist()
        for row in range(part.rows):
            for half in range(2):
                field = ring(half / 2, 0.5, levels[row : row + 2])
                colour = part.checker if (half + row) % 2 else part.colour
                surfaces.append((colour, _sheet(*field, both_sides=both_sides)))
    for end, closed in enumerate(part.closed):
        if closed:
            rim, _ = ring(0.0, 1.0, [part.z[end]])
            disc = np.concatenate([np.full_like(rim, [0, 0, part.z[end]]), rim])
            outwards = [0.0, 0.0, 2.0 * end - 1.0]
            surfaces.append((part.colour, _sheet(disc, outwards, both_sides=both_sides)))
    return surfaces


def create_meshes(catalogue: "Catalogue") -> tuple[ColouredMesh, ...]:
    """Of each model of a catalogue one mesh for each of its colours.

    Args:
      catalogue: its models, in whose frames the vertices are.
    """
    from air_jax.render.scene import Box, Sphere

    meshes = []
    for index, model in enumerate(catalogue):
        of_colour: dict[Colour, list[Surface]] = collections.defaultdict(list)
        for part in model.parts:
            if isinstance(part, Box):
                of_colour[part.colour].append(_box_surface(part))
            elif isinstance(part, Sphere):
                of_colour[part.colour].append(_sphere_surface(part))
            else:
                for colour, surface in _frustum_surfaces(part):
                    of_colour[colour].append(surface)
        meshes += [ColouredMesh(index, colour, _join(s)) for colour, s in of_colour.items()]
    return tuple(meshes)


def create_table(half: tuple[float, float]) -> Surface:
    """The table's top, whose corners go along x and then along y.

    Args:
      half: half of its sides along x and y.
    """
    corners = np.array([[[-1, -1, 0], [1, -1, 0]], [[-1, 1, 0], [1, 1, 0]]], float)
    return _sheet(corners * [*half, 0.0], [0.0, 0.0, 1.0])


def create_floor(half: tuple[float, float]) -> Surface:
    """What is beside the table, and far off a ramp to 25 degrees above the horizon, lit like it.

    So a picture has no horizon. The ramp is no steeper, as MuJoCo takes a face's own normal where
    that of a vertex is far from it.

    Args:
      half: half of the table's sides along x and y.
    """
    up = [0.0, 0.0, 1.0]
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0]], float)
    inner, outer = corners * [*half, 0.0], corners * FLOOR_HALF
    above = corners * RAMP_HALF + [0.0, 0.0, RAMP_HEIGHT]
    return _join([_sheet(np.stack([inner, outer]), up), _sheet(np.stack([outer, above]), up)])
