"""Videos of runs and of inference: what is in them, and that they can be read again."""

import math
import shutil
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from air_jax import export, gallery, kinds, overlay, video
from air_jax.data.scenes import Scenes
from air_jax.figures import STEP_COLOURS
from air_jax.video import Frames
from tests import tiny

SIZE = tiny.MODEL_CONFIG["image"]["image_size"]
DATA = {
    **{"source": "embedded", "tfds_dir": "", "path": "", "invert": False, "cache_dir": ""},
    **{"image_size": SIZE, "counts": [0, 1], "digit_scale": [0.4, 0.4], "sprite_size": []},
    **{"noise": 0.0, "num_train": 4, "num_validation": 4, "num_test": 4, "seed": 0},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model whose weights are all 0 and that sees two objects in everything."""
    folder = tmp_path_factory.mktemp("run")
    params = tiny.model_params(np.zeros)
    params["predict_pres"]["Dense_1"]["bias"][:] = math.log(9)
    export.export_model(folder / "model", params, {**tiny.MODEL_CONFIG, "data": DATA})
    return folder


@pytest.fixture(scope="module")
def workdir(checkpoint, tmp_path_factory):
    """Of a run with three milestones, of which the images tell the step."""
    folder = tmp_path_factory.mktemp("milestones")
    model = kinds.load(checkpoint)
    images = np.zeros((8, SIZE, SIZE, 1), np.uint8)
    scenes = Scenes(images, np.zeros(8, np.int32), *[np.zeros((8, 0))] * 3)
    found = model.infer(images)
    for step in (0, 200, 1_000):
        shade = np.full_like(found.reconstructions, step / 1_000)
        gallery.save_milestone(folder, step, found._replace(reconstructions=shade), scenes)
    (folder / "metrics.jsonl").write_text(
        '{"step": 1000, "split": "validation", "elbo": 500.0, "count_accuracy": 0.5}\n'
    )
    return folder


def colour(step):
    return tuple(int(STEP_COLOURS[step][i : i + 2], 16) for i in (1, 3, 5))


def shows(picture, wanted, tolerance=0):
    return (np.abs(picture.astype(int) - wanted).max(-1) <= tolerance).any()


def test_a_run_s_milestones_follow_one_another(workdir):
    frames = video.training(workdir, num_images=2, fps=2.0)
    assert len(frames.pictures) == 3 + 2  # the last is there for a second more
    first, second, last, *held = frames.pictures
    assert all(np.array_equal(last, picture) for picture in held)
    below = slice(26 + 144 + 8, None)  # title, data, gap
    shades = [np.median(picture[below]) for picture in (first, second, last)]
    assert shades[0] == 0 and shades[1] == 51 and shades[2] == 255
    # Both windows of both images, in their colours.
    assert shows(first, colour(0)) and shows(first, colour(1)) and not shows(first, colour(2))
    title = overlay.titled(last[26:], "step 1k   ELBO 500 nats   50.0 % of counts right")
    np.testing.assert_array_equal(last, title)


def test_every_frame_has_its_own_windows(checkpoint):
    images = np.zeros((2, SIZE, SIZE, 1), np.uint8)
    found = kinds.load_air(checkpoint).infer(images)
    windows = np.zeros_like(found.windows)
    windows[0, :] = (1, 1, 5, 5)
    windows[1, :] = (9, 9, 15, 15)
    found = found._replace(windows=windows)
    side = round(300 / SIZE) * SIZE
    for i in range(2):
        picture = video._seen(images[i], found, i)[26 : 26 + side, :side]
        rows, columns = np.nonzero((picture == colour(0)).all(-1))
        low, high = (edge * side / SIZE for edge in (windows[i, 0, 0], windows[i, 0, 2]))
        assert low <= min(rows.min(), columns.min()) and max(rows.max(), columns.max()) < high


def test_the_timeline_has_the_milestones_nearest_to_its_shares(workdir, tmp_path):
    with np.load(workdir / "milestones" / "00000200.npz") as arrays:
        kept = dict(arrays)
    (tmp_path / "milestones").mkdir()
    for step in range(0, 1_001, 50):
        np.savez(tmp_path / "milestones" / f"{step:08d}.npz", **{**kept, "step": step})
    labels = [axes.get_ylabel() for axes in gallery.timeline(tmp_path).axes]
    # 0, 1, 3, 10, 30 and 100 % of 1,000.
    assert [label for label in labels if label] == ["data", "0", "50", "100", "300", "1k"]


def test_as_many_images_as_are_asked_for(workdir):
    one, two = (video.training(workdir, num_images=n, fps=1.0).pictures[0] for n in (1, 2))
    assert one.shape[0] == two.shape[0] and one.shape[1] < two.shape[1]


@pytest.mark.parametrize("scenes", ["moving", "stream"])
def test_scenes_are_seen_with_windows_and_probabilities(checkpoint, scenes):
    model = kinds.load_air(checkpoint)
    options = {"counts": (1, 0), "seconds": 1.0, "fps": 4.0, "seed": 0}
    frames = video.inference(model, scenes=scenes, **options)
    # Of each count four frames, or two scenes for half a second each.
    assert len(frames.pictures) == 8
    assert len({picture.shape for picture in frames.pictures}) == 1
    for picture in frames.pictures:
        assert shows(picture, colour(0)) and shows(picture, colour(1))
    # Below the title and left of the reconstruction is the image: where there is an object, more
    # than windows, whose colours have no channel in common, nor is any of them white.
    side = round(300 / SIZE) * SIZE
    parts = [picture[26 : 26 + side, :side].astype(int) for picture in frames.pictures]
    inks = [((part.max(-1) == part.min(-1)) & (part.min(-1) > 40)).sum() for part in parts]
    assert min(inks[:4]) > 100 and max(inks[4:]) == 0


def test_a_user_s_own_images_are_shown_one_after_another(checkpoint, tmp_path):
    images = np.zeros((30, SIZE, SIZE), np.uint8)
    images[:, 4:8, 4:8] = np.arange(60, 240, 6)[:, None, None]
    np.savez(tmp_path / "own.npz", image=images)
    model = kinds.load_air(checkpoint)
    data = {**DATA, "source": "path", "path": str(tmp_path / "own.npz")}
    model = model._replace(config={**model.config, "data": data})
    options = {"scenes": "stream", "counts": (1,), "seconds": 1.0, "fps": 2.0}
    first, second = (video.inference(model, **options, seed=seed).pictures for seed in (0, 1))
    assert len(first) == 2 and not np.array_equal(*first)
    # Always the run's own test images, whatever the seed.
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_damaged_milestone_is_named(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / "milestones" / "00000200.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00000200\.npz is damaged"):
        video.training(tmp_path / "run", num_images=1, fps=1.0)


def test_other_scenes_than_digits_do_not_move(checkpoint):
    model = kinds.load_air(checkpoint)
    model = model._replace(config={**model.config, "data": {**DATA, "source": "sprites"}})
    with pytest.raises(ValueError, match="--scenes=stream"):
        video.inference(model, scenes="moving", counts=(1,), seconds=1, fps=1, seed=0)


def pictures(number=6, height=41, width=63):
    """A square of the fourth window's colour goes from left to right."""
    result = []
    for i in range(number):
        picture = np.full((height, width, 3), 255, np.uint8)
        picture[5:25, 5 * i : 5 * i + 20] = colour(3)
        result.append(picture)
    return result


def test_a_gif_is_what_was_drawn(tmp_path):
    video.write(Frames(pictures(), 10.0), tmp_path / "new" / "a.gif")
    with Image.open(tmp_path / "new" / "a.gif") as file:
        assert file.info["duration"] == 100 and file.info["loop"] == 0
        read = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
    assert len(read) == 6
    for found, wanted in zip(read, pictures(), strict=True):
        assert np.abs(found.astype(int) - wanted).max() < 30
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]


