"""Finds the objects of a user's images with a trained model.

    python -m air_jax.infer --checkpoint runs/dair --input photos --output found

writes

    found/objects.jsonl     one line an image, in the order of the input
    found/pictures/*.png    the images with windows and boxes

A line holds `name`; `count`, the number of objects; `count_probs`, the probability of n = 0..N;
`objects`, in the order found, each with `box` (the extent of its ink, cut at the image's border;
null where none of it is in the image), `window` (where the model looked; may reach beyond the
image) and `presence` (probability); `elbo` in nats, of the image as the model saw it; `note`, what
was done to bring the image to the model's size, or null; and `picture`, its file, or null. Boxes
are `[x_min, y_min, x_max, y_max]` in pixels of the image as given, pixel k spanning k to k + 1. An
image that cannot be used has `name` and `error` instead. A number that is not finite is null.

Of a model of 3-D scenes a line holds what `infer3d.describe` says in place of probabilities, boxes
and windows, and a picture shows the image beside the scene that was found. `--sweeps 1` mends
counts where objects of one kind occur twice, `--turns 24` tells better where handles point (see
`inverse_graphics.Model3D.infer`); the ELBO knows nothing of them.
"""

import argparse
import collections
import functools
import json
import logging
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from air_jax import figures, infer2d, infer3d, kinds, metrics
from air_jax.charts import plural
from air_jax.checkpoint import CheckpointError
from air_jax.data import images
from air_jax.files import replacing
from air_jax.inference import Model
from air_jax.inverse_graphics import Model3D

OBJECTS_FILE = "objects.jsonl"
PICTURES_DIR = "pictures"
DEFAULT_PICTURES = 100  # a picture takes longer than everything else about an image
_CHUNK = 1024  # images prepared at a time
_MAX_REPORTED = 10
_MAX_NAME = 50  # characters, at most 200 bytes: file systems take 255


class _Image(NamedTuple):
    """One image of the input; either `pixels` or `error` is there.

    Attributes:
        name: what the user knows it by.
        pixels: float32 `[H, W]`, or `[H, W, 3]` for a model of colours, in [0, 1].
        true_count: number of objects; -1 where unknown.
        error: why it cannot be used.
    """

    name: str
    pixels: np.ndarray | None
    true_count: int
    error: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; every error is a sentence on standard error.

    Args:
        argv: arguments after the program's name; those of the process if None.
    Returns:
        0 if every image was used, 1 if one was not or nothing could be done, 130 if interrupted.
    Raises:
        SystemExit: with code 2 if the arguments are wrong.
    """
    options = _parse(argv)
    logging.getLogger("jax").setLevel(logging.ERROR)  # the search for accelerators is verbose
    try:
        return _run(options)
    except (ValueError, CheckpointError) as error:
        return _fail(str(error))
    except OSError as error:
        # An errno's own text would begin with its number.
        return _fail(f"{error.filename}: {error.strerror}" if error.strerror else str(error))
    except MemoryError:
        return _fail("out of memory: give fewer or smaller images, or a smaller --batch-size")
    except jax.errors.JaxRuntimeError as error:
        first_line = str(error).partition("\n")[0]
        return _fail(f"the device failed ({first_line}): try a smaller --batch-size")
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.infer",
        description="Finds the objects of your images: JSON lines and annotated pictures.",
    )
    path: dict[str, Any] = {"required": True, "type": _path}
    array = "an .npy or .npz (key image, optionally count) [n, H, W], uint8 or float in [0, 1]"
    holds = f"folder for {OBJECTS_FILE} and {PICTURES_DIR}/; files of the same name are replaced"
    sweeps = "of 3-D scenes: look again at each object, given the others, N times (0)"
    turns = "of 3-D scenes: render N turns of each object and keep the likeliest (1)"
    pictures = f"annotate the first N images, or all ({DEFAULT_PICTURES})"
    add = parser.add_argument
    add("--checkpoint", **path, metavar="DIR", help="workdir of a run, or its folder model")
    add("--input", **path, metavar="PATH", help=f"a PNG or JPEG, a folder of them, or {array}")
    add("--output", **path, metavar="DIR", help=holds)
    add("--invert", action="store_true", help="objects are dark on light")
    add("--batch-size", type=_at_least(1), default=256, metavar="N", help="images at a time (256)")
    add("--sweeps", type=_at_least(0), default=0, metavar="N", help=sweeps)
    add("--turns", type=_at_least(1), default=1, metavar="N", help=turns)
    add("--pictures", type=_number, default=DEFAULT_PICTURES, metavar="N", help=pictures)
    return parser.parse_args(argv)


def _path(text: str) -> Path:
    if not text:  # an unset variable of the shell; as a path it would be the current folder
        raise argparse.ArgumentTypeError("the path is empty")
    path = Path(os.path.expanduser(text))
    # A tilde that is left is part of a name, where the reader would look for somebody's home.
    return path.absolute() if str(path).startswith("~") else path


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _number(text: str) -> int:
    if text == "all":
        return sys.maxsize
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor 'all'")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    output = options.output
    _check_output(output, options.input)
    model = kinds.load_objects(options.checkpoint)
    how: dict[str, int] = {"batch_size": options.batch_size}
    if isinstance(model, Model3D):
        how |= {"num_sweeps": options.sweeps, "num_turns": options.turns}
    elif options.sweeps or options.turns > 1:
        raise ValueError("--sweeps and --turns are for models of 3-D scenes; leave them out")
    inputs = _read(options.input, model.air.scene.channels)

    pictures = _Pictures(output / PICTURES_DIR, options.pictures)
    true_counts, inferred, num_resized, failed = [], [], 0, []
    with replacing(output / OBJECTS_FILE) as file:
        lines = _infer(model, inputs, options.invert, how, pictures)
        for image, line in _with_progress(zip(inputs, lines, strict=True), len(inputs)):
            file.write((json.dumps(line, allow_nan=False) + "\n").encode())
            if "error" in line:
                failed.append(f"{image.name}: {line['error']}")
            else:
                inferred.append(line["count"])
                true_counts.append(image.true_count)
                num_resized += line["note"] is not None
        if not inferred:
            # Raised here, so that nothing but errors replaces no earlier results.
            raise ValueError(_list_failed(failed, len(inputs)))

    _report(np.array(inferred, int), np.array(true_counts, int), num_resized)
    print(f"written: {output / OBJECTS_FILE}{pictures.summary(len(inferred))}")
    return _fail(_list_failed(failed, len(inputs))) if failed else 0


def _check_output(output: Path, source: Path) -> None:
    """Makes sure that nothing outside of `output` and nothing of the input is written over."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file: give a folder, which need not exist")
    folder = output / PICTURES_DIR
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link to another place: remove it, or give another --output"
        )
    place = os.path.realpath(source)
    if os.path.realpath(folder) in (place, os.path.dirname(place)):
        raise ValueError(
            f"the images of --input lie in {folder}, where pictures are written to: give another "
            "--output"
        )


