"""Tests of air_jax.data.images."""

import numpy as np
import pytest
from PIL import Image

from air_jax.data.images import (
    LightBackgroundError,
    prepare_images,
    read_images,
    to_original_boxes,
)


def _random(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def _save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


def test_grey_pictures_are_read_to_the_unit_interval(tmp_path):
    array = _random((30, 20))
    result = read_images(_save(tmp_path / "a.png", array))
    assert result.names == ["a.png"] and result.counts is None and result.errors == []
    assert result.images[0].dtype == np.float32
    np.testing.assert_allclose(result.images[0], array / 255, atol=1e-6)


def test_colour_becomes_luma_alike_in_pictures_and_arrays(tmp_path):
    array = _random((30, 20, 3))
    luma = array @ [0.299, 0.587, 0.114] / 255
    np.save(tmp_path / "a.npy", array[None])
    for path in (_save(tmp_path / "a.png", array), tmp_path / "a.npy"):
        np.testing.assert_allclose(read_images(path).images[0], luma, atol=1e-5)


def test_three_channels_keep_colour_and_make_grey_rgb(tmp_path):
    colour, grey = _random((30, 20, 3)), _random((30, 20))
    np.save(tmp_path / "a.npy", colour[None])
    np.save(tmp_path / "b.npy", grey[None])
    clear = np.dstack([colour, np.full((30, 20), 51, np.uint8)])
    for path, expected in (
        (_save(tmp_path / "a.png", colour), colour),
        (tmp_path / "a.npy", colour),
        (_save(tmp_path / "b.png", grey), np.repeat(grey[..., None], 3, axis=2)),
        (tmp_path / "b.npy", np.repeat(grey[..., None], 3, axis=2)),
        (_save(tmp_path / "c.png", clear), 0.2 * colour),
    ):
        image = read_images(path, channels=3).images[0]
        np.testing.assert_allclose(image, expected / 255, atol=1e-5)
    with pytest.raises(ValueError, match="channels is 2"):
        read_images(tmp_path / "a.png", channels=2)


def test_transparency_is_composited_on_black(tmp_path):
    array = _random((30, 20, 4))
    expected = array[:, :, :3] @ [0.299, 0.587, 0.114] / 255 * array[:, :, 3] / 255
    np.save(tmp_path / "a.npy", array[None])
    for path in (_save(tmp_path / "a.png", array), tmp_path / "a.npy"):
        np.testing.assert_allclose(read_images(path).images[0], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "I;16"])
def test_other_png_modes_give_the_same_image(tmp_path, mode):
    array = np.where(_random((30, 20)) > 127, 255, 0).astype(np.uint8)
    if mode == "I;16":
        image = Image.fromarray(array.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(array).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_images(tmp_path / "a.png").images[0], array / 255, atol=1e-6)