def test_an_mp4_is_what_was_drawn(tmp_path):
    av = pytest.importorskip("av")
    video.write(Frames(pictures(), 10.0), tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.average_rate == 10 and stream.codec_context.name == "h264"
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(read) == 6
    for found, wanted in zip(read, pictures(), strict=True):
        assert found.shape == (42, 64, 3)  # even sides
        assert np.abs(found[:41, :63].astype(int) - wanted).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_the_encoder_there_is_a_sentence_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"air_jax\[video\]"):
        video.write(Frames(pictures(), 10.0), tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_it_is_asked_for(workdir, checkpoint, tmp_path, capsys):
    video.main(["training", "--workdir", str(workdir), "--output", str(tmp_path / "t.gif")])
    options = ["--num-steps=3", "--counts", "1", "--seconds=0.5", "--fps=4"]
    files = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "i.gif")]
    video.main(["inference", *options, *files])
    out = capsys.readouterr().out
    assert "t.gif: 6 pictures" in out and "i.gif: 2 pictures" in out
    with Image.open(tmp_path / "i.gif") as file:
        # Three steps now, three windows.
        assert shows(np.asarray(file.convert("RGB")), colour(2), 25)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["training", "--workdir", "."], "no milestones"),
        (["inference", "--counts", "60"], "could not be arranged"),
        (["inference", "--fps", "0"], "fps is 0"),
        (["inference", "--seconds", "-1"], "seconds is -1"),
        (["inference", "--output", "a.gif", "b.avi"], ".gif, .mp4"),
    ],
)
def test_what_cannot_be_shown_ends_in_a_sentence(
    checkpoint, tmp_path, caplog, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "inference":
        arguments = [*arguments, "--checkpoint", str(checkpoint)]
    with pytest.raises(SystemExit, match="1"):
        video.main(arguments)
    assert message in caplog.text
    assert not list(tmp_path.iterdir())
