"""The experiment on gradient estimators, in miniature."""

import csv
import json
import math

import pytest

from air_jax.experiments import estimators, estimators_report
from tests.loop_test import tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished experiment with its smoke plan."""
    workdir = tmp_path_factory.mktemp("estimators")
    return workdir, estimators.run(tiny_config(**{"train__num_steps": 40}), str(workdir), PLAN)


PLAN = estimators.SMOKE


def test_it_measures_every_estimator_at_every_stage_count_and_number_of_steps(finished):
    workdir, results = finished
    rows = results["measurements"]
    measured = {
        (row["label"], row["stage"], row["num_steps"], row["objects"], row["with_respect_to"])
        for row in rows
    }
    expected = {
        (contender.label, stage, num_steps, objects, name)
        for contender in PLAN.contenders
        for stage, num_steps in [("initialisation", 2), ("early", 2), ("late", 2), ("early", 1)]
        for objects in (0, 1, "all")
        for name in ("presence logits", "parameters")
    }
    assert measured == expected
    assert len(rows) == len(expected)
    for row in rows:
        assert all(math.isfinite(x) for x in row.values() if isinstance(x, float)), row
        assert row["variance_times_samples"] == row["num_samples"] * row["variance"]
    assert json.loads((workdir / "estimators.json").read_text())["measurements"] == rows
    with open(workdir / "estimators.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert (workdir / "estimators.png").stat().st_size > 1000


def test_choosing_z_pres_adds_nothing_to_enumerate_and_something_to_the_others(finished):
    _, results = finished
    for row in results["measurements"]:
        assert (row["variance_discrete"] == 0) == (row["estimator"] == "enumerate"), row
        assert row["variance"] > 0


def test_stages_differ_and_the_table_has_a_line_for_each(finished):
    workdir, results = finished
    rows = results["measurements"]
    chosen = [
        row["variance"]
        for row in rows
        if row["estimator"] == "enumerate" and row["objects"] == "all" and row["num_steps"] == 2
    ]
    assert len(set(chosen)) == len(chosen) == 6
    table = estimators_report.table(results)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert [line[:2] for line in lines[2:]] == [
        [gradient, contender.label]
        for gradient in ("presence logits", "parameters")
        for contender in PLAN.contenders
    ]
    for column in ("SNR, step 0", "variance, step 20", "of z_pres, step 40"):
        assert column in lines[0]
    (row,) = [
        row
        for row in rows
        if (row["label"], row["stage"]) == ("nvil, leave one out, K = 2", "late")
        and (row["with_respect_to"], row["objects"]) == ("parameters", "all")
    ]
    cells = dict(zip(lines[0], lines[4], strict=True))
    assert float(cells["variance, step 40"].replace(",", "")) == pytest.approx(
        2 * row["variance"], rel=0.005
    )
    assert float(cells["SNR, step 40"]) == pytest.approx(row["snr"] / math.sqrt(2), rel=0.005)
    assert (workdir / "table.md").read_text() == table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0, "0"), (1_790_123.0, "1,790,000"), (41.96, "42.0"), (0.00123456, "0.00123")),
        *((9.996, "10.0"), (-2.5, "-2.50"), (math.inf, "-"), (math.nan, "-")),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert estimators_report._number(value) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"early": 15}, r"early is 15; .*multiple of train.steps_per_call, 10"),
        ({"late": 50}, r"late 50; .*up|late 50; they must ascend .* 40"),
        ({"num_draws": 7}, "draws is 7; it must be even and at least 4"),
        ({"images_per_count": 0}, "images is 0"),
        ({"images_per_count": 10}, r"there are \d+ images with 0 objects and 130 are needed"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        estimators.run(tiny_config(), str(tmp_path), PLAN._replace(**change))


def test_labels_name_what_is_not_the_estimators_own():
    labels = [contender.label for contender in estimators.Plan().contenders]
    assert labels == [
        "reinforce",
        "reinforce, moving mean",
        "reinforce, leave one out, K = 4",
        "nvil",
        "nvil, leave one out, K = 4",
        "vimco, K = 4",
        "enumerate",
    ]
