"""The network that AIR through a renderer is compared with: told what it is to find (Sec. 3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax.models import modules

ROTATIONS = ("raw", "folded")


class Prediction(NamedTuple):
    """What the network says of one object.

    Attributes:
      logits: of its identity, `[B, K]`.
      position: `(x, y)`, `[B, 2]`.
      rotation: "raw": the yaw, `[B, K, 1]`; "folded": sine and cosine of `fold` times the yaw,
        `[B, K, 2]`; for each identity.
    """

    logits: jax.Array
    position: jax.Array
    rotation: jax.Array


class Supervised(nn.Module):
    """Identity and pose of a scene's only object, by the layers of `AIR3D` with one step.

    Attributes:
      num_identities: K.
      rotation: "raw", the angle itself, as the paper's network predicts it, or "folded", the
        direction modulo the object's symmetry, which an image does determine.
      hidden_size: width of the LSTM.
      embedding_size: width of the embedding of the image.
      predictor_hidden: hidden widths of what predicts.
      patch_size: of the embedding, see `modules.ImageProjection`.
      patch_features: of the embedding.
    """

    num_identities: int
    rotation: str
    hidden_size: int
    embedding_size: int
    predictor_hidden: Sequence[int]
    patch_size: int
    patch_features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> Prediction:
        """Predicts.

        Args:
          images: less the empty table, `[B, H, W, 3]`.

        Raises:
          ValueError: if there is no such `rotation`.
        """
        if self.rotation not in ROTATIONS:
            raise ValueError(
                f"rotation is {self.rotation!r}; valid names are {', '.join(map(repr, ROTATIONS))}."
            )
        chex.assert_rank(images, 4)
        projection = modules.ImageProjection(
            self.hidden_size, self.embedding_size, 1 / 16, self.patch_size, self.patch_features
        )
        cell = modules.LSTMCell(self.hidden_size)
        _, hidden = cell(cell.initial_carry(len(images)), projection(images), [])
        numbers = 1 if self.rotation == "raw" else 2
        rotation = modules.MLP(self.predictor_hidden, self.num_identities * numbers)(hidden)
        return Prediction(
            logits=modules.MLP(self.predictor_hidden, self.num_identities)(hidden),
            position=modules.MLP(self.predictor_hidden, 2)(hidden),
            rotation=rotation.reshape(-1, self.num_identities, numbers),
        )


def loss(
    prediction: Prediction, identities: jax.Array, poses: jax.Array, folds: jax.Array
) -> jax.Array:
    """Cross-entropy of the identity and squared errors of position and rotation, `[B]`.

    Args:
      prediction: of B images.
      identities: true ones, int32 `[B]`.
      poses: true `(x, y, yaw)`, `[B, 3]`.
      folds: of every model, see `render.scene.Model`, `[K]`. One of which no turn can be told has
        none to learn.
    """
    entropy = -jnp.take_along_axis(nn.log_softmax(prediction.logits), identities[:, None], 1)[:, 0]
    position = jnp.square(prediction.position - poses[:, :2]).sum(-1)
    rotation = jax.vmap(lambda row, i: row[i])(prediction.rotation, identities)
    fold, yaw = folds[identities], poses[:, 2]
    target = yaw[:, None]
    if rotation.shape[-1] == 2:
        target = jnp.stack([jnp.sin(fold * yaw), jnp.cos(fold * yaw)], axis=-1)
    turned = jnp.square(rotation - target).sum(-1)
    return entropy + position + jnp.where(fold > 0, turned, 0.0)


def to_scene(prediction: Prediction, folds: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The likeliest identity, int32 `[B]`, and its pose, `[B, 3]`.

    Args:
      prediction: of B images.
      folds: of every model, `[K]`.
    """
    identities = prediction.logits.argmax(-1).astype(jnp.int32)
    rotation = jax.vmap(lambda row, i: row[i])(prediction.rotation, identities)
    yaw = rotation[:, 0]
    if rotation.shape[-1] == 2:
        fold = jnp.maximum(folds[identities], 1)
        yaw = jnp.arctan2(rotation[:, 0], rotation[:, 1]) / fold
    return identities, jnp.concatenate([prediction.position, yaw[:, None]], axis=-1)
