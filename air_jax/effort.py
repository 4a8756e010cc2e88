"""What it takes to look at an image: time, and floating-point operations (paper, Sec. 3.1.1).

Both are of one compiled pass at the posterior means from images to their reconstructions, with as
many steps as the network has: what AIR, DAIR and DRAW have in common. No ELBO, no samples.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from air_jax import parallel, trained
from air_jax.draw import DrawModel
from air_jax.inference import Model
from air_jax.models.air import posterior_mean_noise
from air_jax.models.draw import DRAW, Drawing
from air_jax.models.trace import Trace
from air_jax.trained import TrainedModel

BATCH_SIZE = 64


def effort(model: TrainedModel, images: np.ndarray, *, repeats: int = 20) -> dict[str, Any]:
    """Time and operations of a pass.

    Args:
      model: AIR, DAIR or DRAW.
      images: at least one, as in `infer`, repeated to make a batch of `BATCH_SIZE`.
      repeats: timed calls, after one that compiles.

    Returns:
      `num_steps` of the network, `batch_size`, `seconds_per_image`, the median over the repeats on
      this machine, and `flops_per_image`, None where XLA does not say.

    Raises:
      ValueError: if the images are not the model's, or there is not one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1.")
    network, look = _pass(model)
    image = model.config["image"]
    images = np.resize(images, (BATCH_SIZE, *images.shape[1:]))
    images = trained.check_images(
        images, image_size=image["image_size"], channels=image["channels"]
    )
    arguments = parallel.replicate(model.params), parallel.shard(images)
    compiled = jax.jit(look)
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - began)
    return {
        "num_steps": network.num_steps,
        "batch_size": BATCH_SIZE,
        "seconds_per_image": statistics.median(seconds) / BATCH_SIZE,
        "flops_per_image": flops_per_image(model),
    }


def flops_per_image(model: TrainedModel) -> float | None:
    """Floating-point operations of a pass, by XLA's count of the program before it is optimised.

    Compilers put calls of libraries, whose operations nobody counts, in the place of its matrix
    products. XLA counts the body of a loop once, however often it runs: DRAW's other steps are
    added, as many times what one of them takes outside the loop.

    Args:
      model: AIR, DAIR or DRAW.
    """
    network, look = _pass(model)
    size, channels = (model.config["image"][name] for name in ("image_size", "channels"))
    images = jax.ShapeDtypeStruct((BATCH_SIZE, size, size, channels), jnp.float32)
    flops = _flops(look, model.params, images)
    if flops is not None and isinstance(network, DRAW):
        noise = jnp.zeros((BATCH_SIZE, network.z_size))

        def one_step(params, images):
            return network.apply({"params": params}, images, noise, method="first_step")

        one = _flops(one_step, model.params, images)
        flops = None if one is None else flops + (network.num_steps - 1) * one
    return None if flops is None else flops / BATCH_SIZE


def _flops(function: Callable[..., Any], *arguments: Any) -> float | None:
    cost = jax.jit(function).lower(*arguments).cost_analysis()
    return None if cost is None else float(cost["flops"])


def _pass(model: TrainedModel) -> tuple[Any, Callable[[Any, jax.Array], Any]]:
    """The network, and `(params, images)` to what it infers and the reconstructions."""
    if isinstance(model, DrawModel):
        draw = model.network

        def look_draw(params, images):
            noise = jnp.zeros((len(images), draw.num_steps, draw.z_size))
            drawing = draw.apply({"params": params}, images, noise)
            assert isinstance(drawing, Drawing)  # flax's apply is untyped
            return drawing.z, drawing.canvas

        return draw, look_draw
    if not isinstance(model, Model):
        raise ValueError(f"effort is measured of AIR, DAIR and DRAW, not of {type(model).__name__}")
    air = model.air

    def look_air(params, images):
        noise = posterior_mean_noise(len(images), air)
        trace = air.apply({"params": params}, images, noise, every_count=False)
        assert isinstance(trace, Trace)  # flax's apply is untyped
        return trace.presence_logit, trace.z_where, trace.z_what, trace.canvases

    return air, look_air
