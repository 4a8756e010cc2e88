"""How objects compose: the paper's sum, and layers of which the first is in front."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny

COMPOSITIONS = pytest.mark.parametrize("composition", ["additive", "layered"])


def layer(colour, opacity):
    """A placed object, `[1, 6, 6, 4]`: colours premultiplied by the opacity, and the opacity."""
    return jnp.asarray(np.concatenate([colour * opacity, opacity], axis=-1), jnp.float32)


def random_layers(rng, number, opacity=None):
    shape = (1, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)
    colours = rng.uniform(size=(number, *shape, 3))
    return colours, rng.uniform(size=(number, *shape, 1)) if opacity is None else opacity


def compose(scene, layers, present):
    canvas = scene.empty_canvas(1)
    for placed, here in zip(layers, present, strict=True):
        canvas = scene.compose(canvas, placed, jnp.full((1,), here, jnp.float32))
    return np.asarray(scene.colours(canvas))


@pytest.mark.parametrize("present", [*itertools.product([0.0, 1.0], repeat=3)])
def test_layers_compose_as_seen_from_the_front_pixel_by_pixel(present):
    scene = tiny.create(channels=3, composition="layered").scene
    colours, opacities = random_layers(np.random.default_rng(0), 3)
    layers = [layer(*pair) for pair in zip(colours, opacities, strict=True)]
    expected = np.zeros((1, 6, 6, 3))
    for row, column in itertools.product(range(6), range(6)):
        light = 1.0  # that passes all layers so far
        for colour, opacity, here in zip(colours, opacities, present, strict=True):
            alpha = here * opacity[0, row, column, 0]
            expected[0, row, column] += light * alpha * colour[0, row, column]
            light *= 1 - alpha
    np.testing.assert_allclose(compose(scene, layers, present), expected, atol=1e-6)


def test_an_opaque_object_hides_those_after_it_and_not_those_before_it():
    scene = tiny.create(channels=3, composition="layered").scene
    (red, green), _ = random_layers(np.random.default_rng(1), 2)
    opacity = np.zeros((2, 1, 6, 6, 1))
    opacity[0, :, :4], opacity[1, :, 2:] = 1, 1
    canvas = compose(scene, [layer(red, opacity[0]), layer(green, opacity[1])], [1.0, 1.0])
    np.testing.assert_allclose(canvas[:, :4], red[:, :4], rtol=1e-6)
    np.testing.assert_allclose(canvas[:, 4:], green[:, 4:], rtol=1e-6)


def test_compositions_are_the_same_where_nothing_overlaps_and_differ_where_something_does():
    colours, _ = random_layers(np.random.default_rng(2), 3)
    apart = np.zeros((3, 1, 6, 6, 1))
    apart[0, :, :2], apart[1, :, 2:5, :3], apart[2, :, 2:, 3:] = 1, 1, 1
    overlapping = apart.copy()
    overlapping[1, :, 1] = 1
    for opacity, same in ((apart, True), (overlapping, False)):
        pairs = [*zip(colours, opacity, strict=True)]
        canvases = []
        for composition in ("additive", "layered"):
            scene = tiny.create(channels=3, composition=composition).scene
            layers = [layer(*pair)[..., : scene.canvas_channels] for pair in pairs]
            canvases.append(compose(scene, layers, [1.0] * 3))
        assert np.allclose(*canvases, atol=1e-6) == same


@COMPOSITIONS
@pytest.mark.parametrize("variant", ["air", "dair"])
def test_every_partial_canvas_is_the_composition_of_as_many_objects(variant, composition):
    air = tiny.create(variant, num_steps=3, channels=3, composition=composition)
    params, images, noise = tiny.init(air), tiny.images(4, 3), tiny.noise(air, 4)
    trace = tiny.run(air, params, images, noise, every_count=True)
    assert trace.canvases.shape == (4, 4, 6, 6, 3)
    assert trace.objects.shape == (4, 3, 6, 6, 3) and trace.windows.shape == (4, 3, 4, 4, 3)

    def draw(i):
        arguments = trace.z_where[:, i], trace.z_what[:, i]
        return air.scene.apply({"params": params["scene"]}, *arguments, method="render_object")[1]

    canvas = air.scene.empty_canvas(4)
    np.testing.assert_array_equal(trace.canvases[:, 0], 0)
    for i in range(3):
        placed = draw(i)
        np.testing.assert_allclose(trace.objects[:, i], placed[..., :3], atol=1e-6)
        canvas = air.scene.compose(canvas, placed, jnp.ones(4))
        np.testing.assert_allclose(trace.canvases[:, i + 1], canvas[..., :3], atol=1e-6)
    np.testing.assert_allclose(trace.errors, images[:, None] - trace.canvases[:, :-1], atol=1e-6)
    assert trace.canvases.min() >= 0
    assert composition == "additive" or trace.canvases.max() <= 1 + 1e-6

    # Composing the sampled objects only gives the same canvas.
    for count in range(4):
        forced = tiny.with_count(noise, count)
        sampled = tiny.run(air, params, images, forced, every_count=False)
        np.testing.assert_allclose(sampled.canvases[:, 0], trace.canvases[:, count], atol=1e-6)


@COMPOSITIONS
def test_an_object_is_drawn_within_its_opacity(composition):
    air = tiny.create(channels=3, composition=composition)
    z_where, z_what = jnp.array([[1.5, 0.2, -0.1]]), jnp.array([[0.5, -2.0]])
    variables = {"params": tiny.init(air)["scene"]}
    window, placed = air.scene.apply(variables, z_where, z_what, method="render_object")
    assert window.shape == (1, 4, 4, air.scene.canvas_channels)
    assert placed.shape == (1, 6, 6, air.scene.canvas_channels)
    if composition == "layered":
        assert (window[..., :3] <= window[..., 3:]).all()
        assert (placed[..., :3] <= placed[..., 3:] + 1e-6).all()


@COMPOSITIONS
def test_samples_are_images(composition):
    air = tiny.create(channels=3, composition=composition, decoder_bias=0.0)
    variables = {"params": tiny.init(air)["scene"]}
    counts = jnp.array([0, 1, 2])
    sampled = air.scene.apply(variables, jax.random.key(0), counts, 2, method="sample")
    assert sampled.images.shape == (3, 6, 6, 3)
    np.testing.assert_array_equal(sampled.images.any((1, 2, 3)), [False, True, True])
    # Of these latents, in the way in which inference composes them.
    again = air.scene.apply(variables, *sampled[1:], counts, method="draw")
    np.testing.assert_array_equal(again, sampled.images)
    _, first = air.scene.apply(
        variables, sampled.z_where[:, 0], sampled.z_what[:, 0], method="render_object"
    )
    np.testing.assert_allclose(sampled.images[1], air.scene.colours(first)[1], atol=1e-6)


def test_latents_are_drawn_from_their_prior():
    air = tiny.create()
    variables = {"params": tiny.init(air)["scene"]}
    counts = jnp.zeros(2_000, jnp.int32)
    sampled = air.scene.apply(variables, jax.random.key(1), counts, 2, method="sample")
    # scale_prior (1.5, 0.3), shift_prior (0, 0.5); four standard errors of 4,000 draws.
    np.testing.assert_allclose(sampled.z_where.mean((0, 1)), [1.5, 0, 0], atol=4 * 0.5 / 63)
    np.testing.assert_allclose(sampled.z_where.std((0, 1)), [0.3, 0.5, 0.5], atol=0.03)
    np.testing.assert_allclose(sampled.z_what.std((0, 1)), [1.0, 1.0], atol=0.05)


def test_a_scene_without_the_field_is_the_papers():
    fields = dict(tiny.MODEL_CONFIG["scene"])
    assert "composition" not in fields  # as exported by earlier versions
    scene = tiny.create_air(
        scene=fields, inference=tiny.MODEL_CONFIG["inference"], **tiny.MODEL_CONFIG["image"]
    ).scene
    assert scene.composition == "additive" and scene.canvas_channels == 1


def test_an_unknown_composition_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="'sum'; valid names are 'additive', 'layered'"):
        tiny.init(tiny.create(composition="sum"))
