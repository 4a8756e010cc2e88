"""DRAW against the paper's equations in NumPy, integrals over its latents, and by hand."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from air_jax import objectives
from air_jax.models import draw
from air_jax.models.draw import DRAW


def create(**changes) -> DRAW:
    """A network with a handful of units, on 6x6 images."""
    sizes = {"image_size": 6, "channels": 1, "num_steps": 2, "read_size": 3, "write_size": 4}
    sizes |= {"hidden_size": 5, "z_size": 2}
    return DRAW(**{**sizes, "canvas_bias": -1.0, "likelihood_scale": 0.5, **changes})


def images_of(network: DRAW, batch_size=3):
    size = network.image_size
    return jax.random.uniform(jax.random.key(1), (batch_size, size, size, network.channels))


@functools.partial(jax.jit, static_argnums=0)
def run(network: DRAW, params, images, noise) -> draw.Drawing:
    return network.apply({"params": params}, images, noise)


@functools.partial(jax.jit, static_argnums=0)
def random_noise(network: DRAW):
    return draw.sample_noise(jax.random.split(jax.random.key(2), 3), network)


@functools.partial(jax.jit, static_argnums=0)
def random_params(network: DRAW):
    """Biases too, so that nothing is hidden behind a zero."""
    noise = jnp.zeros((1, network.num_steps, network.z_size))
    params = network.init(jax.random.key(3), images_of(network, 1), noise)["params"]
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    leaves = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves)


def test_a_grid_of_zeros_spans_the_image():
    grid = draw.attention(jnp.zeros((1, 5)), image_size=9, grid_size=5)
    # Pixels 1 to 9: the middle is 5, and five filters 2 apart have their centres at 1, 3, 5, 7, 9.
    np.testing.assert_allclose(grid.centre, [[5.0, 5.0]])
    np.testing.assert_allclose(grid.stride, [2.0])
    np.testing.assert_allclose([grid.deviation, grid.intensity], [[1.0], [1.0]])


def test_a_grid_by_hand():
    parameters = jnp.array([[-1.0, 0.5, math.log(4.0), math.log(0.5), math.log(3.0)]])
    grid = draw.attention(parameters, image_size=9, grid_size=5)
    np.testing.assert_allclose(grid.centre, [[0.0, 7.5]], atol=1e-6)  # (9 + 1) / 2 (g + 1)
    np.testing.assert_allclose(grid.stride, [1.0], rtol=1e-6)  # (9 - 1) / (5 - 1) 0.5
    np.testing.assert_allclose(grid.deviation, [2.0], rtol=1e-6)
    np.testing.assert_allclose(grid.intensity, [3.0], rtol=1e-6)


def numpy_filters(centre, stride, variance, grid_size, image_size):
    """Eq. 19, 25 of Gregor et al., term by term, `[N, image_size]`."""
    filters = np.zeros((grid_size, image_size))
    for i in range(1, grid_size + 1):
        mean = centre + (i - grid_size / 2 - 0.5) * stride
        for a in range(1, image_size + 1):
            filters[i - 1, a - 1] = math.exp(-((a - mean) ** 2) / (2 * variance))
        filters[i - 1] /= filters[i - 1].sum()
    return filters


@pytest.mark.parametrize("grid_size", [2, 3, 4])
def test_filterbanks_are_the_papers(grid_size):
    rng = np.random.default_rng(0)
    parameters = rng.normal(scale=0.5, size=(4, 5))
    grid = draw.attention(jnp.asarray(parameters), image_size=7, grid_size=grid_size)
    rows, columns = draw.filterbanks(grid, image_size=7, grid_size=grid_size)
    chex.assert_shape([rows, columns], (4, grid_size, 7))
    for row, column, (x, y, log_variance, log_stride, _) in zip(
        rows, columns, parameters, strict=True
    ):
        stride = (7 - 1) / (grid_size - 1) * math.exp(log_stride)
        own = stride, math.exp(log_variance), grid_size, 7
        np.testing.assert_allclose(column, numpy_filters((7 + 1) / 2 * (x + 1), *own), atol=1e-5)
        np.testing.assert_allclose(row, numpy_filters((7 + 1) / 2 * (y + 1), *own), atol=1e-5)


def grid_of(x, y, log_variance=0.0, log_stride=0.0, log_intensity=0.0, *, size, grid_size):
    parameters = jnp.array([[x, y, log_variance, log_stride, log_intensity]])
    return draw.attention(parameters, image_size=size, grid_size=grid_size)


def test_reading_a_constant_image_gives_the_constant_times_gamma():
    # Also where most filters lie outside.
    for x in (0.3, 5.0):
        grid = grid_of(x, -0.2, log_intensity=math.log(2.0), size=8, grid_size=3)
        (patch,) = draw.read([jnp.full((1, 8, 8, 2), 0.7)], grid, grid_size=3)
        np.testing.assert_allclose(patch, np.full((1, 3, 3, 2), 1.4), rtol=1e-5)


def test_narrow_filters_read_and_write_single_pixels():
    # Two filters along each axis, in the corners of the image, and far narrower than a pixel.
    grid = grid_of(0.0, 0.0, -8.0, log_intensity=math.log(2.0), size=5, grid_size=2)
    image = jnp.arange(25.0).reshape(1, 5, 5, 1)
    (patch,) = draw.read([image], grid, grid_size=2)
    np.testing.assert_allclose(patch[0, :, :, 0], [[0, 8], [40, 48]])  # gamma times the corners
    written = draw.write(jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None], grid, image_size=5)
    expected = np.zeros((5, 5))
    expected[::4, ::4] = [[0.5, 1.0], [1.5, 2.0]]  # divided by gamma
    np.testing.assert_allclose(written[0, :, :, 0], expected, atol=1e-6)


def test_x_is_to_the_right_and_y_downwards():
    grid = grid_of(0.5, -0.5, -4.0, -3.0, size=8, grid_size=2)
    stroke = draw.write(jnp.ones((1, 2, 2, 1)), grid, image_size=8)[0, :, :, 0]
    # Centred at (8 + 1) / 2 (1 + 0.5) = 6.75 and 2.25 of the pixels 1 to 8.
    assert np.unravel_index(np.argmax(stroke), stroke.shape) == (1, 6)


def numpy_read(image, parameters, grid_size):
    size = len(image)
    x, y, log_variance, log_stride, log_intensity = parameters
    own = (size - 1) / (grid_size - 1) * math.exp(log_stride), math.exp(log_variance)
    columns, rows = (numpy_filters((size + 1) / 2 * (g + 1), *own, grid_size, size) for g in (x, y))
    return rows, columns, math.exp(log_intensity)


def numpy_lstm(params, cell, hidden, *inputs):
    gates = np.concatenate([*inputs, hidden]) @ params["gates"]["kernel"] + params["gates"]["bias"]
    gate_in, gate_forget, candidate, gate_out = np.split(gates, 4)
    cell = sigmoid(gate_forget) * cell + sigmoid(gate_in) * np.tanh(candidate)
    return cell, sigmoid(gate_out) * np.tanh(cell)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense(params, x):
    return x @ params["kernel"] + params["bias"]


def test_the_steps_are_the_papers():
    network = create()
    images, params, noise = images_of(network), random_params(network), random_noise(network)
    drawing = run(network, params, images, noise)
    params = jax.tree.map(np.float64, params)
    for b, image in enumerate(np.float64(images[..., 0])):
        encoder = decoder = np.zeros(5), np.zeros(5)
        canvas = params["first_canvas"][..., 0]
        for t in range(2):
            error = image - sigmoid(canvas)  # Eq. 3
            rows, columns, gamma = numpy_read(image, dense(params["predict_read"], decoder[1]), 3)
            # Eq. 4, 27; the two patches side by side, pixel by pixel.
            patches = [gamma * rows @ seen @ columns.T for seen in (image, error)]
            glimpse = np.stack(patches, axis=-1).ravel()
            encoder = numpy_lstm(params["encoder"], *encoder, glimpse, decoder[1])  # Eq. 5
            outputs = dense(params["predict_z"]["MLP_0"]["Dense_0"], encoder[1])
            loc, scale = outputs[:2], np.log1p(np.exp(outputs[2:])) + 1e-4
            z = loc + scale * np.float64(noise[b, t])  # Eq. 6
            decoder = numpy_lstm(params["decoder"], *decoder, z)  # Eq. 7
            written = dense(params["predict_write"], decoder[1])
            rows, columns, gamma = numpy_read(image, written[:5], 4)
            canvas = canvas + rows.T @ written[5:].reshape(4, 4) @ columns / gamma  # Eq. 8, 29

            np.testing.assert_allclose(drawing.z[b, t], z, atol=1e-4)
            np.testing.assert_allclose(drawing.canvases[b, t, :, :, 0], sigmoid(canvas), atol=1e-4)
            kl = 0.5 * (loc**2 + scale**2 - 2 * np.log(scale) - 1).sum()  # Eq. 11, each step's
            np.testing.assert_allclose(drawing.kl[b, t], kl, rtol=1e-3)
            log_q = -0.5 * ((z - loc) / scale) ** 2 - np.log(scale)
            ratio = (-0.5 * z**2 - log_q).sum()
            np.testing.assert_allclose(drawing.log_ratio[b, t], ratio, atol=1e-3)
        squared = ((image - sigmoid(canvas)) / 0.5) ** 2
        log_p_x = (-0.5 * squared - math.log(0.5) - 0.5 * math.log(2 * math.pi)).sum()
        np.testing.assert_allclose(drawing.log_p_x[b], log_p_x, rtol=1e-4)
    np.testing.assert_array_equal(drawing.canvas, drawing.canvases[:, -1])


def test_shapes():
    network = create(channels=2, num_steps=3)
    drawing = run(network, random_params(network), images_of(network), random_noise(network))
    chex.assert_shape(drawing.z, (3, 3, 2))
    chex.assert_shape(drawing.canvas, (3, 6, 6, 2))
    chex.assert_shape(drawing.canvases, (3, 3, 6, 6, 2))
    for grid in (drawing.read, drawing.write):
        chex.assert_shape(grid.centre, (3, 3, 2))
        chex.assert_shape([grid.stride, grid.deviation, grid.intensity], (3, 3))
    chex.assert_shape([drawing.kl, drawing.log_ratio], (3, 3))
    chex.assert_shape([drawing.log_p_x, drawing.log_weight, *drawing.elbo_terms.values()], (3,))
    chex.assert_tree_all_finite(drawing)


def test_bounds_against_the_integral_over_the_latents():
    network = create(image_size=4, z_size=1)
    params = jax.tree.map(lambda leaf: 2.0 * leaf, random_params(network))
    image = images_of(network, 1)
    # Two latents, as functions of standard normal noise e: with z = loc + scale e,
    # p(x) = int p(x, z) dz = int N(e) p(x, z) / q(z) de, and p(x, z) / q(z) is the weight.
    axis = np.linspace(-5.0, 5.0, 61)
    noise = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    drawing = run(network, params, jnp.repeat(image, len(noise), axis=0), jnp.asarray(noise, "f"))
    log_density = -0.5 * (noise**2).sum((1, 2)) - math.log(2 * math.pi)
    log_density += 2 * math.log(axis[1] - axis[0])
    density = np.exp(log_density)
    log_p_x = np.logaddexp.reduce(np.float64(drawing.log_weight) + log_density)
    elbo = (density * drawing.elbo_terms["elbo"]).sum()
    # The closed-form KL is the mean of the ratio at samples.
    np.testing.assert_allclose(elbo, (density * drawing.log_weight).sum(), atol=1e-3)
    assert elbo < log_p_x - 0.01

    rng = np.random.default_rng(0)
    weights = rng.choice(np.asarray(drawing.log_weight), p=density / density.sum(), size=(500, 200))
    bounds = [float(objectives.iwae(jnp.asarray(weights[:k])).mean()) for k in (1, 5, 500)]
    assert elbo - 0.1 < bounds[0] < bounds[1] < bounds[2]
    np.testing.assert_allclose(bounds[2], log_p_x, atol=0.02)


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def read_and_write(parameters):
    grid = draw.attention(parameters, image_size=6, grid_size=3)
    (patch,) = draw.read([images_of(create())], grid, grid_size=3)
    return patch.sum() + jnp.square(draw.write(patch, grid, image_size=6)).sum(), grid


@pytest.mark.parametrize("value", [-np.inf, -1e30, -20.0, 20.0, 1e30, np.inf])
@pytest.mark.parametrize("place", range(5))
def test_grids_are_finite_at_extreme_parameters(place, value):
    parameters = np.zeros((3, 5), np.float32)
    parameters[:, place] = value
    (result, grid), gradient = read_and_write(parameters)
    chex.assert_tree_all_finite((result, grid, gradient))
    assert min(np.min(x) for x in (grid.stride, grid.deviation, grid.intensity)) > 0


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.grad, argnums=1)
def elbo_gradient(network: DRAW, params, images, noise):
    return network.apply({"params": params}, images, noise).elbo_terms["elbo"].sum()


@pytest.mark.parametrize("scale", [0.0, 30.0])
def test_gradients_are_finite_with_extreme_weights(scale):
    network = create()
    images, noise = images_of(network), random_noise(network)

    params = jax.tree.map(lambda leaf: scale * leaf, random_params(network))
    chex.assert_tree_all_finite(elbo_gradient(network, params, images, noise))


def test_an_example_s_noise_does_not_depend_on_the_batch_around_it():
    network = create()
    together = draw.sample_noise(jax.random.split(jax.random.key(2), 3), network)
    alone = draw.sample_noise(jax.random.split(jax.random.key(2), 3)[1:2], network)
    np.testing.assert_array_equal(alone, together[1:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"read_size": 1}, "read_size 1 .* 2 x 2"),
        ({"write_size": 1}, "write_size 1;"),
        ({"likelihood_scale": 0.0}, "likelihood_scale is 0.0; it must be positive"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    network = create(**changes)
    noise = jnp.zeros((1, network.num_steps, 2))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), images_of(network, 1), noise)
