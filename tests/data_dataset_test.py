"""Tests of air_jax.data.dataset; of users' own images, data_own_images_test."""

import functools
import json
import re

import numpy as np
import pytest

from air_jax.data import dataset
from air_jax.data.digits import load_digits
from tests import fake_tfds

_parse_once = functools.cache(load_digits)
SPLITS = ("train", "validation", "test")
OMNIGLOT = {"source": "omniglot", "counts": ()}
SPRITES = {"source": "sprites", "sprite_size": (12, 22), "counts": (0, 1, 2, 3)}


def create(**options):
    defaults = {
        "source": "embedded",
        "tfds_dir": None,
        "path": None,
        "invert": False,
        "cache_dir": "",
        "image_size": 50,
        "counts": (0, 1, 2),
        "digit_scale": (1.0, 1.0),
        "sprite_size": (),
        "noise": 0.0,
        "num_train": 60,
        "num_validation": 30,
        "num_test": 45,
        "seed": 0,
    }
    return dataset.create_dataset(**(defaults | options))


def assert_equal(first, second):
    assert first.description == second.description
    for split in SPLITS:
        for a, b in zip(getattr(first, split), getattr(second, split), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def own_images(number):
    """Images that can be told apart by their one bright row."""
    images = np.zeros((number, 50, 50), np.uint8)
    images[np.arange(number), 5 + np.arange(number), 20:30] = 200
    return images


@pytest.fixture(autouse=True)
def _fast_digits(monkeypatch):
    monkeypatch.setattr(dataset, "load_digits", _parse_once)


@pytest.fixture
def composed(monkeypatch):
    """One entry for every set of scenes that is composed."""
    calls = []
    compose = dataset.compose_scenes

    def record(*arguments, **options):
        calls.append(options)
        return compose(*arguments, **options)

    monkeypatch.setattr(dataset, "compose_scenes", record)
    return calls


def test_splits_have_their_sizes_and_are_described():
    data = create()
    assert [len(getattr(data, split).images) for split in SPLITS] == [60, 30, 45]
    assert data.train.images.shape == (60, 50, 50, 1)
    assert np.bincount(data.test.counts).tolist() == [15, 15, 15]
    assert json.loads(json.dumps(data.description)) == data.description
    description = dict(data.description)
    assert re.fullmatch("[0-9a-f]{16}", description.pop("digest"))
    assert description == {
        "source": "embedded",
        "folder": None,
        "num_digits": {"train": 3600, "validation": 400, "test": 1000},
        "num_images": {"train": 60, "validation": 30, "test": 45},
        "image_size": 50,
        "counts": [0, 1, 2],
        "digit_scale": [1.0, 1.0],
        "noise": 0.0,
        "seed": 0,
    }


def test_scenes_of_a_split_are_made_of_its_own_digits_only():
    def crop(image):
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].tobytes()

    data = create(counts=(1,))
    digits = _parse_once(source="embedded")
    crops = {s: {crop(image) for image in getattr(digits, s).images} for s in SPLITS}
    for split in SPLITS:
        scenes = {crop(image[:, :, 0]) for image in getattr(data, split).images}
        assert scenes <= crops[split]
        assert all(scenes.isdisjoint(crops[other]) for other in SPLITS if other != split)


def test_seed_decides_and_splits_are_independent():
    first, again, other = create(), create(), create(seed=1)
    assert_equal(first, again)
    assert np.any(first.train.images != other.train.images)
    same_size = create(num_train=60, num_validation=60, num_test=60)
    counts = [getattr(same_size, split).counts for split in SPLITS]
    assert np.any(counts[0] != counts[1]) and np.any(counts[1] != counts[2])


def test_second_creation_comes_from_the_cache_and_is_equal(tmp_path, composed):
    first = create(cache_dir=str(tmp_path))
    assert len(composed) == 3
    second = create(cache_dir=str(tmp_path))
    assert len(composed) == 3
    assert_equal(first, second)
    assert_equal(first, create(cache_dir=""))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]  # nothing temporary is left


