"""The supervised network as it is trained and used (paper, Sec. 3.2, figure 6c)."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax import train, trained
from air_jax.data.tabletop import Scenes3D
from air_jax.models import supervised
from air_jax.models.scene3d import Scene3D
from air_jax.models.supervised import Supervised


class SupervisedModel(NamedTuple):
    """A network with its parameters.

    Attributes:
      network: the network.
      scene: what renders its predictions.
      params: its parameters.
    """

    network: Supervised
    scene: Scene3D
    params: Any

    def predict(
        self, images: np.ndarray, *, batch_size: int = 256
    ) -> tuple[np.ndarray, np.ndarray]:
        """Identities, int32 `[n]`, and poses `(x, y, yaw)`, `[n, 3]`, of a set of images.

        Args:
          images: `[n, H, W, 3]`; float in [0, 1] or uint8.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = trained.check_images(images, image_size=self.scene.image_size, channels=3)
        identities, poses = [], []
        for start, stop, batch in trained.batches(images, batch_size):
            found = jax.device_get(_predict(self.network, self.scene, self.params, batch))
            identities.append(found[0][: stop - start])
            poses.append(found[1][: stop - start])
        return np.concatenate(identities), np.concatenate(poses)


def _folds(scene: Scene3D) -> jax.Array:
    return jnp.array([float(model.fold) for model in scene.view.catalogue])


@functools.partial(jax.jit, static_argnames=("network", "scene"))
def _predict(network, scene, params, images):
    prediction = network.apply({"params": params}, images - scene.empty)
    return supervised.to_scene(prediction, _folds(scene))


def train_supervised(
    scenes: Scenes3D,
    *,
    scene: Scene3D,
    inference: Mapping[str, Any],
    rotation: str,
    key: chex.PRNGKey,
    num_steps: int,
    batch_size: int = 64,
    learning_rate: float = 5e-4,
    final_fraction: float = 0.01,
    clip_norm: float = 1_000.0,
    steps_per_call: int = 50,
) -> SupervisedModel:
    """Trains on true identities and poses of scenes with one object, with Adam.

    Args:
      scenes: images and what is in them.
      scene: the scene model, for the empty table and the catalogue.
      inference: section of `AIR3D` in a config, of which the layers' sizes are taken.
      rotation: see `Supervised`.
      key: of the initialisation and of the batches, drawn with replacement.
      num_steps: training steps, a multiple of `steps_per_call`.
      batch_size: images of a step.
      learning_rate: see `train.create_optimizer`, as the next two.
      final_fraction: likewise.
      clip_norm: likewise.
      steps_per_call: steps inside one compiled call.

    Raises:
      ValueError: if a scene has not exactly one object, `num_steps` is no such multiple, or the
        loss is not finite at the end.
    """
    if not (scenes.counts == 1).all():
        raise ValueError("the supervised network takes scenes of exactly one object.")
    if num_steps % steps_per_call:
        raise ValueError(f"num_steps is {num_steps}, no multiple of {steps_per_call}.")
    sizes = ("hidden_size", "embedding_size", "predictor_hidden", "patch_size", "patch_features")
    layers = {name: inference[name] for name in sizes}
    layers["predictor_hidden"] = tuple(layers["predictor_hidden"])
    network = Supervised(scene.num_identities, rotation, **layers)
    optimizer = train.create_optimizer(
        learning_rate=learning_rate,
        final_fraction=final_fraction,
        clip_norm=clip_norm,
        num_steps=num_steps,
    )
    key_init, key_steps = jax.random.split(key)
    one = jnp.zeros((1, scene.image_size, scene.image_size, 3))
    params = {"model": jax.jit(network.init)(key_init, one)["params"]}
    data = jnp.asarray(scenes.images), scenes.identities[:, 0], scenes.poses[:, 0]
    folds = _folds(scene)

    def one_step(data, carry, step):
        params, opt_state = carry
        places = jax.random.randint(
            jax.random.fold_in(key_steps, step), (batch_size,), 0, len(data[0])
        )
        images, identities, poses = (jnp.asarray(part)[places] for part in data)
        images = images.astype(jnp.float32) / 255 - scene.empty

        def loss(params):
            prediction = network.apply({"params": params["model"]}, images)
            return supervised.loss(prediction, identities, poses, folds).mean()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    @jax.jit
    def steps(carry, data, first):
        step = functools.partial(one_step, data)
        return jax.lax.scan(step, carry, first + jnp.arange(steps_per_call))

    carry, values = (params, optimizer.init(params)), jnp.zeros((1,))
    for first in range(0, num_steps, steps_per_call):
        carry, values = steps(carry, data, first)
    if not np.isfinite(values).all():
        raise ValueError(f"the loss is not finite after {num_steps} steps; lower learning_rate.")
    return SupervisedModel(network, scene, jax.device_get(carry[0]["model"]))