def _read(source: Path, channels: int) -> list[_Image]:
    """Reads the input; images that cannot be read take their place among the others."""
    user = images.read_images(source, channels=channels)
    counts = [-1] * len(user.names) if user.counts is None else user.counts.tolist()
    found = [
        _Image(name, pixels, count, None)
        for name, pixels, count in zip(user.names, user.images, counts, strict=True)
    ]
    found += [_Image(name, None, -1, reason) for name, reason in user.errors]
    return sorted(found, key=lambda image: _place(image.name))


def _place(name: str) -> tuple[int, str]:
    """Sorts `FILE[i]` by i and files by name, as the reader does."""
    index = re.search(r"\[(\d+)\]$", name)
    return int(index[1]) if index else 0, name


def _infer(
    model: Model | Model3D,
    inputs: Sequence[_Image],
    invert: bool,
    how: Mapping[str, int],
    pictures: "_Pictures",
) -> Iterator[dict[str, Any]]:
    """Yields the line of each image, as JSON-able dict."""
    for start in range(0, len(inputs), _CHUNK):
        chunk = inputs[start : start + _CHUNK]
        prepared = [_prepare(image, model, invert) for image in chunk]
        usable = [image for image in prepared if isinstance(image, images.Prepared)]
        # Of the start alone, so that the ELBO's sample does not depend on the batch size.
        key = jax.random.fold_in(jax.random.key(0), start)
        found = iter(_find(model, usable, key, how) if usable else ())
        for image, ready in zip(chunk, prepared, strict=True):
            if image.pixels is None or isinstance(ready, str):
                yield {"name": image.name, "error": ready}
                continue
            described, draw = _say(model, next(found), image.pixels, ready)
            yield {
                "name": image.name,
                **described,
                "note": ready.notes[0],
                "picture": pictures.add(image.name, draw),
            }


def _say(
    model: Model | Model3D, found: Any, pixels: np.ndarray, prepared: images.Prepared
) -> tuple[dict[str, Any], Callable[[str], Figure]]:
    """What is said of one image, and what draws its picture from a title."""
    if isinstance(model, Model3D):
        catalogue = model.air.scene.view.catalogue
        draw = functools.partial(infer3d.picture, prepared.images[0], found, catalogue)
        return infer3d.describe(found, catalogue), draw
    objects = infer2d.in_original(found, prepared, pixels.shape)
    return infer2d.describe(objects), functools.partial(infer2d.picture, pixels, objects)