@pytest.mark.parametrize(
    "option",
    [
        {"image_size": 52},
        {"counts": (0, 1)},
        {"digit_scale": (0.8, 1.0)},
        {"noise": 0.1},
        {"num_train": 61},
        {"num_validation": 31},
        {"num_test": 46},
        {"seed": 1},
    ],
)
def test_every_option_is_part_of_the_cache_key(tmp_path, composed, option):
    create(cache_dir=str(tmp_path))
    changed = create(cache_dir=str(tmp_path), **option)
    assert len(composed) == 6
    assert_equal(changed, create(cache_dir="", **option))


def test_sprites_are_composed_cached_and_described(tmp_path, monkeypatch):
    composed = []
    compose = dataset.compose_sprites
    monkeypatch.setattr(
        dataset, "compose_sprites", lambda **given: composed.append(given) or compose(**given)
    )
    data = create(**SPRITES, cache_dir=str(tmp_path))
    assert [len(getattr(data, split).images) for split in SPLITS] == [60, 30, 45]
    assert data.train.images.shape == (60, 50, 50, 3) and data.train.hidden.any()
    assert json.loads(json.dumps(data.description)) == data.description
    description = dict(data.description)
    assert re.fullmatch("[0-9a-f]{16}", description.pop("digest"))
    assert description == {
        "source": "sprites",
        "num_images": {"train": 60, "validation": 30, "test": 45},
        "image_size": 50,
        "counts": [0, 1, 2, 3],
        "sprite_size": [12, 22],
        "noise": 0.0,
        "seed": 0,
    }
    assert len(composed) == 3
    assert_equal(data, create(**SPRITES, cache_dir=str(tmp_path)))
    assert len(composed) == 3
    changes = [{"sprite_size": (12, 23)}, {"seed": 1}, {"noise": 0.1}, {"image_size": 52}]
    others = [create(**{**SPRITES, **change}, cache_dir=str(tmp_path)) for change in changes]
    assert len(composed) == 15
    assert len({other.description["digest"] for other in (data, *others)}) == 5


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """Options for a made-up Omniglot."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    fake_tfds.write_omniglot(folder)
    return {**OMNIGLOT, "tfds_dir": str(folder)}


def test_glyphs_are_held_out_by_alphabet_without_counts_and_described(omniglot):
    data = create(**omniglot, num_train=1_000)
    assert [len(getattr(data, split).images) for split in SPLITS] == [80, 8, 20]
    for split in SPLITS:
        scenes = getattr(data, split)
        number = len(scenes.images)
        assert scenes.images.shape == (number, 50, 50, 1) and scenes.images.dtype == np.uint8
        assert scenes.counts.tolist() == [-1] * number and scenes.counts.dtype == np.int32
        assert scenes.boxes.shape == (number, 0, 4)
        assert scenes.labels.shape == scenes.hidden.shape == (number, 0)
    assert json.loads(json.dumps(data.description)) == data.description
    description = dict(data.description)
    assert re.fullmatch("[0-9a-f]{16}", description.pop("digest"))
    assert description == {
        "source": "omniglot",
        "folder": f"{omniglot['tfds_dir']}/omniglot/3.0.0",
        "alphabets": {
            "train": ["Greek", "Korean", "Latin"],
            "validation": ["Korean", "Latin"],
            "test": ["Tagalog"],
        },
        "num_characters": {"train": 20, "validation": 2, "test": 5},
        "image_size": 50,
        "num_images": {"train": 80, "validation": 8, "test": 20},
        "seed": 0,
    }


def test_sizes_are_ceilings_for_glyphs_and_the_seed_shuffles(omniglot):
    everything = create(**omniglot, num_train=80)
    data = create(**omniglot, num_train=5, num_validation=2, num_test=1)
    assert [len(getattr(data, split).images) for split in SPLITS] == [5, 2, 1]
    np.testing.assert_array_equal(data.train.images, everything.train.images[:5])
    assert_equal(data, create(**omniglot, num_train=5, num_validation=2, num_test=1))
    other = create(**omniglot, num_train=80, seed=1)
    assert np.any(everything.train.images != other.train.images)
    assert {i.tobytes() for i in everything.train.images} == {
        i.tobytes() for i in other.train.images
    }


def test_glyphs_are_read_once_for_a_size_whatever_their_number(omniglot, tmp_path, monkeypatch):
    read = []
    load = dataset.load_omniglot
    monkeypatch.setattr(
        dataset, "load_omniglot", lambda **given: read.append(given) or load(**given)
    )
    first = create(**omniglot, cache_dir=str(tmp_path))
    assert_equal(first, create(**omniglot, cache_dir=str(tmp_path)))
    assert_equal(first, create(**omniglot))
    create(**omniglot, cache_dir=str(tmp_path), num_train=3, seed=1)
    assert len(read) == 2
    assert create(**omniglot, cache_dir=str(tmp_path), image_size=35).train.images.shape[1] == 35
    assert len(read) == 3


@pytest.mark.parametrize("source", ["digits", "sprites", "path"])
def test_scenes_that_are_not_resident_are_those_that_are(source, tmp_path):
    np.save(tmp_path / "own.npy", own_images(30))
    own = {"source": "path", "path": str(tmp_path / "own.npy")}
    options = {"digits": {"noise": 0.1}, "sprites": SPRITES, "path": own}[source]
    whole = create(**options)
    for _ in range(2):
        apart = create(**options, cache_dir=str(tmp_path / "cache"), resident=False)
        shards = apart.train.images
        assert shards.shape == whole.train.images.shape
        images = shards.read(np.arange(len(shards)))
        assert_equal(apart._replace(train=apart.train._replace(images=images)), whole)


@pytest.mark.parametrize("source", ["digits", "sprites"])
def test_a_large_set_is_composed_in_pieces_resident_or_not(source, tmp_path, monkeypatch):
    options = SPRITES if source == "sprites" else {}
    whole = create(**options)
    monkeypatch.setattr(dataset, "_PIECE", 25)
    sizes, compose = [], getattr(dataset, f"compose_{options.get('source', 'scenes')}")

    def record(*arguments, **keywords):
        sizes.append(keywords["num_scenes"])
        return compose(*arguments, **keywords)

    monkeypatch.setattr(dataset, compose.__name__, record)
    resident = create(**options)
    assert sizes == [25, 25, 10, 25, 5, 25, 20]
    pieces = [resident.train.images[start : start + 10] for start in (0, 25, 50)]
    assert len({piece.tobytes() for piece in pieces}) == 3
    # Scenes of another key of the cache, and described as other ones.
    assert resident.description.pop("piece") == 25
    assert resident.description.keys() == whole.description.keys()

    apart = create(**options, cache_dir=str(tmp_path), resident=False)
    images = apart.train.images.read(np.arange(60))
    assert apart.description.pop("piece") == 25
    assert_equal(apart._replace(train=apart.train._replace(images=images)), resident)


def test_no_sprites_of_one_split_are_in_another():
    data = create(**{**SPRITES, "counts": (1,)}, num_validation=60, num_test=60)
    scenes = {split: {image.tobytes() for image in getattr(data, split).images} for split in SPLITS}
    assert all(len(images) == 60 for images in scenes.values())
    assert len(set.union(*scenes.values())) == 180


def test_digits_contents_are_part_of_the_cache_key_and_of_the_description(
    tmp_path, composed, monkeypatch
):
    first = create(cache_dir=str(tmp_path))
    located = dataset.locate_digits(source="embedded")
    other = located._replace(digest=located.digest[::-1])
    monkeypatch.setattr(dataset, "locate_digits", lambda **_: other)
    second = create(cache_dir=str(tmp_path))
    assert len(composed) == 6
    assert first.description["digest"] != second.description["digest"]
    assert first.description == second.description | {"digest": first.description["digest"]}


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "emptied", "other arrays", "text"])
def test_damaged_cache_is_rebuilt_with_a_warning(tmp_path, composed, warned, damage):
    first = create(cache_dir=str(tmp_path))
    (file,) = tmp_path.iterdir()
    contents = bytearray(file.read_bytes())
    if damage == "flipped bit":
        contents[len(contents) // 2] ^= 1
    elif damage == "truncated":
        contents = contents[: len(contents) // 2]
    elif damage == "emptied":
        contents = b""
    elif damage == "text":
        contents = b"no archive"
    file.write_bytes(contents)
    if damage == "other arrays":
        # An intact archive of the right names and shapes, with other contents.
        arrays = dict(np.load(file))
        arrays["train_images"] = 255 - arrays["train_images"]
        np.savez(file, **arrays)
    assert_equal(first, create(cache_dir=str(tmp_path)))
    assert len(composed) == 6
    assert len(warned) == 1 and str(file) in warned[0] and "damaged" in warned[0]
    assert_equal(first, create(cache_dir=str(tmp_path)))
    assert len(composed) == 6 and len(warned) == 1  # the cache is whole again


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, warned):
    (tmp_path / "file").write_text("")
    data = create(cache_dir=str(tmp_path / "file" / "cache"))
    assert_equal(data, create())
    assert len(warned) == 1 and "could not be cached" in warned[0]


def test_failed_write_leaves_nothing_behind(tmp_path, warned, monkeypatch):
    def fail(file, **_):
        file.write(b"a part")
        raise OSError("no space left on device")

    monkeypatch.setattr(dataset.np, "savez", fail)
    create(cache_dir=str(tmp_path))
    assert len(warned) == 1 and "no space left" in warned[0]
    assert list(tmp_path.iterdir()) == []


def test_default_cache_is_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    create(cache_dir=None)
    assert len(list((tmp_path / "xdg" / "air_jax").glob("scenes-*.npz"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    create(cache_dir=None)
    assert len(list((tmp_path / "home" / ".cache" / "air_jax").glob("scenes-*.npz"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "mnist"},
            "'mnist'.*'auto', 'tfds', 'embedded', 'sprites', 'omniglot' or 'path'",
        ),
        ({"source": "sprites"}, "the least and the greatest side in pixels for source 'sprites'"),
        (
            {"sprite_size": (12, 22)},
            r"sprite_size is \(12, 22\) .*'embedded'.* empty for any other",
        ),
        ({"source": "path", "path": "a", "sprite_size": (12, 22)}, "empty for any other"),
        ({**SPRITES, "digit_scale": (0.5, 1.0)}, "digit_scale.*leave it .*sprite_size"),
        ({**SPRITES, "path": "images"}, "set source to 'path'"),
        ({**SPRITES, "counts": (0, 1.5)}, "counts"),
        ({**OMNIGLOT, "counts": (0, 1)}, r"counts is \(0, 1\).*'omniglot'.*configs/omniglot.py"),
        ({**OMNIGLOT, "noise": 0.1}, r"noise 0.1, but source is 'omniglot'"),
        ({**OMNIGLOT, "digit_scale": (0.5, 1.0)}, r"digit_scale \(0.5, 1.0\)"),
        ({"source": "path"}, "no path is given"),
        ({"source": "path", "path": ""}, "no path is given"),
        ({"path": "images"}, "set source to 'path'"),
        ({"invert": True}, "set source to 'path'"),
        ({"num_train": 0}, "num_train"),
        ({"num_validation": -1}, "num_validation"),
        ({"num_test": 0}, "num_test"),
        ({"seed": -1}, "seed"),
        ({"counts": (0, 1.5)}, "counts"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create(**options)
