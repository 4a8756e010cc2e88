"""Scenes on a table, drawn by the ray caster: what inverse graphics is trained and judged on."""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from air_jax.data.dataset import Dataset
from air_jax.render import raycast
from air_jax.render.scene import (
    BRIGHTNESS,
    CAMERA,
    CATALOGUES,
    LIGHT,
    MAX_SUPERSAMPLING,
    TABLE,
    View,
    create_scene,
)

_SPLITS = ("train", "validation", "test")
_CHUNK = 1024  # scenes drawn in one call
_MAX_EXTENT = 100.0  # the camera is 6 away
_MAX_ROUNDS = 1_000
# Of the objects' centres, in units of length: less, and one would stand in the other.
MIN_DISTANCE = 1.1
# What `perturbation` 1 is: the logarithms of sizes, of each channel of a colour and of the lights
# change by at most this much, the light's azimuth and elevation by so many degrees.
_LOG_SIZE, _LOG_COLOUR, _LOG_BRIGHTNESS = 0.2, 0.3, 0.3
_LIGHT_RANGE = (60.0, 20.0)


class Appearance(NamedTuple):
    """What of M scenes is not to be found out: leaves of `render.scene.Scene`, float32.

    Attributes:
        scale: `[M, K]`.
        tint: `[M, K, 3]`.
        light: `[M, 2]`.
        brightness: `[M, 2]`.
        table: `[M, 2, 3]`.
    """

    scale: np.ndarray
    tint: np.ndarray
    light: np.ndarray
    brightness: np.ndarray
    table: np.ndarray


class Scenes3D(NamedTuple):
    """A set of images and the scenes that they are of; only `images` may reach training.

    Attributes:
        images: uint8 `[M, H, W, 3]`.
        counts: number of objects, int32 `[M]`.
        identities: place in the catalogue, int32 `[M, K]` with K the largest count; -1 for absent
            objects. Objects are in no order.
        poses: `(x, y, yaw)`, units of length and radians, float32 `[M, K, 3]`; zeros for absent
            objects.
        cameras: azimuth and elevation, radians, float32 `[M, 2]`.
    """

    images: np.ndarray
    counts: np.ndarray
    identities: np.ndarray
    poses: np.ndarray
    cameras: np.ndarray


def create_tabletop(
    *,
    catalogue: str,
    counts: Sequence[int],
    repetition: bool,
    image_size: int,
    field_of_view: float,
    supersampling: int,
    extent: float,
    camera_range: tuple[float, float],
    perturbation: float,
    num_train: int,
    num_validation: int,
    num_test: int,
    seed: int,
) -> Dataset[Scenes3D]:
    """Draws scenes of a catalogue's objects.

    Every count has an equal share. Positions are uniform over all arrangements in which the centres
    are at least `MIN_DISTANCE` apart, yaws uniform over the circle, cameras over their range.

    Args:
        catalogue: one of `render.scene.CATALOGUES`.
        counts: the possible numbers of objects.
        repetition: whether a scene may have the same model twice.
        image_size: side of the images in pixels.
        field_of_view: of the image's side, degrees.
        supersampling: rays along each side of a pixel.
        extent: greatest x and y, in units of length.
        camera_range: greatest deviation of the camera's azimuth and elevation from
            `render.scene.CAMERA`, degrees.
        perturbation: how far sizes, colours and light stray at random from those of
            `render.scene.create_scene`: 0 for not at all, 1 for sizes by a fifth, colours and
            brightness by a third, the light by 60 and 20 degrees.
        num_train: number of training images.
        num_validation: of validation images.
        num_test: of test images.
        seed: of the scenes.

    Returns:
        The three sets, of `Scenes3D`, and their description.

    Raises:
        ValueError: if an argument is out of range, or the objects find no room.
    """
    if catalogue not in CATALOGUES:
        raise ValueError(
            f"catalogue is {catalogue!r}; valid names are {', '.join(map(repr, CATALOGUES))}."
        )
    models = CATALOGUES[catalogue]
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    positive = {f"num_{name}": size for name, size in sizes.items()}
    positive |= {"supersampling": supersampling, "image_size": image_size}
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be a positive integer")
    if not counts or min(counts) < 0 or len(set(counts)) != len(counts):
        raise ValueError(f"counts is {tuple(counts)}; it must hold different numbers >= 0")
    if not repetition and max(counts) > len(models):
        raise ValueError(
            f"counts is {tuple(counts)}, but {catalogue!r} has {len(models)} models and repetition "
            "is off"
        )
    if extent <= 0 or min(camera_range) < 0 or perturbation < 0 or seed < 0:
        raise ValueError(
            f"extent {extent} must be positive, camera_range {tuple(camera_range)}, perturbation "
            f"{perturbation} and seed {seed} not negative"
        )
    if not 0 < field_of_view < 180 or max(camera_range) > 180:
        raise ValueError(
            f"field_of_view is {field_of_view} and camera_range {tuple(camera_range)}, in degrees; "
            "the one lies between 0 and 180, the others are at most 180"
        )
    if supersampling > MAX_SUPERSAMPLING or extent > _MAX_EXTENT:
        raise ValueError(
            f"supersampling is {supersampling} and extent {extent}; at most {MAX_SUPERSAMPLING} "
            f"rays a side and {_MAX_EXTENT} units of length are allowed"
        )
    view = View(models, image_size, field_of_view, supersampling=supersampling)
    # Not of the images: their last bits depend on the device that drew them.
    sets, digest = {}, hashlib.sha256()
    for name, of_split in zip(_SPLITS, np.random.SeedSequence(seed).spawn(3), strict=True):
        rng = np.random.default_rng(of_split)
        scenes = _compose(sizes[name], counts, len(models), repetition, extent, camera_range, rng)
        arrays = [scenes.counts, scenes.identities, scenes.poses, scenes.cameras]
        appearance = None
        if perturbation:
            num_scenes, num_objects = scenes.identities.shape
            appearance = perturb(num_scenes, num_objects, perturbation, rng)
            arrays += appearance
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        sets[name] = _draw(scenes, appearance, view)
    description = {
        "source": f"tabletop, {catalogue}",
        "counts": [int(count) for count in counts],
        "repetition": bool(repetition),
        "num_images": sizes,
        "image_size": int(image_size),
        "field_of_view": float(field_of_view),
        "supersampling": int(supersampling),
        "extent": float(extent),
        "camera_range": [float(value) for value in camera_range],
        **({"perturbation": float(perturbation)} if perturbation else {}),
        "seed": int(seed),
        "digest": digest.hexdigest()[:16],
    }
    return Dataset(**sets, description=description)


