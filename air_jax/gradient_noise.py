"""How much gradient estimates vary from draw to draw, without keeping the draws."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from air_jax.models.air import Noise
from air_jax.objectives import LossOutput

Gradient = Any


class Spread(NamedTuple):
    """Mean and spread of M pairs of draws; entries are vectors, of which a leaf may hold several.

    The two draws of a pair share their continuous noise and differ in their discrete noise; pairs
    are independent. All three are free of bias: the variance takes into account that the draws of a
    pair are correlated, and the squared norm that the mean itself varies.

    Attributes:
      squared_mean: squared norm of the mean gradient; below 0 where it is lost in the noise.
      variance: trace of the covariance of one draw.
      variance_discrete: the same with the continuous noise held, its mean over that noise: what
        choosing z_pres at random adds. Exactly 0 for a gradient that does not depend on z_pres.
      error_discrete: standard error of `variance_discrete`.
    """

    squared_mean: np.ndarray
    variance: np.ndarray
    variance_discrete: np.ndarray
    error_discrete: np.ndarray


Spreads = dict[str, Spread]


def measure(gradient: Callable[[int, int], Mapping[str, Gradient]], num_pairs: int) -> Spreads:
    """Draws gradients one after another and keeps running moments only (Welford, 1962).

    With g_1..g_2M the draws, S = sum ||g_t - mean||^2 and W = mean ||g_2m - g_2m-1||^2 / 2:
    variance_discrete = W, variance = (S - W) / (2M - 2), since E S = (2M - 2) variance + W, and
    squared_mean = ||mean||^2 - (2 variance - W) / 2M.

    Args:
      gradient: from the numbers of the continuous and of the discrete noise to named trees of
        leaves `[G, ...]`: G gradients side by side, for example one per group of images.
      num_pairs: M.

    Returns:
      The spread of each tree, float32 `[G]` each.

    Raises:
      ValueError: if there are fewer than two pairs.
    """
    if num_pairs < 2:
        raise ValueError(f"{num_pairs} pair of draws has no spread; at least 2 are needed.")
    now = gradient(0, 0)
    zeros = jax.tree.map(jnp.zeros_like, now)
    none = {name: _squared_norm(tree) for name, tree in zeros.items()}
    moments = _update(_Moments(zeros, zeros, none, none, none), now, 0)
    for t in range(1, 2 * num_pairs):
        moments = _update(moments, gradient(t // 2, t), t)
    spreads = {}
    for name, mean in moments.mean.items():
        squares, pairs, pairs_squared, norm = (
            np.asarray(values)
            for values in (
                moments.squares[name],
                moments.pairs[name],
                moments.pairs_squared[name],
                _squared_norm(mean),
            )
        )
        discrete = pairs / num_pairs
        variance = (squares - discrete) / (2 * num_pairs - 2)
        of_pairs = np.maximum(pairs_squared / num_pairs - np.square(discrete), 0.0)
        spreads[name] = Spread(
            squared_mean=norm - (2 * variance - discrete) / (2 * num_pairs),
            variance=variance,
            variance_discrete=discrete,
            error_discrete=np.sqrt(of_pairs / (num_pairs - 1)),
        )
    return spreads


class _Moments(NamedTuple):
    """Running moments: of all draws, `squares` about their mean, and of halved pair distances."""

    mean: Mapping[str, Gradient]
    previous: Mapping[str, Gradient]
    squares: dict[str, jax.Array]
    pairs: dict[str, jax.Array]
    pairs_squared: dict[str, jax.Array]


@jax.jit
def _update(moments: _Moments, now: Mapping[str, Gradient], t: jax.Array) -> _Moments:
    before = _subtract(now, moments.mean)
    mean = jax.tree.map(lambda m, d: m + d / (t + 1), moments.mean, before)
    after = _subtract(now, mean)
    second = t % 2  # of its pair
    distances = _subtract(now, moments.previous)
    half = {name: second * _squared_norm(tree) / 2 for name, tree in distances.items()}
    return _Moments(
        mean=mean,
        previous=now,
        squares={
            name: so_far + _inner(before[name], after[name])
            for name, so_far in moments.squares.items()
        },
        pairs={name: so_far + half[name] for name, so_far in moments.pairs.items()},
        pairs_squared={
            name: so_far + jnp.square(half[name]) for name, so_far in moments.pairs_squared.items()
        },
    )


def signal_to_noise(spread: Spread) -> np.ndarray:
    """||mean|| / sqrt(variance) of one draw, `[G]`.

    0 where the mean is lost in the noise; infinite where nothing varies, as for the presence logits
    of an image of which the network is certain that it is empty.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(spread.squared_mean, 0.0) / spread.variance)


def presence_and_parameters(
    surrogate: Callable[..., LossOutput],
    params: Mapping[str, Any],
    statistics: Any,
    step: jax.Array,
    images: jax.Array,
    noise: Noise,
) -> tuple[jax.Array, Any, Any]:
    """Gradients of one draw.

    Args:
      surrogate: see `estimators.create_surrogate`.
      params: `{"model": ...}`, and `"baseline"` for nvil.
      statistics: what the surrogate takes.
      step: training step, of which the prior is.
      images: `[B, H, W, C]`.
      noise: leaves `[(K,) B, ...]`.

    Returns:
      The gradient of each image's own loss with respect to its presence logits, `[B, N]` (to be
      exact: to shifts of them, which an image's samples share); that of the mean loss with respect
      to the network's parameters; and the statistics that the batch adds, `[B, ...]`.
    """

    def loss(shift, model):
        calls = itertools.count()

        def shift_logits(call, arguments, keywords, context):
            output = call(*arguments, **keywords)
            if context.module.name == "predict_pres" and context.method_name == "__call__":
                # The network predicts them step by step.
                output = output + shift[:, next(calls), None]
            return output

        with nn.intercept_methods(shift_logits):
            output = surrogate({**params, "model": model}, statistics, step, images, noise)
        return output.loss.mean(), output.statistics

    batch_size, num_steps = noise.pres.shape[-2:]
    differentiate = jax.grad(loss, argnums=(0, 1), has_aux=True)
    gradients, observed = differentiate(jnp.zeros((batch_size, num_steps)), params["model"])
    return batch_size * gradients[0], gradients[1], observed


def _subtract(one: Gradient, other: Gradient) -> Gradient:
    return jax.tree.map(jnp.subtract, one, other)


def _inner(one: Gradient, other: Gradient) -> jax.Array:
    chex.assert_trees_all_equal_shapes(one, other)
    products = jax.tree.map(lambda a, b: (a * b).reshape(len(a), -1).sum(-1), one, other)
    return jax.tree.reduce(jnp.add, products)


def _squared_norm(tree: Gradient) -> jax.Array:
    return _inner(tree, tree)
