"""Control variates by hand. That they leave gradients unbiased is in estimators_matrix_test.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import control_variates
from air_jax.control_variates import Moments

# The last one is of a step that was not reached: it has to stay out of everything.
SIGNAL = np.array([[-20.0, 3.0], [-10.0, 7.0], [-30.0, 99.0]])
MASK = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])


def test_moments_standardise():
    observed = control_variates.observe(SIGNAL, MASK)
    moments = Moments(*(terms.mean(0) for terms in observed))
    mean, deviation = moments.standardisation()
    np.testing.assert_allclose(mean, [-20.0, 5.0], rtol=1e-6)
    np.testing.assert_allclose(deviation, [np.sqrt(200 / 3), 2.0], rtol=1e-5)
    expected = np.sqrt([1400 / 3, (9 + 49) / 2])
    np.testing.assert_allclose(moments.root_mean_square(), expected, rtol=1e-6)


def test_moments_of_steps_never_reached_are_finite():
    moments = control_variates.initial_moments(2)
    np.testing.assert_array_equal(moments.standardisation(), [[0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(moments.root_mean_square(), [1.0, 1.0])


def test_leave_one_out_is_the_mean_of_the_others_however_different_their_sizes():
    values = jnp.array([[1e8, 1.0], [3.0, 2.0], [5.0, 6.0]])
    # The sum less the sample itself would be off by several units where 1e8 takes part.
    expected = [[4.0, 4.0], [5e7 + 2.5, 3.5], [5e7 + 1.5, 1.5]]
    np.testing.assert_allclose(control_variates.leave_one_out(values), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="1 sample has no others"):
        control_variates.leave_one_out(values[:1])


def test_centring_by_hand():
    signal = jnp.array([[[10.0, 4.0]], [[20.0, 6.0]]])  # two samples, one example, two steps
    mask = jnp.array([[[1.0, 1.0]], [[1.0, 0.0]]])
    moments = Moments(jnp.array([0.5, 0.25]), jnp.array([4.0, 1.0]), jnp.array([50.0, 9.0]))

    def centre(centring, moments=moments):
        centred = control_variates.centre(signal, mask, centring=centring, moments=moments)
        return np.asarray(centred[:, 0])

    np.testing.assert_array_equal(centre("none"), [[10.0, 4.0], [20.0, 0.0]])
    np.testing.assert_array_equal(centre("moving_mean"), [[2.0, 0.0], [12.0, 0.0]])
    np.testing.assert_array_equal(centre("leave_one_out"), [[-10.0, -2.0], [10.0, 0.0]])
    # Nothing is known of a step that was never reached: it waits.
    waiting = moments._replace(weight=jnp.array([0.0, 0.25]))
    np.testing.assert_array_equal(centre("moving_mean", waiting), [[0.0, 0.0], [0.0, 0.0]])


def test_centring_refuses_unknown_names_and_signals_without_samples():
    moments = control_variates.initial_moments(2)
    with pytest.raises(ValueError, match=r"'mean'.*none, moving_mean, leave_one_out"):
        control_variates.centre(SIGNAL, MASK, centring="mean", moments=moments)
    with pytest.raises(AssertionError):
        control_variates.centre(SIGNAL, MASK, centring="leave_one_out", moments=moments)
