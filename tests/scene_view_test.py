"""What a page shows of a picture: equal to what the model infers, and drawn again from latents."""

import functools
import io
import warnings

import chex
import numpy as np
import pytest
from PIL import Image

from air_jax import inference, overlay, scene_view
from tests import tiny
from tests.data_images_bad_input_test import png_header

SIZE = tiny.MODEL_CONFIG["image"]["image_size"]
NUM_STEPS = 3


@functools.cache
def create(variant="dair", channels=1, composition="additive"):
    """A random model that finds objects in some images, and the images."""
    config = {**tiny.MODEL_CONFIG, "image": {"image_size": SIZE, "channels": channels}}
    config["scene"] = {**config["scene"], "composition": composition}
    config["inference"] = {**config["inference"], "variant": variant, "num_steps": NUM_STEPS}
    rng = np.random.default_rng(0)
    params = tiny.model_params(lambda shape: rng.normal(scale=0.5, size=shape), config)
    images = rng.uniform(size=(6, SIZE, SIZE, channels)).astype(np.float32)
    images *= np.linspace(0, 1, 6, dtype=np.float32)[:, None, None, None]
    first = inference.create_model(config, params).infer(images).presence[:, 0]
    params["predict_pres"]["Dense_1"]["bias"] -= np.median(np.log(first / (1 - first)))
    return inference.create_model(config, params), images


@pytest.fixture(scope="module", params=[(), ("air", 3, "layered")])
def model_and_images(request):
    return create(*request.param)


@pytest.fixture(scope="module")
def model():
    return create()[0]


