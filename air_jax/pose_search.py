"""Direct optimisation of the likelihood, from scratch for every image (paper, Sec. 3.2)."""

import functools
import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from air_jax.models.scene3d import Scene3D


class Found(NamedTuple):
    """The best of where the starts are by then, for n images.

    Attributes:
      iterations: that every start has taken.
      seconds: that all images took together until then, without compilation.
      errors: squared error of the best one, summed over pixels and channels, `[n]`.
      identities: of it, int32 `[n]`.
      poses: `(x, y, yaw)` of it, `[n, 3]`.
    """

    iterations: int
    seconds: float
    errors: np.ndarray
    identities: np.ndarray
    poses: np.ndarray


def search(
    images: np.ndarray,
    *,
    scene: Scene3D,
    key: chex.PRNGKey,
    restarts: int,
    num_iterations: int,
    record_every: int,
    learning_rate: float = 0.1,
) -> list[Found]:
    """Descends from random poses of every identity, with Adam, through the renderer.

    The gradients are the scene model's (`scene.gradient`), the same that AIR learns by, and places
    are `reach * tanh(u)` here too, so that no object can leave the image. The rate falls along a
    cosine to zero at `num_iterations`: fewer of them would be another schedule, not an earlier
    entry of this one.

    Args:
      images: float32 `[n, H, W, 3]` in [0, 1], of one object each.
      scene: what renders.
      key: of the starts: positions from the prior, yaws uniform.
      restarts: starts of each identity.
      num_iterations: of each start.
      record_every: iterations between two entries of what is returned.
      learning_rate: of Adam, for u and for the yaw in radians; not tuned.

    Returns:
      What was found after every `record_every` iterations, ascending.

    Raises:
      ValueError: if `num_iterations` is no positive multiple of `record_every`, or `restarts` < 1.
    """
    if restarts < 1 or record_every < 1 or num_iterations < 1 or num_iterations % record_every:
        raise ValueError(
            f"restarts is {restarts}, num_iterations {num_iterations} and record_every "
            f"{record_every}: all must be positive, and the second a multiple of the third."
        )
    num_images, starts = len(images), scene.num_identities * restarts
    identities = jnp.tile(jnp.repeat(jnp.arange(scene.num_identities), restarts), num_images)
    key_place, key_yaw = jax.random.split(key)
    latent = scene.position_scale * jax.random.normal(key_place, (num_images * starts, 2))
    yaw = jax.random.uniform(key_yaw, (num_images * starts, 1), minval=-jnp.pi, maxval=jnp.pi)
    latents = jnp.concatenate([latent, yaw], axis=-1)
    targets = jnp.asarray(images)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_iterations))
    state = (latents, optimizer.init(latents))
    step = functools.partial(_descend, scene, optimizer, record_every, starts)
    compiled = jax.jit(step).lower(state, identities, targets).compile()
    found, began = [], time.monotonic()
    for done in range(record_every, num_iterations + 1, record_every):
        state, errors = jax.block_until_ready(compiled(state, identities, targets))
        errors = np.asarray(errors).reshape(num_images, starts)
        best = errors.argmin(-1) + starts * np.arange(num_images)
        found.append(
            Found(
                done,
                time.monotonic() - began,
                errors.min(-1),
                np.asarray(identities)[best],
                np.asarray(_poses(scene, state[0]))[best],
            )
        )
    return found


def _poses(scene, latents):
    """`(u, yaw)` to `(x, y, yaw)`, `[..., 3]`."""
    return jnp.concatenate([scene.place(latents[..., :2]), latents[..., 2:]], axis=-1)


def _descend(scene, optimizer, iterations, starts, state, identities, targets):
    """Some iterations of all starts, and the errors where they end."""
    targets = jnp.repeat(targets, starts, axis=0)
    camera = jnp.broadcast_to(scene.prior_camera().loc, (len(identities), 2))
    present = jnp.ones((len(identities), 1))

    def errors(latents):
        poses = _poses(scene, latents)
        drawn = scene.render(identities[:, None], present, poses[:, None], camera)
        return jnp.square(drawn - targets).sum((1, 2, 3))

    def iteration(_, state):
        latents, opt_state = state
        # Of the log-likelihood but for its scale, which Adam does not mind.
        gradient = jax.grad(lambda latents: errors(latents).sum())(latents)
        updates, opt_state = optimizer.update(gradient, opt_state, latents)
        return optax.apply_updates(latents, updates), opt_state

    state = jax.lax.fori_loop(0, iterations, iteration, state)
    return state, errors(state[0])
