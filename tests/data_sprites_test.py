"""Sprites, held to geometry: areas, boxes and what is hidden are worked out from the shapes."""

import colorsys
import itertools

import numpy as np
import pytest

from air_jax.data import sprites
from air_jax.data.sprites import MIN_VISIBLE, SHAPES, compose_sprites

SUBPIXELS = 8


def compose(**options):
    defaults = {"num_scenes": 60, "counts": (0, 1, 2, 3), "image_size": 50, "sprite_size": (12, 22)}
    return compose_sprites(**({"seed": 0} | defaults | options))


def extent(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def square_around(label, box):
    """(x_min, y_min, side) of the square that a shape of this box was drawn in.

    A triangle covers no pixel of its uppermost row by more than half, so that its box is lower.
    """
    x_min, y_min, x_max, _ = (int(edge) for edge in box)
    return x_min, y_min - (SHAPES[label] == "triangle"), x_max - x_min


def inside(label, box, size):
    """Which of the points of a fine grid over the image lie in a shape: `[8 size, 8 size]`."""
    x_min, y_min, side = square_around(label, box)
    points = (np.arange(size * SUBPIXELS) + 0.5) / SUBPIXELS
    x, y = (points[None, :] - x_min) / side, (points[:, None] - y_min) / side  # 0..1 in the square
    centred_x, centred_y = abs(x - 0.5), abs(y - 0.5)
    return {
        "circle": np.hypot(centred_x, centred_y) < 0.5,
        "square": np.maximum(centred_x, centred_y) < 0.5,
        "triangle": (centred_x < y / 2) & (y < 1),
        "diamond": centred_x + centred_y < 0.5,
    }[SHAPES[label]]


def objects_of(scenes, i):
    """Label and box of every object of a scene, from back to front."""
    count = scenes.counts[i]
    return list(zip(scenes.labels[i, :count], scenes.boxes[i, :count], strict=True))


def test_shapes_and_types_and_what_stands_for_absent_objects():
    scenes = compose(counts=(0, 1, 3))
    assert scenes.images.shape == (60, 50, 50, 3) and scenes.images.dtype == np.uint8
    assert scenes.counts.shape == (60,) and scenes.counts.dtype == np.int32
    assert scenes.boxes.shape == (60, 3, 4) and scenes.boxes.dtype == np.float32
    assert scenes.labels.shape == (60, 3) and scenes.labels.dtype == np.int32
    assert scenes.hidden.shape == (60, 3) and scenes.hidden.dtype == np.float32
    assert np.bincount(scenes.counts).tolist() == [20, 20, 0, 20]
    present = np.arange(3) < scenes.counts[:, None]
    np.testing.assert_array_equal(scenes.labels >= 0, present)
    np.testing.assert_array_equal(scenes.boxes.any(-1), present)
    assert not scenes.hidden[~present].any()
    np.testing.assert_array_equal(scenes.images.any((1, 2, 3)), scenes.counts > 0)


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", np.pi / 4), ("square", 1), ("triangle", 0.5), ("diamond", 0.5)]
)
@pytest.mark.parametrize("side", [2, 12, 17])
def test_a_shape_covers_its_area(shape, area, side):
    # Half a row of subpixels along the border is the most that the grid can add.
    tolerance = 4 / 32 * side
    coverage = sprites._coverage(shape, side)
    assert coverage.shape == (side, side) and 0 <= coverage.min() <= coverage.max() <= 1
    assert coverage.sum() == pytest.approx(area * side**2, abs=tolerance)


def test_a_box_is_the_extent_of_what_was_drawn_and_as_large_as_was_asked_for():
    scenes = compose(counts=(1,), num_scenes=300)
    widths = {label: set() for label in range(len(SHAPES))}
    for image, (label,), (box,) in zip(scenes.images, scenes.labels, scenes.boxes, strict=True):
        ink = image.max(-1) / image.max()
        # Pixels that are just about half covered may be in or out.
        inner, outer = extent(ink > 0.55), extent(ink > 0.45)
        assert all(outer[:2] <= box[:2]) and all(box[:2] <= inner[:2])
        assert all(inner[2:] <= box[2:]) and all(box[2:] <= outer[2:])
        x_min, y_min, side = square_around(label, box)
        assert x_min >= 0 and y_min >= 0 and max(x_min, y_min) + side <= 50
        widths[label].add(side)
    assert all(sides == set(range(12, 23)) for sides in widths.values())


