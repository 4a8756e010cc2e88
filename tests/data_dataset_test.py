"""Tests of air_jax.data.dataset."""

import functools
import json
import re

import numpy as np
import pytest
from PIL import Image

from air_jax.data import dataset
from air_jax.data.digits import load_digits
from air_jax.data.images import LightBackgroundError
from tests import fake_tfds

_parse_once = functools.cache(load_digits)
SPLITS = ("train", "validation", "test")
OMNIGLOT = {"source": "omniglot", "counts": ()}
SPRITES = {"source": "sprites", "sprite_size": (12, 22), "counts": (0, 1, 2, 3)}


def _create(**options):
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


def _assert_equal(first, second):
    assert first.description == second.description
    for split in SPLITS:
        for a, b in zip(getattr(first, split), getattr(second, split), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def _fast_digits(monkeypatch):
    monkeypatch.setattr(dataset, "load_digits", _parse_once)


@pytest.fixture
def warned(monkeypatch):
    """Texts of the warnings logged."""
    messages = []
    monkeypatch.setattr(
        dataset.logging, "warning", lambda text, *values: messages.append(text % values)
    )
    return messages


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
    data = _create()
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

    data = _create(counts=(1,))
    digits = _parse_once(source="embedded")
    crops = {s: {crop(image) for image in getattr(digits, s).images} for s in SPLITS}
    for split in SPLITS:
        scenes = {crop(image[:, :, 0]) for image in getattr(data, split).images}
        assert scenes <= crops[split]
        assert all(scenes.isdisjoint(crops[other]) for other in SPLITS if other != split)


def test_seed_decides_and_splits_are_independent():
    first, again, other = _create(), _create(), _create(seed=1)
    _assert_equal(first, again)
    assert np.any(first.train.images != other.train.images)
    same_size = _create(num_train=60, num_validation=60, num_test=60)
    counts = [getattr(same_size, split).counts for split in SPLITS]
    assert np.any(counts[0] != counts[1]) and np.any(counts[1] != counts[2])


def test_second_creation_comes_from_the_cache_and_is_equal(tmp_path, composed):
    first = _create(cache_dir=str(tmp_path))
    assert len(composed) == 3
    second = _create(cache_dir=str(tmp_path))
    assert len(composed) == 3
    _assert_equal(first, second)
    _assert_equal(first, _create(cache_dir=""))
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
    _create(cache_dir=str(tmp_path))
    changed = _create(cache_dir=str(tmp_path), **option)
    assert len(composed) == 6
    _assert_equal(changed, _create(cache_dir="", **option))


def test_sprites_are_composed_cached_and_described(tmp_path, monkeypatch):
    composed = []
    compose = dataset.compose_sprites
    monkeypatch.setattr(
        dataset, "compose_sprites", lambda **given: composed.append(given) or compose(**given)
    )
    data = _create(**SPRITES, cache_dir=str(tmp_path))
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
    _assert_equal(data, _create(**SPRITES, cache_dir=str(tmp_path)))
    assert len(composed) == 3
    changes = [{"sprite_size": (12, 23)}, {"seed": 1}, {"noise": 0.1}, {"image_size": 52}]
    others = [_create(**{**SPRITES, **change}, cache_dir=str(tmp_path)) for change in changes]
    assert len(composed) == 15
    assert len({other.description["digest"] for other in (data, *others)}) == 5


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory):
    """Options for a made-up Omniglot."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    fake_tfds.write_omniglot(folder)
    return {**OMNIGLOT, "tfds_dir": str(folder)}


def test_glyphs_are_held_out_by_alphabet_without_counts_and_described(omniglot):
    data = _create(**omniglot, num_train=1_000)
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
    everything = _create(**omniglot, num_train=80)
    data = _create(**omniglot, num_train=5, num_validation=2, num_test=1)
    assert [len(getattr(data, split).images) for split in SPLITS] == [5, 2, 1]
    np.testing.assert_array_equal(data.train.images, everything.train.images[:5])
    _assert_equal(data, _create(**omniglot, num_train=5, num_validation=2, num_test=1))
    other = _create(**omniglot, num_train=80, seed=1)
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
    first = _create(**omniglot, cache_dir=str(tmp_path))
    _assert_equal(first, _create(**omniglot, cache_dir=str(tmp_path)))
    _assert_equal(first, _create(**omniglot))
    _create(**omniglot, cache_dir=str(tmp_path), num_train=3, seed=1)
    assert len(read) == 2
    assert _create(**omniglot, cache_dir=str(tmp_path), image_size=35).train.images.shape[1] == 35
    assert len(read) == 3


@pytest.mark.parametrize("source", ["digits", "sprites", "path"])
def test_scenes_that_are_not_resident_are_those_that_are(source, tmp_path):
    np.save(tmp_path / "own.npy", _own_images(30))
    own = {"source": "path", "path": str(tmp_path / "own.npy")}
    options = {"digits": {"noise": 0.1}, "sprites": SPRITES, "path": own}[source]
    whole = _create(**options)
    for _ in range(2):
        apart = _create(**options, cache_dir=str(tmp_path / "cache"), resident=False)
        shards = apart.train.images
        assert shards.shape == whole.train.images.shape
        images = shards.read(np.arange(len(shards)))
        _assert_equal(apart._replace(train=apart.train._replace(images=images)), whole)


@pytest.mark.parametrize("source", ["digits", "sprites"])
def test_a_large_set_is_composed_in_pieces_resident_or_not(source, tmp_path, monkeypatch):
    options = SPRITES if source == "sprites" else {}
    whole = _create(**options)
    monkeypatch.setattr(dataset, "_PIECE", 25)
    sizes, compose = [], getattr(dataset, f"compose_{options.get('source', 'scenes')}")

    def record(*arguments, **keywords):
        sizes.append(keywords["num_scenes"])
        return compose(*arguments, **keywords)

    monkeypatch.setattr(dataset, compose.__name__, record)
    resident = _create(**options)
    assert sizes == [25, 25, 10, 25, 5, 25, 20]
    pieces = [resident.train.images[start : start + 10] for start in (0, 25, 50)]
    assert len({piece.tobytes() for piece in pieces}) == 3
    # Scenes of another key of the cache, and described as other ones.
    assert resident.description.pop("piece") == 25
    assert resident.description.keys() == whole.description.keys()

    apart = _create(**options, cache_dir=str(tmp_path), resident=False)
    images = apart.train.images.read(np.arange(60))
    assert apart.description.pop("piece") == 25
    _assert_equal(apart._replace(train=apart.train._replace(images=images)), resident)


def test_no_sprites_of_one_split_are_in_another():
    data = _create(**{**SPRITES, "counts": (1,)}, num_validation=60, num_test=60)
    scenes = {split: {image.tobytes() for image in getattr(data, split).images} for split in SPLITS}
    assert all(len(images) == 60 for images in scenes.values())
    assert len(set.union(*scenes.values())) == 180


def test_digits_contents_are_part_of_the_cache_key_and_of_the_description(
    tmp_path, composed, monkeypatch
):
    first = _create(cache_dir=str(tmp_path))
    located = dataset.locate_digits(source="embedded")
    other = located._replace(digest=located.digest[::-1])
    monkeypatch.setattr(dataset, "locate_digits", lambda **_: other)
    second = _create(cache_dir=str(tmp_path))
    assert len(composed) == 6
    assert first.description["digest"] != second.description["digest"]
    assert first.description == second.description | {"digest": first.description["digest"]}


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "emptied", "other arrays", "text"])
def test_damaged_cache_is_rebuilt_with_a_warning(tmp_path, composed, warned, damage):
    first = _create(cache_dir=str(tmp_path))
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
    _assert_equal(first, _create(cache_dir=str(tmp_path)))
    assert len(composed) == 6
    assert len(warned) == 1 and str(file) in warned[0] and "damaged" in warned[0]
    _assert_equal(first, _create(cache_dir=str(tmp_path)))
    assert len(composed) == 6 and len(warned) == 1  # the cache is whole again


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, warned):
    (tmp_path / "file").write_text("")
    data = _create(cache_dir=str(tmp_path / "file" / "cache"))
    _assert_equal(data, _create())
    assert len(warned) == 1 and "could not be cached" in warned[0]


def test_failed_write_leaves_nothing_behind(tmp_path, warned, monkeypatch):
    def fail(file, **_):
        file.write(b"a part")
        raise OSError("no space left on device")

    monkeypatch.setattr(dataset.np, "savez", fail)
    _create(cache_dir=str(tmp_path))
    assert len(warned) == 1 and "no space left" in warned[0]
    assert list(tmp_path.iterdir()) == []


def test_default_cache_is_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    _create(cache_dir=None)
    assert len(list((tmp_path / "xdg" / "air_jax").glob("scenes-*.npz"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _create(cache_dir=None)
    assert len(list((tmp_path / "home" / ".cache" / "air_jax").glob("scenes-*.npz"))) == 1


def _own_images(number):
    """Images that can be told apart by their one bright row."""
    images = np.zeros((number, 50, 50), np.uint8)
    images[np.arange(number), 5 + np.arange(number), 20:30] = 200
    return images


def test_own_images_are_split_80_10_10_without_overlap(tmp_path):
    images = _own_images(30)
    np.savez(tmp_path / "own.npz", image=images, count=np.arange(30))
    data = _create(source="path", path=str(tmp_path / "own.npz"))
    assert [len(getattr(data, split).images) for split in SPLITS] == [24, 3, 3]
    counts = np.concatenate([getattr(data, split).counts for split in SPLITS])
    assert sorted(counts.tolist()) == list(range(30))
    assert counts.tolist() != list(range(30))
    for split in SPLITS:
        scenes = getattr(data, split)
        assert scenes.images.dtype == np.uint8 and scenes.counts.dtype == np.int32
        np.testing.assert_array_equal(scenes.images[..., 0], images[scenes.counts])
        assert scenes.boxes.shape == (len(scenes.images), 0, 4)
        assert scenes.labels.shape == scenes.hidden.shape == (len(scenes.images), 0)
    description = dict(data.description)
    assert re.fullmatch("[0-9a-f]{16}", description.pop("digest"))
    assert description == {
        "source": "path",
        "folder": str(tmp_path / "own.npz"),
        "invert": False,
        "num_found": 30,
        "num_unusable": 0,
        "num_resized": 0,
        "num_images": {"train": 24, "validation": 3, "test": 3},
        "image_size": 50,
        "seed": 0,
    }


def test_sizes_are_ceilings_for_own_images_and_the_seed_shuffles(tmp_path):
    np.save(tmp_path / "own.npy", _own_images(30))
    options = {"source": "path", "path": str(tmp_path / "own.npy")}
    data = _create(**options, num_train=5, num_validation=2, num_test=1)
    assert [len(getattr(data, split).images) for split in SPLITS] == [5, 2, 1]
    assert data.train.counts.tolist() == [-1] * 5
    _assert_equal(_create(**options), _create(**options))
    other = _create(**options, seed=1)
    assert np.any(_create(**options).train.images != other.train.images)


def test_folder_of_pictures_is_resized_and_inverted(tmp_path):
    for i in range(5):
        picture = np.full((100, 100), 255, np.uint8)
        picture[40:60, 40:60] = 0
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    options = {"source": "path", "path": str(tmp_path), "image_size": 50}
    with pytest.raises(LightBackgroundError, match="0.png"):
        _create(**options)
    data = _create(**options, invert=True)
    assert [len(getattr(data, split).images) for split in SPLITS] == [3, 1, 1]
    assert data.description["num_resized"] == 5
    for split in SPLITS:
        for image in getattr(data, split).images:
            assert image[21:29, 21:29].min() == 255 and image[:19].max() == 0


def test_three_own_images_are_enough_and_two_are_not(tmp_path):
    np.save(tmp_path / "three.npy", _own_images(3))
    data = _create(source="path", path=str(tmp_path / "three.npy"))
    assert [len(getattr(data, split).images) for split in SPLITS] == [1, 1, 1]
    np.save(tmp_path / "two.npy", _own_images(2))
    with pytest.raises(ValueError, match="2 usable images; at least 3"):
        _create(source="path", path=str(tmp_path / "two.npy"))


def test_digest_tells_own_images_apart_and_not_where_they_lie(tmp_path):
    images = _own_images(5)
    changed = images.copy()
    changed[4, 40, 40] = 1
    digests = []
    for name, array in (("a", images), ("b", images), ("c", changed)):
        np.save(tmp_path / f"{name}.npy", array)
        data = _create(source="path", path=str(tmp_path / f"{name}.npy"))
        digests.append(data.description["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_own_images_that_cannot_be_used_are_named_in_a_warning_and_the_rest_go_on(tmp_path, warned):
    images = _own_images(20) / 255.0
    images[3:15, 0, 0] = np.nan
    np.savez(tmp_path / "own.npz", image=images, count=np.arange(20))
    data = _create(source="path", path=str(tmp_path / "own.npz"))
    counts = np.concatenate([getattr(data, split).counts for split in SPLITS])
    assert sorted(counts.tolist()) == [0, 1, 2, 15, 16, 17, 18, 19]
    assert (data.description["num_found"], data.description["num_unusable"]) == (20, 12)
    (message,) = warned
    assert re.search(r"^12 of 20 images of .*own.npz .*own.npz\[3\]: .*NaN.*; and 2 more$", message)
    assert "own.npz[12]" in message and "own.npz[13]" not in message


def test_one_damaged_picture_does_not_stop_a_whole_folder(tmp_path, warned):
    for i, image in enumerate(_own_images(4)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    data = _create(source="path", path=str(tmp_path))
    assert [len(getattr(data, split).images) for split in SPLITS] == [1, 1, 1]
    assert len(warned) == 1 and "1 of 4 images" in warned[0] and "2.png: " in warned[0]
    assert "more" not in warned[0]
    (tmp_path / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match="holds 2 usable images; at least 3"):
        _create(source="path", path=str(tmp_path))
    assert "2 of 4 images" in warned[1]


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
        _create(**options)
