"""Statistics over seeds, with numbers worked out by hand."""

import json
import math

import pytest

from air_jax import reliability
from air_jax.reliability import SeedRun


def entries(*accuracies, every=100, seconds=10.0):
    return [
        {"step": every * i, "seconds": seconds * i, "count_accuracy": accuracy}
        for i, accuracy in enumerate(accuracies, start=1)
    ]


def evaluated(accuracy, elbo=600.0, **others):
    return {"count_accuracy": accuracy, "elbo": elbo, "iwae_100": elbo + 10, **others}


# Two good seeds, one collapsed and one that stopped at a loss that is not finite.
RUNS = {
    3: SeedRun(entries(0.5, 0.96, 0.97, 0.99, 0.99), evaluated(0.99, 620)),
    0: SeedRun(entries(0.96, 0.985, 0.99), evaluated(0.98, 610, average_precision_50=0.9)),
    1: SeedRun(entries(0.3, 0.34, 0.34), evaluated(0.34, 570, average_precision_50=0.3)),
    2: SeedRun(entries(0.4, 0.65, math.nan), None),
}


def test_a_seed_succeeds_at_the_bar_or_above_it_on_the_test_set():
    result = reliability.reliability(RUNS)
    assert (result["num_seeds"], result["num_succeeded"], result["share"]) == (4, 2, 0.5)
    # Wilson with z = 1.96: (0.5 + z^2 / 8 +- z sqrt(1 / 16 + z^2 / 64)) / (1 + z^2 / 4).
    assert result["interval"] == pytest.approx([0.1500, 0.8500], abs=1e-4)
    assert result["failed"] == [1, 2]
    assert result["unfinished"] == [2]
    assert reliability.reliability(RUNS, bar=0.981)["failed"] == [0, 1, 2]


def test_count_accuracy_is_over_all_seeds_those_that_stopped_with_their_last_validation():
    accuracy = reliability.reliability(RUNS)["count_accuracy"]
    # 0.98, 0.34, 0.65, 0.99: mean 0.74, squares of 0.24, 0.40, 0.09, 0.25 add to 0.2882.
    assert accuracy["mean"] == pytest.approx(0.74)
    assert accuracy["sd"] == pytest.approx(math.sqrt(0.2882 / 3))
    assert (accuracy["min"], accuracy["max"], accuracy["num"]) == (0.34, 0.99, 4)


@pytest.mark.parametrize("validation", [[], entries(math.nan), [{"step": 1, "seconds": 1.0}]])
def test_a_seed_that_left_no_accuracy_counts_as_0(validation):
    result = reliability.reliability({7: SeedRun(validation, None)})
    assert result["seeds"]["7"]["count_accuracy"] == 0
    assert result["failed"] == result["unfinished"] == [7]


def test_a_seed_that_stopped_has_failed_however_good_it_was():
    result = reliability.reliability({0: SeedRun(entries(0.99, 0.99), None)})
    assert result["num_succeeded"] == 0
    assert result["count_accuracy"]["mean"] == 0.99


def test_other_measures_are_over_the_seeds_that_have_them():
    result = reliability.reliability(RUNS)
    assert result["elbo"] == pytest.approx(
        {"mean": 600, "sd": math.sqrt(700), "min": 570, "max": 620, "num": 3}
    )
    assert result["iwae_100"]["mean"] == pytest.approx(610)
    assert result["average_precision_50"]["num"] == 2
    assert result["average_precision_50"]["mean"] == pytest.approx(0.6)
    nothing = {"mean": None, "sd": None, "min": None, "max": None, "num": 0}
    assert result["mean_iou"] == nothing


def test_one_seed_has_no_standard_deviation():
    result = reliability.reliability({0: RUNS[0]})
    assert result["count_accuracy"]["mean"] == 0.98
    assert result["count_accuracy"]["sd"] is None


@pytest.mark.parametrize(
    ("accuracies", "step"),
    [
        ([0.97, 0.98, 0.98, 0.99], 200),
        ([0.99, 0.5, 0.98, 0.99], 300),  # once does not count
        ([0.99, math.nan, 0.99, 0.97], None),
        ([0.5, 0.9, 0.99], None),  # not confirmed
        ([0.99], None),
        ([], None),
    ],
)
def test_time_is_to_the_first_of_two_validations_in_a_row(accuracies, step):
    found = reliability.time_to(entries(*accuracies), 0.98)
    assert found == (None if step is None else {"step": step, "seconds": step / 10})