def test_edges_are_antialiased():
    scenes = compose(counts=(1,), num_scenes=100)
    for image, label in zip(scenes.images, scenes.labels[:, 0], strict=True):
        between = (image.max(-1) > 0) & (image.max(-1) < image.max())
        assert between.any() == (SHAPES[label] != "square")


def test_what_is_hidden_is_what_later_shapes_cover_and_a_quarter_stays_visible():
    scenes = compose(counts=(2, 3), num_scenes=80)
    assert (scenes.hidden > 0.5).any()
    for i in range(80):
        masks = [inside(label, box, 50) for label, box in objects_of(scenes, i)]
        for k, mask in enumerate(masks):
            covered = np.any([np.zeros_like(mask), *masks[k + 1 :]], axis=0)
            share = (mask & covered).sum() / mask.sum()
            assert scenes.hidden[i, k] == pytest.approx(share, abs=0.02)
            assert 1 - share >= MIN_VISIBLE - 0.02
        everything = np.any(masks, axis=0).reshape(50, SUBPIXELS, 50, SUBPIXELS).any((1, 3))
        # A corner may cover next to nothing of a pixel.
        assert scenes.images[i][~everything].max(initial=0) < 10
        assert scenes.images[i].any(-1).sum() > 0.95 * everything.sum()
    assert (scenes.hidden <= 1 - MIN_VISIBLE).all()


def test_scenes_overlap_heavily():
    hidden = compose(counts=(3,), num_scenes=2_000).hidden.max(1)
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75)):
        assert ((low < hidden) & (hidden <= high)).mean() > 0.1


def test_colours_are_saturated_and_tell_the_sprites_of_a_scene_apart():
    scenes = compose(counts=(3,), num_scenes=100)
    hues = np.full((100, 3), np.nan)
    for i in range(100):
        masks = [inside(label, box, 50) for label, box in objects_of(scenes, i)]
        for k, mask in enumerate(masks):
            visible = mask & ~np.any([np.zeros_like(mask), *masks[k + 1 :]], axis=0)
            whole = visible.reshape(50, SUBPIXELS, 50, SUBPIXELS).all((1, 3))
            if whole.any():  # a sliver may have no whole pixel
                # Not of every pixel: one may hold a corner finer than this grid.
                colour = np.median(scenes.images[i][whole], axis=0) / 255
                hues[i, k], saturation, value = colorsys.rgb_to_hsv(*colour)
                assert saturation > 0.59 and value > 0.69
    assert np.isfinite(hues).mean() > 0.95
    for a, b in itertools.combinations(range(3), 2):
        apart = np.abs((hues[:, a] - hues[:, b] + 0.5) % 1 - 0.5)
        assert np.nanmin(apart) > 1 / 6 - 0.01
    assert np.nanmin(hues) < 0.05 and np.nanmax(hues) > 0.95


def test_seed_decides_and_noise_is_upon_the_same_scenes():
    first, again, other = compose(), compose(), compose(seed=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.counts != other.counts).any() and (first.images != other.images).any()
    noisy = compose(noise=0.1)
    np.testing.assert_array_equal(noisy.boxes, first.boxes)
    black = noisy.images[first.images == 0]
    np.testing.assert_allclose((black > 0).mean(), 0.5, atol=0.02)


def test_no_sprites_at_all_gives_black_images():
    scenes = compose(counts=(0,), num_scenes=3)
    assert not scenes.images.any()
    assert scenes.boxes.shape == (3, 0, 4) and scenes.hidden.shape == (3, 0)


def test_sprites_that_cannot_all_be_visible_end_in_an_error_that_says_what_to_change(monkeypatch):
    monkeypatch.setattr(sprites, "_MAX_ROUNDS", 5)
    with pytest.raises(ValueError, match=r"9 sprites .* 20x20 .*image_size.*counts.*sprite_size"):
        compose(counts=(0, 9), image_size=20, sprite_size=(20, 20), num_scenes=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": (1, -1)}, "counts"),
        ({"num_scenes": 0}, "num_scenes"),
        ({"image_size": 0}, "image_size"),
        ({"noise": -0.1}, "noise"),
        ({"sprite_size": (12,)}, "sprite_size"),
        ({"sprite_size": (1, 5)}, "sprite_size"),
        ({"sprite_size": (20, 12)}, "sprite_size"),
        ({"sprite_size": (12.0, 20.0)}, "sprite_size"),
        ({"sprite_size": (12, 51)}, "51 pixels .* image_size = 50"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        compose(**options)
