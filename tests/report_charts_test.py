"""What a report draws over training."""

import math

import pytest

from air_jax import report_charts
from air_jax.report_charts import as_plotly, of_run, of_runs

SCALARS = [
    {"step": 10, "split": "train", "elbo": 1.0, "zebra": 7.0, "seconds": 3.0},
    {"step": 20, "split": "train", "elbo": math.nan, "zebra": 8.0, "seconds": 6.0},
    {
        **{"step": 20, "split": "validation", "elbo": 2.5, "count_accuracy": 0.5},
        **{"count_accuracy_n0": 1.0, "count_accuracy_n1": 0.25},
    },
    {"step": 20, "split": "test", "elbo": 99.0},
]


def points(curve):
    return curve.name, curve.steps, curve.values


def test_a_run_has_a_chart_for_each_quantity_the_known_first():
    charts = of_run(SCALARS)
    assert [chart.title for chart in charts] == ["ELBO", "Count accuracy", "zebra"]
    elbo, accuracy, zebra = charts
    assert [points(curve) for curve in elbo.curves] == [
        ("validation", [20], [2.5]),
        ("training", [10, 20], [1.0, None]),
    ]
    assert [points(curve) for curve in accuracy.curves] == [
        ("validation", [20], [0.5]),
        ("0 objects", [20], [1.0]),
        ("1 object", [20], [0.25]),
    ]
    assert [points(curve) for curve in zebra.curves] == [("training", [10, 20], [7.0, 8.0])]
    assert len({curve.colour for curve in accuracy.curves}) == 3


def test_of_several_runs_each_has_its_own_curve_and_validation_is_preferred():
    other = [{"step": 30, "split": "train", "elbo": 5.0}]
    elbo, *_ = of_runs([("one", SCALARS), ("two", other)])
    assert [points(curve) for curve in elbo.curves] == [
        ("one (validation)", [20], [2.5]),
        ("two (training)", [30], [5.0]),
    ]
    assert elbo.curves[0].colour != elbo.curves[1].colour


def test_nothing_logged_is_no_chart():
    assert of_run([]) == of_runs([("one", []), ("two", [])]) == []


def test_plotly_takes_the_charts_and_names_are_no_tags():
    figures = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")
    charts = of_runs([("<b>bold</b> & <script>", SCALARS)])
    for chart in charts:
        figures.Figure(as_plotly(chart))  # raises for what plotly does not know
    (trace,) = as_plotly(charts[0])["data"]
    assert trace["name"] == "&lt;b&gt;bold&lt;/b&gt; &amp; &lt;script&gt; (validation)"
    assert (trace["x"], trace["y"]) == ([20], [2.5])


def test_a_share_of_one_is_at_the_top_of_its_axis():
    chart = next(chart for chart in of_run(SCALARS) if chart.title == "Count accuracy")
    axis = as_plotly(chart)["layout"]["yaxis"]
    assert axis["range"] == [-0.02, 1.02]
    assert as_plotly(of_run(SCALARS)[0])["layout"]["yaxis"].keys() == axis.keys() - {
        *("range", "tickformat")
    }
    assert report_charts.CURVE_COLOURS[0] == chart.curves[0].colour
