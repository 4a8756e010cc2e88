"""Datasets that TFDS has prepared on disk, found, identified and read without TensorFlow."""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

_READ_BATCH = 4096  # bounds the number of undecoded records in memory


def data_folder(tfds_dir: str | None) -> pathlib.Path:
    """TFDS's data folder.

    Args:
        tfds_dir: the folder; if None or empty, the environment variable `TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.
    """
    folder = tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(os.path.expanduser(folder))  # pathlib's own fails without a home


def find(root: pathlib.Path, name: str, splits: Sequence[str]) -> pathlib.Path | None:
    """Finds a dataset in array_record format.

    Args:
        root: TFDS's data folder.
        name: of the dataset.
        splits: those it must have.
    Returns:
        `root/NAME/VERSION` of the newest version that has the splits; None if there is none.
    """
    versions = []
    for info in root.glob(f"{name}/*/dataset_info.json"):
        parts = info.parent.name.split(".")
        is_version = all(part.isdigit() for part in parts)
        if is_version and all(_record_files(info.parent, split) for split in splits):
            versions.append((tuple(int(part) for part in parts), info.parent))
    return max(versions)[1] if versions else None


def how_to_prepare(root: pathlib.Path, name: str) -> str:
    """What to tell whoever lacks a dataset, a sentence without its full stop.

    Args:
        root: TFDS's data folder.
        name: of the dataset.
    """
    return (
        f"Prepare it with `tfds build {name} --file_format=array_record --data_dir={root}`, which "
        "needs TensorFlow installed and an internet connection (reading it afterwards needs "
        "neither); or point TFDS_DATA_DIR or tfds_dir to a folder where it is prepared"
    )


def digest(folder: pathlib.Path, splits: Sequence[str]) -> str:
    """SHA-256 of the contents of the splits' files, hexadecimal.

    Args:
        folder: as `find` returns it.
        splits: which.
    """
    whole = hashlib.sha256()
    for split in splits:
        for path in _record_files(folder, split):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def open_splits(folder: pathlib.Path, splits: Sequence[str]) -> list[Any]:
    """Opens splits whose records keep the bytes of `image` as they are in the file.

    They are to be decoded with Pillow: faster than TFDS's own decoding, which also recommends
    OpenCV in a warning.

    Args:
        folder: as `find` returns it.
        splits: which.
    Returns:
        A sequence of records for each, with a length; `records` reads it.
    """
    import tensorflow_datasets as tfds  # slow to import, and seldom needed

    return tfds.data_source(
        f"{folder.parent.name}:{folder.name}",
        split=list(splits),
        data_dir=str(folder.parent.parent),
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )


def records(source: Any) -> Iterator[dict[str, Any]]:
    """All records of an opened split, in their order.

    Args:
        source: one of those that `open_splits` returns.
    """
    for start in range(0, len(source), _READ_BATCH):
        yield from source.__getitems__(range(start, min(start + _READ_BATCH, len(source))))


def _record_files(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    return sorted(folder.glob(f"{folder.parent.name}-{split}.array_record-*"))
