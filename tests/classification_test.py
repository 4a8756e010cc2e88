"""Classifiers learn from their labels and from no others; searches choose by validation alone."""

import numpy as np
import pytest

from air_jax import classification
from air_jax.classification import Budget, Classified, Hyperparameters, Inputs

BUDGET = Budget(trials=2, max_rounds=6, steps_per_round=20, patience=3, batch_size=16)
TRIAL = Hyperparameters(
    learning_rate=1e-2,
    weight_decay=1e-3,
    dropout=0.1,
    width=16,
    depth=1,
    unit_scale=True,
    variant=0,
    per_object=False,
)
MLP = {"family": "mlp", "num_classes": 3, "num_labels": 60, "budget": BUDGET, "seed": 0}


def three_sets(function, num=(120, 90, 90)):
    """Inputs of three sets of random numbers, of independent seeds."""
    return Inputs(*(function(np.random.default_rng(i), n) for i, n in enumerate(num)))


@pytest.fixture(scope="module")
def clusters():
    """Codes around three centres far apart, with a dimension that never changes; labels."""
    labels = three_sets(lambda rng, n: rng.integers(0, 3, n).astype(np.int32))
    noise = three_sets(lambda rng, n: rng.normal(size=(n, 4)))

    def code(noise, labels):
        centres = 6 * np.eye(4)[labels]
        return np.concatenate([noise + centres, np.ones((len(labels), 1))], 1).astype(np.float32)

    return Inputs(*map(code, noise, labels)), labels


def test_codes_that_tell_the_classes_apart_are_learned(clusters):
    found = classification.fit(*clusters, TRIAL, **MLP)
    assert found.validation > 0.95 and found.test > 0.95


def test_a_classifier_sees_only_the_labels_of_its_set(clusters):
    codes, labels = clusters
    chosen = np.random.default_rng(0).permutation(120)[:60]
    others = np.setdiff1d(np.arange(120), chosen)
    wrong = labels._replace(train=labels.train.copy())
    wrong.train[others] = 0
    few = classification.fit(codes, wrong, TRIAL, **MLP)
    assert few == classification.fit(codes, labels, TRIAL, **MLP)
    # And does see those.
    wrong.train[chosen] = 0
    assert classification.fit(codes, wrong, TRIAL, **MLP).test < 0.6


def test_pixels_are_classified_by_convolutions():
    labels = three_sets(lambda rng, n: rng.integers(0, 2, n).astype(np.int32), (64, 32, 32))

    def image(labels):
        images = np.zeros((len(labels), 12, 12, 1), np.uint8)
        images[labels == 1, 4:8, 2:10] = 255
        images[labels == 0, 2:10, 4:8] = 255
        return images

    trial = TRIAL._replace(width=2)
    options = {**MLP, "family": "cnn", "num_classes": 2}
    found = classification.fit(Inputs(*map(image, labels)), labels, trial, **options)
    assert found.test == 1.0


def test_training_stops_when_validation_gets_no_better(clusters, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.7, 0.9, 0.4])
    monkeypatch.setattr(classification, "_accuracy", lambda *_: next(accuracies))
    # Three rounds after the second, which was the best; what comes next is the test set's.
    assert classification.fit(*clusters, TRIAL, **MLP) == Classified(0.7, 0.9, 2)


def test_the_best_on_validation_is_chosen_and_the_test_set_has_no_say(monkeypatch):
    found = {1: Classified(0.5, 0.9, 1), 2: Classified(0.8, 0.1, 1), 3: Classified(0.8, 0.7, 1)}
    monkeypatch.setattr(
        classification, "fit", lambda inputs, labels, trial, **_: found[inputs * trial.width]
    )
    trials = [TRIAL._replace(width=width, variant=1) for width in found]
    best, measured = classification.search([0, 1], None, trials, **MLP)
    assert best == trials[1]
    assert measured == list(found.values())


