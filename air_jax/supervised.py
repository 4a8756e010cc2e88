"""The supervised network as it is trained and used (paper, Sec. 3.2, figures 6c and 7)."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax import parallel, train, trained
from air_jax.data.tabletop import Scenes3D
from air_jax.models import supervised
from air_jax.models.scene3d import Scene3D
from air_jax.models.supervised import Labels, Supervised

ORDERS = ("arbitrary", "sorted", "slots")


class Predicted(NamedTuple):
    """What a network says of n images; NumPy arrays, of no meaning beyond an image's count.

    Attributes:
      counts: number of objects, int32 `[n]`.
      identities: place in the catalogue, int32 `[n, N]`.
      poses: `(x, y, yaw)`, `[n, N, 3]`.
      cameras: azimuth and elevation, radians, `[n, 2]`.
    """

    counts: np.ndarray
    identities: np.ndarray
    poses: np.ndarray
    cameras: np.ndarray


class SupervisedModel(NamedTuple):
    """A network with its parameters.

    Attributes:
      network: the network.
      scene: what renders its predictions.
      order: of the labels that it was trained with, see `create_labels`.
      params: its parameters.
    """

    network: Supervised
    scene: Scene3D
    order: str
    params: Any

    def predict(self, images: np.ndarray, *, batch_size: int = 256) -> Predicted:
        """Finds the scenes of a set of images.

        Args:
          images: `[n, H, W, 3]`; float in [0, 1] or uint8.
          batch_size: images at a time.

        Raises:
          ValueError: if the shape or the range of the images is another, or `batch_size` < 1.
        """
        images = trained.check_images(images, image_size=self.scene.image_size, channels=3)
        params = parallel.replicate(self.params)

        def one(batch: trained.Batch) -> dict[str, jax.Array]:
            return _predict(self.network, self.scene, self.order, params, batch.images)

        return Predicted(**trained.over_batches(one, images, batch_size))


def create_labels(scenes: Scenes3D, *, scene: Scene3D, order: str, num_steps: int) -> Labels:
    """True scenes as a network is told them, leaves `[M, N, ...]`.

    Args:
      scenes: images and what is in them.
      scene: the scene model, for the camera and the catalogue.
      order: "arbitrary", that of the scenes, which is none; "sorted", by place in the catalogue,
        then from left to right as the camera sees them; "slots", one slot for each model of the
        catalogue, which a scene must not hold twice.
      num_steps: N; that of "slots" is the size of the catalogue.

    Raises:
      ValueError: if there is no such order, or the scenes have objects that find no place.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; valid names are {', '.join(map(repr, ORDERS))}.")
    prior = scene.prior_camera()
    deviation = scenes.cameras - np.asarray(prior.loc)
    cameras = np.zeros_like(deviation)
    if not scene.camera_is_known:
        cameras = deviation / np.asarray(prior.scale_diag)
    cameras_of_objects = jnp.asarray(scenes.cameras)[:, None]
    seen = np.asarray(scene.from_world(jnp.asarray(scenes.poses), cameras_of_objects))
    present = scenes.identities >= 0
    if order == "slots":
        num_steps = scene.num_identities
        places = scenes.identities
    else:
        # Absent objects last, and in the order that is asked for.
        keys = [~present] if order == "arbitrary" else [seen[..., 0], scenes.identities, ~present]
        places = np.lexsort(keys, axis=-1).argsort(-1)
    rows = np.broadcast_to(np.arange(len(present))[:, None], present.shape)[present]
    columns = places[present]
    if len(columns) and columns.max() >= num_steps:
        raise ValueError(f"there are scenes of {columns.max() + 1} objects for {num_steps} steps.")
    presence = np.zeros((len(present), num_steps), np.float32)
    np.add.at(presence, (rows, columns), 1)
    if presence.max(initial=0) > 1:
        raise ValueError("order is 'slots', but there are scenes that hold a model twice.")
    identities = np.zeros(presence.shape, np.int32)
    poses = np.zeros((*presence.shape, 3), np.float32)
    identities[rows, columns] = scenes.identities[present]
    poses[rows, columns] = seen[present]
    return Labels(*map(jnp.asarray, (presence, identities, poses, cameras.astype(np.float32))))


