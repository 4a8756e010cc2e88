"""Detection finds what a whole pass finds, and computes no more than the images ask for."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from air_jax.models.air import AIR, posterior_mean_noise
from air_jax.models.detection import detect
from tests import tiny

VARIANTS = pytest.mark.parametrize("variant", ["air", "dair"])
EVERYWHERE = np.ones(8, bool)


@functools.partial(jax.jit, static_argnames=("air", "stop_early"))
def run_detect(air, params, images, wanted=EVERYWHERE, *, stop_early=True):
    return detect(air, params, images, wanted, stop_early=stop_early)


def holding_at_most(count, counts):
    """Places of eight images with up to `count` objects, at least one of them with that many."""
    exactly, fewer = np.flatnonzero(counts == count), np.flatnonzero(counts < count)
    return np.resize(np.concatenate([exactly[:1], fewer]), 8)


class Watched(AIR):
    """Says on every execution, not on every trace, that half a step is computed."""

    halves = []  # noqa: RUF012 (flax reads annotated names as fields)

    def decide(self, *arguments):
        jax.debug.callback(lambda: self.halves.append("decide"))
        return super().decide(*arguments)

    def look(self, *arguments):
        jax.debug.callback(lambda: self.halves.append("look"))
        return super().look(*arguments)


def watched(air):
    fields = {field.name: getattr(air, field.name) for field in dataclasses.fields(air)}
    return Watched(**{name: fields[name] for name in fields if name not in ("parent", "name")})


@VARIANTS
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_no_more_is_computed_than_the_image_with_the_most_objects_needs(variant, count):
    air, params, images, counts = tiny.of_every_count(variant)
    batch = images[holding_at_most(count, counts)]
    Watched.halves.clear()
    found = run_detect(watched(air), params, batch)
    jax.effects_barrier()
    # The step that finds no more objects is half done; after the last step nobody asks.
    steps = min(count + 1, 3)
    assert sorted(Watched.halves) == ["decide"] * steps + ["look"] * count
    assert found.num_steps == steps


@VARIANTS
def test_without_stopping_early_every_step_is_computed(variant):
    air, params, images, counts = tiny.of_every_count(variant)
    Watched.halves.clear()
    batch = images[holding_at_most(0, counts)]
    found = run_detect(watched(air), params, batch, stop_early=False)
    jax.effects_barrier()
    assert sorted(Watched.halves) == ["decide"] * 3 + ["look"] * 3
    assert found.num_steps == 3


@VARIANTS
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("stop_early", [True, False])
def test_it_finds_what_a_whole_pass_finds_and_zeros_beyond(variant, count, stop_early):
    air, params, images, counts = tiny.of_every_count(variant)
    chosen = holding_at_most(count, counts)
    found = run_detect(air, params, images[chosen], stop_early=stop_early)
    trace = tiny.run(air, params, images[chosen], posterior_mean_noise(8, air), every_count=True)
    step = np.arange(3)
    present = step < counts[chosen][:, None]
    reached = step <= counts[chosen][:, None]
    np.testing.assert_allclose(
        found.presence_logit, np.where(reached, trace.presence_logit, -np.inf), atol=1e-4
    )
    for name in ("z_where", "z_what"):
        expected = np.where(present[..., None], getattr(trace, name), 0.0)
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-4)


def test_images_that_are_not_wanted_neither_count_nor_keep_the_loop_going():
    air, params, images, counts = tiny.of_every_count("air")
    chosen = holding_at_most(3, counts)
    wanted = counts[chosen] == 0
    found = run_detect(air, params, images[chosen], wanted)
    assert found.num_steps == 1
    assert np.isneginf(found.presence_logit[~wanted]).all()
    assert np.isfinite(found.presence_logit[wanted, 0]).all()
    chex.assert_trees_all_equal(found.z_where, np.zeros((8, 3, 3), np.float32))
