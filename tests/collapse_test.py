"""Collapses are named where they are, and nowhere else."""

import re

import numpy as np
import pytest

from air_jax import collapse
from configs import base

TRUE = np.repeat([0, 1, 2], 100)


def except_for(inferred, num_images, count):
    """The same counts but for the last `num_images`."""
    inferred = np.array(inferred)
    inferred[len(inferred) - num_images :] = count
    return inferred


@pytest.mark.parametrize(
    ("inferred", "name"),
    [
        (np.zeros(300, int), "no_object"),
        (np.full(300, 3), "all_steps"),
        # The usual form: empty images are counted right, all others are given N.
        (np.repeat([0, 3, 3], 100), "all_steps"),
        (np.repeat([0, 1, 1], 100), "one_object"),
        (np.ones(300, int), "one_object"),
        (np.repeat([0, 1, 0, 1], [100, 100, 50, 50]), "one_object"),
        (TRUE, None),
        (np.repeat([0, 2, 2], 100), None),  # wrong, but none of these
        (np.repeat([0, 1, 3], 100), None),  # a spare object in full scenes only
        (np.random.default_rng(0).integers(0, 4, 300), None),
    ],
)
def test_a_collapse_is_named_for_what_it_is(inferred, name):
    assert collapse.diagnose(inferred, 3, TRUE) == name


@pytest.mark.parametrize(
    ("collapsed", "share_of", "other"),
    [
        (np.zeros(300, int), 200, 2),  # images with an object
        (np.repeat([0, 3, 3], 100), 200, 2),  # images that are not taken for empty
        (np.repeat([0, 1, 1], 100), 100, 2),  # images with two objects
    ],
)
def test_nearly_all_images_is_95_percent_of_those_that_a_collapse_gets_wrong(
    collapsed, share_of, other
):
    allowed = round(0.05 * share_of)
    assert collapse.diagnose(except_for(collapsed, allowed, other), 3, TRUE) is not None
    assert collapse.diagnose(except_for(collapsed, allowed + 1, other), 3, TRUE) is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_equal_counts_that_are_true_are_no_collapse(count):
    counts = np.full(100, count)
    assert collapse.diagnose(counts, 3, counts) is None
    # Nor are they with a tenth of the images counted wrong.
    assert collapse.diagnose(counts, 3, except_for(counts, 10, 2)) is None


def test_scenes_of_none_or_all_objects_are_no_collapse():
    true = np.repeat([0, 3], 100)
    assert collapse.diagnose(true, 3, true) is None
    # A false alarm in one empty image does not make it one.
    assert collapse.diagnose(np.append(true, 3), 3, np.append(true, 0)) is None
    assert collapse.diagnose(np.full(200, 3), 3, true) == "all_steps"


def test_more_objects_than_steps_are_no_collapse():
    assert collapse.diagnose(np.full(100, 3), 3, np.full(100, 5)) is None


def test_a_single_step_cannot_use_one_object_too_few():
    true = np.repeat([0, 1, 2], 100)
    assert collapse.diagnose(np.minimum(true, 1), 1, true) is None
    assert collapse.diagnose(np.ones(300, int), 1, true) == "all_steps"
    assert collapse.diagnose(np.ones(300, int), 1) is None


def test_images_of_unknown_count_are_left_out_where_others_are_known():
    inferred = np.append(np.zeros(100, int), TRUE)
    assert collapse.diagnose(inferred, 3, np.append(np.full(100, -1), TRUE)) is None
    true = np.repeat([-1, 3], 100)
    assert collapse.diagnose(np.full(200, 3), 3, true) is None
    inferred = np.append(TRUE, np.zeros(100, int))
    assert collapse.diagnose(inferred, 3, np.append(np.full(300, -1), np.ones(100))) == "no_object"


@pytest.mark.parametrize("true", [None, np.full(100, -1)])
def test_without_truth_counts_must_be_all_but_the_same(true):
    zeros, alls, mixed = np.zeros(100, int), np.full(100, 3), np.repeat([0, 3], 50)
    assert collapse.diagnose(except_for(zeros, 1, 2), 3, true) == "no_object"
    assert collapse.diagnose(except_for(zeros, 2, 2), 3, true) is None
    assert collapse.diagnose(except_for(alls, 1, 2), 3, true) == "all_steps"
    assert collapse.diagnose(except_for(alls, 2, 2), 3, true) is None
    assert collapse.diagnose(mixed, 3, true) == "all_steps"
    assert collapse.diagnose(np.ones(100, int), 3, true) is None


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        collapse.diagnose([0, 1], 3, [0, 1, 2])
    with pytest.raises(ValueError, match=r"0..4, but num_steps=3"):
        collapse.diagnose([0, 4], 3)
    assert collapse.diagnose([], 3) is None


