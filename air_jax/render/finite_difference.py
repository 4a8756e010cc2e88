"""Gradients through a renderer that has none, by central differences (paper, Sec. 3.2)."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def central_differences(
    render: Callable[[jax.Array, Any], jax.Array], steps: chex.Array
) -> Callable[[jax.Array, Any], jax.Array]:
    """A renderer with a gradient with respect to its continuous parameters.

    d loss / d p_i = <d loss / d image, (render(p + h_i e_i) - render(p - h_i e_i)) / (2 h_i)>. The
    forward pass renders the scenes and, where a gradient is wanted, both neighbours of every
    parameter too, all in one batch: the renderer is called once. It is a black box; what it has of
    other arguments gets no gradient.

    A step is to change edges by about half a pixel: less, and an image without antialiasing does
    not change at all, more, and the difference is no longer the gradient.

    Args:
      render: `(params [n, P], others) -> images [n, ...]`, `others` an array or a tree of arrays
        with the same leading axis.
      steps: h, of each parameter in its own unit, positive, `[P]`.

    Returns:
      A function like `render`.

    Raises:
      AssertionError: if params are not `[n, P]`.
    """
    steps = jnp.asarray(steps, jnp.float32)
    chex.assert_rank(steps, 1)
    num_params = steps.shape[0]

    @jax.custom_vjp
    def rendered(params, others):
        return render(params, others)

    def forward(params, others):
        chex.assert_shape(params, (None, num_params))
        # The scene itself, then each parameter's upper and lower neighbour.
        shifts = jnp.concatenate([jnp.zeros((1, num_params)), jnp.diag(steps), -jnp.diag(steps)])
        shifted = params[None] + shifts[:, None]
        copies = len(shifts)

        def repeat(leaf):
            return jnp.broadcast_to(leaf, (copies, *leaf.shape)).reshape(-1, *leaf.shape[1:])

        images = render(shifted.reshape(-1, num_params), jax.tree.map(repeat, others))
        images = images.reshape(copies, len(params), *images.shape[1:])
        upper, lower = images[1 : num_params + 1], images[num_params + 1 :]
        return images[0], (upper - lower, others)

    def backward(saved, image_gradient):
        differences, others = saved
        axes = tuple(range(2, differences.ndim))
        gradient = (differences * image_gradient).sum(axes) / (2 * steps[:, None])
        return gradient.T, jax.tree.map(_no_gradient, others)

    rendered.defvjp(forward, backward)
    return rendered


def _no_gradient(leaf: jax.Array) -> jax.Array:
    """Zero, of the type that JAX takes for one: integers have a type of their own for it."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros_like(leaf)
    return jnp.zeros(leaf.shape, jax.dtypes.float0)
