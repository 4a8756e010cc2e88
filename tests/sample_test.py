"""The command `python -m air_jax.sample`, with networks that can be worked out by hand.

Of weights that are all 0, an object is a grey window: a square of side 16 / 2 = 8, wherever it is.
"""

import chex
import jax
import numpy as np
import pytest
from PIL import Image

from air_jax import export, kinds, sample
from tests import tiny

SIZE = tiny.MODEL_CONFIG["image"]["image_size"]
GREY = 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = {**tiny.MODEL_CONFIG, "data": {"source": "embedded", "counts": [0, 2]}}
    export.export_model(folder / "model", tiny.model_params(np.zeros), config)
    return folder


def run(checkpoint, output, *options):
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), *map(str, options)]
    sample.main(arguments)
    with np.load(output / "samples.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_scenes_and_their_latents_are_written(checkpoint, tmp_path, capsys):
    arrays = run(checkpoint, tmp_path, "--num", 5, "--counts", 0, 1, 2)
    np.testing.assert_array_equal(arrays["counts"], [0, 1, 2, 0, 1])
    chex.assert_shape(arrays["images"], (5, SIZE, SIZE, 1))
    chex.assert_shape(arrays["z_where"], (5, 2, 3))
    chex.assert_shape(arrays["z_what"], (5, 2, 3))
    assert "2 with 0, 2 with 1, 1 with 2" in capsys.readouterr().out
    # Within the image an object has GREY over 8 x 8 pixels, of which some may be outside.
    inks = arrays["images"].sum((1, 2, 3))
    assert inks[0] == inks[3] == 0 and 0 < inks[1] <= GREY * 64 * 1.2
    # Three scenes in a row, two rows.
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > picture.height > 160


def test_the_same_seed_draws_the_same_and_another_does_not(checkpoint, tmp_path):
    options = ("--num", 3, "--counts", 2)
    first, again = (run(checkpoint, tmp_path / name, *options) for name in "ab")
    chex.assert_trees_all_equal(first, again)
    other = run(checkpoint, tmp_path / "c", *options, "--seed", 1)
    assert not np.array_equal(first["z_where"], other["z_where"])


def test_what_training_had_is_drawn_unless_told_otherwise(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path, "--num", 4)["counts"].tolist() == [0, 2, 0, 2]


def test_counts_from_the_prior_have_its_law(checkpoint, tmp_path):
    counts = run(checkpoint, tmp_path, "--num", 4_000, "--counts", "prior")["counts"]
    # P(one more) is 0.3 at the schedule's end: p(n) = 0.7, 0.3 * 0.7, 0.3 * 0.3 for n = 0, 1, 2.
    shares = np.bincount(counts, minlength=3) / len(counts)
    np.testing.assert_allclose(shares, [0.7, 0.21, 0.09], atol=4 * np.sqrt(0.25 / len(counts)))


def test_the_ink_of_a_model_is_that_of_its_objects(checkpoint):
    model = kinds.load(checkpoint)
    counts = np.arange(3).repeat(50)
    sampled = model.sample(counts, key=jax.random.key(0))
    again = model.sample(counts, key=jax.random.key(0))
    chex.assert_trees_all_equal(sampled, again)
    # The shift's deviation is half a window's freedom: most objects are inside.
    ink = sampled.images.sum((1, 2, 3)).reshape(3, 50)
    assert (ink[0] == 0).all() and np.median(ink[1]) > 0.6 * GREY * 64
    assert np.median(ink[2]) > 1.6 * np.median(ink[1])


@pytest.mark.parametrize("counts", [[3], [-1], [0.5], [], [[1]]])
def test_counts_that_a_model_cannot_draw_are_refused(checkpoint, counts):
    with pytest.raises(ValueError, match="0 to 2 objects"):
        kinds.load(checkpoint).sample(np.array(counts), key=jax.random.key(0))


@pytest.mark.parametrize(
    "options, message",
    [
        (("--counts", "3"), "0 to 2 objects"),
        (("--num", "0"), "num is 0"),
        (("--num", "10001"), "num is 10001"),
    ],
)
def test_what_cannot_be_drawn_ends_in_a_sentence_and_writes_nothing(
    checkpoint, tmp_path, caplog, options, message
):
    with pytest.raises(SystemExit, match="1"):
        run(checkpoint, tmp_path, *options)
    assert message in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("counts", [("prior", "1"), ("many",), ("-1",)])
def test_counts_that_are_none_are_a_wrong_argument(checkpoint, tmp_path, counts):
    with pytest.raises(SystemExit, match="2"):
        run(checkpoint, tmp_path, "--counts", *counts)


def test_a_folder_without_a_model_is_named(tmp_path, caplog):
    with pytest.raises(SystemExit, match="1"):
        sample.main(["--checkpoint", str(tmp_path / "absent"), "--output", str(tmp_path / "out")])
    assert "absent" in caplog.text
