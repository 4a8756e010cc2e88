"""What the table of kinds promises, of every kind."""

import inspect

import pytest

from air_jax import kinds
from air_jax.draw import DrawModel
from air_jax.experiments import estimators, reliability
from configs import draw as draw_config
from configs import scene3d_object, scene3d_table, smoke
from tests import tiny


@pytest.mark.parametrize("name", kinds.KINDS)
def test_training_takes_what_the_config_holds(name):
    kind = kinds.KINDS[name]
    taken = inspect.signature(kind.create_training).parameters.keys()
    own = kind.scalars | kind.sections.keys() - {"evaluation"}
    assert taken - own == {"num_train_steps", "image_size", "channels", "freeze_non_finite"}


def test_a_config_from_before_there_were_kinds_is_airs():
    assert "model" not in tiny.MODEL_CONFIG
    assert kinds.of(tiny.MODEL_CONFIG) is kinds.KINDS["air"]
    assert kinds.create_model(tiny.MODEL_CONFIG, None).air.num_steps == 2


def test_an_unknown_kind_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="model is 'vae'; valid names are 'air', 'draw', 'air3d'"):
        kinds.of({"model": "vae"})


def test_the_config_names_the_kind():
    config = draw_config.get_config().to_dict()
    model = kinds.create_model({**config, "image": {"image_size": 50, "channels": 1}}, None)
    assert isinstance(model, DrawModel)
    assert model.network.num_steps == 40


def test_where_training_does_not_say_its_counts_they_are_one_to_n():
    def counts(data):
        return kinds.trained_counts(kinds.create_model({**tiny.MODEL_CONFIG, "data": data}, None))

    for data in ({}, {"source": "path", "counts": [0, 1]}, {"source": "auto", "counts": [7]}):
        assert counts(data) == [1, 2]
    assert counts({"source": "auto", "counts": [0, 2, 3]}) == [0, 2]


def test_experiments_on_objects_refuse_a_model_that_has_none(tmp_path):
    config = draw_config.get_config().to_dict()
    with pytest.raises(ValueError, match="model is 'draw'; this needs 'air'"):
        reliability.run(config, str(tmp_path), seeds=range(1), seeds_per_program=1, num_processes=1)
    with pytest.raises(ValueError, match="model is 'draw'; this needs 'air'"):
        estimators.run(config, str(tmp_path), plan=None)


def test_what_is_seldom_meant_is_said():
    config = smoke.get_config()
    assert kinds.of(config).warnings(config) == []
    config.prior.steps = config.train.num_steps + 1
    config.data.counts = (0, config.inference.num_steps + 1)
    first, second = kinds.of(config).warnings(config)
    assert "never trained with" in first
    assert "up to 3 objects and the network takes 2 steps" in second


def test_sections_that_describe_two_different_tables_are_warned_of():
    config = scene3d_object.get_config()
    assert kinds.of(config).warnings(config) == []
    config.scene.catalogue = "crockery"
    config.data.extent = 2.0
    config.data.camera_range = (5.0, 0.0)
    config.data.counts = (1, 2)
    other, far, camera, many = kinds.of(config).warnings(config)
    assert "data.catalogue is solids and scene.catalogue crockery" in other
    assert "no place for them" in far and "known" in camera and "up to 2 objects" in many
    config = scene3d_table.get_config()
    assert kinds.of(config).warnings(config) == []
    config.data.extent = 1.2  # within the reach but for a camera that has turned
    (far,) = kinds.of(config).warnings(config)
    assert "up to 1.59 to a side" in far