def test_jpeg_is_turned_as_its_orientation_says(tmp_path):
    array = np.zeros((16, 32), np.uint8)
    array[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: left becomes top
    path = _save(tmp_path / "a.jpg", array, exif=exif, quality=95)
    image = read_images(path).images[0]
    assert image.shape == (32, 16)
    assert image[:16].mean() > 0.9 and image[16:].mean() < 0.1


def test_folder_is_read_in_order_of_names_without_subfolders_and_other_files(tmp_path):
    for name, value in (("b.png", 2), ("a.JPG", 1), ("c.jpeg", 3)):
        _save(tmp_path / name, np.full((8, 8), value * 50, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "sub").mkdir()
    _save(tmp_path / "sub" / "d.png", _random((8, 8)))
    result = read_images(str(tmp_path))
    assert result.names == ["a.JPG", "b.png", "c.jpeg"] and result.errors == []
    means = [image.mean() for image in result.images]
    np.testing.assert_allclose(means, np.array([50, 100, 150]) / 255, atol=0.01)


def test_damaged_pictures_of_a_folder_are_reported_and_the_rest_go_on(tmp_path):
    whole = _save(tmp_path / "whole.png", _random((64, 64))).read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(_random((8, 8))).save(tmp_path / "gif.png", "GIF")
    result = read_images(tmp_path)
    assert result.names == ["whole.png"] and len(result.images) == 1
    assert [name for name, _ in result.errors] == [
        "empty.jpg",
        "folder.png",
        "gif.png",
        "text.png",
        "truncated.png",
    ]
    assert all(reason for _, reason in result.errors)


@pytest.mark.parametrize("pixels", [16 * 16 - 1, 16 * 16 // 2 - 1])
def test_decompression_bombs_are_errors_already_where_pillow_only_warns(
    tmp_path, monkeypatch, pixels
):
    _save(tmp_path / "bomb.png", _random((16, 16)))
    _save(tmp_path / "small.png", _random((4, 4)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    result = read_images(tmp_path)
    assert result.names == ["small.png"]
    assert result.errors[0][0] == "bomb.png" and "DecompressionBomb" in result.errors[0][1]


def test_path_that_is_missing_or_holds_no_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        read_images(tmp_path / "nothing.png")
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_images(tmp_path)


def test_single_file_that_cannot_be_used_is_an_error_with_its_name(tmp_path):
    for name, message in (("a.png", "a.png could not be read"), ("a.tiff", "a.tiff .*'.png'")):
        (tmp_path / name).write_text("no image")
        with pytest.raises(ValueError, match=message):
            read_images(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("channels", [(), (1,)])
@pytest.mark.parametrize(
    ("dtype", "divisor"),
    [(np.uint8, 1), (np.int64, 1), (np.uint16, 1), (np.float16, 255), (np.float64, 255)],
)
def test_array_files_of_any_type_give_the_same_images(tmp_path, suffix, channels, dtype, divisor):
    array = _random((3, 10, 12, *channels), np.int64)
    stored = (array / divisor if divisor > 1 else array).astype(dtype)
    path = tmp_path / f"a{suffix}"
    np.save(path, stored) if suffix == ".npy" else np.savez(path, image=stored)
    result = read_images(path)
    assert result.names == [f"a{suffix}[{i}]" for i in range(3)] and result.counts is None
    for image, expected in zip(result.images, array.reshape(3, 10, 12), strict=True):
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, expected / 255, atol=1e-3)


def test_bool_is_ink_or_none(tmp_path):
    array = _random((2, 5, 6)) > 127
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npy").images, array)


def test_bad_elements_are_reported_and_counts_stay_with_their_images(tmp_path):
    array = np.full((6, 5, 7), 0.5)
    array[1, 2, 3] = np.nan
    array[2, 0, 0] = np.inf
    array[3, 0, 0] = 254.0
    array[4, 0, 0] = -0.1
    np.savez(tmp_path / "a.npz", image=array, count=np.array([5, 4, 3, 2, 1, -1]))
    result = read_images(tmp_path / "a.npz")
    assert result.names == ["a.npz[0]", "a.npz[5]"] and len(result.images) == 2
    assert result.counts.dtype == np.int32 and result.counts.tolist() == [5, -1]
    assert [name for name, _ in result.errors] == [f"a.npz[{i}]" for i in (1, 2, 3, 4)]
    reasons = [reason for _, reason in result.errors]
    assert "NaN" in reasons[0] and "infinite" in reasons[1]
    assert "divide by 255" in reasons[2] and "-0.1" in reasons[3]


def test_integers_above_255_are_reported(tmp_path):
    array = np.zeros((2, 5, 7), np.int32)
    array[1, 0, 0] = 256
    np.save(tmp_path / "a.npy", array)
    result = read_images(tmp_path / "a.npy")
    assert result.names == ["a.npy[0]"]
    assert result.errors == [("a.npy[1]", "its integers span 0..256; expected 0..255")]


def test_rounding_just_outside_the_unit_interval_is_clipped(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[[-1e-7, 1 + 1e-6]] * 5]))
    (image,) = read_images(tmp_path / "a.npy").images
    assert image.min() == 0 and image.max() == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((5, 7))}, r"\(5, 7\).*\[n, H, W\]"),
        ({"image": np.zeros((2, 2, 5, 7, 1))}, r"\[n, H, W\]"),
        ({"image": np.zeros((0, 5, 7))}, "empty"),
        ({"image": np.zeros((2, 0, 7))}, "empty"),
        ({"image": np.zeros((2, 5, 7, 2))}, "C = 1, 3 or 4"),
        ({"image": np.zeros((28, 28, 3))}, "leading axis"),
        ({"image": np.zeros((2, 5, 7), complex)}, "complex128"),
        ({"image": np.full((2, 5, 7), "a")}, "<U1"),
        ({"images": np.zeros((2, 5, 7))}, r"\['images'\].*'image'"),
        ({"image": np.zeros((2, 5, 7)), "count": np.zeros(3, int)}, "count"),
        ({"image": np.zeros((2, 5, 7)), "count": np.zeros(2)}, "count"),
        ({"image": np.zeros((2, 5, 7)), "count": np.array([0, -2])}, "count"),
    ],
)
def test_array_files_unusable_as_a_whole_are_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        read_images(tmp_path / "a.npz")
    assert "a.npz" in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_array_files_are_never_unpickled(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    array = np.empty((1, 1, 1), object)
    array[0, 0, 0] = Trap()
    path = tmp_path / f"a{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, image=array)
    with pytest.raises(ValueError, match="could not be read"):
        read_images(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_array_files_are_errors_with_their_name(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    array = np.zeros((2, 50, 70), np.uint8)
    np.save(path, array) if suffix == ".npy" else np.savez(path, image=array)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 500):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"a{suffix} could not be read"):
            read_images(path)


def test_images_of_the_right_size_are_prepared_unchanged():
    images = [_random((50, 50), np.float32, seed) / 600 for seed in range(2)]
    prepared = prepare_images(images, image_size=50)
    assert prepared.images.shape == (2, 50, 50, 1) and prepared.images.dtype == np.float32
    np.testing.assert_array_equal(prepared.images[..., 0], images)
    assert prepared.scale.tolist() == [1, 1] and prepared.notes == [None, None]
    assert prepared.offset.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (20, 25), (100, 100)])
