"""Which scenes a report shows, from plain arrays."""

import numpy as np
import pytest

from air_jax import report_scenes
from air_jax.report_page import Case


def chosen(elbo, failed):
    def case(i):
        return Case(f"{i}", (), (), False)

    return report_scenes.choose(case, np.array(elbo), np.array(failed, bool), "Some failed")


def numbers(cases):
    return [int(case.title) for case in cases]


def test_failures_and_others_come_with_the_lowest_elbo_first_and_nan_before_all():
    elbo = [5.0, 3.0, np.nan, 1.0, 4.0, 2.0]
    looked = chosen(elbo, [1, 0, 1, 0, 1, 0])
    assert looked.summary == "6 test scenes"
    assert numbers(looked.examples) == [0, 1, 2, 3, 4, 5]
    assert numbers(looked.failures) == [2, 4, 0]
    assert numbers(looked.worst) == [3, 5, 1]
    assert looked.failures_summary == "Some failed; the lowest ELBO comes first."


def test_of_many_scenes_some_are_shown():
    looked = chosen(np.arange(100.0)[::-1], np.arange(100) < 60)
    assert numbers(looked.examples) == list(range(12))
    assert numbers(looked.failures) == list(range(59, 35, -1))
    assert numbers(looked.worst) == list(range(99, 90, -1))
    assert ", of which 24 are shown; the lowest" in looked.failures_summary


@pytest.mark.parametrize("number", [1, 3])
def test_without_failures_all_are_others(number):
    looked = chosen(np.zeros(number), np.zeros(number))
    assert looked.failures == ()
    assert numbers(looked.worst) == list(range(number))
    assert looked.failures_summary == "Some failed."
