"""What `load` and `Model` promise to people who write Python."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import air_jax
from air_jax import export, inference, kinds, metrics, parallel
from air_jax.checkpoint import CheckpointError
from air_jax.distributions import UnaryCode
from tests import tiny

CONFIG = tiny.MODEL_CONFIG
SIZE, NUM_STEPS = CONFIG["image"]["image_size"], CONFIG["inference"]["num_steps"]


def make_model(create_leaf):
    """A model whose parameters are `create_leaf(shape)`."""
    return inference.create_model(CONFIG, tiny.model_params(create_leaf))


@pytest.fixture(scope="module")
def model():
    """Parameters large enough that images differ in their counts."""
    rng = np.random.default_rng(0)
    return make_model(lambda shape: rng.normal(scale=0.5, size=shape))


@pytest.fixture(scope="module")
def images():
    # 11 of them take a batch of 16: most tests share what was compiled for that shape.
    images = np.random.default_rng(1).integers(0, 256, (11, SIZE, SIZE, 1)).astype(np.uint8)
    images[:4] //= 8
    return images


def assert_same(a, b):
    """Equal but for the rounding of another order of sums."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)


def test_load_is_the_packages_own_and_other_names_are_refused():
    assert air_jax.load is kinds.load
    assert {"load", "__version__"} <= {*air_jax.__all__} & {*dir(air_jax)}
    with pytest.raises(AttributeError, match="air_jax.*'fit'"):
        air_jax.fit  # noqa: B018


def test_who_looks_for_infer_in_the_package_is_told_where_it_is():
    program = "import air_jax; air_jax.infer"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "air_jax.load(directory).infer(images)" in done.stderr


def test_results_have_the_documented_shapes_and_ranges(model, images):
    objects = model.infer(images)
    n = len(images)
    assert objects.counts.shape == (n,)
    assert objects.counts.dtype == np.int32
    assert objects.count_probs.shape == (n, NUM_STEPS + 1)
    assert objects.presence.shape == (n, NUM_STEPS)
    assert objects.boxes.shape == objects.windows.shape == (n, NUM_STEPS, 4)
    assert objects.z_where.shape == (n, NUM_STEPS, 3)
    assert objects.z_what.shape == (n, NUM_STEPS, 3)
    assert objects.reconstructions.shape == (n, SIZE, SIZE, 1)
    for leaf in jax.tree.leaves(objects):
        assert isinstance(leaf, np.ndarray)
        assert np.isfinite(leaf).all()
    # The tests below would say little of a model that finds the same everywhere.
    assert set(objects.counts.tolist()) == {0, 1, 2}


def test_results_do_not_depend_on_the_batch_size(model, images):
    expected = model.infer(images)
    for batch_size in (4, 1000):  # the last one padded; larger than the set
        assert_same(model.infer(images, batch_size=batch_size), expected)


def test_parameters_are_placed_once_however_many_batches_there_are(model, images, monkeypatch):
    placed = []
    replicate = parallel.replicate
    monkeypatch.setattr(parallel, "replicate", lambda tree: placed.append(tree) or replicate(tree))
    model.infer(images, batch_size=4)
    model.iwae(images, key=jax.random.key(0), num_samples=5, batch_size=4)
    assert len(placed) == 2


def test_an_image_has_the_same_result_alone_and_among_others(model, images):
    def without_elbo(objects):  # whose sample belongs to the image's place
        return objects._replace(elbo_terms={})

    together = jax.tree.map(lambda leaf: leaf[4:7], model.infer(images))
    alone = model.infer(images[4:7])  # takes a batch of 4, one of it padding
    assert_same(without_elbo(alone), without_elbo(together))


def test_uint8_and_float_images_with_and_without_channel_are_the_same(model, images):
    expected = model.infer(images)
    scaled = images / 255.0
    assert_same(model.infer(scaled), expected)
    assert_same(model.infer(scaled.astype(np.float32)[..., 0]), expected)
    assert_same(model.infer(images[..., 0]), expected)
    assert_same(model.infer(jnp.asarray(images)), expected)


@pytest.mark.parametrize("shape", [(0, 16, 16), (2, 16, 15), (2, 16, 16, 3), (16, 16), (2, 50, 50)])
def test_images_of_another_shape_are_refused_with_both_shapes(model, shape):
    iwae = functools.partial(model.iwae, key=jax.random.key(0))
    for method in (model.infer, model.detect, iwae):
        with pytest.raises(ValueError, match=r"takes \[n, 16, 16, 1\]") as error:
            method(np.zeros(shape, np.float32))
        assert f"have shape {shape};" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 1.01, 255.0])
def test_values_that_are_not_in_0_to_1_are_refused(model, value):
    images = np.zeros((2, SIZE, SIZE), np.float32)
    images[1, 3, 5] = value
    with pytest.raises(ValueError, match="not finite or not in"):
        model.infer(images)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(model, images, batch_size):
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        model.infer(images, batch_size=batch_size)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        model.detect(images, batch_size=batch_size)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        model.iwae(images, key=jax.random.key(0), batch_size=batch_size)


def test_count_presence_and_count_probabilities_are_one_law(model, images):
    objects = model.infer(images)
    presence, probs = objects.presence, objects.count_probs
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    # Object i is present where the count is at least i: a tail of the law of counts.
    tails = probs[:, ::-1].cumsum(-1)[:, ::-1][:, 1:]
    np.testing.assert_allclose(presence, tails, atol=1e-5)
    # The count ends before the first q(z_pres_i = 1 | present so far) < 0.5.
    ratio = presence / np.concatenate([np.ones_like(presence[:, :1]), presence[:, :-1]], axis=-1)
    for count, row in zip(objects.counts, ratio, strict=True):
        present = [*(row >= 0.5).tolist(), False]
        assert count == present.index(False)


