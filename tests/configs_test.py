"""Every config builds what it describes, and nothing in a config goes unread."""

import importlib
import inspect
import pathlib

import jax
import pytest

from air_jax.data.dataset import create_dataset
from air_jax.evaluate import evaluate
from air_jax.train import create_air_training

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# The sections that create_air_training splats.
SECTIONS = ("scene", "inference", "baseline", "prior", "optimizer")
ESTIMATORS = ("nvil", "enumerate")


def _load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def _training_state(config):
    """Shapes of the state that a run of the config would begin with; computes nothing."""

    def build(key):
        return create_air_training(
            estimator=config.estimator,
            **{section: config[section].to_dict() for section in SECTIONS},
            num_train_steps=config.train.num_steps,
            image_size=config.data.image_size,
            channels=1,
            key=key,
        ).state

    return jax.eval_shape(build, jax.random.key(0))


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_its_training_state(name):
    config = _load(name)
    state = _training_state(config)
    assert state.step.shape == ()
    # Adam's two moments for every parameter.
    num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    num_moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert num_moments == 2 * num_params
    assert set(state.params) == {"model"} | ({"baseline"} if config.estimator == "nvil" else set())


@pytest.mark.parametrize("name", NAMES)
def test_config_sets_every_argument_of_data_and_evaluation_and_no_other(name):
    config = _load(name)
    assert set(config.data) == set(inspect.signature(create_dataset).parameters)
    given_by_the_loop = {"model", "scenes", "key"}
    arguments = set(inspect.signature(evaluate).parameters)
    assert set(config.evaluation) == arguments - given_by_the_loop


@pytest.mark.parametrize("name", NAMES)
def test_variant_has_the_fields_of_the_base_and_their_types(name):
    def types(section):
        return {
            key: types(value) if hasattr(value, "items") else type(value)
            for key, value in section.items()
        }

    assert types(_load(name)) == types(_load("base"))


@pytest.mark.parametrize("name", NAMES)
def test_config_counts_fit_its_steps_and_intervals_its_calls(name):
    config = _load(name)
    assert max(config.data.counts) <= config.inference.num_steps
    for interval in ("num_steps", "log_every", "evaluate_every", "checkpoint_every"):
        assert config.train[interval] % config.train.steps_per_call == 0
    assert config.train.validation_images <= config.data.num_validation


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_key_in_a_section_is_an_error(section):
    config = _load("smoke")
    with config.unlocked():
        config[section].num_stepz = 1
    with pytest.raises(TypeError, match="num_stepz"):
        _training_state(config)


@pytest.mark.parametrize("section", SECTIONS)
def test_missing_key_in_a_section_is_an_error(section):
    config = _load("smoke")
    for key in list(config[section]):
        changed = _load("smoke")
        with changed.unlocked():
            del changed[section][key]
        with pytest.raises((TypeError, KeyError), match=key):
            _training_state(changed)


def test_assigning_a_field_that_is_not_there_is_an_error():
    config = _load("base")
    with pytest.raises(AttributeError):
        config.estimater = "nvil"
    with pytest.raises(AttributeError):
        config.train.num_stepz = 1


def test_unknown_estimator_is_refused_with_the_valid_names():
    config = _load("smoke")
    config.estimator = "reinforcement"
    with pytest.raises(ValueError, match=r"reinforcement.*nvil.*enumerate"):
        _training_state(config)
