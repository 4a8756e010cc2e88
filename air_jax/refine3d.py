"""What the likelihood makes better in a scene that AIR found through a renderer.

Neither is in the paper's text. Both take what the network says as a proposal, and keep what makes
the image likelier.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from air_jax.distributions import UnaryCode, wrap_angle
from air_jax.models.air3d import AIR3D, Given, apply
from air_jax.models.scene3d import Scene3D
from air_jax.models.trace import Trace


class Refinement(NamedTuple):
    """How much is done; by default nothing.

    Attributes:
      num_sweeps: times that every object is looked at again, see `sweep`.
      num_turns: yaws of each object that are rendered, see `turn`.
    """

    num_sweeps: int = 0
    num_turns: int = 1

    def check(self) -> None:
        """Raises ValueError if a number is out of range."""
        if self.num_sweeps < 0:
            raise ValueError(f"num_sweeps is {self.num_sweeps}; it must not be negative.")
        if self.num_turns < 1:
            raise ValueError(f"num_turns is {self.num_turns}; it must be at least 1.")


class Found(NamedTuple):
    """The objects of B scenes, each with what was said of it when it was found.

    Attributes:
      z_pres: 0/1, ones first, `[B, N]`.
      z_what: identities, int32 `[B, N]`.
      z_where: `(x, y, yaw)` on the table, `[B, N, 3]`.
      presence_logit: log-odds of one more object, `[B, N]`.
      what_log_probs: log q(z_what), `[B, N, K]`.
    """

    z_pres: jax.Array
    z_what: jax.Array
    z_where: jax.Array
    presence_logit: jax.Array
    what_log_probs: jax.Array


def find(
    air: AIR3D, params: Any, prior: UnaryCode, images: jax.Array, refinement: Refinement
) -> tuple[Found, jax.Array]:
    """Scenes at the posterior's mode, refined, and their cameras `[B, 2]`.

    Args:
      air: the inference network.
      params: its parameters.
      prior: p(z_pres).
      images: float32 `[B, H, W, 3]`.
      refinement: what is done.
    """
    trace = _look(air, params, images)
    found, cameras = _found(trace), trace.z_scene
    if air.scene.camera_is_known:
        cameras = jnp.broadcast_to(air.scene.prior_camera().loc, (len(images), 2))
    if refinement.num_sweeps:
        log_joint = trace.log_p_x[:, 0] + prior.log_prob(found.z_pres)
        found = sweep(air, params, prior, images, found, log_joint, refinement.num_sweeps)
    poses = found.z_where
    if refinement.num_turns > 1:
        poses = turn(air.scene, images, found, cameras, refinement.num_turns)
    return found._replace(z_where=poses.at[..., 2].set(wrap_angle(poses[..., 2]))), cameras


def sweep(
    air: AIR3D,
    params: Any,
    prior: UnaryCode,
    images: jax.Array,
    found: Found,
    log_joint: jax.Array,
    num_sweeps: int,
) -> Found:
    """Takes each object away in turn and lets the network say what is there in its place.

    The network's first steps are given the other objects, its last ones are its own: one object
    instead, none, or more. Of two objects alike the first step may put its own in between, and the
    later ones each where it belongs; given those, the network finds no other. What it says is kept
    where log p(x | z) + log p(z_pres) grows: coordinate ascent by the network's proposals.

    Args:
      air: the inference network.
      params: its parameters.
      prior: p(z_pres).
      images: float32 `[B, H, W, 3]`.
      found: to begin with.
      log_joint: log p(x | z) + log p(z_pres) of it, nats, `[B]`.
      num_sweeps: times that every object is taken away.
    """
    steps = jnp.arange(air.num_steps)

    def look_again(i, carry):
        found, log_joint = carry
        others_first = jnp.argsort(steps == i % air.num_steps, stable=True)
        others = jax.tree.map(lambda leaf: leaf[:, others_first], found)
        counts = others.z_pres[:, :-1].sum(-1)
        trace = _look(air, params, images, Given(counts, others.z_what, others.z_where))
        proposed = _where(steps < counts[:, None], others, _found(trace))
        log_proposed = trace.log_p_x[:, 0] + prior.log_prob(proposed.z_pres)
        better = log_proposed > log_joint
        return _where(better[:, None], proposed, found), jnp.maximum(log_proposed, log_joint)

    found, _ = jax.lax.fori_loop(0, num_sweeps * air.num_steps, look_again, (found, log_joint))
    return found


def turn(
    scene: Scene3D, images: jax.Array, found: Found, cameras: jax.Array, num_turns: int
) -> jax.Array:
    """Poses with the likeliest of some turns of each object, one after the other, `[B, N, 3]`.

    Evenly around, or within what its symmetry tells apart; what looks alike from all sides is not
    turned. Among them is the one that is given, so that no image becomes less likely.

    Args:
      scene: the scene model.
      images: float32 `[B, H, W, 3]`.
      found: what stands where.
      cameras: azimuth and elevation, radians, `[B, 2]`.
      num_turns: of each object.
    """
    folds = [model.fold for model in scene.view.catalogue]
    periods = jnp.array([2 * math.pi / fold if fold else 0.0 for fold in folds])
    shares = jnp.arange(num_turns) / num_turns

    def turn_one(i, poses):
        period = periods[found.z_what[:, i]]

        def likelihood(share):
            turned = poses.at[:, i, 2].add(share * period)
            canvas = scene.draw(found.z_what, found.z_pres, turned, cameras)
            return scene.log_likelihood(images, canvas)

        best = shares[jax.lax.map(likelihood, shares).argmax(0)]
        return poses.at[:, i, 2].add(best * period)

    return jax.lax.fori_loop(0, found.z_what.shape[1], turn_one, found.z_where)


def _look(air: AIR3D, params: Any, images: jax.Array, given: Given | None = None) -> Trace:
    """A pass at the posterior's mode."""
    return apply(air, params, images, air.mean_noise(len(images)), mode=True, given=given)


def _found(trace: Trace) -> Found:
    assert trace.what_log_probs is not None, "z_what is not categorical"
    return Found(
        trace.z_pres, trace.z_what, trace.z_where, trace.presence_logit, trace.what_log_probs
    )


def _where(condition: jax.Array, some: Found, others: Found) -> Found:
    """As `jnp.where`, with a condition `[B, N]` or `[B, 1]`."""

    def choose(one, other):
        return jnp.where(condition.reshape(*condition.shape, *[1] * (one.ndim - 2)), one, other)

    return jax.tree.map(choose, some, others)
