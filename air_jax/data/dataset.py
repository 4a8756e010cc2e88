"""The dataset that every experiment takes: training, validation and test scenes."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from absl import logging

from air_jax.data import cache
from air_jax.data.digits import load_digits, locate_digits
from air_jax.data.images import prepare_images, read_images
from air_jax.data.omniglot import load_omniglot, locate_omniglot
from air_jax.data.scenes import Scenes, compose_scenes
from air_jax.data.sprites import compose_sprites

_SPLITS = ("train", "validation", "test")
# Scenes composed at a time: of a larger set, no more need be in memory.
_PIECE = 2**16
_MIN_PATH_IMAGES = 3
_MAX_LISTED = 10  # unusable images named in a warning


SceneSet = TypeVar("SceneSet")


class Dataset(NamedTuple, Generic[SceneSet]):
    """Three sets of scenes made of disjoint digits, glyphs or images, or of independent scenes.

    Attributes:
        train: the only one that training sees, and of it only the images.
        validation: for choosing recipes and checkpoints.
        test: read once, at the end.
        description: where the data come from, how many digits and images each set has, and the
            options that made them; JSON-able.
    """

    train: SceneSet
    validation: SceneSet
    test: SceneSet
    description: dict[str, Any]


def create_dataset(
    *,
    source: str,
    tfds_dir: str | None,
    path: str | None,
    invert: bool,
    cache_dir: str | None,
    resident: bool = True,
    image_size: int,
    counts: Sequence[int],
    digit_scale: tuple[float, float],
    sprite_size: Sequence[int],
    noise: float,
    num_train: int,
    num_validation: int,
    num_test: int,
    seed: int,
) -> Dataset[Scenes]:
    """Composes scenes of MNIST digits or of sprites, or reads Omniglot or the user's own images.

    In a composed scene the objects are known. Nobody counted the parts of a glyph or, mostly, the
    objects of the user's images: their counts are -1, and boxes, labels and hidden shares have
    K = 0.

    Args:
        source: "tfds", "embedded" or "auto" for digits (see `digits.load_digits`); "sprites" for
            coloured shapes that cover one another (see `sprites.compose_sprites`); "omniglot" for
            single glyphs, the test set's of alphabets that training does not have (see
            `omniglot.load_omniglot`); "path" for the user's own images, of which validation and
            test get a tenth each. Those that cannot be read are left out, with a warning.
        tfds_dir: TFDS's data folder; if None or empty, `TFDS_DATA_DIR` or TFDS's default.
        path: for source "path", what `images.read_images` takes; otherwise None or empty.
        invert: for source "path", whether the images are dark on light.
        cache_dir: where composed scenes are kept on disk (190 MB for 75,000 scenes of 50x50, three
            times that in colour); if None, `$XDG_CACHE_HOME/air_jax` or `~/.cache/air_jax`; if
            empty, nowhere.
        resident: whether the training images are in memory. If not, they are in shards in
            `cache_dir`, and `images` of the training set is `stream.Shards`; composed scenes are
            never all in memory then.
        image_size: side of the images, pixels; the user's are resized to it.
        counts: the possible numbers of objects in a composed image, in equal shares; empty for
            Omniglot.
        digit_scale: least and greatest scale of a digit's side; (1, 1) for sprites and Omniglot.
        sprite_size: for source "sprites", least and greatest side in pixels; otherwise empty.
        noise: standard deviation of Gaussian noise upon the scenes, 1 for full ink; the user's own
            images are left as they are, and Omniglot takes 0.
        num_train: number of training images; for sources "path" and "omniglot" the most to use.
        num_validation: the same of validation images.
        num_test: the same of test images.
        seed: of the composition or, where nothing is composed, of the shuffling.
    Returns:
        The three sets and their description.
    Raises:
        ImportError: if `resident` is off and grain is not installed.
        FileNotFoundError: if `source` is "tfds" and MNIST is not prepared, "omniglot" and Omniglot
            is not, or nothing is at `path`.
        ValueError: if an option is out of range, options contradict each other, fewer than three
            of the user's images can be read, one of them has a light background, or shards are
            damaged.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    for split, size in sizes.items():
        if size < 1:
            raise ValueError(f"num_{split} is {size}; it must be a positive integer")
    if source not in ("auto", "tfds", "embedded", "sprites", "omniglot", "path"):
        raise ValueError(
            f"source of the data is {source!r}; it must be 'auto', 'tfds', 'embedded', 'sprites', "
            "'omniglot' or 'path'"
        )
    if len(sprite_size) != (2 if source == "sprites" else 0):
        raise ValueError(
            f"sprite_size is {tuple(sprite_size)} and source is {source!r}: it must be the least "
            "and the greatest side in pixels for source 'sprites', and empty for any other"
        )
    if source == "path":
        if not path:
            raise ValueError(
                "source is 'path' but no path is given: set path to a PNG, JPEG, folder, .npz or "
                ".npy"
            )
        own = _read_own(path, invert=invert, image_size=image_size, sizes=sizes, seed=seed)
        return own if resident else _apart(own, cache_dir)
    if path or invert:
        raise ValueError(
            f"path ({path!r}) and invert ({invert}) are for the user's own images, but source is "
            f"{source!r}: set source to 'path', or leave them unset"
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be an integer >= 0")
    if source == "omniglot":
        if len(counts) or tuple(digit_scale) != (1, 1) or noise:
            raise ValueError(
                f"counts is {tuple(counts)}, digit_scale {tuple(digit_scale)} and noise {noise}, "
                "but source is 'omniglot', whose images are single glyphs as they were drawn: set "
                "counts to (), digit_scale to (1, 1) and noise to 0, as configs/omniglot.py does"
            )
        glyphs = _read_omniglot(cache_dir, tfds_dir, image_size=image_size, sizes=sizes, seed=seed)
        return glyphs if resident else _apart(glyphs, cache_dir)
    shared: dict[str, Any] = {"image_size": image_size, "counts": counts, "noise": noise}
    options = _plain({**shared, "num_images": sizes, "seed": seed})
    if max(sizes.values()) > _PIECE:
        options["piece"] = _PIECE  # on which the scenes of larger sets depend
    if source == "sprites":
        if tuple(digit_scale) != (1, 1):
            raise ValueError(
                f"digit_scale is {tuple(digit_scale)}, but source is 'sprites': leave it (1, 1) "
                "and set sprite_size"
            )
        options |= _plain({"sprite_size": sprite_size})
        compose = functools.partial(
            compose_sprites, sprite_size=(sprite_size[0], sprite_size[1]), **shared
        )
        key = {**options, "source": source}
        arrays = cache.cached(
            *(cache_dir, key, lambda write: _compose_splits([compose] * 3, sizes, seed, write)),
            resident=resident,
        )
        # There is no file that it could be of.
        digest = cache.digest(arrays) if resident else arrays["content"].tobytes()
        description = {"source": source, **options, "digest": digest.hex()[:16]}
        return Dataset(**_to_scenes(arrays), description=description)

    options["digit_scale"] = [float(scale) for scale in digit_scale]
    files = locate_digits(source=source, tfds_dir=tfds_dir)

    def compose_digits(write: cache.Write | None) -> dict[str, np.ndarray]:
        digits = load_digits(source=files.source, tfds_dir=tfds_dir)
        members = [getattr(digits, split) for split in _SPLITS]
        composers = [
            functools.partial(compose_scenes, those, digit_scale=digit_scale, **shared)
            for those in members
        ]
        num_digits = np.array([len(those.labels) for those in members])
        return {**_compose_splits(composers, sizes, seed, write), "num_digits": num_digits}

    key = {**options, "digits": files.digest}
    arrays = cache.cached(cache_dir, key, compose_digits, resident=resident)
    description = {
        "source": files.source,
        "folder": files.folder,
        "num_digits": dict(zip(_SPLITS, arrays["num_digits"].tolist(), strict=True)),
        **options,
        "digest": files.digest[:16],
    }
    return Dataset(**_to_scenes(arrays), description=description)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON has them: NumPy's integers become Python's, tuples lists."""
    return json.loads(json.dumps(options, default=int))


def _compose_splits(
    composers: Sequence[Callable[..., Scenes]],
    sizes: dict[str, int],
    seed: int,
    write: cache.Write | None,
) -> dict[str, np.ndarray]:
    """Composes the scenes of the three sets; returns flat arrays, as they are cached.

    The training images are left out if there is `write`, which then gets them piece by piece.
    """
    arrays: dict[str, np.ndarray] = {}
    seeds = np.random.SeedSequence(seed).spawn(len(_SPLITS))
    for split, compose, split_seed in zip(_SPLITS, composers, seeds, strict=True):
        fields: dict[str, list[np.ndarray]] = {}
        for scenes in _compose_pieces(compose, sizes[split], split_seed):
            for field, array in scenes._asdict().items():
                if split == "train" and field == "images" and write is not None:
                    write(array)
                else:
                    fields.setdefault(f"{split}_{field}", []).append(array)
        for name, pieces in fields.items():
            arrays[name] = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return arrays


def _compose_pieces(
    compose: Callable[..., Scenes], num_scenes: int, seed: np.random.SeedSequence
) -> Iterator[Scenes]:
    """Composes a set in pieces; one that is not larger than a piece by the seed itself."""
    starts = range(0, num_scenes, _PIECE)
    seeds = seed.spawn(len(starts)) if len(starts) > 1 else [seed]
    for start, piece_seed in zip(starts, seeds, strict=True):
        yield compose(num_scenes=min(_PIECE, num_scenes - start), seed=piece_seed)


def _apart(dataset: Dataset[Scenes], cache_dir: str | None) -> Dataset[Scenes]:
    """The dataset with its training images in shards."""
    key = {name: value for name, value in dataset.description.items() if name != "folder"}
    images: Any = cache.apart(cache_dir, key, dataset.train.images)
    return dataset._replace(train=dataset.train._replace(images=images))


def _to_scenes(arrays: dict[str, np.ndarray]) -> dict[str, Scenes]:
    """The three sets, from flat arrays."""
    return {
        split: Scenes(*(arrays[f"{split}_{field}"] for field in Scenes._fields))
        for split in _SPLITS
    }


def _read_own(
    path: str, *, invert: bool, image_size: int, sizes: dict[str, int], seed: int
) -> Dataset[Scenes]:
    """Reads the user's images and splits them 80 / 10 / 10, at most `sizes` in each."""
    own = read_images(path)
    if own.errors:
        listed = "; ".join(f"{name}: {reason}" for name, reason in own.errors[:_MAX_LISTED])
        more = f"; and {len(own.errors) - _MAX_LISTED} more" * (len(own.errors) > _MAX_LISTED)
        logging.warning(
            "%d of %d images of %s cannot be used and are left out: %s%s",
            len(own.errors),
            len(own.errors) + len(own.images),
            path,
            listed,
            more,
        )
    num_images = len(own.images)
    if num_images < _MIN_PATH_IMAGES:
        raise ValueError(
            f"{path} holds {num_images} usable images; at least {_MIN_PATH_IMAGES} are needed, one "
            "each for training, validation and test"
        )
    prepared = prepare_images(own.images, image_size=image_size, invert=invert, names=own.names)
    num_resized = sum(note is not None for note in prepared.notes)
    if num_resized:
        logging.info("%d of %d images were resized.", num_resized, num_images)

    order = np.random.Generator(np.random.PCG64(seed)).permutation(num_images)
    held_out = max(1, num_images // 10)
    parts = {
        "validation": order[:held_out],
        "test": order[held_out : 2 * held_out],
        "train": order[2 * held_out :],
    }
    scenes = {}
    for split in _SPLITS:
        members = parts[split][: sizes[split]]
        scenes[split] = _without_objects(
            np.rint(prepared.images[members] * 255).astype(np.uint8),
            None if own.counts is None else own.counts[members],
        )
    description = {
        "source": "path",
        "folder": str(path),
        "invert": bool(invert),
        "num_found": num_images + len(own.errors),
        "num_unusable": len(own.errors),
        "num_resized": num_resized,
        "image_size": int(image_size),
        "num_images": {split: len(scenes[split].images) for split in _SPLITS},
        "seed": int(seed),
        "digest": hashlib.sha256(prepared.images.tobytes()).hexdigest()[:16],
    }
    return Dataset(**scenes, description=description)


def _without_objects(images: np.ndarray, counts: np.ndarray | None = None) -> Scenes:
    """Images of whose objects at most the number is known."""
    number = len(images)
    return Scenes(
        images=images,
        counts=np.full(number, -1, np.int32) if counts is None else counts,
        boxes=np.zeros((number, 0, 4), np.float32),
        labels=np.zeros((number, 0), np.int32),
        hidden=np.zeros((number, 0), np.float32),
    )


def _read_omniglot(
    cache_dir: str | None,
    tfds_dir: str | None,
    *,
    image_size: int,
    sizes: dict[str, int],
    seed: int,
) -> Dataset[Scenes]:
    """Reads Omniglot's glyphs, shuffled, at most `sizes` in each set."""
    files = locate_omniglot(tfds_dir=tfds_dir)

    def read(write: cache.Write | None) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for split, glyphs in (
            load_omniglot(tfds_dir=tfds_dir, image_size=image_size)._asdict().items()
        ):
            arrays |= {f"{split}_{field}": array for field, array in glyphs._asdict().items()}
        return arrays

    key = {"omniglot": files.digest, "image_size": int(image_size)}
    arrays = cache.cached(cache_dir, key, read, resident=True)
    scenes, alphabets, num_characters = {}, {}, {}
    seeds = np.random.SeedSequence(seed).spawn(len(_SPLITS))
    for split, split_seed in zip(_SPLITS, seeds, strict=True):
        rng = np.random.Generator(np.random.PCG64(split_seed))
        chosen = rng.permutation(len(arrays[f"{split}_images"]))[: sizes[split]]
        scenes[split] = _without_objects(arrays[f"{split}_images"][chosen][..., None])
        alphabets[split] = np.unique(arrays[f"{split}_alphabets"][chosen]).tolist()
        num_characters[split] = len(np.unique(arrays[f"{split}_characters"][chosen]))
    description = {
        "source": "omniglot",
        "folder": files.folder,
        "alphabets": alphabets,
        "num_characters": num_characters,
        "image_size": int(image_size),
        "num_images": {split: len(scenes[split].images) for split in _SPLITS},
        "seed": int(seed),
        "digest": files.digest[:16],
    }
    return Dataset(**scenes, description=description)