def test_the_time_is_that_of_the_accuracy_that_is_asked_for():
    validation = [{**entry, "identity_accuracy": 0.9} for entry in entries(0.5, 0.5, 0.99)]
    assert reliability.time_to(validation, 0.9, metric="identity_accuracy")["step"] == 100
    assert reliability.time_to(validation, 0.9) is None


def test_an_entry_without_accuracy_counts_as_below():
    validation = [*entries(0.99), {"step": 150, "seconds": 15.0}, *entries(0.99, 0.99)[1:]]
    assert reliability.time_to(validation, 0.98) is None


def test_times_are_medians_and_ranges_over_the_seeds_that_got_there():
    runs = {**RUNS, 4: SeedRun(entries(0.99, 0.99, seconds=7), evaluated(0.99))}
    times = reliability.reliability(runs)["time_to"]
    # Seeds 0, 3 and 4: steps 100, 200 and 100 to 95 %; 200, 400 and 100 to 98 %.
    assert times["0.95"]["num"] == times["0.98"]["num"] == 3
    assert times["0.95"]["steps"] == {"median": 100, "min": 100, "max": 200}
    assert times["0.98"]["steps"] == {"median": 200, "min": 100, "max": 400}
    assert times["0.98"]["seconds"] == {"median": 20, "min": 7, "max": 40}
    never = {"median": None, "min": None, "max": None}
    times = reliability.reliability({1: RUNS[1]})["time_to"]
    assert times["0.95"] == {"num": 0, "steps": never, "seconds": never}


def test_each_seed_is_told_as_well():
    seeds = reliability.reliability(RUNS)["seeds"]
    assert list(seeds) == ["0", "1", "2", "3"]
    assert seeds["3"]["time_to"] == {
        "0.95": {"step": 200, "seconds": 20.0},
        "0.98": {"step": 400, "seconds": 40.0},
    }
    assert seeds["1"]["elbo"] == 570
    assert [seed["finished"] for seed in seeds.values()] == [True, True, False, True]


def test_the_result_is_json():
    result = reliability.reliability(RUNS)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_table_has_a_row_for_each_configuration():
    text = reliability.table(
        {
            "AIR": reliability.reliability(RUNS),
            "one|good": reliability.reliability({0: RUNS[0]}),
            "one bad": reliability.reliability({2: RUNS[2]}),
        }
    )
    header, rule, *rows = text.splitlines()
    assert set(rule) == set("|- ")
    columns = len(header.split(" | "))
    assert all(len(row.split(" | ")) == columns for row in (rule, *rows))
    assert "seeds at 98 % or more" in header
    assert rows[0] == (
        "| AIR | 2 of 4 | 15-85 | 74.00 ± 30.99 | 34.00-99.00 | 600.0 ± 26.5 | 610.0 ± 26.5 | "
        "0.600 ± 0.424 | 150 (100-200), 2 of 4 | 300 (200-400), 2 of 4 | 15 (10-20), 2 of 4 | "
        "30 (20-40), 2 of 4 |"
    )
    assert rows[1].startswith(r"| one\|good | 1 of 1 | 21-100 | 98.00 | 98.00-98.00 | 610.0 |")
    assert rows[1].endswith("| 0.900 | 100 | 200 | 10 | 20 |")
    assert rows[2].startswith("| one bad | 0 of 1 | 0-79 | 65.00 |")
    assert rows[2].endswith("| - | - | - | never | never | never | never |")


def test_beside_the_iwae_bound_stands_the_elbo_of_the_same_images():
    runs = {
        seed: SeedRun([], evaluated(0.99, 600, elbo_iwae_images=elbo))
        for seed, elbo in ((0, 605.0), (1, 608.0))
    }
    result = reliability.reliability(runs)
    assert "| 610.0 ± 0.0 (ELBO 606.5) |" in reliability.table({"a": result})
    del result["elbo_iwae_images"]  # of results that are older
    assert "| 610.0 ± 0.0 |" in reliability.table({"a": result})


def test_what_cannot_be_summarised_is_refused():
    with pytest.raises(ValueError, match="runs is empty"):
        reliability.reliability({})
    with pytest.raises(ValueError, match="seed 5 has no count accuracy"):
        reliability.reliability({5: SeedRun(entries(0.9), {"elbo": 1.0, "count_accuracy": None})})
    one, other = (reliability.reliability(RUNS, bar=bar) for bar in (0.98, 0.9))
    with pytest.raises(ValueError, match="one bar"):
        reliability.table({"one": one, "other": other})
    with pytest.raises(ValueError, match="at least one configuration"):
        reliability.table({})
