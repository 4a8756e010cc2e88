"""The command `python -m air_jax.infer`, from files to files.

Most of it uses a network whose weights are all 0: it finds the same two objects in every image, and
all that it says can be worked out by hand. Its biases alone decide
    q(z_pres_i = 1) = 0.9, hence p(n) = 0.1, 0.9 * 0.1, 0.81 for n = 0, 1, 2,
    z_where = (2, 0.5, -0.25): a window of side 16 / 2 = 8 centred at 8 (1 - t / 2) = (6, 9),
and each object is one grey square that fills its window.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from air_jax import export, infer, kinds
from tests import tiny

CONFIG = tiny.MODEL_CONFIG
SIZE, PRESENT = CONFIG["image"]["image_size"], 0.9
WINDOW = [2.0, 5.0, 10.0, 13.0]
COUNT_PROBS = [0.1, 0.09, 0.81]


def constant_params(presence_logit, shift=(0.5, -0.25)):
    params = tiny.model_params(np.zeros)
    params["predict_where"]["Dense_1"]["bias"][1:3] = shift
    params["predict_pres"]["Dense_1"]["bias"][:] = presence_logit
    return params


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run's workdir with the model of the first lines of this file."""
    folder = tmp_path_factory.mktemp("run")
    params = constant_params(math.log(PRESENT / (1 - PRESENT)))
    export.export_model(folder / "model", params, CONFIG)
    return folder


