"""Videos of a model that learns, and of one that looks.

    python -m air_jax.video training --workdir runs/dair
    python -m air_jax.video inference --checkpoint runs/dair --output seen.gif seen.mp4

`training` shows a run's milestones: a few validation scenes, and below each what the model made of
it and where it looked, from the first step to the last. `inference` shows scenes as they change,
with the windows that follow the objects, the reconstruction, and q(n | x): digits that move,
some seconds with none, one, two, ... of them, or (`--scenes stream`) test scenes one after another,
which a model of anything but digits always gets. Without `--checkpoint` the model is the one that
comes with the package.

A file's suffix says what it becomes: `.gif` for pages that show no video, `.mp4` (H.264, which the
extra `video` encodes) for everything else. No display is needed.
"""

import argparse
import fractions
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from air_jax import gallery, kinds, overlay, pretrained, program, writer
from air_jax.charts import plural, thousands
from air_jax.data.dataset import create_dataset
from air_jax.data.digits import load_digits
from air_jax.data.motion import moving_digits
from air_jax.figures import STEP_COLOURS
from air_jax.files import replacing
from air_jax.inference import Model, Objects
from air_jax.models.spatial_transformer import window_box

FORMATS = (".gif", ".mp4")
_DIGITS = ("auto", "tfds", "embedded")
_FIXED = ("path", "omniglot")  # images that are not composed, and have no counts to choose by
_SIDE = 300  # pixels of a scene in a video of inference, about
_TILE = 150  # of one in a video of training
_BARS = 180  # width of the bars of q(n | x)
_COLOURS = 64  # of a GIF
_SWATCH = 60  # rows of each window's colour, among the pictures that the palette is chosen for


class Frames(NamedTuple):
    """A video before it is encoded.

    Attributes:
      pictures: uint8 `[H, W, 3]` each, of one size.
      fps: pictures a second.
    """

    pictures: list[np.ndarray]
    fps: float


def training(workdir: pathlib.Path, *, num_images: int, fps: float) -> Frames:
    """A run's milestones, the last of them for a second longer.

    Args:
      workdir: of a run, finished or not.
      num_images: scenes side by side, of those that the run kept.
      fps: milestones a second.

    Raises:
      ValueError: if the run has left no milestone there, or a number is not positive.
    """
    _check_positive(num_images=num_images, fps=fps)
    milestones = gallery.read_milestones(workdir)
    if not milestones:
        raise ValueError(
            f"{workdir} has no milestones: give the workdir of a run (of a single seed: its folder "
            "seed_*), which keeps one whenever it is validated."
        )
    scalars = {entry["step"]: entry for entry in writer.read_scalars(workdir, "validation")}
    images = milestones[0]["images"][:num_images]
    factor = max(1, round(_TILE / images.shape[1]))
    above = overlay.side_by_side([overlay.enlarge(image, factor) for image in images])
    pictures = []
    for milestone in milestones:
        step = int(milestone["step"])
        boxes = np.asarray(window_box(milestone["z_where"], images.shape[1]))
        below = []
        for i in range(len(images)):
            present = np.flatnonzero(milestone["z_pres"][i])
            numbers = [int(step) + 1 for step in present]
            below.append(
                overlay.with_windows(
                    milestone["reconstructions"][i], boxes[i, present], factor, numbers=numbers
                )
            )
        picture = overlay.grid([above, overlay.side_by_side(below)], 1)
        pictures.append(overlay.titled(picture, _milestone_title(step, scalars.get(step, {}))))
    return Frames([*pictures, *[pictures[-1]] * round(fps)], fps)


def _milestone_title(step: int, scalars: Mapping[str, float]) -> str:
    parts = [f"step {thousands(step)}"]
    if "elbo" in scalars:
        parts.append(f"ELBO {scalars['elbo']:.0f} nats")
    if "count_accuracy" in scalars:
        parts.append(f"{100 * scalars['count_accuracy']:.1f} % of counts right")
    return "   ".join(parts)


