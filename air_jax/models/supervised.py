"""The network that AIR through a renderer is compared with: told what it is to find (Sec. 3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax.models import modules
from air_jax.models.scene3d import CAMERA_SIZE

ROTATIONS = ("raw", "folded")


class Labels(NamedTuple):
    """What the network is told of B images: N objects, in the order in which it is to name them.

    Attributes:
      presence: 1 for an object that is there, `[B, N]`.
      identities: int32 `[B, N]`; any for objects that are not there.
      seen: place to the right and away as the camera sees them, and yaw, `[B, N, 3]`.
      cameras: deviation of azimuth and elevation from the prior's mean, in its standard deviations,
        `[B, 2]`.
    """

    presence: jax.Array
    identities: jax.Array
    seen: jax.Array
    cameras: jax.Array


class Prediction(NamedTuple):
    """What the network says of B images.

    Attributes:
      presence_logits: log-odds that there is such an object, `[B, N]`.
      logits: of its identity, `[B, N, K]`.
      position: to the right and away, `[B, N, 2]`.
      rotation: "raw": the yaw, `[B, N, K, 1]`; "folded": sine and cosine of `fold` times the yaw,
        `[B, N, K, 2]`; for each identity.
      cameras: as in `Labels`.
    """

    presence_logits: jax.Array
    logits: jax.Array
    position: jax.Array
    rotation: jax.Array
    cameras: jax.Array


class Supervised(nn.Module):
    """Objects with their poses, and the camera, by the layers of `AIR3D`.

    Attributes:
      num_steps: N.
      num_identities: K.
      rotation: "raw", the angle itself, as the paper's network predicts it, or "folded", the
        direction modulo the object's symmetry, which an image does determine.
      hidden_size: width of the LSTM.
      embedding_size: width of the embedding of the image.
      predictor_hidden: hidden widths of what predicts.
      patch_size: of the embedding, see `modules.ImageProjection`.
      patch_features: of the embedding.
    """

    num_steps: int
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
        projected = modules.ImageProjection(
            self.hidden_size, self.embedding_size, 1 / 16, self.patch_size, self.patch_features
        )(images)
        cameras = modules.MLP(self.predictor_hidden, CAMERA_SIZE)(nn.relu(projected))
        cell = modules.LSTMCell(self.hidden_size)
        carry, states = cell.initial_carry(len(images)), []
        for _ in range(self.num_steps):
            carry = cell(carry, projected, [])
            states.append(carry[1])
        hidden = jnp.stack(states, axis=1)
        numbers = 1 if self.rotation == "raw" else 2
        rotation = modules.MLP(self.predictor_hidden, self.num_identities * numbers)(hidden)
        return Prediction(
            presence_logits=modules.MLP(self.predictor_hidden, 1)(hidden)[..., 0],
            logits=modules.MLP(self.predictor_hidden, self.num_identities)(hidden),
            position=modules.MLP(self.predictor_hidden, 2)(hidden),
            rotation=rotation.reshape(*hidden.shape[:2], self.num_identities, numbers),
            cameras=cameras,
        )


def loss(prediction: Prediction, labels: Labels, folds: jax.Array) -> jax.Array:
    """Cross-entropies of presence and identity, squared errors of pose and camera, `[B]`.

    Args:
      prediction: of B images.
      labels: of the same.
      folds: of every model, see `render.scene.Model`, `[K]`. One of which no turn can be told has
        none to learn.
    """
    entropy = -nn.log_sigmoid((2 * labels.presence - 1) * prediction.presence_logits)
    log_probs = nn.log_softmax(prediction.logits)
    identity = -_of_identity(log_probs[..., None], labels.identities)[..., 0]
    position = jnp.square(prediction.position - labels.seen[..., :2]).sum(-1)
    rotation = _of_identity(prediction.rotation, labels.identities)
    fold, yaw = folds[labels.identities], labels.seen[..., 2]
    target = yaw[..., None]
    if rotation.shape[-1] == 2:
        target = jnp.stack([jnp.sin(fold * yaw), jnp.cos(fold * yaw)], axis=-1)
    turned = jnp.where(fold > 0, jnp.square(rotation - target).sum(-1), 0.0)
    objects = entropy + labels.presence * (identity + position + turned)
    return objects.sum(-1) + jnp.square(prediction.cameras - labels.cameras).sum(-1)


def to_objects(
    prediction: Prediction, folds: jax.Array, identities: jax.Array | None = None
) -> Labels:
    """What is predicted, in the form of labels: presence at 0.5.

    Args:
      prediction: of B images.
      folds: of every model, `[K]`.
      identities: int32 `[B, N]` if they are known; the likeliest if None.
    """
    if identities is None:
        identities = prediction.logits.argmax(-1).astype(jnp.int32)
    rotation = _of_identity(prediction.rotation, identities)
    yaw = rotation[..., 0]
    if rotation.shape[-1] == 2:
        fold = jnp.maximum(folds[identities], 1)
        yaw = jnp.arctan2(rotation[..., 0], rotation[..., 1]) / fold
    return Labels(
        presence=(prediction.presence_logits >= 0).astype(jnp.float32),
        identities=identities,
        seen=jnp.concatenate([prediction.position, yaw[..., None]], axis=-1),
        cameras=prediction.cameras,
    )


def _of_identity(values: jax.Array, identities: jax.Array) -> jax.Array:
    """Of `[B, N, K, R]` what belongs to identities `[B, N]`: `[B, N, R]`."""
    return jnp.take_along_axis(values, identities[..., None, None], axis=2)[:, :, 0]
