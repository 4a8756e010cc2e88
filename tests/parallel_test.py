"""Four devices do what one does: pmap, shard_map and a single device side by side."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from air_jax import distributions, estimators, parallel, train
from tests import tiny

STEPS, BATCH = 3, 8


@pytest.fixture(scope="module")
def dataset():
    return np.asarray(tiny.images(20) * 255).astype(np.uint8)


def training(estimator, variant="air", axis_name=parallel.AXIS_NAME):
    """Train step and initial state of a tiny network."""
    air = tiny.create(variant)
    params = {"model": tiny.init(air)}
    if estimator == "nvil":
        params["baseline"] = tiny.init_baseline(air)
    loss = estimators.create_loss(
        estimator,
        air=air,
        baseline=tiny.BASELINE,
        prior=lambda step: distributions.geometric(0.01 * step - 1.0, air.num_steps),
        num_samples=2 if estimator == "vimco" else 1,
    )
    optimizer = train.create_optimizer(
        learning_rate=1e-2,
        baseline_learning_rate=1e-2,
        final_fraction=1.0,
        clip_norm=1e3,
        num_steps=10,
    )
    statistics = estimators.initial_statistics(estimator, air.num_steps)
    step = train.create_train_step(loss, optimizer, axis_name=axis_name, statistics_decay=0.9)
    return step, train.create_state(params, optimizer, statistics)


def run_pmap(step, state, dataset):
    run = parallel.pmap_steps(step, STEPS)
    positions = parallel.batch_positions(BATCH, jax.local_device_count())
    return run(
        parallel.replicate(state),
        parallel.shard(positions),
        parallel.replicate(dataset),
        parallel.replicate(jax.random.key(1)),
    )


def run_shard_map(step, state, dataset):
    def run_local(state, positions, dataset, key):
        return parallel.scan_steps(step, STEPS)(state, positions[0], dataset, key)

    replicated, split = PartitionSpec(), PartitionSpec(parallel.AXIS_NAME)
    # check_vma=True would multiply pmean-ed gradients by the number of devices.
    run = jax.shard_map(
        run_local,
        mesh=parallel.local_mesh(),
        in_specs=(replicated, split, replicated, replicated),
        out_specs=replicated,
        check_vma=False,
    )
    positions = parallel.batch_positions(BATCH, jax.local_device_count())
    return jax.jit(run)(state, positions, dataset, jax.random.key(1))


def run_one_device(step, state, dataset):
    run = jax.jit(parallel.scan_steps(step, STEPS))
    return run(state, jnp.arange(BATCH), jnp.asarray(dataset), jax.random.key(1))


@pytest.mark.parametrize(
    ("estimator", "variant"),
    [*((name, "air") for name in estimators.NAMES), ("nvil", "dair"), ("enumerate", "dair")],
)
def test_four_devices_equal_one_and_shard_map(estimator, variant, dataset):
    assert jax.local_device_count() == 4
    step, state = training(estimator, variant)
    alone, _ = training(estimator, variant, axis_name=None)
    expected = jax.device_get(run_one_device(alone, state, dataset))
    chex.assert_trees_all_close(
        jax.device_get(run_shard_map(step, state, dataset)), expected, rtol=2e-4, atol=2e-5
    )
    chex.assert_trees_all_close(
        jax.device_get(run_pmap(step, state, dataset)), expected, rtol=2e-4, atol=2e-5
    )


def test_streamed_steps_equal_resident_ones_bit_for_bit(dataset):
    step, state = training("nvil", axis_name=None)  # over four devices: loop_test
    key, (positions,) = jax.random.key(1), parallel.batch_positions(BATCH, 1)
    (indices,) = parallel.draw_on_host(len(dataset), key, positions[None], STEPS)(0)
    run = jax.jit(parallel.scan_steps(step, STEPS, streamed=True))
    chex.assert_trees_all_equal(
        run(state, positions, dataset[indices], key), run_one_device(step, state, dataset)
    )


def test_the_train_step_is_traced_once_however_often_it_is_called(dataset):
    step, state = training("enumerate")
    chex.clear_trace_counter()
    run = parallel.pmap_steps(chex.assert_max_traces(step, n=1), STEPS)
    positions = parallel.shard(parallel.batch_positions(BATCH, 4))
    state, placed = parallel.replicate(state), parallel.replicate(dataset)
    key = parallel.replicate(jax.random.key(1))
    for _ in range(3):
        state, _ = run(state, positions, placed, key)
    assert int(state.step) == 3 * STEPS


@pytest.mark.parametrize("estimator", estimators.NAMES)
def test_many_seeds_in_one_program_equal_single_runs(estimator, dataset):
    step, state = training(estimator)
    other = jax.tree.map(lambda leaf: leaf * 1.1 if leaf.ndim else leaf, state)
    keys = jax.random.split(jax.random.key(2), 2)
    positions = parallel.shard(parallel.batch_positions(BATCH, 4))
    run = parallel.pmap_steps(step, STEPS)
    alone = [
        jax.device_get(
            run(
                parallel.replicate(jax.tree.map(jnp.copy, one)),
                positions,
                parallel.replicate(dataset),
                parallel.replicate(key),
            )
        )
        for one, key in zip((state, other), keys, strict=True)
    ]
    together = parallel.pmap_steps(step, STEPS, many_seeds=True)(
        parallel.replicate(jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other)),
        positions,
        parallel.replicate(dataset),
        parallel.replicate(keys),
    )
    chex.assert_trees_all_close(
        jax.device_get(together),
        jax.tree.map(lambda *leaves: np.stack(leaves), *alone),
        rtol=2e-4,
        atol=2e-5,
    )


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"batch of 10 .* 4 devices .*remainder 2"):
        parallel.batch_positions(10, 4)


def test_positions_cover_the_global_batch_once():
    positions = parallel.batch_positions(12, 4)
    assert positions.shape == (4, 3)
    np.testing.assert_array_equal(positions.ravel(), np.arange(12))


def test_an_example_depends_on_step_and_position_alone():
    def drawn(step, positions):
        indices, keys = parallel.draw_examples(
            20, jax.random.key(4), jnp.asarray(step), jnp.asarray(positions)
        )
        return np.asarray(indices), np.asarray(jax.random.key_data(keys))

    indices, keys = drawn(5, np.arange(6))
    part_indices, part_keys = drawn(5, np.array([4, 1]))
    np.testing.assert_array_equal(part_indices, indices[[4, 1]])
    np.testing.assert_array_equal(part_keys, keys[[4, 1]])
    _, next_keys = drawn(6, np.arange(6))
    assert len({tuple(key) for key in [*keys, *next_keys]}) == 12


def test_the_host_draws_what_the_steps_draw():
    key, positions = jax.random.key(4), parallel.batch_positions(6, 2)
    indices = parallel.draw_on_host(20, key, positions, 3)(5)
    assert indices.shape == (2, 3, 3)
    for device, places in enumerate(positions):
        for step in range(3):
            drawn, _ = parallel.draw_examples(20, key, jnp.asarray(5 + step), jnp.asarray(places))
            np.testing.assert_array_equal(indices[device, step], drawn)


def test_images_are_drawn_evenly():
    drawn, _ = parallel.draw_examples(20, jax.random.key(0), jnp.asarray(0), jnp.arange(20_000))
    # Binomial(20,000, 1/20): mean 1,000, deviation 31.
    assert np.abs(np.bincount(drawn, minlength=20) - 1_000).max() < 5 * 31


class _Seen(NamedTuple):
    """A state that keeps what the last step saw."""

    step: jax.Array
    images: jax.Array
    keys: jax.Array


def test_steps_see_what_was_drawn_for_the_state_s_own_step(dataset):
    def train_step(state, images, keys):
        # The second step of a call leaves the state as it was, as if it was frozen.
        step = state.step + (state.step != 6)
        return _Seen(step, images, jax.random.key_data(keys)), {"step": state.step}

    positions, key = jnp.arange(6), jax.random.key(4)
    start = _Seen(jnp.asarray(5), jnp.zeros((6, *dataset.shape[1:])), jnp.zeros((6, 2), jnp.uint32))
    run = jax.jit(parallel.scan_steps(train_step, 4))
    state, metrics = run(start, positions, jnp.asarray(dataset), key)
    np.testing.assert_array_equal(metrics["step"], [5, 6, 6, 6])
    indices, keys = parallel.draw_examples(len(dataset), key, jnp.asarray(6), positions)
    np.testing.assert_allclose(state.images, dataset[np.asarray(indices)] / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(state.keys, jax.random.key_data(keys))


def test_the_compiler_knows_the_options_for_gpus():
    # The compiler for CPUs takes them too, and has no use for them.
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert lowered.compile(parallel._GPU_OPTIONS)(1.0) == 2.0
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile({"xla_gpu_of_another_time": 1})


def test_a_compiler_that_does_not_know_them_compiles_without(monkeypatch, dataset, caplog):
    monkeypatch.setattr(parallel, "_is_gpu", lambda: True)
    monkeypatch.setattr(parallel, "_GPU_OPTIONS", {"xla_gpu_of_another_time": 1})
    step, state = training("enumerate")
    state, _ = run_pmap(step, state, dataset)
    assert int(state.step) == STEPS
    assert "xla_gpu_of_another_time" in caplog.text


@pytest.mark.parametrize(
    ("given", "folder", "seconds"),
    [
        ({}, "air_jax/compiled", 0.2),
        ({"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, "unchanged", 0.2),
        ({"JAX_COMPILATION_CACHE_DIR": ""}, "unchanged", 0.2),
        ({"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "5"}, "air_jax/compiled", 1.0),
    ],
)
def test_programs_are_kept_in_the_user_s_cache_unless_the_environment_says_otherwise(
    given, folder, seconds, tmp_path, monkeypatch
):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    try:
        jax.config.update(names[0], "unchanged")
        jax.config.update(names[1], 1.0)
        parallel.keep_compiled()
        expected = folder if folder == "unchanged" else str(tmp_path / folder)
        assert [getattr(jax.config, name) for name in names] == [expected, seconds]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
