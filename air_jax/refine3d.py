"""What the likelihood makes better in a scene that AIR found through a renderer: sweeps and turns.

The paper has neither. Both propose other scenes, one by the network itself and one by trying yaws,
and keep what makes the image likelier.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from air_jax.distributions import UnaryCode, wrap_angle
from air_jax.models.air3d import AIR3D, Given, apply
from air_jax.models.scene3d import Scene3D
from air_jax.models.trace import Trace

_MARGIN = 0.01  # nats by which a scene has to be likelier: more than rounding makes of the same one


@dataclasses.dataclass(frozen=True)
class Refinement:
    """How much is done; by default nothing.

    Attributes:
      num_sweeps: times that every object is looked at again, see `sweep`.
      num_turns: yaws of each object that are rendered, see `turn`.
    """

    num_sweeps: int = 0
    num_turns: int = 1

    def __post_init__(self):
        if self.num_sweeps < 0:
            raise ValueError(f"num_sweeps is {self.num_sweeps}; it must be at least 0.")
        if self.num_turns < 1:
            raise ValueError(f"num_turns is {self.num_turns}; it must be at least 1.")


class FoundScenes(NamedTuple):
    """The objects of B scenes, each with what was said of it when it was found.

    What lies beyond a scene's objects is what the network would have found next.

    Attributes:
      z_pres: 0/1, ones first, `[B, N]`.
      z_what: identities, int32 `[B, N]`.
      z_where: `(x, y, yaw)` on the table, units of length and radians, `[B, N, 3]`.
      presence_logit: log-odds of one more object, `[B, N]`.
      what_log_probs: log q(z_what), nats, `[B, N, K]`.
    """

    z_pres: jax.Array
    z_what: jax.Array
    z_where: jax.Array
    presence_logit: jax.Array
    what_log_probs: jax.Array


def find(
    images: jax.Array, *, air: AIR3D, params: Any, prior: UnaryCode, refinement: Refinement
) -> tuple[FoundScenes, jax.Array]:
    """Scenes at the posterior's mode, refined.

    Args:
      images: float32 `[B, H, W, 3]`.
      air: the inference network.
      params: its parameters.
      prior: p(z_pres).
      refinement: what is done.

    Returns:
      The scenes, yaws in [-pi, pi), and their cameras: azimuth and elevation, radians, `[B, 2]`.
    """
    trace = _pass(images, air, params)
    found, cameras = _of_trace(trace), trace.z_scene
    if air.scene.camera_is_known:
        cameras = jnp.broadcast_to(air.scene.prior_camera().loc, (len(images), 2))
    assert cameras is not None, "the trace is not of a renderer's scene"
    if refinement.num_sweeps:
        found = sweep(
            images,
            found,
            _log_joint(trace, found, prior),
            air=air,
            params=params,
            prior=prior,
            num_sweeps=refinement.num_sweeps,
        )
    if refinement.num_turns > 1:
        poses = turn(images, found, cameras, scene=air.scene, num_turns=refinement.num_turns)
        found = found._replace(z_where=poses)
    yaws = wrap_angle(found.z_where[..., 2])
    return found._replace(z_where=found.z_where.at[..., 2].set(yaws)), cameras


def sweep(
    images: jax.Array,
    found: FoundScenes,
    log_joint: jax.Array,
    *,
    air: AIR3D,
    params: Any,
    prior: UnaryCode,
    num_sweeps: int,
) -> FoundScenes:
    """Takes away each object, one after the other, and lets the network say what is there instead.

    The network's first steps are given the other objects and the rest are its own: one object, more
    of them or none. A typical mistake that this mends: of two objects alike the first step puts one
    in between, and the next two find both. Given those two, the network finds no third.

    What it says is kept where log p(x, z_pres, z_what | z_where, camera) grows: coordinate ascent
    by proposals of the network. Densities of poses are left out, since those of scenes with more
    objects and with fewer do not compare. Where fewer than N objects were found, the network is
    also asked what stands beside all of them. A single object stays as it is: without it the
    network is given nothing, as in the first place.

    Args:
      images: float32 `[B, H, W, 3]`.
      found: to begin with.
      log_joint: what is to grow, nats, `[B]`.
      air: the inference network.
      params: its parameters.
      prior: p(z_pres).
      num_sweeps: times that every object is taken away.

    Returns:
      The scenes, none of them less likely; what replaces an object comes last.
    """
    steps = jnp.arange(air.num_steps)
    chex.assert_shape([found.z_pres, found.z_what], (len(images), air.num_steps))
    chex.assert_shape(log_joint, (len(images),))

    def look_again(i, carry):
        found, log_joint = carry
        # From the last to the first: what is kept moves only those behind it.
        removed = air.num_steps - 1 - i % air.num_steps
        others_first = jnp.argsort(steps == removed, stable=True)
        others = jax.tree.map(lambda leaf: leaf[:, others_first], found)
        counts = others.z_pres[:, :-1].sum(-1).astype(jnp.int32)
        trace = _pass(images, air, params, Given(counts, others.z_what, others.z_where))
        proposed = _select(steps < counts[:, None], others, _of_trace(trace))
        log_proposed = _log_joint(trace, proposed, prior)
        better = log_proposed > log_joint + _MARGIN
        found = _select(better[:, None], proposed, found)
        return found, jnp.where(better, log_proposed, log_joint)

    found, _ = jax.lax.fori_loop(0, num_sweeps * air.num_steps, look_again, (found, log_joint))
    return found


def turn(
    images: jax.Array, found: FoundScenes, cameras: jax.Array, *, scene: Scene3D, num_turns: int
) -> jax.Array:
    """Renders some turns of each object, one after the other, and keeps the likeliest.

    Evenly around, or within what its symmetry tells apart; what looks alike from all sides is not
    turned. Among them is the one that is given, so that no image becomes less likely.

    Args:
      images: float32 `[B, H, W, 3]`.
      found: what stands where.
      cameras: azimuth and elevation, radians, `[B, 2]`.
      scene: the scene model.
      num_turns: of each object.

    Returns:
      Poses, `[B, N, 3]`.
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


def _pass(images: jax.Array, air: AIR3D, params: Any, given: Given | None = None) -> Trace:
    """A pass at the posterior's mode."""
    return apply(air, params, images, air.mean_noise(len(images)), mode=True, given=given)


def _of_trace(trace: Trace) -> FoundScenes:
    assert trace.what_log_probs is not None, "z_what is not categorical"
    return FoundScenes(*(getattr(trace, name) for name in FoundScenes._fields))


def _log_joint(trace: Trace, found: FoundScenes, prior: UnaryCode) -> jax.Array:
    """log p(x, z_pres, z_what | z_where, camera) of the scenes of a trace, nats, `[B]`."""
    assert trace.log_p_what is not None, "z_what is not categorical"
    log_p_what = (found.z_pres * trace.log_p_what).sum(-1)
    return trace.log_p_x[:, 0] + prior.log_prob(found.z_pres) + log_p_what


def _select(condition: jax.Array, if_true: FoundScenes, if_false: FoundScenes) -> FoundScenes:
    """By object or by scene: the condition is `[B, N]` or `[B, 1]`."""

    def choose(one, other):
        return jnp.where(condition.reshape(*condition.shape, *[1] * (one.ndim - 2)), one, other)

    return jax.tree.map(choose, if_true, if_false)