def test_all_inputs_get_the_same_draws():
    codes = classification.draw_trials("mlp", 6, num_variants=3, seed=0)
    pixels = classification.draw_trials("cnn", 6, num_variants=1, seed=0)
    assert codes == classification.draw_trials("mlp", 6, num_variants=3, seed=0)
    assert codes != classification.draw_trials("mlp", 6, num_variants=3, seed=1)
    for name in ("learning_rate", "weight_decay", "dropout", "unit_scale", "per_object"):
        assert [getattr(one, name) for one in codes] == [getattr(one, name) for one in pixels]
    for family, trials in (("mlp", codes), ("cnn", pixels)):
        widths, depths = classification.SIZES[family]
        # Six trials suffice for every value of each.
        assert {one.width for one in trials} == set(widths)
        assert {one.depth for one in trials} == set(depths)
    assert {one.variant for one in pixels} == {0}
    assert sorted(one.variant for one in codes) == [0, 0, 1, 1, 2, 2]
    for unit_scale in (False, True):
        shared = [one.per_object for one in codes if one.unit_scale == unit_scale]
        assert sum(shared) == (len(shared) + 1) // 2
    sixths = sorted(int(12 * one.dropout) for one in codes)  # of 0 to 0.5
    assert sixths == [0, 1, 2, 3, 4, 5]
    rates = [one.learning_rate for one in codes]
    assert 3e-4 <= min(rates) < 4.5e-4 and 2e-3 < max(rates) <= 3e-3
    with pytest.raises(ValueError, match="valid names are 'mlp', 'cnn'"):
        classification.draw_trials("svm", 1, num_variants=1, seed=0)


@pytest.mark.parametrize("unit_scale", [True, False])
def test_codes_are_scaled_by_the_training_images(clusters, unit_scale):
    codes, _ = clusters
    scaled = classification.scale_codes(codes, unit_scale=unit_scale)
    np.testing.assert_allclose(scaled.train.mean(0), 0, atol=1e-5)
    deviations = scaled.train.std(0)
    if unit_scale:
        np.testing.assert_allclose(deviations, [1, 1, 1, 1, 0], atol=1e-5)
    else:
        assert np.sqrt(np.square(deviations).mean()) == pytest.approx(1, abs=1e-5)
    # A line is moved and stretched alike everywhere.
    ratio = (scaled.test[0, 0] - scaled.train[0, 0]) / (codes.test[0, 0] - codes.train[0, 0])
    assert ratio == pytest.approx(deviations[0] / codes.train[:, 0].std(), rel=1e-3)


@pytest.mark.parametrize("unit_scale", [True, False])
def test_objects_that_share_a_network_are_scaled_alike(clusters, unit_scale):
    codes, _ = clusters
    pairs = Inputs(*(np.concatenate([2 * part, part], 1) for part in codes))
    scaled = classification.scale_codes(pairs, unit_scale=unit_scale, num_objects=2)
    # As if each were a scene of its own.
    apart = Inputs(*(part.reshape(-1, 5) for part in pairs))
    expected = classification.scale_codes(apart, unit_scale=unit_scale)
    for found, wanted in zip(scaled, expected, strict=True):
        np.testing.assert_array_equal(found.reshape(-1, 5), wanted)


def test_what_is_learned_of_one_object_holds_for_the_other():
    def of_kinds(kinds):
        noise = np.random.default_rng(5).normal(0, 0.1, (len(kinds), 6))
        return ((2.0 * kinds - 1).repeat(3, axis=1) + noise).astype(np.float32)

    kinds = three_sets(lambda rng, n: rng.integers(0, 2, (n, 2)), (200, 200, 100))
    # Only the first object is ever of the second kind, and in the test scenes only the second is.
    kinds.train[:, 1] = kinds.validation[:, 1] = kinds.test[:, 0] = 0
    codes = Inputs(*map(of_kinds, kinds))
    sums = Inputs(*(part.sum(1).astype(np.int32) for part in kinds))
    options = {**MLP, "num_labels": 200, "num_objects": 2}
    shared = TRIAL._replace(per_object=True)
    assert classification.fit(codes, sums, shared, **options).test == 1.0
    apart = shared._replace(per_object=False)
    assert classification.fit(codes, sums, apart, **options).test < 0.8
    # Of a code that is not made of objects there is nothing to share.
    options["num_objects"] = None
    found = [classification.fit(codes, sums, trial, **options) for trial in (shared, apart)]
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"\(200, 6\) for family 'mlp' are no codes of 4 objects"):
        classification.fit(codes, sums, shared, **{**options, "num_objects": 4})


def test_more_labels_than_there_are_images_are_refused(clusters):
    with pytest.raises(ValueError, match="labelled set of 121 is asked for; there are 120"):
        classification.fit(*clusters, TRIAL, **{**MLP, "num_labels": 121})
