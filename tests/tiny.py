"""Networks small enough for brute force, and one with a config, shared by several tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from air_jax.models.air import AIR, Noise, create_air, posterior_mean_noise, sample_noise
from air_jax.models.modules import Baseline
from air_jax.models.trace import Trace

IMAGE_SIZE = 6


def create(variant="air", *, num_steps=2, channels=1, **changes) -> AIR:
    """AIR on 6x6 images with a handful of units."""
    scene = {
        "window_size": 4,
        "z_what_size": 2,
        "decoder_hidden": (3,),
        "decoder_bias": -1.0,
        "scale_prior": (1.5, 0.3),
        "shift_prior": (0.0, 0.5),
        "likelihood_scale": 0.5,
        "composition": "additive",
    }
    inference = {
        "variant": variant,
        "num_steps": num_steps,
        "hidden_size": 4,
        "embedding_size": 5,
        "predictor_hidden": (3,),
        "encoder_hidden": (3,),
        "glimpse_source": "error" if variant == "dair" else "image",
        "presence_logit": 0.3,
        "image_init_scale": 0.3,
        "place": "regression",
        "place_grid": 5,
        "place_radius": 0.4,
        "patch_size": 0,
        "evidence": 0,
    }
    scene |= {name: value for name, value in changes.items() if name in scene}
    inference |= {name: value for name, value in changes.items() if name in inference}
    return create_air(scene=scene, inference=inference, image_size=IMAGE_SIZE, channels=channels)


def images(batch_size=3, channels=1):
    """Random images, `[batch_size, 6, 6, channels]`."""
    return jax.random.uniform(jax.random.key(11), (batch_size, IMAGE_SIZE, IMAGE_SIZE, channels))


@functools.partial(jax.jit, static_argnums=0)
def init(air: AIR):
    """Random parameters."""
    noise = posterior_mean_noise(1, air)
    one = images(1, air.scene.channels)
    return air.init(jax.random.key(5), one, noise, every_count=True)["params"]


@functools.partial(jax.jit, static_argnames=("air", "every_count"))
def run(air: AIR, params, images, noise: Noise, *, every_count: bool = False) -> Trace:
    """One pass, compiled."""
    return air.apply({"params": params}, images, noise, every_count=every_count)


@functools.partial(jax.jit, static_argnums=(0, 1))
def noise(air: AIR, batch_size=3) -> Noise:
    """Random noise."""
    return sample_noise(jax.random.split(jax.random.key(7), batch_size), air)


def with_count(noise: Noise, count: int) -> Noise:
    """The same continuous noise, with uniform noise that forces n = count."""
    present = jnp.arange(noise.pres.shape[-1]) < count
    return noise._replace(pres=jnp.broadcast_to(jnp.where(present, 0.0, 1.0), noise.pres.shape))


BASELINE = Baseline(hidden_size=4, embedding_size=5, image_init_scale=0.3)


@functools.partial(jax.jit, static_argnums=0)
def init_baseline(air: AIR):
    """Random parameters of `BASELINE`."""
    errors = jnp.zeros((1, air.num_steps, IMAGE_SIZE, IMAGE_SIZE, 1))
    return BASELINE.init(jax.random.key(3), errors)["params"]


# Of an exported model: plain types. The scale's deviation is so small that its median is 2.
MODEL_CONFIG = {
    "scene": {
        "window_size": 8,
        "z_what_size": 3,
        "decoder_hidden": [8],
        "decoder_bias": 0.0,
        "scale_prior": [2.0, 1e-3],
        "shift_prior": [0.0, 0.5],
        "likelihood_scale": 0.3,
    },
    "inference": {
        "variant": "air",
        "num_steps": 2,
        "hidden_size": 8,
        "embedding_size": 8,
        "predictor_hidden": [8],
        "encoder_hidden": [8],
        "glimpse_source": "image",
        "presence_logit": 0.0,
        "image_init_scale": 0.1,
    },
    "prior": {"name": "geometric", "start": 0.1, "end": 0.3, "steps": 10},
    "image": {"image_size": 16, "channels": 1},
}


def model_params(create_leaf, config=MODEL_CONFIG):
    """Parameters of the network of a config, each `create_leaf(shape)`, in NumPy."""
    air = create_air(scene=config["scene"], inference=config["inference"], **config["image"])
    size, channels = config["image"]["image_size"], config["image"]["channels"]
    init = functools.partial(air.init, every_count=True)
    image = jnp.zeros((1, size, size, channels))
    shapes = jax.eval_shape(init, jax.random.key(0), image, posterior_mean_noise(1, air))["params"]
    return jax.tree.map(lambda leaf: create_leaf(leaf.shape).astype(np.float32), shapes)


@functools.cache
def of_every_count(variant):
    """A network with three steps and 24 images in which it finds 0, 1, 2 or 3 objects.

    Returns:
      The network, its parameters, the images and their counts at the posterior means `[24]`.
    """
    air = create(variant, num_steps=3)
    scenes = np.asarray(images(24)) * np.linspace(0, 1, 24, dtype=np.float32)[:, None, None, None]
    # Found by trying: most random networks say the same of every image.
    rng = np.random.default_rng({"air": 10, "dair": 16}[variant])
    params = jax.tree.map(lambda x: rng.normal(scale=1.5, size=x.shape).astype("f"), init(air))
    means = posterior_mean_noise(24, air)
    logits = np.asarray(run(air, params, scenes, means, every_count=True).presence_logit)
    params["predict_pres"]["Dense_1"]["bias"] -= np.median(logits[:, :2])
    trace = run(air, params, scenes, means, every_count=True)
    counts = np.asarray(trace.posterior.mode_count())
    assert set(counts.tolist()) == {0, 1, 2, 3}
    return air, params, scenes, counts
