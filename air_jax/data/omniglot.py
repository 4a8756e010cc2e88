"""Omniglot glyphs (Lake et al., 2015): characters of some alphabets, and of others held out."""

import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from air_jax.data import prepared

_NAME = "omniglot"
_TRAIN, _HELD_OUT = "small1", "small2"
_SIDE = 105  # pixels
_VALIDATION_EVERY = 10  # characters


class Glyphs(NamedTuple):
    """A set of drawn characters, white ink on black.

    Attributes:
        images: uint8 `[M, S, S]`.
        characters: which of Omniglot's 1,623 characters it is, int32 `[M]`.
        alphabets: name of each one's alphabet, str `[M]`.
    """

    images: np.ndarray
    characters: np.ndarray
    alphabets: np.ndarray


class GlyphSplits(NamedTuple):
    """Three sets of glyphs that have no character in common.

    Attributes:
        train: of `small1`.
        validation: every tenth character of `small1`, with all of its drawings, kept apart.
        test: what `small2` has of alphabets that `small1` does not have.
    """

    train: Glyphs
    validation: Glyphs
    test: Glyphs


class OmniglotFiles(NamedTuple):
    """The files which `load_omniglot` would read with the same `tfds_dir`.

    Attributes:
        folder: of the prepared TFDS dataset.
        digest: SHA-256 of the files' contents, hexadecimal.
    """

    folder: str
    digest: str


def locate_omniglot(*, tfds_dir: str | None = None) -> OmniglotFiles:
    """Finds the glyphs and identifies their contents, without decoding them.

    Args:
        tfds_dir: TFDS's data folder, which holds `omniglot/3.0.0/`; if None or empty, the
            environment variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
    Raises:
        FileNotFoundError: if no Omniglot with the two small splits is prepared in the folder; says
            how to prepare it.
    """
    folder = _find_folder(tfds_dir)
    return OmniglotFiles(str(folder), prepared.digest(folder, (_TRAIN, _HELD_OUT)))


def load_omniglot(*, tfds_dir: str | None = None, image_size: int) -> GlyphSplits:
    """Loads the two small splits of TFDS's Omniglot: five alphabets to train on, three held out.

    The two share two alphabets, Greek and Latin, with the very same 1,000 pictures. Of `small2`
    these are left out, so that none of the test set's alphabets (Japanese katakana, Sanskrit and
    Tagalog, 2,120 pictures) is among those of training (Balinese, Early Aramaic, Greek, Korean and
    Latin). Every tenth character of these makes the validation set (260 pictures of 2,720). Each of
    20 people drew every character once.

    Pictures of 105 x 105 pixels in black and white are inverted and made smaller by area: a
    pixel's value is the share of it that ink covers.

    Args:
        tfds_dir: as in `locate_omniglot`.
        image_size: S, pixels, at most 105.
    Returns:
        The three sets, each in the order of the files.
    Raises:
        FileNotFoundError: as `locate_omniglot`.
        ValueError: if `image_size` is out of range, the files do not hold Omniglot, or too little
            is left for one of the sets.
    """
    if not 1 <= image_size <= _SIDE:
        raise ValueError(
            f"image_size is {image_size}; it must be in 1..{_SIDE}, as Omniglot's pictures have "
            f"{_SIDE} pixels a side"
        )
    folder = _find_folder(tfds_dir)
    names = (folder / "alphabet.labels.txt").read_text("utf-8").splitlines()
    sources = prepared.open_splits(folder, (_TRAIN, _HELD_OUT))
    seen, other = (_decode_records(source, names, folder, image_size) for source in sources)
    kept_apart = np.unique(seen.characters)[_VALIDATION_EVERY - 1 :: _VALIDATION_EVERY]
    of_validation = np.isin(seen.characters, kept_apart)
    splits = GlyphSplits(
        train=_choose(seen, ~of_validation),
        validation=_choose(seen, of_validation),
        test=_choose(other, ~np.isin(other.alphabets, seen.alphabets)),
    )
    for name, glyphs in splits._asdict().items():
        if not len(glyphs.images):
            raise ValueError(
                f"{folder} leaves nothing for {name}: {_TRAIN} must have at least "
                f"{_VALIDATION_EVERY} characters, and {_HELD_OUT} alphabets that {_TRAIN} has not"
            )
    return splits


def _find_folder(tfds_dir: str | None) -> pathlib.Path:
    """Returns the folder of the prepared dataset."""
    root = prepared.data_folder(tfds_dir)
    folder = prepared.find(root, _NAME, (_TRAIN, _HELD_OUT))
    if folder is None:
        raise FileNotFoundError(
            f"no Omniglot in array_record format with the splits {_TRAIN} and {_HELD_OUT} is "
            f"prepared in {root / _NAME}, and none comes with the program. "
            f"{prepared.how_to_prepare(root, _NAME)}"
        )
    return folder


def _decode_records(
    source: Any, names: Sequence[str], folder: pathlib.Path, image_size: int
) -> Glyphs:
    images = np.empty((len(source), image_size, image_size), np.uint8)
    characters = np.empty(len(source), np.int32)
    alphabets = []
    overlaps = _overlaps(image_size)
    for index, record in enumerate(prepared.records(source)):
        with Image.open(io.BytesIO(record["image"]), formats=("PNG",)) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(
                    f"record {index} in {folder} is a {image.size} image; Omniglot's pictures are "
                    f"({_SIDE}, {_SIDE})"
                )
            ink = 255 - np.asarray(image.convert("L"), np.float32)
        images[index] = np.rint(overlaps @ ink @ overlaps.T)
        characters[index] = record["label"]
        alphabets.append(names[record["alphabet"]])
    return Glyphs(images, characters, np.array(alphabets, np.str_))


def _overlaps(image_size: int) -> np.ndarray:
    """Which share of each pixel's width lies in each of the picture's, float32 `[S, 105]`.

    Pillow's box filter takes whole pixels by their middles: with 50 pixels a side a thin stroke
    would have up to a fifth more or less ink, by where it lies.
    """
    edges = np.arange(image_size + 1) * (_SIDE / image_size)
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(_SIDE)
    shared = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    return (shared.clip(0) / (high - low)).astype(np.float32)


def _choose(glyphs: Glyphs, members: np.ndarray) -> Glyphs:
    return Glyphs(*(array[members] for array in glyphs))
