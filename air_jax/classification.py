"""Classifiers of codes or pixels, trained on few labels or many, and chosen of a Latin hypercube.

What is compared is the inputs, so that all of them get the same: as many trials, the same draws of
hyper-parameters, the same steps, the same rule to stop. Networks follow the inputs: an MLP for
codes, a CNN for pixels. Of a code that is a list of objects half of the trials go to a network that
the objects share, so that the MLP has the fewer.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax.models.classifier import CNNClassifier, MLPClassifier, ObjectClassifier

# Widths and depths that a search draws from, by family.
SIZES = {
    "mlp": ((128, 256, 512), (2, 3)),
    "cnn": ((8, 16), (2, 3)),
}
_NETWORKS = {"mlp": MLPClassifier, "cnn": CNNClassifier}
_EVALUATED_AT_ONCE = 500
_LEAST_DEVIATION = 1e-6  # of a dimension that is more than rounding


class Inputs(NamedTuple):
    """What a classifier sees of three sets of images.

    Attributes:
      train: codes, float32 `[M, D]`, or images, uint8 `[M, H, W, C]`.
      validation: likewise.
      test: likewise.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Hyperparameters(NamedTuple):
    """One trial of a search.

    Attributes:
      learning_rate: of Adam.
      weight_decay: of AdamW, relative to the learning rate.
      dropout: share of hidden units.
      width: see the networks.
      depth: see the networks.
      unit_scale: whether every dimension of a code is scaled to a standard deviation of 1, or the
        code as a whole; of no meaning for pixels.
      variant: which of the inputs that are offered.
      per_object: whether the objects of a code share a network, see `ObjectClassifier`; of no
        meaning for pixels and for codes that are not made of objects.
    """

    learning_rate: float
    weight_decay: float
    dropout: float
    width: int
    depth: int
    unit_scale: bool
    variant: int
    per_object: bool


class Budget(NamedTuple):
    """What every classifier may spend.

    Attributes:
      trials: hyper-parameters tried.
      max_rounds: rounds at most, after each of which the validation set is classified.
      steps_per_round: training steps of a round.
      patience: rounds without a better validation accuracy after which training stops.
      batch_size: labelled images of a step, drawn with replacement.
    """

    trials: int = 8
    max_rounds: int = 100
    steps_per_round: int = 100
    patience: int = 10
    batch_size: int = 64


class Classified(NamedTuple):
    """A trained classifier's accuracies, in [0, 1], at its best round on the validation set.

    Attributes:
      validation: on the validation set, the greatest of all rounds.
      test: on the test set, after that round.
      best_round: the first that reached it, from 1.
    """

    validation: float
    test: float
    best_round: int


def draw_trials(
    family: str, num_trials: int, *, num_variants: int, seed: int
) -> list[Hyperparameters]:
    """Draws hyper-parameters; the same seed gives every family and input the same ranks in a range.

    A Latin hypercube (McKay et al., 1979): of few trials, too, some have large networks, some small
    ones, some low rates, some high ones. Objects share a network in half of those with either
    scale, rounded up.

    Args:
      family: of `SIZES`.
      num_trials: how many.
      num_variants: of the inputs.
      seed: of the draws.

    Raises:
      ValueError: if there is no such family or no trial.
    """
    if family not in SIZES:
        raise ValueError(f"family is {family!r}; valid names are {', '.join(map(repr, SIZES))}.")
    if num_trials < 1:
        raise ValueError(f"trials is {num_trials}; it must be at least 1.")
    widths, depths = SIZES[family]
    rng = np.random.default_rng(seed)
    # Each column has one rank in each of `num_trials` equal parts of [0, 1).
    parts = rng.permuted(np.tile(np.arange(num_trials), (7, 1)), axis=1).T
    ranks = (parts + rng.random(parts.shape)) / num_trials
    unit_scale = ranks[:, 5] < 0.5
    per_object = np.zeros(num_trials, bool)
    for alike in (unit_scale, ~unit_scale):
        per_object[rng.permutation(np.flatnonzero(alike))[::2]] = True

    def one(rank: np.ndarray, scale: bool, shared: bool) -> Hyperparameters:
        return Hyperparameters(
            learning_rate=float(3e-4 * 10 ** rank[0]),  # to 3e-3
            weight_decay=float(10 ** (-4 + 4 * rank[1])),  # 1e-4 to 1
            dropout=float(0.5 * rank[2]),
            width=widths[int(rank[3] * len(widths))],
            depth=depths[int(rank[4] * len(depths))],
            unit_scale=bool(scale),
            variant=int(rank[6] * num_variants),
            per_object=bool(shared),
        )

    return [one(*drawn) for drawn in zip(ranks, unit_scale, per_object, strict=True)]


