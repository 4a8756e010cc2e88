"""Pictures as arrays: sizes, colours, windows where they belong, and no font that is missing."""

import chex
import numpy as np
import pytest

from air_jax import overlay
from air_jax.figures import STEP_COLOURS

RED, GREEN, BLUE = (
    tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in STEP_COLOURS[:3]
)


def test_images_of_every_kind_are_enlarged_pixel_by_pixel():
    image = np.array([[0, 51], [102, 255]], np.uint8)
    wanted = np.kron(image, np.ones((3, 3), np.uint8))[..., None].repeat(3, -1)
    for given in (image, image[..., None], image / 255, image[..., None].repeat(3, -1)):
        found = overlay.enlarge(given, 3)
        chex.assert_type(found, np.uint8)
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(overlay.enlarge(np.array([[-1.0, 2.0]]), 1)[0, :, 0], [0, 255])


@pytest.mark.parametrize(
    "image, factor, message",
    [(np.zeros((2, 2, 4)), 1, r"\(2, 2, 3\)"), (np.zeros((2, 2)), 0, "at least 1")],
)
def test_other_shapes_and_factors_are_refused(image, factor, message):
    with pytest.raises(ValueError, match=message):
        overlay.enlarge(image, factor)


def test_windows_have_their_border_and_number():
    picture = overlay.with_windows(np.zeros((50, 50)), [[10, 10, 30, 30]], 4)
    chex.assert_shape(picture, (200, 200, 3))
    inside = np.zeros((200, 200), bool)
    inside[40:120, 40:120] = True
    assert not picture[~inside].any()
    for row, column in ((40, 80), (119, 80), (80, 40), (80, 119)):
        assert tuple(picture[row, column]) == RED
    # The number, black on the step's colour, in the first corner.
    corner = picture[40:52, 40:52].reshape(-1, 3)
    assert (corner == RED).all(1).mean() > 0.4
    assert (corner.max(1) < 50).any()


def test_numbers_choose_colours_and_corners():
    picture = overlay.with_windows(np.zeros((50, 50)), [[10, 10, 30, 30]], 4, numbers=[3])
    assert tuple(picture[118, 80]) == BLUE
    assert tuple(picture[118, 41]) == BLUE and not (picture == RED).all(-1).any()


def test_numbers_of_equal_windows_stay_legible():
    picture = overlay.with_windows(np.zeros((50, 50)), [[10, 10, 30, 30]] * 3, 4)
    for colour in (RED, GREEN, BLUE):
        assert (picture == colour).all(-1).sum() > 50


def test_windows_out_of_sight_keep_to_the_picture():
    windows = [[-1e9, -20, 1e9, 70], [np.nan] * 4, [60, 60, 80, 80], [5, 5, 2, 2]]
    picture = overlay.with_windows(np.zeros((50, 50)), windows, 4)
    chex.assert_shape(picture, (200, 200, 3))


def test_as_many_windows_as_numbers():
    with pytest.raises(ValueError, match="windows"):
        overlay.with_windows(np.zeros((5, 5)), [[0, 0, 1, 1]], 1, numbers=[1, 2])


def test_pictures_side_by_side_and_in_rows():
    parts = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
    row = overlay.side_by_side(parts[:2], gap=2)
    chex.assert_shape(row, (4, 14, 3))
    assert row[0, 0, 0] == 10 and row[0, 6, 0] == 255 and row[0, 8, 0] == 20
    rows = overlay.grid(parts, 2, gap=2)
    chex.assert_shape(rows, (10, 14, 3))
    assert rows[6, 0, 0] == 30 and rows[6, 13, 0] == 255
    # No wider than it has to be.
    chex.assert_shape(overlay.grid(parts, 5, gap=2), (4, 22, 3))


def test_no_picture_and_other_sizes_are_refused():
    parts = [np.zeros((4, 6, 3), np.uint8), np.zeros((5, 6, 3), np.uint8)]
    for call in (lambda: overlay.side_by_side([]), lambda: overlay.grid([], 1)):
        with pytest.raises(ValueError, match="there is no picture"):
            call()
    with pytest.raises(ValueError, match="picture"):
        overlay.side_by_side(parts)
    with pytest.raises(ValueError, match="at least 1"):
        overlay.grid(parts, 0)


def test_a_title_stands_above():
    picture = np.zeros((40, 200, 3), np.uint8)
    found = overlay.titled(picture, "step 1,200")
    assert found.shape[0] > 40 and found.shape[1:] == (200, 3)
    band = found[:-40]
    assert (band == 255).mean() > 0.5 and band.min() < 50
    assert not np.array_equal(overlay.titled(picture, "step 1,400"), found)