def test_boxes_of_resized_images_map_back_to_the_original(shape):
    image = np.zeros(shape, np.float32)
    image[8:16, 4:20] = 1  # edges on whole pixels after scaling by 1/2 or by 2
    prepared = prepare_images([image], image_size=50)
    assert "to 50x50" in prepared.notes[0] and f"{shape[1]}x{shape[0]}" in prepared.notes[0]
    bright = prepared.images[0, :, :, 0] > 0.5
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    original = np.array([4, 8, 20, 16])
    expected = original * prepared.scale[0] + np.tile(prepared.offset[0], 2)
    np.testing.assert_allclose(box, expected, atol=1)  # to the pixel of the prepared image
    boxes = np.stack([expected, np.zeros(4)])[None]
    mapped = to_original_boxes(boxes, prepared.scale, prepared.offset)
    np.testing.assert_allclose(mapped, [[original, np.zeros(4)]], atol=1e-4)


def test_other_shapes_are_padded_to_a_square_with_black_on_both_sides():
    prepared = prepare_images([np.full((100, 60), 0.4, np.float32)], image_size=50)
    expected = np.zeros((50, 50))
    expected[:, 10:40] = 0.4
    np.testing.assert_allclose(prepared.images[0, :, :, 0], expected, atol=0.21)  # at the edges
    np.testing.assert_allclose(prepared.images[0, :, 12:38, 0], 0.4, atol=1e-6)
    assert not prepared.images[0, :, :9].any() and not prepared.images[0, :, 41:].any()


def test_channels_are_prepared_alike():
    image = _random((100, 60, 3), np.float32) / 600
    prepared = prepare_images([image], image_size=50)
    assert prepared.images.shape == (1, 50, 50, 3)
    for channel in range(3):
        alone = prepare_images([image[..., channel]], image_size=50).images[..., 0]
        np.testing.assert_array_equal(prepared.images[..., channel], alone)


def test_shrinking_is_antialiased():
    stripes = np.zeros((100, 100), np.float32)
    stripes[:, ::2] = 0.8
    inner = prepare_images([stripes], image_size=50).images[0, 2:-2, 2:-2, 0]
    np.testing.assert_allclose(inner, 0.4, atol=0.01)


def test_light_background_is_refused_with_the_image_and_the_remedy():
    dark, light = np.zeros((50, 50), np.float32), np.ones((50, 50), np.float32)
    light[20:30, 20:30] = 0
    with pytest.raises(LightBackgroundError, match=r"^b.png .*`--invert`.*`data.invert`"):
        prepare_images([dark, light], image_size=50, names=["a.png", "b.png"])
    with pytest.raises(LightBackgroundError, match="^image 1 "):
        prepare_images([dark, light], image_size=50)
    inverted = prepare_images([light], image_size=50, invert=True).images[0, :, :, 0]
    np.testing.assert_array_equal(inverted, 1 - light)
    with pytest.raises(LightBackgroundError, match="once inverted.*not to be inverted"):
        prepare_images([dark], image_size=50, invert=True)


def test_background_is_judged_by_the_border_alone():
    image = np.zeros((50, 50), np.float32)
    image[1:-1, 1:-1] = 1
    image[0] = 1  # a quarter of the border
    assert prepare_images([image], image_size=50).images.mean() > 0.9


def test_padding_is_black_for_inverted_images_too():
    prepared = prepare_images([np.ones((25, 50), np.float32)], image_size=50, invert=True)
    assert not prepared.images.any()


def test_image_size_must_be_positive():
    with pytest.raises(ValueError, match="image_size"):
        prepare_images([], image_size=0)
