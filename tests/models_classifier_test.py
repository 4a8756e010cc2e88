"""Classifiers: what is dropped, any depth, and objects in any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax.models.classifier import (
    CNNClassifier,
    MLPClassifier,
    ObjectClassifier,
    drop_units,
)

PAIRS = functools.partial(ObjectClassifier, num_objects=2)


def test_dropped_units_keep_their_expectation():
    units = jnp.full((100, 1_000), 3.0)
    dropped = jax.jit(drop_units)(units, 0.25, jax.random.key(0))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    # 1e5 units: the standard error of the share is 0.0014.
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.007)
    np.testing.assert_array_equal(drop_units(units, 0.25, None), units)
    np.testing.assert_array_equal(drop_units(units, 0.0, jax.random.key(1)), units)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(MLPClassifier, (3, 7)), (PAIRS, (3, 8)), (CNNClassifier, (3, 10, 10, 1))],
)
def test_dropout_is_off_without_a_key(network, shape, depth):
    network = network(width=4, depth=depth, num_classes=5)
    inputs = jax.random.normal(jax.random.key(0), shape)
    variables = network.init(jax.random.key(1), inputs)
    logits = network.apply(variables, inputs, dropout=0.5)
    assert logits.shape == (3, 5)
    np.testing.assert_array_equal(logits, network.apply(variables, inputs))
    dropped = network.apply(variables, inputs, dropout=0.5, key=jax.random.key(2))
    assert not np.allclose(dropped, logits)


def test_a_classifier_of_objects_does_not_mind_their_order():
    network = PAIRS(width=4, depth=2, num_classes=5)
    codes = jax.random.normal(jax.random.key(0), (3, 8))
    variables = network.init(jax.random.key(1), codes)
    logits = network.apply(variables, codes)
    np.testing.assert_allclose(
        network.apply(variables, jnp.roll(codes, 4, axis=1)), logits, rtol=1e-5
    )
    # It does mind what belongs to which.
    assert not np.allclose(network.apply(variables, jnp.roll(codes, 2, axis=1)), logits)
