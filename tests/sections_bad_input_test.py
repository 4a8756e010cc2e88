"""Configs at random: each is refused in a sentence before anything is written, or makes sense.

Every field's domain stands here once more, by hand, as what the field means allows it; the config
itself has no ranges, they are checked by what takes the field.
"""

import copy
import functools
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from air_jax import kinds, loop, program, sections
from air_jax.data import dataset
from configs import draw, scene3d_object, smoke
from tests.bad_input import contents, examples

HUGE = 2**31 - 1
FLOAT = 3.4e38  # the greatest of single precision


def _small(module, **changes):
    config = module.get_config()
    config.data.update(num_train=8, num_validation=4, num_test=4)
    config.train.batch_size = 4
    config.update_from_flattened_dict(changes)
    return json.loads(config.to_json())


AIR = _small(smoke, **{"data.cache_dir": "", "data.tfds_dir": "nowhere"})
CONFIGS = {
    "air": AIR,
    "draw": _small(draw, **{"draw.num_steps": 3}),
    "air3d": _small(scene3d_object),
}


def whole(least, most=1_000):
    """Whole numbers of a range; beyond `most` only what no machine has memory for is drawn."""
    return lambda value: type(value) is int and least <= value <= most


def multiple(of, least):
    return lambda value: type(value) is int and value % of == 0 and least <= value <= HUGE


def real(least, most=FLOAT, *, above=False):
    """Finite numbers of a range, without `least` itself if `above`."""

    def fits(value):
        if type(value) not in (int, float) or (above and value == least):
            return False
        # Whole numbers stand for those of single precision, up to where it has every one.
        return least <= value <= (most if type(value) is float else min(most, 2**24))

    return fits


positive = real(0, above=True)


def pair(fits, holds=lambda first, second: True):
    return lambda value: (
        isinstance(value, list) and len(value) == 2 and all(map(fits, value)) and holds(*value)
    )


def widths(value):
    return isinstance(value, list) and all(map(whole(1), value))


def one_of(*values):
    return lambda value: any(type(value) is type(other) and value == other for other in values)


def text(value):
    return isinstance(value, str) and "\0" not in value


DOMAINS = {
    "model": one_of("air"),
    "seed": whole(0, HUGE),
    "num_seeds": whole(1),
    "estimator": one_of("nvil", "enumerate", "reinforce"),  # vimco takes two samples
    "num_samples": one_of(1),  # the exact expectation takes no more
    "centring": one_of("none", "moving_mean", "leave_one_out"),
    "scene.window_size": whole(1, 32),
    "scene.z_what_size": whole(1),
    "scene.decoder_hidden": widths,
    "scene.decoder_bias": real(-FLOAT),
    "scene.scale_prior": pair(positive),
    "scene.shift_prior": pair(real(-FLOAT), lambda mean, deviation: deviation > 0),
    "scene.likelihood_scale": positive,
    "scene.composition": one_of("additive", "layered"),
    "inference.variant": one_of("air", "dair"),
    "inference.num_steps": whole(1, 64),
    "inference.hidden_size": whole(1),
    "inference.embedding_size": whole(1),
    "inference.predictor_hidden": widths,
    "inference.encoder_hidden": widths,
    "inference.glimpse_source": one_of("image", "error"),
    "inference.presence_logit": real(-FLOAT),
    "inference.image_init_scale": positive,
    "inference.place": one_of("regression", "map"),
    "inference.place_grid": whole(2, 256),
    "inference.place_radius": positive,
    "inference.place_span": positive,
    "inference.patch_size": one_of(0, 1, 2, 4, 8, 16, 32),
    "inference.patch_features": whole(1, HUGE),  # nothing takes them without patches
    "inference.evidence": one_of(0),  # there are no patches
    "baseline.hidden_size": whole(1, HUGE),  # an exact expectation has no baseline
    "baseline.embedding_size": whole(1, HUGE),
    "baseline.image_init_scale": positive,
    "baseline.decay": lambda value: real(0)(value) and value < 1,
    "prior.name": one_of("geometric", "binomial"),
    "prior.start": lambda value: positive(value) and value < 1,
    "prior.end": lambda value: positive(value) and value < 1,
    "prior.steps": whole(0, HUGE),
    "optimizer.learning_rate": positive,
    "optimizer.baseline_learning_rate": lambda value: value is None or positive(value),
    "optimizer.final_fraction": real(0, 1),
    "optimizer.clip_norm": positive,
    "train.batch_size": whole(1, 8),
    "train.num_steps": multiple(20, 20),
    "train.steps_per_call": one_of(1, 2, 3, 4, 5, 6, 10),
    "train.log_every": multiple(20, 20),
    "train.evaluate_every": multiple(20, 20),
    "train.checkpoint_every": multiple(20, 20),
    "train.snapshot_every": multiple(20, 0),
    "train.validation_images": whole(1, HUGE),
    "evaluation.iwae_images": whole(0, HUGE),
    "evaluation.iwae_samples": whole(1, HUGE),
}
# What the section `data` allows is seen when scenes are made.
DATA_DOMAINS = {
    "data.source": one_of("embedded"),
    "data.tfds_dir": lambda value: value is None or text(value),
    "data.path": one_of(None, ""),
    "data.invert": one_of(False),
    "data.image_size": whole(20, 99),  # the window's side
    "data.counts": lambda value: (
        isinstance(value, list)
        and all(map(whole(0, 3), value))
        and 0 < len(value) == len(set(value))
    ),
    "data.digit_scale": pair(real(0.1, 1.5), lambda least, greatest: least <= greatest),
    "data.sprite_size": one_of([]),
    "data.noise": real(0, 1),
    "data.num_train": whole(4),
    "data.num_validation": whole(1),
    "data.num_test": whole(1),
    "data.seed": whole(0, HUGE),
}

NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.sampled_from([20, 32, 60, 840, HUGE, HUGE + 1, -HUGE, 10**30, 10**400]),
    st.sampled_from([0.5, 1.0, -0.5, 1e-3, 1e30, 1e300, math.nan, math.inf, -math.inf, -0.0]),
    st.booleans(),
)
WORDS = st.sampled_from(
    [
        *("", "x", "../x", "a\0b", "1", "air", "dair", "draw", "nvil", "enumerate", "reinforce"),
        *("vimco", "none", "leave_one_out", "layered", "additive", "regression", "map", "image"),
        *("error", "geometric", "binomial", "embedded", "tfds", "path", "sprites", "omniglot"),
    ]
)
VALUES = st.one_of(
    NUMBERS,
    WORDS,
    st.none(),
    st.lists(NUMBERS, max_size=3),
    st.sampled_from([["a"], [[1]], {}, {"a": 1}, [1.0, 1.0], [0, 1], [0.5, 1.5], [2, 0]]),
)


def changed(config, field, value):
    config = copy.deepcopy(config)
    *sections_, key = field.split(".")
    place = functools.reduce(lambda part, name: part[name], sections_, config)
    place[key] = copy.deepcopy(value)
    return config


def assert_is_refused(config, field, folder, caplog, monkeypatch):
    """A run of the config ends as the command's does: in one line, code 1, and nothing written."""
    before = contents(folder)
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "create_seeds", lambda *arguments: pytest.fail("it would be trained"))
        with pytest.raises(SystemExit) as stop:
            program.finish(lambda: loop.run(config, str(folder / "workdir")))
    assert stop.value.code == 1
    message = caplog.records[-1].getMessage()
    assert message and "\n" not in message and len(message) < 1_000
    assert field.rpartition(".")[2] in message or "memory" in message
    assert contents(folder) == before


@examples(150)
@given(st.sampled_from(sorted(DOMAINS)), VALUES)
@example("optimizer.learning_rate", -0.5)
@example("train.batch_size", 0)
@example("train.batch_size", 9)
@example("scene.window_size", 33)
@example("scene.likelihood_scale", 0)
@example("inference.num_steps", HUGE)
@example("inference.hidden_size", HUGE)
@example("num_seeds", HUGE)
@example("evaluation.iwae_images", -1)
def test_a_value_is_refused_if_and_only_if_it_is_outside_of_its_field_s_domain(
    tmp_path, caplog, monkeypatch, field, value
):
    config = changed(AIR, field, value)
    if DOMAINS[field](value):
        sections.check(config)
    else:
        assert_is_refused(config, field, tmp_path, caplog, monkeypatch)


@examples(60)
@given(st.sampled_from(sorted(DATA_DOMAINS)), VALUES)
@example("data.counts", [])
@example("data.counts", [1, 1])
@example("data.counts", [0, 10**9])
@example("data.image_size", HUGE)
@example("data.digit_scale", [1e30, 1e30])
def test_data_are_made_if_and_only_if_the_value_is_in_its_field_s_domain(
    tmp_path, caplog, monkeypatch, field, value
):
    # Read once: the digits are the same whatever the config says.
    monkeypatch.setattr(dataset, "load_digits", _digits)
    config = changed(AIR, field, value)
    if DATA_DOMAINS[field](value):
        sections.check(config)
        kinds.create_dataset(config)
    else:
        assert_is_refused(config, field, tmp_path, caplog, monkeypatch)


@functools.cache
def _digits(source, tfds_dir):
    assert source == "embedded"
    del tfds_dir
    return _load_digits(source=source, tfds_dir="")


_load_digits = dataset.load_digits


def _fields(config):
    return [
        f"{name}.{key}" if isinstance(entry, dict) else name
        for name, entry in config.items()
        for key in (entry if isinstance(entry, dict) else [name])
    ] + [name for name, entry in config.items() if isinstance(entry, dict)]


@pytest.mark.parametrize("kind", CONFIGS)
@examples(25)
@given(st.data())
def test_several_values_at_random_end_in_a_sentence_or_in_a_model(kind, data):
    config = CONFIGS[kind]
    # Sections last: a field needs its section.
    fields = data.draw(st.lists(st.sampled_from(_fields(config)), min_size=1, max_size=3))
    for field in sorted(fields, key=lambda field: "." not in field):
        config = changed(config, field, data.draw(VALUES))
    try:
        sections.check(config)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.batch_size": 8, "data.num_train": 7},
            "train.batch_size is 8 and data.num_train 7",
        ),
        ({"scene.window_size": 33}, "scene.window_size is 33, and the images' side 32"),
        ({"inference.patch_size": 5}, "patch_size is 5; the images' sides, 32 and 32"),
        ({"inference.evidence": 4}, "evidence is that of patches"),
        ({"estimator": "vimco"}, "'vimco' needs at least 2"),
        ({"estimator": "nvil", "centring": "leave_one_out"}, "needs at least 2"),
        ({"estimator": "nvil", "baseline.hidden_size": 0}, "baseline.hidden_size is 0"),
        ({"train.steps_per_call": 7}, "multiple of train.steps_per_call, 7"),
    ],
)
def test_entries_that_contradict_each_other_are_named(changes, message):
    config = AIR
    for field, value in changes.items():
        config = changed(config, field, value)
    with pytest.raises(ValueError, match=message):
        sections.check(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.batch_size=0", "train.batch_size is 0"),
        ("--config.train.nosuch=3", "lacks a key"),
    ],
)
def test_the_command_ends_with_code_1_and_a_sentence(tmp_path, override, message):
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "air_jax.main", f"--config={root}/configs/smoke.py", override]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        cwd=root,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
