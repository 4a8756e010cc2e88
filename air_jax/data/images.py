"""The one reader of users' own images, for training on them and for inference."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_ARRAY_SUFFIXES = (".npy", ".npz")
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_ROUNDING = 1e-5  # by so much may floats leave [0, 1]; they are clipped
# A picture is padded to a square: one of a single row of a million pixels would take terabytes.
_MAX_SIDE = 10_000
# Of the arrays in an .npz, which may be compressed a thousand times.
_MAX_UNPACKED = 8 * 2**30
_MAX_COUNT = 1_000


class UserImages(NamedTuple):
    """What could be read of a path, and what could not.

    Attributes:
        names: file name of each image, `FILE[i]` for element i of an array file; n of them.
        images: each float32 in [0, 1], grey `[H, W]` or, where asked for, RGB `[H, W, 3]`; n of
            them.
        counts: number of objects, int32 `[n]`, -1 where unknown; None if the path has none.
        errors: (name, reason) of every image that could not be used.
    """

    names: list[str]
    images: list[np.ndarray]
    counts: np.ndarray | None
    errors: list[tuple[str, str]]


class Prepared(NamedTuple):
    """Images of one size; a pixel coordinate of theirs is `original * scale + offset`.

    Attributes:
        images: float32 `[n, S, S, C]` in [0, 1].
        scale: pixels per original pixel, float32 `[n]`.
        offset: (x, y) of the original's corner, pixels, float32 `[n, 2]`.
        notes: what was changed, for people; None for an image that already had the size.
    """

    images: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    notes: list[str | None]


class _UnfitError(ValueError):
    """An image that is whole and yet cannot be used."""


class LightBackgroundError(ValueError):
    """An image has a light background, where objects must be light on dark."""


def read_images(path: str | pathlib.Path, *, channels: int = 1) -> UserImages:
    """Reads images from a picture, a folder of pictures, or an array file.

    For one channel colour becomes luma (ITU-R BT.601), for three grey becomes RGB. Transparency is
    composited on black, pictures are turned as their EXIF orientation says. Array files are never
    unpickled.

    Args:
        path: a PNG or JPEG; a folder of them, read in the order of their names, without its
            subfolders; or an `.npy` or `.npz` array `[n, H, W]` or `[n, H, W, C]` with C = 1
            (grey), 3 (RGB) or 4 (RGBA), of bool, integers in 0..255 or floats in [0, 1]. An
            `.npz` holds it as `image` and optionally `count`, integers `[n]`, -1 = unknown. No
            side of an image is longer than 10,000 pixels.
        channels: 1 for grey images, 3 for RGB.
    Returns:
        The images, and by name those that could not be used; the rest go on.
    Raises:
        FileNotFoundError: if there is nothing at `path`, or no picture in the folder.
        ValueError: if the one file given, or an array file as a whole, cannot be used; if
            `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; images have 1 (grey) or 3 (RGB)")
    path = pathlib.Path(os.path.expanduser(path))  # pathlib's own fails on a name like ~a.png
    if path.is_dir():
        return _read_folder(path, channels)
    if not path.exists():
        raise FileNotFoundError(f"no image, folder of images or array file at {path}")
    suffix = path.suffix.lower()
    if suffix in _ARRAY_SUFFIXES:
        return _read_array_file(path, channels)
    if suffix not in _PICTURE_SUFFIXES:
        raise ValueError(
            f"{path} is not an image: expected a folder or a file that ends in one of "
            f"{_PICTURE_SUFFIXES + _ARRAY_SUFFIXES}"
        )
    try:
        return UserImages([path.name], [_read_picture(path, channels)], None, [])
    except ValueError as error:
        raise ValueError(f"{path} could not be read: {error}") from error


def prepare_images(
    images: Sequence[np.ndarray],
    *,
    image_size: int,
    invert: bool = False,
    names: Sequence[str] | None = None,
    any_background: bool = False,
) -> Prepared:
    """Brings images to one square size, as a model takes them.

    An image of another size is padded to a square with the background, 0, the image in the
    middle, and resized (bilinear, anti-aliased when shrinking).

    Args:
        images: float32 `[H, W]`, or all of them `[H, W, C]`, in [0, 1], each of any size.
        image_size: side of the prepared images, pixels.
        invert: whether images are dark ink on light; they become 1 - image.
        names: what error messages call the images; their place in the sequence if None.
        any_background: whether a light one is nothing to refuse.
    Returns:
        The images, and how their coordinates and the originals' correspond.
    Raises:
        LightBackgroundError: if most of an image's border is brighter than 0.5, after inversion,
            and the background has to be dark.
        ValueError: if `image_size` is not a positive integer.
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}; it must be a positive integer")
    channels = images[0].shape[2] if len(images) and images[0].ndim == 3 else 1
    prepared = np.zeros((len(images), image_size, image_size, channels), np.float32)
    scale = np.ones(len(images), np.float32)
    offset = np.zeros((len(images), 2), np.float32)
    notes: list[str | None] = [None] * len(images)
    for i, original in enumerate(images):
        image = 1 - original if invert else original
        if not any_background:
            _check_background(image, f"image {i}" if names is None else names[i], invert)
        image = image.reshape(*image.shape[:2], channels)
        height, width = image.shape[:2]
        if (height, width) != (image_size, image_size):
            side = max(height, width)
            x, y = (side - width) // 2, (side - height) // 2
            square = np.zeros((channels, side, side), np.float32)
            square[:, y : y + height, x : x + width] = np.moveaxis(image, -1, 0)
            size = (image_size, image_size)
            resized = [Image.fromarray(c).resize(size, Image.Resampling.BILINEAR) for c in square]
            image = np.stack([np.asarray(channel) for channel in resized], axis=-1)
            image = image.clip(0, 1)  # rounding may leave [0, 1]
            scale[i] = image_size / side
            offset[i] = np.array([x, y]) * (image_size / side)
            padded = "" if height == width else f"padded to {side}x{side} and "
            notes[i] = f"{padded}resized from {width}x{height} to {image_size}x{image_size} pixels"
        prepared[i] = image
    return Prepared(prepared, scale, offset, notes)


def to_original_boxes(boxes: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Maps boxes of prepared images to pixels of the originals.

    Args:
        boxes: (x_min, y_min, x_max, y_max) in pixels, `[n, K, 4]`; absent objects are zeros.
        scale: `Prepared.scale`, `[n]`.
        offset: `Prepared.offset`, `[n, 2]`.
    Returns:
        Boxes in the originals' pixels, float32 `[n, K, 4]`; absent objects stay zeros.
    """
    boxes = np.asarray(boxes, np.float32)
    mapped = (boxes - np.tile(offset, 2)[:, None]) / np.asarray(scale)[:, None, None]
    present = np.any(boxes != 0, axis=-1, keepdims=True)
    return np.where(present, mapped, 0).astype(np.float32)


def _check_background(image: np.ndarray, name: str, invert: bool) -> None:
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    border = border.mean(-1) if border.ndim == 2 else border
    if 2 * np.count_nonzero(border > 0.5) <= border.size:
        return
    if invert:
        raise LightBackgroundError(
            f"{name} has a light background once inverted, but objects must be light on dark: "
            "it is not to be inverted (leave out `--invert` on the command line, or set "
            "`data.invert` to False in a config)"
        )
    raise LightBackgroundError(
        f"{name} has a light background, but objects must be light on dark: invert it "
        "(`--invert` on the command line, `data.invert` in a config)"
    )


def _read_folder(folder: pathlib.Path, channels: int) -> UserImages:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURE_SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} holds no file that ends in one of {_PICTURE_SUFFIXES}")
    names, images, errors = [], [], []
    for path in paths:
        try:
            images.append(_read_picture(path, channels))
            names.append(path.name)
        except ValueError as error:
            errors.append((path.name, str(error)))
    return UserImages(names, images, None, errors)


def _read_picture(path: pathlib.Path, channels: int) -> np.ndarray:
    """Reads a PNG or JPEG, as `_to_channels` gives it; ValueError says why it cannot."""
    if not path.is_file():
        # A pipe would be waited for, a device has no end.
        raise ValueError("it is not a file that can be read to its end")
    try:
        with warnings.catch_warnings():
            # A decompression bomb is a warning at first, and twice as large an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                _check_sides(image.height, image.width)
                array = _picture_to_array(ImageOps.exif_transpose(image))
                return _to_channels(array, channels)
    except _UnfitError as error:
        raise ValueError(str(error)) from error
    # Pillow's decoders raise errors of many kinds on damaged files, Exception itself included.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_sides(height: int, width: int) -> None:
    if max(height, width) > _MAX_SIDE:
        raise _UnfitError(
            f"it is {width}x{height} pixels, and no side may be longer than {_MAX_SIDE:,}: shrink "
            "it, or cut it into several images"
        )


def _picture_to_array(image: Image.Image) -> np.ndarray:
    """Returns `[H, W]` or `[H, W, C]` in [0, 1]."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        return np.asarray(image, np.float32) / 65535
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    return _to_float(np.asarray(image))


def _to_float(array: np.ndarray) -> np.ndarray:
    """Converts bool, integers 0..255 or floats in [0, 1] to float32 in [0, 1].

    Raises:
        ValueError: if values are out of range or not finite.
    """
    if array.dtype == bool:
        return array.astype(np.float32)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"its integers span {low}..{high}; expected 0..255")
        return array.astype(np.float32) / 255
    if not (np.isfinite(low) and np.isfinite(high)):  # both are NaN if any value is
        raise ValueError("it has values that are NaN or infinite")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        advice = ": divide by 255" if low >= 0 and 1 < high <= 255 else ""
        raise ValueError(f"its floats span {low:g}..{high:g}; expected 0..1{advice}")
    return np.clip(array, 0, 1).astype(np.float32)


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Converts float32 `[H, W]` or `[H, W, 1 | 3 | 4]` to grey `[H, W]` or RGB `[H, W, 3]`."""
    if channels == 3:
        image = image[:, :, None] if image.ndim == 2 else image
        colour = image[:, :, :3] * image[:, :, 3:] if image.shape[2] == 4 else image
        return np.repeat(colour, 3, axis=2) if colour.shape[2] == 1 else colour
    if image.ndim == 2:
        return image
    if image.shape[2] == 1:
        return image[:, :, 0]
    grey = np.clip(image[:, :, :3] @ _LUMA, 0, 1)  # rounding may leave [0, 1]
    return grey * image[:, :, 3] if image.shape[2] == 4 else grey


def _read_array_file(path: pathlib.Path, channels: int) -> UserImages:
    array, counts = _load_arrays(path)
    if counts is not None and (
        counts.shape != array.shape[:1]
        or not np.issubdtype(counts.dtype, np.integer)
        or counts.min() < -1
        or counts.max() > _MAX_COUNT
    ):
        raise ValueError(
            f"`count` in {path} is {counts.dtype} of shape {counts.shape}; expected integers from "
            f"0 to {_MAX_COUNT:,}, or -1 where unknown, of shape {array.shape[:1]}, one for each "
            "image"
        )
    names, images, errors, kept = [], [], [], []
    for i, element in enumerate(array):
        name = f"{path.name}[{i}]"
        try:
            images.append(_to_channels(_to_float(element), channels))
        except ValueError as error:
            errors.append((name, str(error)))
        else:
            names.append(name)
            kept.append(i)
    counts = None if counts is None else counts[kept].astype(np.int32)
    return UserImages(names, images, counts, errors)


def _load_arrays(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Loads and checks the image array; returns it with the counts, if there are any."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file that can be read to its end")
    counts: Any = None
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            if isinstance(array, np.lib.npyio.NpzFile):
                archive, keys = array, list(array)
                assert archive.zip is not None  # it is open
                size = sum(member.file_size for member in archive.zip.infolist())
                if size > _MAX_UNPACKED:
                    raise _UnfitError(
                        f"{path} would unpack to {size / 2**30:,.0f} GiB, more than "
                        f"{_MAX_UNPACKED / 2**30:,.0f}: split it into several files"
                    )
                array = archive["image"] if "image" in keys else None
                counts = archive["count"] if "count" in keys else None
                # What an archive holds beside arrays comes as bytes.
                if isinstance(array, bytes) or isinstance(counts, bytes):
                    raise _UnfitError(f"{path} holds 'image' or 'count' as a file, not as an array")
    except _UnfitError:
        raise
    # NumPy raises errors of many kinds on damaged files.
    except Exception as error:
        raise ValueError(f"{path} could not be read: {type(error).__name__}: {error}") from error
    if array is None:
        raise ValueError(f"{path} holds the arrays {keys}, but none named 'image'")
    expected = "expected [n, H, W] or [n, H, W, C] with C = 1, 3 or 4, nothing empty"
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        raise ValueError(
            f"{path} has the shape {array.shape}, which looks like one image with channels: "
            "add a leading axis, array[None]"
        )
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(f"{path} has the shape {array.shape}; {expected}")
    if array.ndim == 4 and array.shape[3] not in (1, 3, 4):
        raise ValueError(f"{path} has the shape {array.shape}; {expected}")
    if max(array.shape[1:3]) > _MAX_SIDE:
        raise ValueError(
            f"{path} has the shape {array.shape}; no side of an image may be longer than "
            f"{_MAX_SIDE:,} pixels"
        )
    if not (array.dtype == bool or array.dtype.kind in "iuf"):
        raise ValueError(f"{path} holds {array.dtype}; expected uint8, bool or floats in [0, 1]")
    return array, counts
