"""Training curves of fixed runs stay in the bands that `tests/learning_bands.py` measured."""

import json

import numpy as np
import pytest

from tests import learning_bands
from tests.learning_bands import RUNS

BANDS = json.loads(learning_bands.FILE.read_text("utf-8"))
SMALL = [name for name in RUNS if name.startswith("small_")]
WHOLE = [name for name in RUNS if not name.startswith("small_")]


def test_every_run_has_a_band_of_at_least_twenty_seeds_that_the_tests_do_not_train():
    assert BANDS.keys() == RUNS.keys()
    for name, band in BANDS.items():
        assert len(band["seeds"]) >= 20
        assert not set(band["seeds"]) & set(range(RUNS[name].num_seeds))


@pytest.mark.parametrize("name", RUNS)
def test_a_band_is_that_of_the_run_as_it_is_now(name):
    run, band = RUNS[name], BANDS[name]
    again = f"the run has changed since: {band['command']}"
    assert band["settings"] == run.settings(), again
    assert band["ends"] == list(run.ends), again


def test_a_band_is_left_where_its_rule_says():
    band = {
        "seeds": list(range(25)),
        "ends": [10, 30],
        "mean": {"elbo": [7.0, 1.0], "kl": [2.0, 0.0]},
        "deviation": {"elbo": [1.0, 0.1], "kl": [0.0, 0.0]},
    }

    def left(elbo, kl=2.0):
        curves = {"elbo": np.array([[7.0, elbo]] * 4), "kl": np.array([[kl, 0.0]] * 4)}
        return learning_bands.outside(band, curves)

    # Four curves and 25 seeds: 5 * 0.1 * sqrt(1/4 + 1/25) = 0.2693.
    for inside in (1.269, 0.731):
        assert left(inside) == []
    for outside in (1.270, 0.730, np.nan):
        (words,) = left(outside)
        assert words.startswith("elbo, steps 10 to 29")
    # A hundredth where seeds do not differ.
    assert left(1.0, kl=2.019) == []
    assert len(left(1.0, kl=2.021)) == 1
    assert "only the band has: kl" in learning_bands.outside(band, {"elbo": np.ones((4, 2))})[0]


def _check(name):
    curves = learning_bands.train_curves(RUNS[name], range(RUNS[name].num_seeds))
    left = learning_bands.outside(BANDS[name], curves)
    assert not left, (
        f"{name} learns otherwise than it did, {len(left)} points:\n  "
        + "\n  ".join(left[:20])
        + f"\nIf that is meant, measure anew: {BANDS[name]['command']}"
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_learns_as_it_did(name):
    _check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_shipped_config_begins_to_learn_as_it_did(name):
    _check(name)