def dark(height=SIZE, width=SIZE, value=200):
    """Ink in the middle of a dark image, uint8."""
    image = np.zeros((height, width), np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = value
    return image


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def run(checkpoint, source, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, *options]
    return infer.main([str(argument) for argument in arguments])


def read(output):
    return [json.loads(line) for line in (output / "objects.jsonl").read_text().splitlines()]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_one_image_gives_one_line_with_everything_that_was_found(checkpoint, tmp_path):
    save(tmp_path / "digit.png", dark())
    assert run(checkpoint, tmp_path / "digit.png", tmp_path / "out") == 0
    (line,) = read(tmp_path / "out")
    assert line["name"] == "digit.png"
    assert line["count"] == 2
    np.testing.assert_allclose(line["count_probs"], COUNT_PROBS, rtol=1e-5)
    assert [sorted(found) for found in line["objects"]] == [["box", "presence", "window"]] * 2
    np.testing.assert_allclose([found["presence"] for found in line["objects"]], [0.9, 0.81])
    for found in line["objects"]:
        np.testing.assert_allclose(found["window"], WINDOW, atol=1e-2)
        np.testing.assert_array_equal(found["box"], WINDOW)
    assert math.isfinite(line["elbo"])
    assert line["note"] is None
    assert line["picture"] == "pictures/digit.png"
    assert files(tmp_path / "out") == ["objects.jsonl", "pictures/digit.png"]


def test_boxes_are_in_pixels_of_the_users_own_image(checkpoint, tmp_path):
    # Padded to 64x64 with 16 rows above, then divided by 4. Rows 5..13 of the model's image are
    # 4 * 5 - 16 .. 4 * 13 - 16 of the user's, columns 2..10 are 8..40.
    save(tmp_path / "wide.png", dark(32, 64))
    assert run(checkpoint, tmp_path / "wide.png", tmp_path / "out") == 0
    (line,) = read(tmp_path / "out")
    for found in line["objects"]:
        np.testing.assert_allclose(found["window"], [8, 4, 40, 36], atol=0.05)
        # What lies in the padding is outside of the image.
        np.testing.assert_array_equal(found["box"], [8, 4, 40, 32])
    assert "64x32 to 16x16" in line["note"]


def test_an_object_without_ink_in_the_image_has_no_box(tmp_path):
    # A shift of 5 at scale 2 centres the window at -2.5: beyond the image, which ends at -1.
    export.export_model(tmp_path / "model", constant_params(3.0, shift=(5.0, 0.0)), CONFIG)
    save(tmp_path / "digit.png", dark())
    assert run(tmp_path, tmp_path / "digit.png", tmp_path / "out") == 0
    (line,) = read(tmp_path / "out")
    assert [found["box"] for found in line["objects"]] == [None, None]
    np.testing.assert_allclose(line["objects"][0]["window"], [-16, 4, -8, 12], atol=1e-2)


def test_numbers_that_are_not_finite_are_null(tmp_path):
    export.export_model(tmp_path / "model", constant_params(np.nan), CONFIG)
    save(tmp_path / "digit.png", dark())
    assert run(tmp_path, tmp_path / "digit.png", tmp_path / "out") == 0
    text = (tmp_path / "out" / "objects.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    (line,) = read(tmp_path / "out")
    assert (line["count"], line["objects"], line["elbo"]) == (0, [], None)
    assert line["count_probs"] == [None, None, None]


def test_the_picture_shows_the_users_image_as_it_was_given(checkpoint, tmp_path, monkeypatch):
    save(tmp_path / "light.png", 255 - dark(32, 64))
    calls = []
    real = infer.figures.annotated

    def annotated(image, windows, boxes, num_objects, title):
        calls.append((image, windows, num_objects, title))
        return real(image, windows, boxes, num_objects, title)

    monkeypatch.setattr(infer.figures, "annotated", annotated)
    assert run(checkpoint, tmp_path / "light.png", tmp_path / "out", "--invert") == 0
    ((image, windows, num_objects, title),) = calls
    np.testing.assert_allclose(image, (255 - dark(32, 64)) / 255, atol=1e-6)
    np.testing.assert_allclose(windows, [[8, 4, 40, 36]] * 2, atol=0.05)
    assert (num_objects, title) == (2, "light.png")
    with Image.open(tmp_path / "out" / "pictures" / "light.png") as picture:
        assert picture.format == "PNG"


def test_what_cannot_be_used_is_named_and_the_rest_go_on_in_order(tmp_path, capsys):
    rng = np.random.default_rng(0)
    params = tiny.model_params(lambda shape: rng.normal(scale=0.5, size=shape))
    export.export_model(tmp_path / "run" / "model", params, CONFIG)
    folder = tmp_path / "in"
    images = {name: dark(value=value) for name, value in (("a", 50), ("c", 150), ("e", 250))}
    for name, image in images.items():
        save(folder / f"{name}.png", image)
    (folder / "b.png").write_bytes(b"no picture")
    save(folder / "d.jpg", 255 - dark())
    assert run(tmp_path / "run", folder, tmp_path / "out") == 1

    lines = read(tmp_path / "out")
    assert [line["name"] for line in lines] == ["a.png", "b.png", "c.png", "d.jpg", "e.png"]
    assert set(lines[1]) == set(lines[3]) == {"name", "error"}
    assert "--invert" in lines[3]["error"]
    model = kinds.load_air(tmp_path / "run")
    expected = model.infer(np.stack(list(images.values())))
    assert len(np.unique(expected.count_probs[:, 0])) == 3
    for line, count, probs in zip(lines[::2], expected.counts, expected.count_probs, strict=True):
        assert line["count"] == count
        np.testing.assert_allclose(line["count_probs"], probs, rtol=1e-4)

    stderr = capsys.readouterr().err
    assert "b.png: " in stderr and "d.jpg: " in stderr and "2 of 5 images" in stderr
    assert "Traceback" not in stderr


def test_many_unusable_images_are_summed_up(checkpoint, tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.stack([dark()] + [255 - dark()] * 15))
    assert run(checkpoint, tmp_path / "a.npy", tmp_path / "out") == 1
    stderr = capsys.readouterr().err
    assert "and 5 more" in stderr and "15 of 16 images" in stderr
    assert len(stderr.splitlines()) == 12
    assert [line["name"] for line in read(tmp_path / "out")] == [f"a.npy[{i}]" for i in range(16)]


@pytest.mark.parametrize("option", [("--turns", "24"), ("--sweeps", "1")])
def test_refinements_are_for_scenes_of_three_dimensions(checkpoint, tmp_path, capsys, option):
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 8), np.float32))
    assert run(checkpoint, tmp_path / "one.npy", tmp_path / "out", *option) == 1
    assert "--sweeps and --turns are for models of 3-D scenes" in capsys.readouterr().err


def test_a_light_background_is_refused_with_the_flag_that_inverts_it(checkpoint, tmp_path, capsys):
    save(tmp_path / "light.png", 255 - dark())
    assert run(checkpoint, tmp_path / "light.png", tmp_path / "out") == 1
    stderr = capsys.readouterr().err
    assert "light.png" in stderr and "light background" in stderr and "--invert" in stderr
    assert files(tmp_path / "out") == []
    assert run(checkpoint, tmp_path / "light.png", tmp_path / "out", "--invert") == 0
    assert len(read(tmp_path / "out")) == 1