def inference(
    model: Model, *, scenes: str, counts: Sequence[int], seconds: float, fps: float, seed: int
) -> Frames:
    """Scenes as they change, and what the model says of each.

    Args:
      model: AIR or DAIR.
      scenes: "moving" for digits that move, "stream" for test scenes one after another.
      counts: numbers of objects, in turn; where scenes are not composed (the user's own,
        Omniglot), only how many there are says for how long test scenes are shown.
      seconds: length of the part with each of them.
      fps: pictures a second; of a stream every scene is there for half a second.
      seed: of the scenes.

    Raises:
      ValueError: if scenes are no digits and should move, or a number is out of range.
      FileNotFoundError: if the data of the model's config are not there.
    """
    _check_positive(seconds=seconds, fps=fps)
    if not counts:
        raise ValueError("counts is empty; it must have a number of objects.")
    if scenes == "moving":
        images = _moving(model, counts, round(seconds * fps), 24.0 / fps, seed)
    elif scenes == "stream":
        images = _stream(model, counts, max(1, round(2 * seconds)), seed)
    else:
        raise ValueError(f"scenes is {scenes!r}; valid names are 'moving', 'stream'.")
    found = model.infer(images)
    shown = [_seen(images[i], found, i) for i in range(len(images))]
    repeated = 1 if scenes == "moving" else max(1, round(fps / 2))
    return Frames([picture for picture in shown for _ in range(repeated)], fps)


def _moving(
    model: Model, counts: Sequence[int], num_frames: int, speed: float, seed: int
) -> np.ndarray:
    data = model.config["data"]
    if data["source"] not in _DIGITS:
        raise ValueError(
            f"the model was trained on {data['source']!r}; only digits move here. Choose "
            "--scenes=stream."
        )
    digits = load_digits(source=data["source"], tfds_dir=data["tfds_dir"]).test
    size = model.air.scene.image_size
    parts = [
        moving_digits(
            digits,
            count=count,
            num_frames=num_frames,
            image_size=size,
            speed=speed * size / 50,
            digit_scale=float(np.mean(data["digit_scale"])),
            seed=seed + i,
        ).images
        for i, count in enumerate(counts)
    ]
    return np.concatenate(parts)


def _stream(model: Model, counts: Sequence[int], num_each: int, seed: int) -> np.ndarray:
    data = {**model.config["data"], "resident": True}
    number = num_each * len(counts)
    if data["source"] in _FIXED:
        # Whose images are what they are; another seed would take training images for others.
        return create_dataset(**data).test.images[:number]
    data["seed"] += seed
    sizes = {"num_train": 1, "num_validation": 1, "num_test": number}
    scenes = create_dataset(**{**data, **sizes, "counts": list(counts)}).test
    places = [list(counts).index(count) for count in scenes.counts]
    return scenes.images[np.argsort(places, kind="stable")]


def _seen(image: np.ndarray, found: Objects, i: int) -> np.ndarray:
    """One picture: the image with windows, the reconstruction, q(n | x)."""
    count = int(found.counts[i])
    factor = max(1, round(_SIDE / image.shape[0]))
    windows = overlay.with_windows(image, found.windows[i, :count], factor)
    drawn = overlay.enlarge(found.reconstructions[i], factor)
    bars = overlay.bars(found.count_probs[i], height=windows.shape[0], width=_BARS)
    return overlay.side_by_side(
        [
            overlay.titled(windows, plural(count, "object")),
            overlay.titled(drawn, "reconstruction"),
            overlay.titled(bars, "how many?"),
        ]
    )


def write(frames: Frames, path: pathlib.Path) -> None:
    """Encodes a video; a reader finds the old file or the new one, never half.

    Args:
      frames: at least one.
      path: its file; the suffix is of `FORMATS`, folders are created.

    Raises:
      ValueError: if the suffix is another, or `.mp4` is asked for and its encoder is not there.
    """
    check_formats([path])
    if path.suffix == ".mp4":
        _write_mp4(frames, path)
    else:
        _write_gif(frames, path)


def check_formats(paths: Sequence[pathlib.Path]) -> None:
    """Raises ValueError if `write` cannot write one of these files, before anything is drawn."""
    for path in paths:
        if path.suffix not in FORMATS:
            raise ValueError(f"{path} has none of the suffixes {', '.join(FORMATS)}: choose one.")
        if path.suffix == ".mp4" and not _has_encoder():
            raise ValueError(f'{path} needs an encoder: pip install "air_jax[video]", or .gif')


def _has_encoder() -> bool:
    try:
        return importlib.util.find_spec("av") is not None
    except ValueError:  # what is in the way of an import, a test's None, has no spec
        return False