def scale_codes(inputs: Inputs, *, unit_scale: bool, num_objects: int = 1) -> Inputs:
    """Centres and scales codes by the statistics of the training images, of which no label is used.

    Args:
      inputs: codes `[*, D]`; images are left as they are.
      unit_scale: whether each dimension gets a standard deviation of 1, or the root mean square of
        them all does. A dimension that never changes becomes 0.
      num_objects: that a code is made of and that are scaled alike.
    """
    if inputs.train.dtype == np.uint8:
        return inputs
    objects = inputs.train.reshape(len(inputs.train) * num_objects, -1)
    mean, deviation = objects.mean(0), objects.std(0)
    if unit_scale:
        scale = np.where(deviation > _LEAST_DEVIATION, deviation, 1.0)
    else:
        scale = np.maximum(np.sqrt(np.square(deviation).mean()), _LEAST_DEVIATION)

    def scaled(part: np.ndarray) -> np.ndarray:
        split = part.reshape(len(part), num_objects, -1)
        return ((split - mean) / scale).astype(np.float32).reshape(part.shape)

    return Inputs(*map(scaled, inputs))


def search(
    variants: Sequence[Inputs],
    labels: Inputs,
    trials: Sequence[Hyperparameters],
    *,
    family: str,
    num_classes: int,
    num_labels: int,
    budget: Budget,
    seed: int,
    num_objects: int | None = None,
) -> tuple[Hyperparameters, list[Classified]]:
    """Trains with each of the hyper-parameters and chooses by the validation set.

    Args:
      variants: of the inputs, of which each trial takes one.
      labels: classes of the same images, int32 `[M]` each.
      trials: hyper-parameters.
      family: of `SIZES`.
      num_classes: K.
      num_labels: size of the labelled set, see `fit`.
      budget: of each trial.
      seed: see `fit`.
      num_objects: see `fit`.

    Returns:
      The hyper-parameters with the greatest validation accuracy, the first of equals, and every
      trial's accuracies.
    """
    found = [
        fit(
            variants[trial.variant],
            labels,
            trial,
            family=family,
            num_classes=num_classes,
            num_labels=num_labels,
            budget=budget,
            seed=seed,
            num_objects=num_objects,
        )
        for trial in trials
    ]
    best = max(range(len(found)), key=lambda i: found[i].validation)
    return trials[best], found


