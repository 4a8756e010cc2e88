"""Every config builds what it describes, and nothing in a config goes unread."""

import importlib
import pathlib

import jax
import pytest

from air_jax import kinds, sections
from tests import fake_tfds

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
AIR_NAMES = sorted(name for name in NAMES if name != "draw" and not name.startswith("scene3d"))
# What every config has, and each kind of model for itself.
COMMON = ("data", "train", "evaluation", "optimizer", None)
SECTIONS = [
    *(("smoke", section) for section in ("scene", "inference", "baseline", "prior", *COMMON)),
    *(("draw", section) for section in ("draw", *COMMON)),
]


def _load(name):
    return importlib.import_module(f"configs.{name}").get_config()


def _training_state(config):
    """Shapes of the state that a run of the config would begin with; computes nothing."""

    def build(key):
        training = kinds.create_training(
            config.to_dict(),
            image_size=config.data.image_size,
            channels=3 if config.data.get("source", "3-D") in ("sprites", "3-D") else 1,
        )
        return training.init(key)

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
    with_baseline = config.get("estimator") == "nvil"
    assert set(state.params) == {"model"} | ({"baseline"} if with_baseline else set())


@pytest.mark.parametrize("name", NAMES)
def test_config_holds_what_its_sections_take_and_nothing_else(name):
    sections.check(_load(name).to_dict())


@pytest.mark.parametrize("name", AIR_NAMES)
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
    if config.model in ("air", "air3d"):
        assert max(config.data.counts, default=0) <= config.inference.num_steps
    intervals = ("log_every", "evaluate_every", "checkpoint_every", "snapshot_every")
    for interval in ("num_steps", *intervals):
        assert config.train[interval] % config.train.steps_per_call == 0
    assert config.train.validation_images <= config.data.num_validation


@pytest.mark.parametrize("name", NAMES)
def test_config_s_data_are_made_with_its_options(name, tmp_path):
    config = _load(name).to_dict()
    data = config["data"]
    data |= {"num_train": 4, "num_validation": 4, "num_test": 4}
    if "source" in data:
        # Of any source: composing takes the options, wherever digits come from.
        if data["source"] not in ("sprites", "omniglot"):
            data["source"] = "embedded"
        elif data["source"] == "omniglot":
            fake_tfds.write_omniglot(tmp_path)
        data |= {"cache_dir": "", "tfds_dir": str(tmp_path)}
    images = kinds.create_dataset(config).train.images
    assert images.shape[:3] == (4, data["image_size"], data["image_size"])


@pytest.mark.parametrize(("name", "section"), SECTIONS)
def test_unknown_key_is_an_error_that_names_it_and_the_valid_ones(name, section):
    config = _load(name).to_dict()
    place = config if section is None else config[section]
    valid = sorted(place)[0]
    place["num_stepz"] = 1
    with pytest.raises(ValueError, match=f"unknown 'num_stepz'; it holds {valid}"):
        sections.check(config)


@pytest.mark.parametrize(("name", "section"), SECTIONS)
def test_missing_key_is_an_error(name, section):
    for key in _load(name).to_dict() if section is None else _load(name)[section]:
        config = _load(name).to_dict()
        del (config if section is None else config[section])[key]
        with pytest.raises(ValueError, match=f"missing '{key}'"):
            sections.check(config)


def test_many_seeds_that_would_share_a_stream_are_refused():
    config = _load("smoke").to_dict()
    config["num_seeds"], config["data"]["resident"] = 2, False
    with pytest.raises(ValueError, match="num_seeds is 2 .*Set data.resident to True, or train"):
        sections.check(config)


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
