"""Omniglot's splits and pictures, on a made-up Omniglot."""

import sys

import numpy as np
import pytest

from air_jax.data.omniglot import load_omniglot, locate_omniglot
from tests import fake_tfds


@pytest.fixture(autouse=True)
def _no_tfds_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    fake_tfds.write_omniglot(folder)
    return folder


@pytest.fixture(scope="module")
def splits(data_dir):
    return load_omniglot(tfds_dir=str(data_dir), image_size=105)


def test_alphabets_that_both_splits_have_are_left_out_of_the_test_set(splits):
    assert set(splits.train.alphabets) == {"Greek", "Korean", "Latin"}
    assert set(splits.test.alphabets) == {"Tagalog"}
    assert sorted(set(splits.test.characters.tolist())) == list(range(22, 27))
    assert len(splits.test.images) == 5 * fake_tfds.NUM_DRAWINGS


def test_every_tenth_character_is_for_validation_with_all_of_its_drawings(splits):
    assert sorted(splits.validation.characters.tolist()) == [9] * 4 + [19] * 4
    assert set(splits.validation.alphabets) == {"Korean", "Latin"}
    assert sorted(set(splits.train.characters.tolist())) == sorted(set(range(22)) - {9, 19})
    assert len(splits.train.images) == 20 * fake_tfds.NUM_DRAWINGS


def test_no_picture_is_in_two_sets_and_each_has_its_own_character(splits):
    sets = [{image.tobytes() for image in glyphs.images} for glyphs in splits]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    for glyphs in splits:
        assert glyphs.images.dtype == np.uint8 and glyphs.characters.dtype == np.int32
        assert len(glyphs.images) == len(glyphs.characters) == len(glyphs.alphabets)
        for image, character in zip(glyphs.images, glyphs.characters, strict=True):
            drawings = [fake_tfds.glyph(character, i) for i in range(fake_tfds.NUM_DRAWINGS)]
            # White ink on black.
            assert any(np.array_equal(image, np.uint8(255) * drawing) for drawing in drawings)


def test_reading_takes_no_tensorflow(splits):
    assert len(splits.train.images)
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("size", [35, 21])
def test_pictures_are_made_smaller_by_area(data_dir, splits, size):
    smaller = load_omniglot(tfds_dir=str(data_dir), image_size=size)
    for large, small in zip(splits, smaller, strict=True):
        factor = 105 // size
        shape = (len(large.images), size, factor, size, factor)
        shares = large.images.reshape(shape).mean((2, 4))
        np.testing.assert_allclose(small.images, shares, atol=0.6)


def test_a_size_that_does_not_divide_keeps_the_ink(data_dir, splits):
    smaller = load_omniglot(tfds_dir=str(data_dir), image_size=50)
    assert smaller.test.images.shape == (20, 50, 50)
    ink = splits.test.images.mean((1, 2))
    np.testing.assert_allclose(smaller.test.images.mean((1, 2)), ink, rtol=0.01)


def test_folder_is_the_argument_then_the_environment_then_the_default(
    tmp_path, monkeypatch, data_dir
):
    default = fake_tfds.write_omniglot(tmp_path / "home" / "tensorflow_datasets")
    assert locate_omniglot().folder == str(default)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert locate_omniglot(tfds_dir="").folder == str(data_dir / "omniglot" / "3.0.0")
    given = locate_omniglot(tfds_dir=str(tmp_path / "home" / "tensorflow_datasets"))
    assert given.folder == str(default)
    # The same contents at another place.
    assert given.digest == locate_omniglot().digest


def test_digest_tells_contents_apart(tmp_path, data_dir):
    changed = fake_tfds.OMNIGLOT | {"small2": {"Tagalog": range(22, 28)}}
    fake_tfds.write_omniglot(tmp_path, changed)
    digests = [locate_omniglot(tfds_dir=str(folder)).digest for folder in (tmp_path, data_dir)]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("absent", ["everything", "small2"])
def test_absent_data_name_the_folder_and_the_command_that_prepares_them(tmp_path, absent):
    if absent == "small2":
        splits = {"small1": fake_tfds.OMNIGLOT["small1"]}
        fake_tfds.write_omniglot(tmp_path, splits)
    for function in (locate_omniglot, lambda **given: load_omniglot(**given, image_size=50)):
        with pytest.raises(FileNotFoundError) as error:
            function(tfds_dir=str(tmp_path))
        message = str(error.value)
        assert str(tmp_path / "omniglot") in message and "small1 and small2" in message
        assert f"tfds build omniglot --file_format=array_record --data_dir={tmp_path}" in message
        assert "TensorFlow" in message and "internet" in message


@pytest.mark.parametrize("size", [0, 106])
def test_a_size_that_the_pictures_do_not_have_is_refused(data_dir, size):
    with pytest.raises(ValueError, match=rf"image_size is {size}; it must be in 1\.\.105"):
        load_omniglot(tfds_dir=str(data_dir), image_size=size)


def test_splits_that_leave_nothing_to_hold_out_are_refused(tmp_path):
    same = {name: {"Greek": range(12)} for name in ("small1", "small2")}
    fake_tfds.write_omniglot(tmp_path, same)
    with pytest.raises(ValueError, match="leaves nothing for test"):
        load_omniglot(tfds_dir=str(tmp_path), image_size=50)
