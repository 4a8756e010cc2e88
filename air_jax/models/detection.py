"""Finding objects in no more steps than there are objects: the paper's saving at inference."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from air_jax.models.air import AIR, Memory


class Found(NamedTuple):
    """The objects at the posterior means, and nothing that only learning or figures need.

    Attributes:
      presence_logit: log-odds of q(z_pres_i = 1 | z_pres_{i-1} = 1, ...) up to and with the first
        below 0, minus infinity beyond it, `[B, N]`.
      z_where: `[B, N, P]`, zero where there is no object.
      z_what: `[B, N, D]`, zero where there is no object.
      num_steps: steps that the loop took, int32 scalar.
    """

    presence_logit: jax.Array
    z_where: jax.Array
    z_what: jax.Array
    num_steps: jax.Array


class _Search(NamedTuple):
    """State of the loop: `goes_on` `[B]` says which images have had an object at every step."""

    memory: Memory
    goes_on: jax.Array
    found: Found


def detect(
    air: AIR, params: Any, images: jax.Array, wanted: jax.Array, *, stop_early: bool
) -> Found:
    """Finds the objects of a batch at the posterior means.

    The loop ends with the step at which the last image says that it holds no more objects, and of
    that step only the recurrence is computed: its time grows with the number of objects (AIR,
    Sec. 1). What is found in an image depends neither on the others nor on `stop_early`.

    Args:
      air: the network.
      params: its parameters.
      images: float32 `[B, H, W, C]` in [0, 1].
      wanted: which images to look at, bool `[B]`; nothing is found in the others, so that padding
        does not keep the loop going.
      stop_early: whether the loop may end before N steps.

    Returns:
      What a pass with `posterior_mean_noise` finds, up to each image's count.
    """
    chex.assert_rank([images, wanted], [4, 1])
    batch_size, num_steps, scene = images.shape[0], air.num_steps, air.scene
    # No later step sees AIR's canvas, so that it need not be drawn.
    sees_canvas = air.variant == "dair" or air.glimpse_source == "error"
    every = jnp.ones((batch_size,))
    means = jnp.zeros((batch_size, scene.pose_size)), jnp.zeros((batch_size, scene.z_what_size))

    def apply(method: str, *arguments: Any) -> Any:
        return air.apply({"params": params}, *arguments, method=method)

    def look(memory: Memory, found: Found, error: jax.Array, present: jax.Array):
        after, step = apply("look", memory, images, error, means, every)
        if not sees_canvas:
            after = after._replace(canvas=memory.canvas)

        def record(name: str) -> jax.Array:
            here = jnp.where(present[:, None], step[name], 0.0)
            return _set_step(getattr(found, name), found.num_steps, here)

        return after, found._replace(z_where=record("z_where"), z_what=record("z_what"))

    def skip(memory: Memory, found: Found, error: jax.Array, present: jax.Array):
        return memory, found

    def one_step(search: _Search) -> _Search:
        found = search.found
        memory, error, logit = apply("decide", search.memory, images, projected)
        logit = jnp.where(search.goes_on, logit, -jnp.inf)
        found = found._replace(
            presence_logit=_set_step(found.presence_logit, found.num_steps, logit)
        )
        goes_on = logit >= 0  # as in UnaryCode.mode_count
        arguments = memory, found, error, goes_on
        if stop_early:
            memory, found = jax.lax.cond(goes_on.any(), look, skip, *arguments)
        else:
            memory, found = look(*arguments)
        return _Search(memory, goes_on, found._replace(num_steps=found.num_steps + 1))

    def unfinished(search: _Search) -> jax.Array:
        return (search.found.num_steps < num_steps) & search.goes_on.any()

    projected, memory = apply("begin", images)
    nothing = Found(
        presence_logit=jnp.full((batch_size, num_steps), -jnp.inf),
        z_where=jnp.zeros((batch_size, num_steps, scene.pose_size)),
        z_what=jnp.zeros((batch_size, num_steps, scene.z_what_size)),
        num_steps=jnp.zeros((), jnp.int32),
    )
    search = _Search(memory, wanted, nothing)
    if stop_early:
        return jax.lax.while_loop(unfinished, one_step, search).found
    for _ in range(num_steps):
        search = one_step(search)
    return search.found


def _set_step(values: jax.Array, step: jax.Array, here: jax.Array) -> jax.Array:
    """`values` `[B, N, ...]` with those of one step replaced by `here` `[B, ...]`."""
    return jax.lax.dynamic_update_index_in_dim(values, here, step, axis=1)
