"""Evaluation by how much of a scene's objects is hidden."""

import json

import jax
import numpy as np
import pytest

from air_jax import evaluate, metrics
from air_jax.data.scenes import Scenes
from air_jax.inference import Objects

BOX = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float32)


def make_scenes(counts, hidden):
    counts, hidden = np.asarray(counts, np.int32), np.asarray(hidden, np.float32)
    present = np.arange(3) < counts[:, None]
    return Scenes(
        images=np.zeros((len(counts), 50, 50, 3), np.uint8),
        counts=counts,
        boxes=np.where(present[..., None], BOX, 0).astype(np.float32),
        labels=np.where(present, 0, -1).astype(np.int32),
        hidden=np.where(present, hidden[:, None], 0).astype(np.float32),
    )


def make_objects(counts):
    """A model that finds the first so many objects of every scene, exactly."""
    counts = np.asarray(counts, np.int32)
    n = len(counts)
    found = np.arange(3) < counts[:, None]
    return Objects(
        counts=counts,
        count_probs=np.eye(4)[counts],
        presence=found.astype(np.float32),
        boxes=np.where(found[..., None], BOX, 0).astype(np.float32),
        windows=np.zeros((n, 3, 4)),
        z_where=np.zeros((n, 3, 3)),
        z_what=np.zeros((n, 3, 2)),
        reconstructions=np.zeros((n, 50, 50, 3)),
        elbo_terms={"elbo": np.zeros(n)},
    )


def test_scenes_are_told_apart_by_their_most_hidden_object():
    # Ends belong to the lower share; scenes of fewer than two objects to none.
    counts = [0, 1, 2, 2, 2, 3, 3, 2, 3, 3]
    hidden = [0, 0, 0, 0, 0.01, 0.25, 0.26, 0.5, 0.51, 0.75]
    inferred = [3, 3, 2, 1, 2, 3, 2, 2, 1, 3]
    result = evaluate.by_overlap(make_objects(inferred), make_scenes(counts, hidden))
    assert list(result) == ["none", "up to 25 %", "25 to 50 %", "50 to 75 %"]
    assert [part["num_images"] for part in result.values()] == [2, 2, 2, 2]
    assert [part["count_accuracy"] for part in result.values()] == [0.5, 1, 0.5, 0.5]
    # Found of all: 3 of 4, 5 of 5, 4 of 5, 4 of 6, each of them exactly and with presence 1.
    shares = [3 / 4, 1, 4 / 5, 4 / 6]
    for name in ("share_matched", "average_precision_50"):
        np.testing.assert_allclose([part[name] for part in result.values()], shares)
    assert json.loads(json.dumps(result)) == result


def test_only_the_most_hidden_object_of_a_scene_counts():
    scenes = make_scenes([3], [0.0])
    scenes.hidden[0] = [0.1, 0.6, 0.3]
    assert list(evaluate.by_overlap(make_objects([3]), scenes)) == ["50 to 75 %"]


class _Model:
    """Stands in for `inference.Model`."""

    def __init__(self, counts):
        self._objects = make_objects(counts)

    def infer(self, images, *, key):
        return self._objects


@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_evaluation_and_its_summary_have_overlap_where_something_is_hidden(hidden):
    scenes = make_scenes([2, 3], [hidden, hidden])
    results = evaluate.evaluate(
        _Model([2, 2]), scenes, key=jax.random.key(0), iwae_images=0, iwae_samples=2
    )
    text = evaluate.summary({**results, "step": 10})
    assert ("by_overlap" in results) == ("hidden" in text) == (hidden > 0)
    if hidden:
        assert results["by_overlap"]["25 to 50 %"]["count_accuracy"] == 0.5
        assert "hidden 25 to 50 %: count accuracy 50.00%, AP at IoU 0.5 0.800 (2 images)" in text


def test_nothing_is_said_of_overlap_where_nothing_is_known_of_the_objects():
    scenes = make_scenes([2, 3], [0.4, 0.4])
    unknown = scenes._replace(
        counts=np.full(2, metrics.UNKNOWN_COUNT, np.int32),
        boxes=np.zeros((2, 0, 4), np.float32),
        hidden=np.zeros((2, 0), np.float32),
    )
    results = evaluate.evaluate(
        _Model([2, 2]), unknown, key=jax.random.key(0), iwae_images=0, iwae_samples=2
    )
    assert "by_overlap" not in results and results["count_accuracy"] is None
