"""The figure that compares representations: means, deviations, and everything legible."""

import numpy as np
import pytest

from air_jax import figures_representation
from tests.pictures import assert_legible

SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000)
NAMES = ("AIR", "DRAW", "autoencoder", "CNN on pixels")
TASKS = ("sum of the two digits", "ascending from left to right?")


def curves(num_seeds):
    rng = np.random.default_rng(0)
    return {
        task: {
            name: np.sort(rng.random(len(SIZES))) + 0.01 * rng.random((num_seeds, 1))
            for name in NAMES
        }
        for task in TASKS
    }


def test_every_representation_has_its_mean_and_its_bars():
    values = curves(3)
    figure = figures_representation.label_curves(
        SIZES, values, chance={TASKS[0]: 0.1, TASKS[1]: 0.55}
    )
    assert [axes.get_title() for axes in figure.axes] == list(TASKS)
    for axes, task in zip(figure.axes, TASKS, strict=True):
        assert axes.get_xscale() == "log"
        for container, name in zip(axes.containers, NAMES, strict=True):
            line, _, (bars,) = container.lines
            np.testing.assert_allclose(line.get_ydata(), 100 * values[task][name].mean(0))
            np.testing.assert_allclose(line.get_xdata(), SIZES, rtol=0.05)
            low, high = np.array([bar[:, 1] for bar in bars.get_segments()]).T
            deviation = 100 * values[task][name].std(0, ddof=1)
            np.testing.assert_allclose(high - low, 2 * deviation, atol=1e-9)
    assert_legible(figure)


def test_one_seed_has_no_bars():
    chance = dict.fromkeys(TASKS, 0.5)
    figure = figures_representation.label_curves(SIZES, curves(1), chance=chance)
    assert all(not container.has_yerr for container in figure.axes[0].containers)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="AIR must have shape"):
        figures_representation.label_curves([100], curves(2), chance=dict.fromkeys(TASKS, 0.5))
    with pytest.raises(ValueError, match="tasks is empty"):
        figures_representation.label_curves([100], {}, chance={})
