"""Classifiers of codes and of pixels, for the comparison of representations (paper, Sec. 3.1.2)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

_CNN_HIDDEN = 128


class MLPClassifier(nn.Module):
    """Logits from a code.

    Attributes:
      width: of each hidden layer.
      depth: number of hidden layers.
      num_classes: K.
    """

    width: int
    depth: int
    num_classes: int

    @nn.compact
    def __call__(
        self,
        codes: jax.Array,
        *,
        dropout: jax.Array | float = 0.0,
        key: chex.PRNGKey | None = None,
    ) -> jax.Array:
        """Classifies.

        Args:
          codes: `[B, D]`.
          dropout: share of hidden units left out, in [0, 1); may be traced.
          key: of the units that are left out; None to keep all.

        Returns:
          Logits `[B, K]`.
        """
        chex.assert_rank(codes, 2)
        hidden = codes
        for i in range(self.depth):
            hidden = _hidden_layer(hidden, self.width, dropout, key, i)
        return nn.Dense(self.num_classes)(hidden)


class ObjectClassifier(nn.Module):
    """Logits from a code of objects, each of which the same network sees (Zaheer et al., 2017).

    Hidden layers shared by the objects, their sum, one more hidden layer, so that there is one more
    than in an MLP of the same depth, and logits. The order of the objects has no meaning to it.

    Attributes:
      width: of each hidden layer.
      depth: number of shared hidden layers.
      num_classes: K.
      num_objects: N, which divides the length of a code.
    """

    width: int
    depth: int
    num_classes: int
    num_objects: int

    @nn.compact
    def __call__(
        self,
        codes: jax.Array,
        *,
        dropout: jax.Array | float = 0.0,
        key: chex.PRNGKey | None = None,
    ) -> jax.Array:
        """Classifies.

        Args:
          codes: those of N objects one after the other, `[B, N D]`.
          dropout: share of hidden units left out, in [0, 1); may be traced.
          key: of the units that are left out; None to keep all.

        Returns:
          Logits `[B, K]`.
        """
        chex.assert_rank(codes, 2)
        hidden = codes.reshape(codes.shape[0], self.num_objects, -1)
        for i in range(self.depth):
            hidden = _hidden_layer(hidden, self.width, dropout, key, i)
        hidden = _hidden_layer(hidden.sum(1), self.width, dropout, key, self.depth)
        return nn.Dense(self.num_classes)(hidden)


class CNNClassifier(nn.Module):
    """Logits from pixels: convolutions that halve the image, a hidden layer, logits.

    Attributes:
      width: channels of the first convolution; each further one has twice those of the one before.
      depth: number of convolutions.
      num_classes: K.
    """

    width: int
    depth: int
    num_classes: int

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        dropout: jax.Array | float = 0.0,
        key: chex.PRNGKey | None = None,
    ) -> jax.Array:
        """Classifies.

        Args:
          images: `[B, H, W, C]` in [0, 1].
          dropout: share of units left out before and after the hidden layer, in [0, 1); may be
            traced.
          key: of the units that are left out; None to keep all.

        Returns:
          Logits `[B, K]`.
        """
        chex.assert_rank(images, 4)
        maps = images
        for i in range(self.depth):
            side = 5 if i == 0 else 3
            maps = nn.relu(nn.Conv(2**i * self.width, (side, side), strides=2)(maps))
        before, after = (None, None) if key is None else jax.random.split(key)
        hidden = drop_units(maps.reshape(maps.shape[0], -1), dropout, before)
        hidden = drop_units(nn.relu(nn.Dense(_CNN_HIDDEN)(hidden)), dropout, after)
        return nn.Dense(self.num_classes)(hidden)


def _hidden_layer(inputs, width, dropout, key, number):
    """Units of which some are dropped; called by a compact method, whose parameters it adds to."""
    units = nn.relu(nn.Dense(width)(inputs))
    return drop_units(units, dropout, None if key is None else jax.random.fold_in(key, number))


def drop_units(units: jax.Array, rate: jax.Array | float, key: chex.PRNGKey | None) -> jax.Array:
    """Dropout (Srivastava et al., 2014) whose rate may be traced, unlike that of flax.

    Args:
      units: of any shape.
      rate: probability that one becomes 0, in [0, 1); the others are divided by 1 - rate.
      key: None to leave all as they are.
    """
    if key is None:
        return units
    kept = jax.random.bernoulli(key, 1.0 - rate, units.shape)
    return jnp.where(kept, units / (1.0 - rate), 0.0)