def _write_gif(frames: Frames, path: pathlib.Path) -> None:
    # One palette for all, so that what does not change costs nothing; with the windows' colours,
    # which few pixels have.
    some = frames.pictures[:: max(1, len(frames.pictures) // 16)]
    swatches = np.array([ImageColor.getrgb(colour) for colour in STEP_COLOURS], np.uint8)
    width = some[0].shape[1]
    swatches = swatches.repeat(_SWATCH, axis=0)[:, None].repeat(width, axis=1)
    sample = np.concatenate([*some, swatches])
    palette = Image.fromarray(sample).quantize(_COLOURS)
    pictures = [
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE)
        for picture in frames.pictures
    ]
    first, *others = pictures
    with replacing(path) as file:
        # In hundredths of a second, below two of which browsers slow down.
        duration = 10 * max(2, round(100 / frames.fps))
        options: dict[str, Any] = {"duration": duration, "loop": 0, "optimize": True}
        first.save(file, format="gif", save_all=True, append_images=others, **options)


def _write_mp4(frames: Frames, path: pathlib.Path) -> None:
    import av  # of the extra `video`

    pictures = [_even(picture) for picture in frames.pictures]
    height, width, _ = pictures[0].shape
    with replacing(path) as file, av.open(file, "w", format="mp4") as container:
        rate = fractions.Fraction(frames.fps).limit_denominator(1_000)
        stream = container.add_stream("libx264", rate=rate)
        # What every browser plays.
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _even(picture: np.ndarray) -> np.ndarray:
    """With a white row or column more where its sides are odd, which H.264 does not take."""
    height, width, _ = picture.shape
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.pad(picture, padding, constant_values=255)


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive.")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m air_jax.video", description="Videos of learning and of inference."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    path: dict[str, Any] = {"type": pathlib.Path}
    learns = commands.add_parser("training", help="a run's milestones")
    learns.add_argument("--workdir", **path, required=True, metavar="DIR", help="of the run")
    learns.add_argument("--images", type=int, default=6, metavar="N", help="scenes (6)")
    learns.add_argument("--fps", type=float, default=3.0, help="milestones a second (3)")
    looks = commands.add_parser("inference", help="windows that follow objects")
    looks.add_argument("--checkpoint", **path, default=pretrained.path(), metavar="DIR")
    looks.add_argument("--scenes", choices=("moving", "stream"), help="default: moving digits")
    looks.add_argument("--counts", type=int, nargs="+", metavar="N", help="objects, in turn")
    looks.add_argument("--num-steps", type=int, metavar="N", help="of inference, at most")
    looks.add_argument("--seconds", type=float, default=4.0, help="of each count (4)")
    looks.add_argument("--fps", type=float, default=20.0, help="pictures a second (20)")
    looks.add_argument("--seed", type=int, default=0, help="of the scenes (0)")
    for command in (learns, looks):
        command.add_argument(
            "--output", **path, nargs="+", metavar="FILE", help="files, .gif or .mp4; default both"
        )
    given = parser.parse_args(argv)
    program.finish(lambda: _run(given))


def _run(given: argparse.Namespace) -> None:
    trains = given.command == "training"
    folder = given.workdir / "figures" if trains else pathlib.Path()
    formats = FORMATS if _has_encoder() else FORMATS[:1]
    outputs = given.output or [folder / f"{given.command}{suffix}" for suffix in formats]
    check_formats(outputs)
    if trains:
        frames = training(given.workdir, num_images=given.images, fps=given.fps)
    else:
        model = kinds.load_air(given.checkpoint)
        if given.num_steps is not None:
            longer = kinds.with_steps(model, given.num_steps)
            assert isinstance(longer, Model)  # as `model` is
            model = longer
        digits = model.config["data"]["source"] in _DIGITS
        frames = inference(
            model,
            scenes=given.scenes or ("moving" if digits else "stream"),
            counts=given.counts or kinds.trained_counts(model),
            seconds=given.seconds,
            fps=given.fps,
            seed=given.seed,
        )
    for path in outputs:
        write(frames, path)
        size = path.stat().st_size / 1e6
        print(f"{path}: {len(frames.pictures):,} pictures, {size:.2f} MB")


if __name__ == "__main__":
    main()
