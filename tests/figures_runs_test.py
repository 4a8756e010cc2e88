"""Figures of several runs: every seed is there, failed ones by name, and all can be read."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb

from air_jax import figures_runs
from tests.pictures import SIZE, assert_legible, centred, render

STEPS = [100, 200, 300, 400]
NAN = np.nan
ACCURACIES = [
    [0.3, 0.96, 0.98, 0.99],
    [0.3, 0.33, 0.34, 0.34],
    [0.5, 0.9, 0.98, 0.98],
    [0.6, 0.7, NAN, NAN],
]


def curves_of(figure):
    (axes,) = figure.axes
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_failed_seeds_are_named_and_the_others_counted():
    figure = figures_runs.learning_curves(STEPS, ACCURACIES, seeds=[10, 11, 12, 13])
    assert legend_of(figure) == [
        "2 of 4 seeds at 98 % or more",
        "seed 11: 34.0 %",
        "seed 13: stopped at 70.0 %",
        "median of all: 84.0 %",
        "bar: 98 %",
    ]
    (axes,) = figure.axes
    assert axes.get_ylabel() == "count accuracy (%)"
    assert axes.get_xlabel() == "training step"
    assert_legible(figure)


def test_every_seed_is_drawn():
    figure = figures_runs.learning_curves(STEPS, ACCURACIES)
    drawn = [np.asarray(line.get_ydata()) for line in figure.axes[0].lines]
    for row in ACCURACIES:
        same = [np.array_equal(line, 100 * np.array(row), equal_nan=True) for line in drawn]
        assert sum(same) == 1


def test_the_median_is_of_all_seeds_those_that_stopped_at_their_last_value():
    curves = curves_of(figures_runs.learning_curves(STEPS, ACCURACIES))
    # Third step: 98, 34, 98 and still 70.
    np.testing.assert_allclose(curves["median of all: 84.0 %"], [40, 80, 84, 84])
    # One that was never measured counts as 0.
    never = figures_runs.learning_curves([1, 2], [[0.8, 0.8], [NAN, NAN]])
    np.testing.assert_allclose(curves_of(never)["median of all: 40.0 %"], [40, 40])
    assert "seed 1: stopped at 0.0 %" in legend_of(never)


def test_a_run_that_stopped_ends_in_a_cross():
    (axes,) = figures_runs.learning_curves(STEPS, ACCURACIES).axes
    crosses = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [[[200, 70]]]


def test_the_final_accuracies_decide_where_they_are_given():
    figure = figures_runs.learning_curves(STEPS, ACCURACIES, final=[0.979, 0.35, 0.98, NAN])
    assert legend_of(figure)[:4] == [
        "1 of 4 seeds at 98 % or more",
        "seed 0: 97.9 %",
        "seed 1: 35.0 %",
        "seed 3: stopped at 70.0 %",
    ]
    high = figures_runs.learning_curves(STEPS, ACCURACIES, bar=0.985)
    assert legend_of(high)[0] == "1 of 4 seeds at 98.5 % or more"
    assert "bar: 98.5 %" in legend_of(high)


def test_a_run_that_stopped_has_failed_however_good_it_was():
    figure = figures_runs.learning_curves([1, 2, 3], [[0.99, 0.99, NAN]])
    assert legend_of(figure)[0] == "seed 0: stopped at 99.0 %"


def test_failed_runs_are_told_apart_until_there_are_too_many():
    figure = figures_runs.learning_curves([1, 2], np.tile(np.linspace(0, 0.5, 11), (2, 1)).T)
    labels = legend_of(figure)
    assert labels[7].startswith("seed 7: ")
    assert labels[8:] == ["and 3 more failed", "median of all: 25.0 %", "bar: 98 %"]
    named = figure.axes[0].lines[:8]
    assert len({(line.get_color(), line.get_linestyle()) for line in named}) == 8
    assert len({line.get_color() for line in figure.axes[0].lines[8:11]}) == 1


@pytest.mark.parametrize(("num_seeds", "num_steps"), [(1, 1), (3, 2), (30, 2000)])
def test_learning_curves_are_legible(num_seeds, num_steps):
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(0, 1, (num_seeds, num_steps))
    assert_legible(figures_runs.learning_curves(100 * np.arange(num_steps), accuracies))


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"accuracies must have shape \(4, 3\)"):
        figures_runs.learning_curves([1, 2, 3], ACCURACIES)
    with pytest.raises(ValueError, match="seeds must have shape"):
        figures_runs.learning_curves(STEPS, ACCURACIES, seeds=[1])
    with pytest.raises(ValueError, match="final must have shape"):
        figures_runs.learning_curves(STEPS, ACCURACIES, final=[0.5])
    for empty in (np.zeros((0, 4)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="accuracies is empty"):
            figures_runs.learning_curves([1, 2, 3, 4], empty)


def test_scan_policies_have_a_row_for_each_seed_and_a_column_for_each_step():
    z_where = np.tile(centred(11, 35), (3, 40, 2, 1))
    z_where[1] = centred(41, 3)
    z_pres = np.ones((3, 40, 2))
    z_pres[2, :, 1] = 0
    figure = figures_runs.scan_policies(
        z_where, z_pres, SIZE, seeds=[3, 4, 5], accuracies=[0.984, 0.99, 0.334]
    )
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles == [
        f"seed {seed}: {accuracy} % counted right"
        for seed, accuracy in [(3, "98.4"), (4, "99.0"), (5, "33.4")]
    ]
    render(figure)
    panels = [part.axes[:2] for part in figure.subfigs]
    density = [row[0].findobj(QuadMesh)[0].get_array() for row in panels]
    # 25 bins of 2 pixels: rows are y, columns are x.
    assert [float(map_[17, 5]) for map_ in density] == [100, 0, 100]
    assert density[1][1, 20] == 100
    assert [text.get_text() for text in panels[2][1].texts] == ["never used"]
    tops = [row[0].get_window_extent().y1 for row in panels]
    assert tops == sorted(tops, reverse=True)
    for first, second in panels:
        a, b = first.get_window_extent(), second.get_window_extent()
        assert (a.x1 < b.x0, round(a.y0)) == (True, round(b.y0))
        assert a.width == pytest.approx(a.height)


@pytest.mark.parametrize(("num_runs", "num_steps"), [(1, 1), (3, 3)])
def test_scan_policies_are_legible(num_runs, num_steps):
    rng = np.random.default_rng(0)
    z_where = rng.normal((2.2, 0, 0), (0.2, 1, 1), (num_runs, 300, num_steps, 3))
    z_pres = np.arange(num_steps) < rng.integers(0, max(num_steps, 2), (num_runs, 300, 1))
    figure = figures_runs.scan_policies(
        z_where, z_pres, SIZE, seeds=range(num_runs), accuracies=np.full(num_runs, 0.5)
    )
    assert_legible(figure)


def test_scan_policies_that_do_not_fit_are_refused():
    z_where, z_pres = np.ones((2, 5, 3, 3)), np.ones((2, 5, 3))
    with pytest.raises(ValueError, match="z_pres must have shape"):
        figures_runs.scan_policies(z_where, z_pres, SIZE, seeds=[1], accuracies=[0.5])
    with pytest.raises(ValueError, match="z_where must have shape"):
        figures_runs.scan_policies(z_where[:1], z_pres, SIZE, seeds=[1, 2], accuracies=[0, 1])
    with pytest.raises(ValueError, match="accuracies must have shape"):
        figures_runs.scan_policies(z_where, z_pres, SIZE, seeds=[1, 2], accuracies=[0.5])
    with pytest.raises(ValueError, match="seeds is empty"):
        figures_runs.scan_policies(z_where[:0], z_pres[:0], SIZE, seeds=[], accuracies=[])


FEATURES = ["relative_position", "class", "size"]
FRACTIONS = [[0.9, 0.01, -0.02], [0.7, NAN, 0.0]]
NULL = [[0.02, 0.03, 0.04], [0.05, NAN, 0.06]]


def test_information_has_a_bar_for_each_feature_and_seed_and_the_null_across_it():
    figure = figures_runs.mutual_information(FEATURES, FRACTIONS, NULL, seeds=[3, 4])
    (axes,) = figure.axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights[0], [90, 1, -2])
    np.testing.assert_allclose(heights[1], [70, 0])
    middles = [[bar.get_x() + bar.get_width() / 2 for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(middles[0], [-0.2, 0.8, 1.8])
    np.testing.assert_allclose(middles[1], [0.2, 2.2])
    nulls = [lines.get_segments() for lines in axes.findobj(LineCollection)]
    np.testing.assert_allclose(
        nulls[0], [[[x - 0.2, y], [x + 0.2, y]] for x, y in [(-0.2, 2), (0.8, 3), (1.8, 4)]]
    )
    np.testing.assert_allclose([segment[0][1] for segment in nulls[1]], [5, 6])
    assert sorted(legend_of(figure)) == ["95 % of random orders", "seed 3", "seed 4"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [
        "relative\nposition",
        "class",
        "size",
    ]
    assert "%" in axes.get_ylabel()
    assert axes.get_ylim()[0] <= -2
    assert_legible(figure)


def test_a_feature_that_no_seed_has_is_said_not_to_be_measured():
    fractions = np.array(FRACTIONS)
    fractions[0, 1] = NAN
    figure = figures_runs.mutual_information(FEATURES, fractions, NULL, seeds=[3, 4])
    texts = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert texts == {"not measured": 1}
    figure = figures_runs.mutual_information(FEATURES, FRACTIONS, NULL, seeds=[3, 4])
    assert not figure.axes[0].texts


@pytest.mark.parametrize(("num_seeds", "num_features"), [(1, 1), (3, 6), (8, 6)])
def test_information_is_legible(num_seeds, num_features):
    names = ["position", "relative_position", "class", "class_pair", "size", "relative_size"]
    fractions = np.random.default_rng(0).uniform(0, 1, (num_seeds, num_features))
    fractions[:, -1] = NAN
    figure = figures_runs.mutual_information(
        names[:num_features], fractions, np.full(fractions.shape, 0.02), seeds=range(num_seeds)
    )
    assert_legible(figure)


def test_information_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"fractions must have shape \(1, 3\)"):
        figures_runs.mutual_information(FEATURES, FRACTIONS, NULL, seeds=[3])
    with pytest.raises(ValueError, match="null_95 must have shape"):
        figures_runs.mutual_information(FEATURES, FRACTIONS, NULL[:1], seeds=[3, 4])
    with pytest.raises(ValueError, match="seeds is empty"):
        figures_runs.mutual_information(FEATURES, np.zeros((0, 3)), np.zeros((0, 3)), seeds=[])


def test_the_colours_of_failed_runs_are_not_those_of_the_others():
    (axes,) = figures_runs.learning_curves(STEPS, ACCURACIES).axes
    colours = {line.get_label(): to_rgb(line.get_color()) for line in axes.lines}
    failed = [colour for label, colour in colours.items() if label.startswith("seed")]
    others = {colours["2 of 4 seeds at 98 % or more"], colours["median of all: 84.0 %"]}
    assert len(set(failed)) == 2
    assert not others & set(failed)


def test_curves_show_mean_and_deviation_of_the_seeds_that_have_them():
    values = np.array([[1.0, 2.0, np.nan], [3.0, 2.0, 5.0]])
    curve = figures_runs.Curve([100, 200, 300], values)
    nothing = figures_runs.Curve([100], np.full((2, 1), np.nan))
    panels = {"accuracy": {"a": curve, "b": nothing}, "ELBO": {"a": curve, "b": curve}}
    figure = figures_runs.mean_curves(panels)
    assert_legible(figure)
    accuracy, elbo = figure.axes
    (line,) = accuracy.lines
    np.testing.assert_array_equal(line.get_ydata(), [2.0, 2.0, 5.0])
    band = accuracy.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(5.0)
    assert band[:, 1].min() == pytest.approx(2 - np.sqrt(2))
    assert len(elbo.lines) == 2
    assert elbo.lines[1].get_color() != line.get_color()


def test_mean_curves_refuse_nothing_and_values_that_are_not_those_of_the_steps():
    with pytest.raises(ValueError, match="panels is empty"):
        figures_runs.mean_curves({})
    curve = figures_runs.Curve([100, 200], np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"values must have shape \(2, 2\)"):
        figures_runs.mean_curves({"ELBO": {"a": curve}})


def test_bars_stand_side_by_side_with_deviations_and_keep_their_colours():
    a, b = figures_runs.Bars([90.0, 80.0], [1.0, 2.0]), figures_runs.Bars([70.0, 60.0], [0.0, 0.0])
    figure = figures_runs.bars(
        ["none", "some"], {"accuracy": {"a": a, "b": b}, "AP": {"b": b}}, xlabel="hidden"
    )
    assert_legible(figure)
    accuracy, precision = figure.axes
    heights = [bar.get_height() for bar in accuracy.patches]
    assert heights == [90.0, 80.0, 70.0, 60.0]
    left, right = accuracy.patches[0], accuracy.patches[2]
    assert left.get_x() + left.get_width() == pytest.approx(right.get_x())
    assert precision.patches[0].get_facecolor() == right.get_facecolor() != left.get_facecolor()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_bars_refuse_nothing_and_other_numbers_than_groups():
    with pytest.raises(ValueError, match="panels is empty"):
        figures_runs.bars(["none"], {"AP": {}}, xlabel="hidden")
    for means, deviations, name in (([1.0], [0.0, 0.0], "means"), ([1.0] * 2, [0.0], "deviations")):
        panels = {"AP": {"a": figures_runs.Bars(means, deviations)}}
        with pytest.raises(ValueError, match=rf"{name} of a must have shape \(2,\)"):
            figures_runs.bars(["none", "some"], panels, xlabel="hidden")