def png(array, file_format="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, file_format)
    return file.getvalue()


def read(data, channels=1):
    return scene_view.read_picture(data, image_size=SIZE, channels=channels)


def test_a_view_is_what_the_model_infers(model_and_images):
    model, images = model_and_images
    objects = model.infer(images)
    assert len(set(objects.counts.tolist())) > 1
    for i, image in enumerate(images):
        view = scene_view.look(model, image)
        count = view.num_objects
        assert count == objects.counts[i]
        np.testing.assert_allclose(view.count_probs, objects.count_probs[i], rtol=1e-4, atol=1e-6)
        for name in ("windows", "z_where", "z_what"):
            found = getattr(view, name)
            np.testing.assert_allclose(found, getattr(objects, name)[i], rtol=1e-3, atol=1e-4)
        drawn = view.canvases[count]
        np.testing.assert_allclose(drawn, objects.reconstructions[i], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(view.image, image)
        channels = image.shape[-1]
        chex.assert_shape([view.glimpses, view.objects], (NUM_STEPS, 8, 8, channels))
        chex.assert_shape(view.canvases, (NUM_STEPS + 1, SIZE, SIZE, channels))
        assert 0 < view.milliseconds < 60_000


def test_an_image_of_bytes_is_seen_as_one_of_floats(model):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1), np.uint8)
    views = [scene_view.look(model, each) for each in (image, image / np.float32(255))]
    for a, b in zip(*(view._replace(milliseconds=0.0) for view in views), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_model_whose_numbers_are_not_finite_is_refused(model):
    params = tiny.model_params(lambda shape: np.full(shape, np.nan), model.config)
    with pytest.raises(ValueError, match="not finite"):
        scene_view.look(model._replace(params=params), np.zeros((SIZE, SIZE, 1)))


def test_unchanged_latents_give_the_models_own_canvases(model_and_images):
    model, images = model_and_images
    view = scene_view.look(model, images[-1])
    for count, canvas in enumerate(view.canvases):
        drawn = scene_view.draw(model, view.z_where, view.z_what, count)
        np.testing.assert_allclose(drawn, canvas, rtol=1e-4, atol=1e-5)


def test_an_object_is_drawn_where_it_was_moved_and_as_large(model):
    # Weights of 0 and a bias of 0: grey squares that fill their windows.
    zeros = model._replace(params=tiny.model_params(np.zeros, model.config))
    z_where = np.tile(scene_view.to_z_where(6, 9, 8, SIZE), (NUM_STEPS, 1))
    drawn = scene_view.draw(zeros, z_where, np.zeros((NUM_STEPS, 3), np.float32), 1)
    rows, columns = np.nonzero(drawn[..., 0] > 0.25)
    assert (columns.min(), columns.max() + 1) == (2, 10)
    assert (rows.min(), rows.max() + 1) == (5, 13)


def test_a_place_in_pixels_is_the_window_and_back():
    # Side 16 / 2 = 8, centred at 8 (1 - t / 2) = (6, 9).
    z_where = np.array([2, 0.5, -0.25], np.float32)
    place = scene_view.to_place(z_where, SIZE)
    np.testing.assert_allclose(place, (6, 9, 8), rtol=1e-6)
    np.testing.assert_allclose(scene_view.to_z_where(*place, SIZE), z_where, rtol=1e-6)


@pytest.mark.parametrize("place", [(8, 8, 1.9), (8, 8, 33), (np.nan, 8, 8), (8, np.inf, 8)])
def test_a_window_without_a_place_or_a_size_is_refused(place):
    with pytest.raises(ValueError, match="side of 2 to 32"):
        scene_view.to_z_where(*place, SIZE)


def test_a_walk_passes_through_the_object_and_changes_one_dimension(model_and_images):
    model, images = model_and_images
    view = scene_view.look(model, images[-1])
    code = view.z_what[0]
    strip = scene_view.walk(model, code, 1, np.array([-2, code[1], 2]))
    np.testing.assert_allclose(strip[1], view.objects[0], rtol=1e-4, atol=1e-5)
    there = scene_view.walk(model, np.array([code[0], 2, code[2]]), 1, np.array([2.0]))
    np.testing.assert_allclose(strip[2], there[0], rtol=1e-5)
    influence = scene_view.influence(model, code)
    np.testing.assert_allclose(influence[1], np.abs(strip[2] - strip[0]).mean(), rtol=1e-4)
    chex.assert_shape(influence, (3,))


def test_more_steps_leave_the_first_ones_as_they_are(model):
    image = np.random.default_rng(0).uniform(size=(SIZE, SIZE, 1)).astype(np.float32)
    longer = scene_view.with_num_steps(model, None)
    assert longer.air.num_steps == 6 and longer.params is model.params
    short, long = (scene_view.look(each, image) for each in (model, longer))
    assert len(long.count_probs) == 7
    np.testing.assert_allclose(long.count_probs[:NUM_STEPS], short.count_probs[:NUM_STEPS], 1e-4)
    with pytest.raises(ValueError):
        scene_view.with_num_steps(model, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_drawing_has_the_pixels_that_it_was_shown_with(channels):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, channels), np.uint8)
    shown = overlay.enlarge(image, scene_view.PEN_PIXELS)
    drawing = scene_view.read_drawing(png(shown), image_size=SIZE, channels=channels)
    np.testing.assert_allclose(drawing, image / 255, atol=1e-3)


def test_a_drawing_of_another_size_is_refused():
    with pytest.raises(ValueError, match="128x128 pixels"):
        scene_view.read_drawing(png(np.zeros((9, 9), np.uint8)), image_size=SIZE, channels=1)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_light_picture_is_inverted_and_its_background_made_black(file_format):
    paper = np.full((64, 32), 200, np.uint8)
    paper[24:40, 12:20] = 20
    picture, notes = read(png(paper, file_format))
    assert picture.shape == (SIZE, SIZE, 1)
    assert picture[0, 0] == picture[0, 8] == 0
    assert picture[8, 8] > 0.7
    assert ["inverted" in note for note in notes] == [True, False, False]
    assert "background" in notes[1] and "64x64" in notes[2]


