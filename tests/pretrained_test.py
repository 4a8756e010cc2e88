"""The models that come with the package work, are small, and are what their config makes."""

import json
import pathlib
import tomllib

import numpy as np
import pytest

import air_jax
from air_jax import kinds, pretrained
from air_jax.data.digits import load_digits
from air_jax.data.scenes import compose_scenes
from configs import small

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    return air_jax.load(pretrained.path())


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.1])
def test_digits_of_varying_size_are_counted(model, scale):
    # Some of these may be among the digits that it was trained on: this is no measurement.
    scenes = compose_scenes(
        load_digits(source="embedded").test,
        num_scenes=300,
        counts=(0, 1, 2),
        image_size=50,
        digit_scale=(scale, scale),
        seed=3,
    )
    found = model.infer(scenes.images)
    assert np.mean(found.counts == scenes.counts) > 0.95
    # Windows have a digit's middle within a few pixels.
    single = scenes.counts == 1
    middles = [
        (boxes[single, 0, :2] + boxes[single, 0, 2:]) / 2 for boxes in (found.windows, scenes.boxes)
    ]
    assert np.median(np.abs(middles[0] - middles[1])) < 2


def test_more_digits_than_it_was_trained_on_are_counted_by_most(model):
    scenes = compose_scenes(
        load_digits(source="embedded").test,
        num_scenes=200,
        counts=(3,),
        image_size=50,
        digit_scale=(0.8, 0.8),
        seed=4,
    )
    counts = kinds.with_steps(model, 6).infer(scenes.images).counts
    assert np.mean(counts == 3) > 0.6


def test_it_is_what_the_config_trains(model):
    # As JSON has it, where tuples are lists.
    wanted = json.loads(json.dumps(small.get_config().to_dict()))
    found = {name: value for name, value in model.config.items() if name in wanted}
    # How much is evaluated afterwards is no part of it.
    assert found | {"evaluation": 0} == wanted | {"evaluation": 0}
    assert model.config["step"] == wanted["train"]["num_steps"]


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_files_are_small_and_no_machine_s(name):
    folder = pretrained.path(name)
    assert {path.name for path in folder.iterdir()} == {"config.json", "params.safetensors"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 700_000
    data = json.loads((folder / "config.json").read_text())["config"]["data"]
    assert data["tfds_dir"] == data["path"] == "" and data["cache_dir"] is None


def test_an_installed_package_has_them():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["air_jax"]
    for name in pretrained.NAMES:
        for file in pretrained.path(name).iterdir():
            inside = file.relative_to(ROOT / "air_jax")
            assert any(inside.match(pattern) for pattern in patterns)


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="'faces'; there are 'digits'"):
        pretrained.path("faces")