def test_an_object_whose_presence_is_exactly_one_half_is_counted_and_drawn(images):
    objects = make_model(np.zeros).infer(images)
    np.testing.assert_array_equal(objects.presence[:, 0], 0.5)
    np.testing.assert_array_equal(objects.counts, NUM_STEPS)
    # Two windows of sigmoid(0) at the same place.
    np.testing.assert_allclose(objects.reconstructions.max((1, 2, 3)), 1.0, rtol=1e-5)


def test_nothing_is_drawn_where_nothing_is_counted(model, images):
    objects = model.infer(images)
    empty = objects.counts == 0
    assert empty.any()
    assert not objects.reconstructions[empty].any()
    assert objects.reconstructions[~empty].any(axis=(1, 2, 3)).all()


def test_boxes_are_where_the_model_drew(model, images):
    objects = model.infer(images)
    single = np.flatnonzero(objects.counts == 1)
    assert len(single)
    drawn = metrics.ink_boxes(objects.reconstructions[single, ..., 0])
    np.testing.assert_array_equal(objects.boxes[single, 0], drawn)


def test_the_elbo_is_of_one_sample_which_the_key_decides(model, images):
    first = model.infer(images, key=jax.random.key(1))
    again = model.infer(images, key=jax.random.key(1))
    other = model.infer(images, key=jax.random.key(2))
    assert_same(first, again)
    assert np.abs(first.elbo_terms["elbo"] - other.elbo_terms["elbo"]).max() > 0.1
    assert_same(first._replace(elbo_terms={}), other._replace(elbo_terms={}))


def test_two_equal_images_have_samples_of_their_own(model, images):
    terms = model.infer(np.repeat(images[:1], 4, axis=0)).elbo_terms
    assert len(set(terms["log_p_x"].tolist())) > 1


def of_every_count(variant):
    air, params, images, counts = tiny.of_every_count(variant)
    return inference.Model(air, params, UnaryCode(jnp.zeros(air.num_steps)), {}), images, counts


@pytest.mark.parametrize("variant", ["air", "dair"])
def test_detect_finds_what_infer_finds_up_to_each_count_and_zeros_beyond(variant):
    model, images, counts = of_every_count(variant)
    objects = model.infer(images)
    np.testing.assert_array_equal(objects.counts, counts)
    step = np.arange(model.air.num_steps)
    present, reached = step < counts[:, None], step <= counts[:, None]
    for options in ({"stop_early": False}, {}, {"batch_size": 4}):
        found = model.detect(images, **options)
        np.testing.assert_array_equal(found.counts, counts)
        assert found.counts.dtype == np.int32
        np.testing.assert_allclose(found.presence, objects.presence * reached, atol=1e-4)
        for name in ("windows", "z_where", "z_what"):
            expected = np.where(present[..., None], getattr(objects, name), 0.0)
            np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-3, atol=1e-3)


def test_every_batch_stops_after_its_own_last_object():
    model, images, counts = of_every_count("air")
    order = np.argsort(counts, kind="stable")
    most = counts[order].reshape(-1, 4).max(1)
    assert set(most.tolist()) >= {0, 1, 3}
    found = model.detect(images[order], batch_size=4)
    np.testing.assert_array_equal(found.num_steps, np.repeat(np.minimum(most + 1, 3), 4))
    whole = model.detect(images[order], batch_size=4, stop_early=False)
    np.testing.assert_array_equal(whole.num_steps, 3)


def test_padding_does_not_keep_the_loop_going():
    model, images, counts = of_every_count("air")
    assert model.detect(np.zeros_like(images[:4])).counts.all()  # of what a batch is padded with
    found = model.detect(images[counts == 0][:1])
    np.testing.assert_array_equal(found.num_steps, [1])


def test_iwae_is_tighter_than_the_elbo(model, images):
    many = np.repeat(images, 40, axis=0)
    elbo = model.infer(many, batch_size=16).elbo_terms["elbo"].mean()
    bound = model.iwae(many, key=jax.random.key(3), num_samples=5, batch_size=16)
    assert bound.mean() > elbo + 1


def test_iwae_does_not_depend_on_the_batch_size(model, images):
    key = jax.random.key(4)
    expected = model.iwae(images, key=key, num_samples=5)
    assert expected.shape == (len(images),)
    bound = model.iwae(images, key=key, num_samples=5, batch_size=4)
    np.testing.assert_allclose(bound, expected, rtol=1e-4)


def test_an_exported_model_finds_what_it_found_before(model, images, tmp_path):
    export.export_model(tmp_path / "run" / "model", model.params, model.config)
    expected = model.infer(images)
    for folder in (tmp_path / "run", str(tmp_path / "run" / "model")):
        loaded = air_jax.load(folder)
        jax.tree.map(np.testing.assert_array_equal, loaded.infer(images), expected)
        assert json.dumps(loaded.config) == json.dumps(model.config)


def test_the_prior_is_the_last_of_its_schedule():
    prior = make_model(np.zeros).prior
    np.testing.assert_allclose(jax.nn.sigmoid(prior.logits), [0.3, 0.3], rtol=1e-5)


@pytest.mark.parametrize("change", ["missing", "unknown", "value"])
def test_a_config_of_another_version_is_refused_by_name(tmp_path, change):
    model = make_model(np.zeros)
    config = json.loads(json.dumps(model.config))
    if change == "missing":
        del config["scene"]
    elif change == "unknown":
        config["inference"]["colour"] = 1
    else:
        config["prior"]["name"] = "poisson"
    export.export_model(tmp_path, model.params, config)
    with pytest.raises(CheckpointError, match="is not one that this air_jax knows"):
        air_jax.load(tmp_path)
