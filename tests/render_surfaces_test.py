"""The triangles of every part of the catalogues, of the table and of the floor."""

import math

import numpy as np
import pytest

from air_jax.render.scene import CATALOGUES, SOLIDS, Model
from air_jax.render.surfaces import SEGMENTS, Surface, create_floor, create_meshes, create_table

PARTS = {
    f"{name}-{model.name}-{index}": part
    for name, catalogue in CATALOGUES.items()
    for model in catalogue
    for index, part in enumerate(model.parts)
}


def across(surface: Surface) -> np.ndarray:
    """The faces' own normals, as long as twice their area, float64 `[F, 3]`."""
    a, b, c = np.moveaxis(surface.vertices.astype(float)[surface.faces], 1, 0)
    return np.cross(b - a, c - a)


def turned(surface: Surface) -> np.ndarray:
    """Cosines between the faces' own normals and those of their corners, `[F, 3]`."""
    own = across(surface)
    own /= np.linalg.norm(own, axis=-1, keepdims=True)
    return np.einsum("fi,fci->fc", own, surface.normals[surface.faces])


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_normals_are_of_unit_length_and_those_of_the_faces(part):
    for mesh in create_meshes((Model("part", (part,), fold=1),)):
        lengths = np.linalg.norm(mesh.surface.normals, axis=-1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
        # Where it is round, a face is turned by less than a segment.
        assert turned(mesh.surface).min() > math.cos(2 * math.pi / SEGMENTS)


@pytest.mark.parametrize("surface", [create_table((2.0, 1.0)), create_floor((2.0, 1.0))])
def test_table_and_floor_are_lit_from_above(surface):
    np.testing.assert_array_equal(surface.normals, np.full_like(surface.normals, [0, 0, 1]))
    assert turned(surface).min() > 0


def test_solids_have_their_volume():
    # By the divergence theorem a third of the flow of `position` out of a surface without holes.
    volumes = np.zeros(len(SOLIDS))
    for mesh in create_meshes(SOLIDS):
        corner = mesh.surface.vertices.astype(float)[mesh.surface.faces[:, 0]]
        volumes[mesh.model] += (corner * across(mesh.surface)).sum() / 6
    cube, sphere, cylinder = 0.9**3, 4 / 3 * math.pi * 0.55**3, math.pi * 0.5**2
    # The cylinder's polygon has the area of its circle.
    np.testing.assert_allclose(volumes[[0, 2]], [cube, cylinder], rtol=1e-5)
    np.testing.assert_allclose(volumes[1], sphere, rtol=0.01)