@pytest.mark.parametrize(
    "paper, ink",
    [(0, 60), (0, 255), (40, 0), (120, 60), (120, 200), (135, 0), (135, 255), (250, 60)],
)
def test_ink_lighter_or_darker_than_its_paper_becomes_light_on_black(paper, ink):
    array = np.full((40, 40), paper, np.uint8)
    array[10:20, 10:20] = ink
    image, notes = read(png(array))
    assert image[0].max() < 0.02 and image[SIZE // 3, SIZE // 3] > 0.1
    assert any("inverted" in note for note in notes) == (ink < paper)


def test_a_border_of_one_bright_colour_leaves_numbers():
    array = np.zeros((40, 40, 3), np.uint8)
    array[..., 0] = 255
    array[10:20, 10:20] = (255, 255, 255)
    image, _ = read(png(array), channels=3)
    assert np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
    assert image[SIZE // 3, SIZE // 3, 1] > 0.5


def test_a_large_picture_is_shrunk_to_what_it_shows():
    array = np.zeros((3_000, 3_000), np.uint8)
    array[750:1_500, 750:1_500] = 255
    small, large = read(png(array[::75, ::75]))[0], read(png(array))[0]
    np.testing.assert_allclose(large, small, atol=0.1)


def test_a_dark_picture_of_the_models_size_is_taken_as_it_is():
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[4:8, 4:8] = 255
    picture, notes = read(png(image))
    np.testing.assert_array_equal(picture[..., 0], image / 255)
    assert notes == ()


def test_a_picture_keeps_its_colours_where_the_model_has_any():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[4:8, 4:8] = (255, 0, 102)
    np.testing.assert_allclose(read(png(image), 3)[0], image / np.float32(255), atol=1e-6)
    chex.assert_shape(read(png(image))[0], (SIZE, SIZE, 1))


@pytest.mark.parametrize("value", [0, 255])
def test_a_single_pixel_is_a_picture(value):
    picture, _ = read(png(np.full((1, 1), value, np.uint8)))
    assert not picture.any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"no picture at all", "cannot be read"),
        (b"GIF89a" + bytes(50), "cannot be read"),
        (png(np.zeros((50, 50), np.uint8))[:-30], "cannot be read"),
        (png_header(4_097, 1), "larger than 4,096"),
        (png_header(12_000, 9_000), "larger than 4,096"),
        (png_header(60_000, 60_000), "larger than 4,096"),
        (bytes(scene_view.MAX_BYTES + 1), "limit is 10 MB"),
    ],
    ids=["empty", "text", "gif", "truncated", "wide", "large", "bomb", "bytes"],
)
def test_what_is_no_picture_is_refused_in_a_sentence(data, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message) as caught:
            read(data)
    text = str(caught.value)
    assert text.startswith("This ") and text.endswith(".") and "Error" not in text


DATA = {
    "source": "auto",
    "tfds_dir": "",
    "path": "",
    "invert": False,
    "image_size": 50,
    "counts": [1, 2],
    "digit_scale": [0.8, 1.0],
    "sprite_size": [],
    "noise": 0.0,
    "num_train": 60_000,
    "num_validation": 5_000,
    "num_test": 10_000,
    "cache_dir": None,
    "resident": False,
    "seed": 3,
}


def scenes(changes, channels=1, size=50):
    config = {"image": {"image_size": size, "channels": channels}}
    if changes is not None:
        config["data"] = {**DATA, "image_size": size, **changes}
    return scene_view.example_scenes(config, 5, seed=1)


@pytest.mark.parametrize(
    "changes",
    [{}, {"source": "tfds"}, {"source": "omniglot", "counts": []}, {"source": "path"}, None],
    ids=["auto", "tfds", "omniglot", "path", "none"],
)
def test_there_are_scenes_of_digits_whatever_is_missing(changes):
    found = scenes(changes)
    assert found.shape == (5, 50, 50, 1) and found.dtype == np.uint8
    assert found.any((1, 2, 3)).all()


def test_scenes_of_sprites_have_colours():
    changes = {"source": "sprites", "digit_scale": [1.0, 1.0], "sprite_size": [4, 8]}
    found = scenes(changes, 3, 16)
    assert found.shape == (5, 16, 16, 3)
    assert (found.max(-1) != found.min(-1)).any()


def test_there_are_none_of_colours_without_data():
    assert scenes(None, 3).shape == (0, 50, 50, 3)


def test_another_seed_gives_other_scenes():
    config = {"image": {"image_size": 50, "channels": 1}, "data": DATA}
    a, b, c = (scene_view.example_scenes(config, 5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