def directions(name):
    """What the advice says about each config entry that it mentions."""
    text = collapse.advice(name, step=1000, num_steps=3, truth_known=True)
    return {
        "prior.start": re.search(r"prior\.start (larger|smaller)", text)[1],
        "inference.presence_logit": re.search(r"(\w+) inference\.presence_logit", text)[1],
    }


def test_the_advice_against_too_many_objects_is_the_opposite_of_that_against_too_few():
    fewer = {"prior.start": "smaller", "inference.presence_logit": "smaller"}
    more = {"prior.start": "larger", "inference.presence_logit": "larger"}
    assert directions("all_steps") == fewer
    assert directions("no_object") == directions("one_object") == more


@pytest.mark.parametrize("name", collapse.NAMES)
def test_advice_names_step_and_collapse_and_config_entries_that_exist(name):
    text = collapse.advice(name, step=12_000, num_steps=5, truth_known=True)
    assert text.startswith("step 12,000: ")
    assert name in text
    assert "may be right" not in text
    entries = re.findall(r"\b([a-z]+)\.([a-z_]+)\b", text)
    assert len(entries) >= 3
    for section, entry in entries:
        assert entry in base.get_config()[section]


def test_advice_without_truth_leaves_open_that_the_counts_are_right():
    text = collapse.advice("all_steps", step=1, num_steps=5, truth_known=False)
    assert "all 5 objects" in text
    assert "may be right" in text


def test_an_unknown_collapse_has_no_advice():
    with pytest.raises(ValueError, match="no_object, all_steps, one_object"):
        collapse.advice("other", step=1, num_steps=3, truth_known=True)


NOTHING, ALL = np.zeros(300, int), np.full(300, 3)


def watched(counts, *, true=TRUE, num_train_steps=100, first_step=50, every=10):
    """What is told at each of several validations."""
    watch, messages = collapse.Watch(3, num_train_steps), []
    for i, inferred in enumerate(counts):
        watch, message = watch.update(first_step + every * i, inferred, true)
        messages.append(message)
    return watch, messages


def test_a_collapse_is_told_once_after_two_validations_in_a_row():
    watch, messages = watched([NOTHING, TRUE, NOTHING, NOTHING, NOTHING])
    assert watch.collapse == "no_object"
    assert messages[:3] == [None] * 3
    assert messages[3] == collapse.advice("no_object", step=80, num_steps=3, truth_known=True)
    assert messages[4] is None


def test_two_different_collapses_in_turn_are_not_two_in_a_row():
    watch, messages = watched([NOTHING, ALL, NOTHING, ALL])
    assert watch.collapse is None
    assert messages == [None] * 4


def test_nothing_is_told_in_the_first_tenth_of_a_run():
    _, messages = watched([NOTHING] * 5, num_train_steps=1000, first_step=70)
    assert [message is None for message in messages] == [True, True, True, False, True]
    assert messages[3].startswith("step 100: ")


def test_recovery_is_told_after_two_validations_and_a_relapse_in_one_line():
    watch, messages = watched([NOTHING] * 2 + [TRUE, NOTHING] + [TRUE] * 3 + [NOTHING] * 3)
    told = {i: message for i, message in enumerate(messages) if message}
    assert list(told) == [1, 5, 8]
    assert told[5].startswith("step 100: recovered")
    assert told[8].startswith("step 130: again")
    assert len(told[8]) < len(told[1]) / 2
    assert watch.collapse == "no_object"


def test_a_run_that_was_never_collapsed_has_not_recovered():
    assert watched([TRUE] * 4)[1] == [None] * 4


def test_one_collapse_after_another_is_told_in_full():
    watch, messages = watched([NOTHING] * 2 + [ALL] * 2)
    assert watch.collapse == "all_steps"
    assert messages[3] == collapse.advice("all_steps", step=80, num_steps=3, truth_known=True)


def test_the_warning_of_a_watch_without_truth_is_the_softer_one():
    for true in (None, np.full(300, -1)):
        _, messages = watched([NOTHING] * 2, true=true)
        assert "may be right" in messages[1]