def _folds(scene: Scene3D) -> jax.Array:
    return jnp.array([float(model.fold) for model in scene.view.catalogue])


@functools.partial(jax.jit, static_argnames=("network", "scene", "order"))
def _predict(network, scene, order, params, images):
    prediction = network.apply({"params": params}, images - scene.empty)
    slots = None
    if order == "slots":
        slots = jnp.broadcast_to(jnp.arange(scene.num_identities), prediction.presence_logits.shape)
    objects = supervised.to_objects(prediction, _folds(scene), slots)
    presence, identities = objects.presence, objects.identities
    if order == "slots":
        first = jnp.argsort(1 - presence, axis=-1)  # a stable sort
    else:
        presence = jnp.cumprod(presence, axis=-1)
        first = jnp.broadcast_to(jnp.arange(presence.shape[1]), presence.shape)
    prior = scene.prior_camera()
    cameras = jnp.broadcast_to(prior.loc, objects.cameras.shape)
    if not scene.camera_is_known:
        cameras = prior.loc + prior.scale_diag * objects.cameras
    poses = scene.to_world(objects.seen, cameras[:, None])
    return {
        "counts": presence.sum(-1).astype(jnp.int32),
        "identities": jnp.take_along_axis(identities, first, axis=1),
        "poses": jnp.take_along_axis(poses, first[..., None], axis=1),
        "cameras": cameras,
    }


def train_supervised(
    scenes: Scenes3D,
    *,
    scene: Scene3D,
    inference: Mapping[str, Any],
    rotation: str,
    key: chex.PRNGKey,
    num_steps: int,
    order: str = "arbitrary",
    batch_size: int = 64,
    learning_rate: float = 5e-4,
    final_fraction: float = 0.01,
    clip_norm: float = 1_000.0,
    steps_per_call: int = 50,
) -> SupervisedModel:
    """Trains on true counts, identities, poses and cameras, with Adam.

    Args:
      scenes: images and what is in them.
      scene: the scene model, for the empty table, the camera and the catalogue.
      inference: section of `AIR3D` in a config, of which the number of objects and the layers'
        sizes are taken.
      rotation: see `Supervised`.
      key: of the initialisation and of the batches, drawn with replacement.
      num_steps: training steps, a multiple of `steps_per_call`.
      order: of the labels, see `create_labels`.
      batch_size: images of a step.
      learning_rate: see `train.create_optimizer`, as the next two.
      final_fraction: likewise.
      clip_norm: likewise.
      steps_per_call: steps inside one compiled call.

    Raises:
      ValueError: as `create_labels`, if `num_steps` is no such multiple, or the loss is not finite
        at the end.
    """
    if num_steps % steps_per_call:
        raise ValueError(f"num_steps is {num_steps}, no multiple of {steps_per_call}.")
    labels = create_labels(scenes, scene=scene, order=order, num_steps=inference["num_steps"])
    sizes = ("hidden_size", "embedding_size", "predictor_hidden", "patch_size", "patch_features")
    layers = {name: inference[name] for name in sizes}
    layers["predictor_hidden"] = tuple(layers["predictor_hidden"])
    network = Supervised(labels.presence.shape[1], scene.num_identities, rotation, **layers)
    optimizer = train.create_optimizer(
        learning_rate=learning_rate,
        final_fraction=final_fraction,
        clip_norm=clip_norm,
        num_steps=num_steps,
    )
    key_init, key_steps = jax.random.split(key)
    one = jnp.zeros((1, scene.image_size, scene.image_size, 3))
    params = {"model": jax.jit(network.init)(key_init, one)["params"]}
    data = jnp.asarray(scenes.images), labels
    folds = _folds(scene)

    def one_step(data, carry, step):
        params, opt_state = carry
        places = jax.random.randint(
            jax.random.fold_in(key_steps, step), (batch_size,), 0, len(data[0])
        )
        images, of_images = jax.tree.map(lambda leaf: leaf[places], data)
        images = images.astype(jnp.float32) / 255 - scene.empty

        def loss(params):
            prediction = network.apply({"params": params["model"]}, images)
            return supervised.loss(prediction, of_images, folds).mean()

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
    return SupervisedModel(network, scene, order, jax.device_get(carry[0]["model"]))