def fit(
    inputs: Inputs,
    labels: Inputs,
    trial: Hyperparameters,
    *,
    family: str,
    num_classes: int,
    num_labels: int,
    budget: Budget,
    seed: int,
    num_objects: int | None = None,
) -> Classified:
    """Trains one classifier, stopped early by its validation accuracy.

    Args:
      inputs: codes or images.
      labels: classes, int32 `[M]` each.
      trial: hyper-parameters.
      family: of `SIZES`.
      num_classes: K.
      num_labels: how many training images have a label, at most all. The larger set of the same
        seed contains the smaller.
      budget: steps and patience; `trials` is of no meaning here.
      seed: of the labelled set, the initialisation, batches and dropout.
      num_objects: N objects that codes are made of, one after the other; None if they are not.

    Raises:
      ValueError: if there are fewer training images, or the inputs cannot be N objects.
    """
    if not 1 <= num_labels <= len(inputs.train):
        raise ValueError(
            f"a labelled set of {num_labels} is asked for; there are {len(inputs.train)} images."
        )
    if num_objects is not None and (family != "mlp" or inputs.train.shape[1] % num_objects):
        raise ValueError(
            f"inputs of shape {inputs.train.shape} for family {family!r} are no codes of "
            f"{num_objects} objects."
        )
    sizes = {"width": trial.width, "depth": trial.depth, "num_classes": num_classes}
    shared = num_objects if trial.per_object else None
    network: nn.Module = (
        _NETWORKS[family](**sizes)
        if shared is None
        else ObjectClassifier(num_objects=shared, **sizes)
    )
    scaled = scale_codes(inputs, unit_scale=trial.unit_scale, num_objects=shared or 1)
    key_init, key_steps = jax.random.split(jax.random.key(seed))
    params = _init(network, key_init, scaled.train[:1])
    rates = jnp.asarray([trial.learning_rate, trial.weight_decay, trial.dropout])
    state = _State(params, optax.adamw(0.0).init(params), jnp.zeros((), jnp.int32))
    chosen = np.random.default_rng(seed).permutation(len(scaled.train))[:num_labels]
    # All of the memory that the largest set takes, so that sizes share a compiled program.
    order = np.resize(chosen, len(scaled.train)).astype(np.int32)
    data = tuple(map(jnp.asarray, (scaled.train, labels.train, order)))

    best, best_params, best_round = -1.0, params, 0
    for number in range(1, budget.max_rounds + 1):
        state = _round(network, state, data, num_labels, rates, key_steps, family, budget)
        accuracy = _accuracy(network, state.params, scaled.validation, labels.validation)
        if accuracy > best:
            best, best_params, best_round = accuracy, state.params, number
        if number - best_round >= budget.patience:
            break
    test = _accuracy(network, best_params, scaled.test, labels.test)
    return Classified(best, test, best_round)


class _State(NamedTuple):
    params: Any
    opt_state: Any
    step: jax.Array


def _as_float(inputs: jax.Array) -> jax.Array:
    return inputs.astype(jnp.float32) / 255.0 if inputs.dtype == jnp.uint8 else inputs


@functools.partial(jax.jit, static_argnums=0)
def _init(network: nn.Module, key: chex.PRNGKey, inputs: jax.Array) -> Any:
    return network.init(key, _as_float(inputs))["params"]


def _round(network, state, data, num_labels, rates, key, family, budget):
    """`steps_per_round` steps."""
    # XLA compiles convolutions inside a loop for CPUs to something many times slower.
    steps_per_call = 1 if family == "cnn" else budget.steps_per_round
    for _ in range(budget.steps_per_round // steps_per_call):
        state = _steps(
            network, steps_per_call, budget.batch_size, state, data, num_labels, rates, key
        )
    return state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _steps(network, num_steps, batch_size, state, data, num_labels, rates, key):
    """Some training steps."""
    inputs, labels, order = data
    learning_rate, weight_decay, dropout = rates
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)

    def one_step(state):
        key_batch, key_dropout = jax.random.split(jax.random.fold_in(key, state.step))
        chosen = order[jax.random.randint(key_batch, (batch_size,), 0, num_labels)]

        def loss(params):
            logits = network.apply(
                {"params": params}, _as_float(inputs[chosen]), dropout=dropout, key=key_dropout
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        gradients = jax.grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return _State(optax.apply_updates(state.params, updates), opt_state, state.step + 1)

    if num_steps == 1:
        return one_step(state)
    return jax.lax.fori_loop(0, num_steps, lambda _, state: one_step(state), state)


@functools.partial(jax.jit, static_argnums=0)
def _num_right(network, params, inputs, labels):
    logits = network.apply({"params": params}, _as_float(inputs))
    return (logits.argmax(-1) == labels).sum()


def _accuracy(network: nn.Module, params: Any, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that a classifier gets right."""
    right = 0
    for start in range(0, len(inputs), _EVALUATED_AT_ONCE):
        part = slice(start, start + _EVALUATED_AT_ONCE)
        right += int(_num_right(network, params, inputs[part], labels[part]))
    return right / len(inputs)