def _compose(
    num_scenes: int,
    counts: Sequence[int],
    num_models: int,
    repetition: bool,
    extent: float,
    camera_range: tuple[float, float],
    rng: np.random.Generator,
) -> Scenes3D:
    """Scenes without their images."""
    max_count = max(max(counts), 1)
    shape = (num_scenes, max_count)
    of_scene = rng.permutation(np.resize(np.asarray(counts, np.int32), num_scenes))
    present = np.arange(max_count) < of_scene[:, None]
    if repetition:
        identities = rng.integers(num_models, size=shape)
    else:
        identities = rng.random((num_scenes, max(num_models, max_count))).argsort(-1)
        identities = identities[:, :max_count]
    places = np.zeros((*shape, 2))
    waiting = np.arange(num_scenes)
    for _ in range(_MAX_ROUNDS):
        places[waiting] = rng.uniform(-extent, extent, (len(waiting), max_count, 2))
        apart = np.linalg.norm(places[waiting, :, None] - places[waiting, None], axis=-1)
        pairs = present[waiting, :, None] & present[waiting, None] & ~np.eye(max_count, dtype=bool)
        waiting = waiting[(pairs & (apart < MIN_DISTANCE)).any((1, 2))]
        if not len(waiting):
            break
    else:
        raise ValueError(
            f"{max_count} objects find no room within {extent}: fewer of them, or a larger extent"
        )
    yaws = rng.uniform(-math.pi, math.pi, shape)
    deviation = rng.uniform(-1, 1, (num_scenes, 2)) * np.radians(camera_range)
    poses = np.concatenate([places, yaws[..., None]], axis=-1) * present[..., None]
    return Scenes3D(
        images=np.zeros((num_scenes, 0, 0, 3), np.uint8),
        counts=of_scene,
        identities=np.where(present, identities, -1).astype(np.int32),
        poses=poses.astype(np.float32),
        cameras=(np.array(CAMERA[:2]) + deviation).astype(np.float32),
    )


def perturb(
    num_scenes: int, num_objects: int, strength: float, rng: np.random.Generator
) -> Appearance:
    """Draws sizes, colours and light at random.

    Args:
        num_scenes: M.
        num_objects: K.
        strength: see `perturbation` of `create_tabletop`.
        rng: NumPy's.
    """

    def uniform(half, *shape):
        return strength * np.asarray(half) * rng.uniform(-1, 1, (num_scenes, *shape))

    leaves = (
        np.exp(uniform(_LOG_SIZE, num_objects)),
        np.exp(uniform(_LOG_COLOUR, num_objects, 3)),
        np.array(LIGHT) + uniform(np.radians(_LIGHT_RANGE), 2),
        np.array(BRIGHTNESS) * np.exp(uniform(_LOG_BRIGHTNESS, 2)),
        np.array(TABLE) * np.exp(uniform(_LOG_COLOUR, 2, 3)),
    )
    return Appearance(*(leaf.astype(np.float32) for leaf in leaves))


@functools.partial(jax.jit, static_argnames="view")
def _images(identities, presence, poses, cameras, appearance, view):
    scene = create_scene(identities, presence, poses[..., :2], poses[..., 2], cameras)
    if appearance is not None:
        scene = scene._replace(**appearance._asdict())
    images = raycast.render(scene, view)
    return (images.clip(0, 1) * 255).round().astype(np.uint8)


def _draw(scenes: Scenes3D, appearance: Appearance | None, view: View) -> Scenes3D:
    """The scenes with their images."""
    images = np.zeros((len(scenes.counts), view.image_size, view.image_size, 3), np.uint8)
    for start in range(0, len(images), _CHUNK):
        # Always of one size, or the last would be compiled again.
        chosen = np.arange(start, start + _CHUNK).clip(max=len(images) - 1)
        identities = scenes.identities[chosen]
        drawn = _images(
            identities.clip(min=0),
            (identities >= 0).astype(np.float32),
            scenes.poses[chosen],
            scenes.cameras[chosen],
            jax.tree.map(lambda leaf: leaf[chosen], appearance),  # noqa: B023
            view=view,
        )
        stop = min(start + _CHUNK, len(images))
        images[start:stop] = drawn[: stop - start]
    return scenes._replace(images=images)