def _prepare(image: _Image, model: Model | Model3D, invert: bool) -> images.Prepared | str:
    """The image as the model takes it, or why it cannot be used."""
    if image.pixels is None:
        return image.error or "it could not be read"
    try:
        return images.prepare_images(
            [image.pixels],
            image_size=model.air.scene.image_size,
            invert=invert,
            names=["it"],
            any_background=isinstance(model, Model3D),
        )
    except images.LightBackgroundError as error:
        return str(error)


def _find(
    model: Model | Model3D,
    prepared: Sequence[images.Prepared],
    key: jax.Array,
    how: Mapping[str, int],
) -> list[Any]:
    """What the model finds, image by image, each leaf with its first axis of length 1."""
    stacked = np.concatenate([image.images for image in prepared])
    objects = model.infer(stacked, key=key, **how)
    rows = [operator.itemgetter(slice(i, i + 1)) for i in range(len(prepared))]
    return [jax.tree.map(row, objects) for row in rows]


class _Pictures:
    """Annotated pictures, each under a name of its own."""

    def __init__(self, folder: Path, limit: int):
        self._folder = folder
        self._limit = limit
        self._taken: set[str] = set()

    def add(self, name: str, draw: Callable[[str], Figure]) -> str | None:
        """Writes one image's picture; returns its path in the output, None past the limit."""
        if len(self._taken) >= self._limit:
            return None
        file = self._choose(name)
        # Fonts have no signs for the undecodable bytes of a file's name.
        title = name.encode("utf-8", "replace").decode()
        figures.save(draw(title), self._folder / file)
        return f"{PICTURES_DIR}/{file}"

    def summary(self, num_images: int) -> str:
        """What was written, as the end of a sentence."""
        written = len(self._taken)
        text = f", {plural(written, 'picture')} in {self._folder}" if written else ""
        if self._limit and written < num_images:
            text += f" (of the first {written:,} images; --pictures all for all of them)"
        others = {path.name.casefold() for path in self._folder.glob("*.png")} - self._taken
        if others:
            text += f"; {self._folder} also holds {plural(len(others), 'older picture')}"
        return text

    def _choose(self, name: str) -> str:
        """A plain file name that no other image has, also where case does not count."""
        stem = re.sub(r"\.(png|jpe?g)$", "", name, flags=re.IGNORECASE)
        # Its end tells images apart: that is where an array file's index stands.
        stem = re.sub(r"[^\w.-]+", "_", stem)[-_MAX_NAME:].strip("._-") or "image"
        file, number = f"{stem}.png", 1
        while file.casefold() in self._taken:
            number += 1
            file = f"{stem}-{number}.png"
        self._taken.add(file.casefold())
        return file


def _with_progress(items: Iterator[Any], total: int) -> Iterator[Any]:
    """Passes items on, and counts them in one line on a terminal."""
    terminal = sys.stderr.isatty()
    try:
        for done, item in enumerate(items, start=1):
            yield item
            if terminal:
                print(f"\r\x1b[K{done:,}/{total:,} images", end="", file=sys.stderr, flush=True)
            elif done % _CHUNK == 0:
                print(f"{done:,}/{total:,} images", file=sys.stderr, flush=True)
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _report(inferred: np.ndarray, true_counts: np.ndarray, num_resized: int) -> None:
    """Prints what was found and, where the truth is known, how often it is right."""
    numbers = sorted(collections.Counter(inferred.tolist()).items())
    found = ", ".join(f"{number:,} with {plural(n, 'object')}" for n, number in numbers)
    print(f"{plural(len(inferred), 'image')}: {found}")
    if num_resized:
        print(f"resized: {plural(num_resized, 'image')} (see `note`)")
    known = int((true_counts >= 0).sum())
    if not known:
        return
    accuracy = metrics.count_accuracy(inferred, true_counts)
    print(f"count accuracy: {100 * accuracy:.2f} % of {plural(known, 'image')}")
    for count, share in metrics.count_accuracy_per_count(inferred, true_counts).items():
        images_with = plural(int((true_counts == count).sum()), "image")
        print(f"  {plural(count, 'object')}: {100 * share:.2f} % of {images_with}")


def _list_failed(failed: Sequence[str], num_images: int) -> str:
    """Prints what could not be used; returns the sentence that sums it up."""
    for message in failed[:_MAX_REPORTED]:
        print(message, file=sys.stderr)
    some = len(failed) < num_images
    if len(failed) > _MAX_REPORTED:
        where = f", named in {OBJECTS_FILE}" if some else ""
        print(f"and {len(failed) - _MAX_REPORTED:,} more{where}", file=sys.stderr)
    share = f"{len(failed):,} of {plural(num_images, 'image')}"
    return f"{share} could not be used" + ("" if some else ": nothing was written")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
