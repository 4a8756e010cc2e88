"""The inference network: masking, dependence of each step, DAIR's error canvas, the scene model."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from air_jax.models.air import error_canvas, posterior_mean_noise, sample_noise
from air_jax.models.spatial_transformer import attend
from tests import tiny

VARIANTS = pytest.mark.parametrize("variant", ["air", "dair"])


@VARIANTS
@pytest.mark.parametrize("every_count", [True, False])
def test_shapes(variant, every_count):
    air = tiny.create(variant, num_steps=3)
    trace = tiny.run(
        air, tiny.init(air), tiny.images(5), tiny.noise(air, 5), every_count=every_count
    )
    steps = {"z_pres", "presence_logit", "kl_where", "kl_what", "log_ratio_where", "log_p_x_before"}
    for name in steps:
        chex.assert_shape(getattr(trace, name), (5, 3))
    chex.assert_shape(trace.z_where, (5, 3, 3))
    chex.assert_shape(trace.z_what, (5, 3, 2))
    chex.assert_shape([trace.glimpses, trace.windows], (5, 3, 4, 4, 1))
    chex.assert_shape([trace.objects, trace.errors], (5, 3, 6, 6, 1))
    scored = 4 if every_count else 1
    chex.assert_shape(trace.log_p_x, (5, scored))
    chex.assert_shape(trace.canvases, (5, scored, 6, 6, 1))
    assert trace.scores_every_count == every_count
    chex.assert_tree_all_finite(trace)


@VARIANTS
def test_both_ways_of_composing_agree_at_the_sampled_count(variant):
    air = tiny.create(variant, num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(16), tiny.noise(air, 16)
    sampled = tiny.run(air, params, images, noise, every_count=False)
    scored = tiny.run(air, params, images, noise, every_count=True)
    assert len(set(np.asarray(sampled.counts))) > 2
    np.testing.assert_array_equal(sampled.counts, scored.counts)
    for name in ("canvases", "log_p_x"):
        np.testing.assert_allclose(
            sampled.at_count(getattr(sampled, name)),
            scored.at_count(getattr(scored, name)),
            rtol=1e-5,
        )


@VARIANTS
def test_the_canvas_is_the_sum_of_the_objects_present(variant):
    air = tiny.create(variant, num_steps=3)
    trace = tiny.run(air, tiny.init(air), tiny.images(16), tiny.noise(air, 16))
    present = trace.z_pres[:, :, None, None, None]
    np.testing.assert_allclose(
        trace.canvases[:, 0], (present * trace.objects).sum(1), rtol=1e-5, atol=1e-6
    )


def test_what_comes_before_a_step_is_known_to_it():
    air = tiny.create("dair", num_steps=3)
    params, images, noise = tiny.init(air), tiny.images(), tiny.noise(air)
    trace = tiny.run(air, params, images, noise, every_count=True)
    np.testing.assert_allclose(trace.log_p_x_before, trace.log_p_x[:, :-1], rtol=1e-6)
    np.testing.assert_allclose(trace.errors, images[:, None] - trace.canvases[:, :-1], atol=1e-6)


def influence(air, of, on):
    """Whether the noise of step 1 reaches `on` of steps 1 and 2, for any of some images."""
    params, images, noise = tiny.init(air), tiny.images(8), tiny.noise(air, 8)

    def value(offset):
        changed = noise._replace(**{of: getattr(noise, of).at[:, 0].add(offset)})
        return getattr(tiny.run(air, params, images, changed, every_count=True), on)

    return (np.asarray(jax.jacobian(value)(jnp.zeros(()))) != 0).any(0)


@VARIANTS
def test_later_steps_depend_on_earlier_latents(variant):
    air = tiny.create(variant)
    np.testing.assert_array_equal(influence(air, "what", "presence_logit"), [False, True])
    np.testing.assert_array_equal(influence(air, "where", "presence_logit"), [False, True])


@VARIANTS
def test_a_decision_depends_on_what_the_recurrence_remembers(variant):
    air, images = tiny.create(variant), tiny.images()
    variables = {"params": tiny.init(air)}
    projected, memory = air.apply(variables, images, method="begin")
    other = memory._replace(lstm=tuple(leaf + 1.0 for leaf in memory.lstm))
    logits = [
        air.apply(variables, m, images, projected, method="decide")[2] for m in (memory, other)
    ]
    assert (logits[0] != logits[1]).any()


@VARIANTS
def test_nothing_depends_on_z_pres_but_the_canvas(variant):
    air = tiny.create(variant)
    params, images, noise = tiny.init(air), tiny.images(), tiny.noise(air)
    one, two = (
        tiny.run(air, params, images, tiny.with_count(noise, n), every_count=True) for n in (1, 2)
    )
    same = one._replace(z_pres=two.z_pres)
    chex.assert_trees_all_equal(same, two)


def test_the_variants_differ_in_what_the_recurrence_sees():
    # With one step there is no history: AIR sees the image and two empty latents, DAIR the image.
    images = tiny.images()
    for variant, has_history in (("air", True), ("dair", False)):
        kernel = tiny.init(tiny.create(variant))["cell"]["gates"]["kernel"]
        assert kernel.shape[0] == 4 + (3 + 2 if has_history else 0)
    np.testing.assert_array_equal(error_canvas(jnp.zeros_like(images), images), images)
    np.testing.assert_array_equal(error_canvas(images, images), 0.0)


@pytest.mark.parametrize("source", ["image", "error"])
def test_the_window_reads_the_source_it_is_told(source):
    air = tiny.create("dair", glimpse_source=source)
    images = tiny.images()
    trace = tiny.run(air, tiny.init(air), images, tiny.noise(air), every_count=True)
    read = images if source == "image" else trace.errors[:, 1]
    np.testing.assert_allclose(
        trace.glimpses[:, 1], attend(read, trace.z_where[:, 1], window_size=4), atol=1e-5
    )


def test_mean_noise_gives_means_and_the_mode_of_presence():
    air = tiny.create(num_steps=3)
    params, images = tiny.init(air), tiny.images()
    trace = tiny.run(air, params, images, posterior_mean_noise(3, air), every_count=True)
    np.testing.assert_array_equal(trace.counts, trace.posterior.mode_count())
    # Far from the mean the log-ratio falls; at the mean of q, log q is at its greatest.
    moved = posterior_mean_noise(3, air)._replace(where=jnp.full((3, 3, 3), 2.0))
    other = tiny.run(air, params, images, moved, every_count=True)
    assert (trace.presence_logit[:, 0] == other.presence_logit[:, 0]).all()
    assert (trace.z_where[:, 0] != other.z_where[:, 0]).all()


def test_an_example_s_noise_does_not_depend_on_the_batch_around_it():
    air = tiny.create()
    many = sample_noise(jax.random.split(jax.random.key(0), 6), air)
    few = sample_noise(jax.random.split(jax.random.key(0), 6)[2:4], air)
    chex.assert_trees_all_close(few, jax.tree.map(lambda leaf: leaf[2:4], many))


@pytest.mark.parametrize("log_scale", [-1e9, -50.0, 50.0, 1e9])
def test_scale_is_positive_and_finite_whatever_the_network_says(log_scale):
    scene = tiny.create().scene
    scale = scene.pose_to_where(jnp.array([log_scale, 0.0, 0.0]))[0]
    assert 0.01 < scale < 100


def test_prior_of_the_scale_has_the_stated_moments():
    scene = tiny.create(scale_prior=(2.2, 0.2), shift_prior=(0.1, 0.7)).scene
    prior = scene.prior_pose()
    pose = np.asarray(prior.sample(seed=jax.random.key(0), sample_shape=(100_000,)))
    where = np.asarray(scene.pose_to_where(jnp.asarray(pose)))
    np.testing.assert_allclose(where.mean(0), [2.2, 0.1, 0.1], atol=0.01)
    np.testing.assert_allclose(where.std(0), [0.2, 0.7, 0.7], atol=0.01)


def test_log_likelihood_is_scipy_s():
    scene = tiny.create(likelihood_scale=0.3).scene
    images, canvas = tiny.images(2), tiny.images(4)[2:]
    expected = scipy.stats.norm.logpdf(images, canvas, 0.3).sum((1, 2, 3))
    np.testing.assert_allclose(scene.log_likelihood(images, canvas), expected, rtol=1e-5)


def test_samples_hold_the_objects_that_were_asked_for():
    air = tiny.create(decoder_bias=0.0)
    variables = {"params": tiny.init(air)["scene"]}
    sampled = air.scene.apply(
        variables, jax.random.key(0), jnp.array([0, 1, 3]), 3, method="sample"
    )
    ink = sampled.images.sum((1, 2, 3))
    assert ink[0] == 0
    assert 0 < ink[1] < ink[2]


@pytest.mark.parametrize(
    "change", [{"likelihood_scale": 0.0}, {"scale_prior": (0.0, 0.1)}, {"shift_prior": (0.0, -1.0)}]
)
def test_scales_that_are_not_positive_are_refused(change):
    air = tiny.create(**change)
    with pytest.raises(ValueError, match="must all be positive"):
        tiny.init(air)


@VARIANTS
def test_with_a_map_the_windows_are_centred_where_it_says(variant):
    air = tiny.create(variant, place="map")
    params, images = tiny.init(air), tiny.images(8)
    trace = tiny.run(air, params, images, posterior_mean_noise(8, air))
    assert np.abs(trace.z_where[..., 1:]).max() < 1
    # All places as good, but for one: the peak of every image's map is there.
    last = params["predict_place"]["MLP_0"]["Dense_1"]
    last["kernel"] = jnp.zeros_like(last["kernel"])
    last["bias"] = jnp.zeros(25).at[5 * 1 + 4].set(10.0)
    trace = tiny.run(air, params, images, posterior_mean_noise(8, air))
    expected = np.broadcast_to([1.0, -0.5], (8, 2, 2))
    np.testing.assert_allclose(trace.z_where[..., 1:], expected, atol=1e-3)


@VARIANTS
def test_evidence_decides_about_places_and_about_one_more_object(variant):
    air = tiny.create(variant, place="map", patch_size=3, evidence=3)
    params, images = tiny.init(air), tiny.images(4)

    def sums(params):
        trace = tiny.run(air, params, images, posterior_mean_noise(4, air))
        return trace.presence_logit[:, 0].sum(), trace.z_where[:, 0, 1:].sum()

    for gradients in jax.jacobian(sums)(params):
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients["neighbourhoods"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "airs"}, "'air', 'dair'"),
        ({"glimpse_source": "both"}, "'image', 'error'"),
        ({"place": "grid"}, "'regression', 'map'"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(change, message):
    air = tiny.create().clone(**change)
    with pytest.raises(ValueError, match=message):
        air.init(jax.random.key(0), tiny.images(1), posterior_mean_noise(1, air), every_count=True)