def test_a_run_without_any_result_leaves_the_earlier_results(checkpoint, tmp_path):
    save(tmp_path / "dark.png", dark())
    save(tmp_path / "light.png", 255 - dark())
    assert run(checkpoint, tmp_path / "dark.png", tmp_path / "out") == 0
    assert run(checkpoint, tmp_path / "light.png", tmp_path / "out") == 1
    assert [line["name"] for line in read(tmp_path / "out")] == ["dark.png"]


def test_count_accuracy_is_printed_where_the_truth_is_known(checkpoint, tmp_path, capsys):
    # The model always says 2: right for 2 of the 4 whose count is known.
    images = np.stack([dark()] * 5 + [255 - dark()])
    np.savez(tmp_path / "a.npz", image=images, count=np.array([2, 1, -1, 2, 0, 2]))
    assert run(checkpoint, tmp_path / "a.npz", tmp_path / "out", "--pictures", "0") == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:5] == [
        "5 images: 5 with 2 objects",
        "count accuracy: 50.00 % of 4 images",
        "0 objects: 0.00 % of 1 image",
        "1 object: 0.00 % of 1 image",
        "2 objects: 100.00 % of 2 images",
    ]


def test_nothing_is_said_of_accuracy_where_no_truth_is_known(checkpoint, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", image=np.stack([dark()] * 2), count=np.array([-1, -1]))
    assert run(checkpoint, tmp_path / "a.npz", tmp_path / "out", "--pictures", "0") == 0
    assert "accuracy" not in capsys.readouterr().out


def test_results_do_not_depend_on_batches_and_chunks_keep_the_order(
    checkpoint, tmp_path, monkeypatch
):
    image = np.random.default_rng(0).integers(0, 100, (SIZE, SIZE)).astype(np.uint8)
    np.save(tmp_path / "a.npy", np.stack([image] * 7))

    def results(*options):
        assert run(checkpoint, tmp_path / "a.npy", tmp_path / "out", "--pictures=0", *options) == 0
        return read(tmp_path / "out")

    whole, batched = results(), results("--batch-size", "4")
    for a, b in zip(whole, batched, strict=True):
        np.testing.assert_allclose(a.pop("elbo"), b.pop("elbo"), rtol=1e-4)
        assert a == b
    monkeypatch.setattr(infer, "_CHUNK", 4)
    chunked = results()
    # Equal images differ in nothing but the sample that gives the ELBO: each has its own.
    assert len({line["elbo"] for line in chunked}) == 7
    assert [line | {"elbo": None} for line in chunked] == [line | {"elbo": None} for line in whole]


def test_pictures_are_of_the_first_images_up_to_the_number_asked_for(
    checkpoint, tmp_path, capsys, monkeypatch
):
    np.save(tmp_path / "a.npy", np.stack([dark()] * 4))
    monkeypatch.setattr(infer.figures, "save", lambda figure, path: None)
    for option, number in (("0", 0), ("3", 3), ("all", 4)):
        assert run(checkpoint, tmp_path / "a.npy", tmp_path / "out", "--pictures", option) == 0
        pictures = [line["picture"] for line in read(tmp_path / "out")]
        assert [picture is not None for picture in pictures] == [True] * number + [False] * (
            4 - number
        )
        assert len(set(pictures) - {None}) == number
        assert ("--pictures all" in capsys.readouterr().out) == (number == 3)


def test_pictures_have_plain_names_that_never_collide(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(infer.figures, "save", lambda figure, path: written.append(path))
    pictures = infer._Pictures(tmp_path / "pictures", limit=100)
    names = ["a.png", "a.jpg", "a-2.png", "A.PNG", "../../b.png", "c:\\d e$.jpeg", ".png", "...png"]
    names += ["数字.png", "caf\udce9.png", "x" * 300 + ".png", "x" * 299 + "y.png", "e.npz[7]"]
    stems = ["a", "a-2", "a-2-2", "A-3", "b", "c_d_e", "image", "image-2"]
    stems += ["数字", "caf", "x" * 50, "x" * 49 + "y", "e.npz_7"]
    for name in names:
        pictures.add(name, draw=lambda title: None)
    assert [path.name for path in written] == [f"{stem}.png" for stem in stems]
    assert {path.parent for path in written} == {tmp_path / "pictures"}


def test_awkward_names_survive_from_file_to_line_and_picture(checkpoint, tmp_path):
    folder = tmp_path / "in"
    for name in ("$x^$ _a_.png", "数字.png", "new\nline.png"):
        save(folder / name, dark())
    assert run(checkpoint, folder, tmp_path / "out") == 0
    lines = read(tmp_path / "out")
    assert {line["name"] for line in lines} == {p.name for p in folder.iterdir()}
    assert all((tmp_path / "out" / line["picture"]).is_file() for line in lines)


def test_a_name_may_begin_with_a_tilde(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "~a.png", dark())
    assert run(checkpoint, "~a.png", "out") == 0
    assert files(tmp_path / "out") == ["objects.jsonl", "pictures/a.png"]


def test_only_the_output_folder_changes_even_where_it_is_the_input_folder(checkpoint, tmp_path):
    save(tmp_path / "in" / "a.png", dark())
    before = (tmp_path / "in" / "a.png").read_bytes()
    assert run(checkpoint, tmp_path / "in", tmp_path / "in") == 0
    assert files(tmp_path) == ["in/a.png", "in/objects.jsonl", "in/pictures/a.png"]
    assert (tmp_path / "in" / "a.png").read_bytes() == before


@pytest.mark.parametrize("source", ["out/pictures", "out/pictures/a.png"])
def test_pictures_are_never_written_over_the_input(checkpoint, tmp_path, capsys, source):
    save(tmp_path / "out" / "pictures" / "a.png", dark())
    before = (tmp_path / "out" / "pictures" / "a.png").read_bytes()
    assert run(checkpoint, tmp_path / source, tmp_path / "out") == 1
    assert "another --output" in capsys.readouterr().err
    assert (tmp_path / "out" / "pictures" / "a.png").read_bytes() == before


def test_a_link_out_of_the_output_folder_is_not_followed(checkpoint, tmp_path, capsys):
    save(tmp_path / "a.png", dark())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pictures").symlink_to(tmp_path / "elsewhere")
    assert run(checkpoint, tmp_path / "a.png", tmp_path / "out") == 1
    assert "is a link" in capsys.readouterr().err
    assert files(tmp_path / "elsewhere") == []


def test_pictures_of_an_earlier_run_are_mentioned(checkpoint, tmp_path, capsys):
    for name in ("a", "b"):
        save(tmp_path / name / f"{name}.png", dark())
        assert run(checkpoint, tmp_path / name, tmp_path / "out") == 0
    assert "1 older picture" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("checkpoint", "missing is not a folder"),
        ("empty checkpoint", "config.json is missing"),
        ("input", "no image, folder of images or array file at"),
        ("picture", "could not be read"),
        ("suffix", "is not an image"),
        ("folder", "holds no file that ends in"),
        ("output", "is a file"),
        ("parent", "file/out"),
    ],
)
def test_an_error_is_one_sentence_and_exit_code_1(checkpoint, tmp_path, capsys, broken, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    save(tmp_path / "a.png", dark())
    arguments = {"checkpoint": checkpoint, "source": tmp_path / "a.png", "output": tmp_path / "out"}
    arguments |= {
        "checkpoint": {"checkpoint": tmp_path / "missing"},
        "empty checkpoint": {"checkpoint": tmp_path / "empty"},
        "input": {"source": tmp_path / "missing.png"},
        "picture": {"source": tmp_path / "broken.png"},
        "suffix": {"source": tmp_path / "file"},
        "folder": {"source": tmp_path / "empty"},
        "output": {"output": tmp_path / "file"},
        "parent": {"output": tmp_path / "file" / "out"},
    }[broken]
    assert run(**arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert "Errno" not in captured.err
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--checkpoint", "a", "--input", "b"],
        ["--checkpoint", "a", "--input", "", "--output", "c"],
        ["--checkpoint", "a", "--input", "b", "--output", "c", "--batch-size", "0"],
        ["--checkpoint", "a", "--input", "b", "--output", "c", "--pictures", "-1"],
        ["--checkpoint", "a", "--input", "b", "--output", "c", "--pictures", "some"],
        ["--checkpoint", "a", "--input", "b", "--output", "c", "--colour"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        infer.main(arguments)
    assert stop.value.code == 2
    assert "usage: python -m air_jax.infer" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_half_written_file(checkpoint, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", np.stack([dark()] * 4))

    def interrupt(figure, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(infer.figures, "save", interrupt)
    assert run(checkpoint, tmp_path / "a.npy", tmp_path / "out") == 130
    assert "interrupted" in capsys.readouterr().err
    assert files(tmp_path / "out") == []


def test_the_module_is_a_command_and_says_nothing_but_its_results(checkpoint, tmp_path):
    save(tmp_path / "a.png", dark())
    command = [sys.executable, "-m", "air_jax.infer", "--checkpoint", checkpoint]
    command += ["--input", tmp_path / "a.png", "--output", tmp_path / "out", "--pictures", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "1 image: 1 with 2 objects"
