"""The figure that compares estimators: every curve is there and can be read."""

import numpy as np
import pytest

from air_jax import figures_estimators
from air_jax.figures_estimators import Panel
from tests.pictures import assert_legible, render

NAMES = ["reinforce", "nvil, leave one out, K = 4", "vimco, K = 4", "enumerate"]


def panels(num):
    values = np.geomspace(1e4, 1e-2, 3)
    curves = {name: values * (i + 1) for i, name in enumerate(NAMES)}
    curves["enumerate"] = [5.0, 0.0, 0.0]
    return [
        Panel("training step", f"parameters:\nquantity {i}", [0, 300, 2_000], curves)
        for i in range(num)
    ]


def test_every_estimator_has_its_curve_and_all_can_be_read():
    figure = figures_estimators.variances(panels(6), num_columns=3)
    assert len(figure.axes) == 6
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == NAMES
        assert axes.get_yscale() == "log"
        np.testing.assert_allclose(axes.lines[1].get_ydata(), 2 * np.geomspace(1e4, 1e-2, 3))
        # What a logarithm does not have is left out.
        np.testing.assert_array_equal(axes.lines[3].get_ydata(), [5.0, np.nan, np.nan])
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "300", "2k"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == NAMES
    assert_legible(figure)


def test_estimators_are_told_apart_without_colour():
    lines = figures_estimators.variances(panels(1), num_columns=1).axes[0].lines
    assert len({line.get_marker() for line in lines}) == len(NAMES)


def test_a_single_tick_can_be_drawn():
    panel = Panel("steps", "variance", [3], {"nvil": [2.0]})
    assert render(figures_estimators.variances([panel], num_columns=1)).min() < 0.5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="4 panels do not fill rows of 3"):
        figures_estimators.variances(panels(4), num_columns=3)
    panel = Panel("steps", "variance", [1, 2], {"nvil": [2.0]})
    with pytest.raises(ValueError, match="nvil must have shape"):
        figures_estimators.variances([panel], num_columns=1)
