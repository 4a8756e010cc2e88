"""Figures: the right things at the right places, nothing cut off, nothing on top of another."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from air_jax import figures
from tests.pictures import SIZE, assert_legible, centred, render


def windows_in(axes):
    """{colour: (x_min, y_min, x_max, y_max)} of the borders drawn."""
    return {
        patch.get_edgecolor()[:3]: patch.get_bbox().extents
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    }


def make_timeline(num_images=3, steps=(0, 1000), num_steps=3):
    rng = np.random.default_rng(0)
    shape = (len(steps), num_images, num_steps)
    z_where = np.stack(
        [rng.normal(2.5, 0.2, shape), rng.normal(0, 1, shape), rng.normal(0, 1, shape)], axis=-1
    )
    return {
        "images": rng.integers(0, 256, (num_images, SIZE, SIZE, 1)).astype(np.uint8),
        "steps": list(steps),
        "reconstructions": rng.uniform(size=(len(steps), num_images, SIZE, SIZE, 1)),
        "z_where": z_where,
        "z_pres": np.ones(shape),
    }


def test_timeline_draws_each_used_window_where_it_is_in_the_colour_of_its_step():
    inputs = make_timeline(num_images=1, steps=(0,))
    inputs["z_pres"][0, 0] = [1, 1, 0]
    inputs["z_where"][0, 0, 0] = centred(20, 35)  # 20 pixels wide
    inputs["z_where"][0, 0, 1] = centred(45, 25, scale=2)  # 25 pixels wide, beyond the border
    data, reconstruction = figures.timeline(**inputs).axes
    assert windows_in(data) == {}
    drawn = windows_in(reconstruction)
    assert list(drawn) == [to_rgb(colour) for colour in figures.STEP_COLOURS[:2]]
    boxes = [(10, 25, 30, 45), (32.5, 12.5, 57.5, 37.5)]
    np.testing.assert_allclose(list(drawn.values()), boxes, atol=1e-4)
    assert [text.get_text() for text in reconstruction.texts] == ["1", "2"]


def test_the_first_three_windows_are_red_green_and_blue():
    for channel, colour in enumerate(figures.STEP_COLOURS[:3]):
        assert np.argmax(to_rgb(colour)) == channel
    assert len(set(figures.STEP_COLOURS)) >= 6


def test_a_window_beyond_the_image_leaves_no_colour_outside_of_it():
    inputs = make_timeline(num_images=2, steps=(0,), num_steps=1)
    inputs["images"][:] = 0
    inputs["reconstructions"][:] = 0
    inputs["z_where"][:] = centred(45, 25)
    inputs["z_pres"][0, 1] = 0
    figure = figures.timeline(**inputs)
    pixels = render(figure)
    red = np.all(np.abs(pixels - to_rgb(figures.STEP_COLOURS[0])) < 0.02, axis=-1)
    image, neighbour = (axes.get_window_extent() for axes in (figure.axes[1], figure.axes[3]))
    columns = np.flatnonzero(red[len(pixels) - int(image.y1) : len(pixels) - int(image.y0)].any(0))
    assert columns.size
    assert columns.max() <= image.x1 < neighbour.x0


def test_timeline_has_a_labelled_row_for_each_milestone():
    figure = figures.timeline(**make_timeline(num_images=2, steps=(0, 500, 2500, 10_000)))
    assert len(figure.axes) == 2 * 5
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["data", "0", "500", "2.5k", "10k"]
    rows = [axes.get_position().y0 for axes in figure.axes[:5]]
    assert rows == sorted(rows, reverse=True)
    assert figure.get_supylabel() == "training step"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["1st window", "2nd window", "3rd window"]


def test_integer_and_float_images_have_the_same_brightness():
    inputs = make_timeline(num_images=1, steps=(0,), num_steps=1)
    inputs["z_pres"][:] = 0
    inputs["images"][:] = 128
    inputs["reconstructions"][:] = 128 / 255
    figure = figures.timeline(**inputs)
    pixels = render(figure)
    for axes in figure.axes:
        box = axes.get_window_extent()
        middle = pixels[len(pixels) - int(box.y0 + box.height / 2), int(box.x0 + box.width / 2)]
        np.testing.assert_allclose(middle, 128 / 255, atol=0.01)


@pytest.mark.parametrize(
    ("num_images", "steps", "num_steps"),
    [(10, (0, 100, 300, 500, 1000, 2500, 5000, 10_000), 3), (1, (0,), 1), (2, (0, 200_000), 6)],
)
def test_timeline_is_legible(num_images, steps, num_steps):
    assert_legible(figures.timeline(**make_timeline(num_images, steps, num_steps)))


@pytest.mark.parametrize("name", ["reconstructions", "z_where", "z_pres"])
def test_timeline_refuses_a_missing_milestone(name):
    inputs = make_timeline()
    inputs[name] = inputs[name][:1]
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        figures.timeline(**inputs)


def test_images_that_are_not_square_are_refused():
    inputs = make_timeline(num_images=3)
    inputs["images"] = inputs["images"][:, :40]
    with pytest.raises(ValueError, match=r"images must have shape \(3, 40, 40\)"):
        figures.timeline(**inputs)


def test_count_accuracy_is_in_percent_with_its_last_value_in_the_legend():
    per_count = {1: [0.1, 0.2, 0.97], 0: [0.3, 1.0, np.nan]}
    figure = figures.count_accuracy(
        [0, 1000, 2000], [0.25, 0.5, 0.984], per_count, chance=0.25, bar=0.98
    )
    curves = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(curves) == [
        "all images: 98.4 %",
        "0 objects: 100.0 %",
        "1 object: 97.0 %",
        "chance: 25 %",
        "bar: 98 %",
    ]
    np.testing.assert_allclose(curves["all images: 98.4 %"], [25, 50, 98.4])
    np.testing.assert_allclose(curves["chance: 25 %"], 25)
    assert figure.axes[0].get_ylabel() == "count accuracy (%)"
    assert figure.axes[0].get_xlabel() == "training step"
    assert_legible(figure)


def test_curves_of_runs_short_and_long_are_legible():
    for steps in ([100], [100, 200], np.arange(0, 200_001, 100)):
        assert_legible(figures.count_accuracy(steps, np.full(len(steps), 0.5)))
        assert_legible(figures.learning_curve(steps, -1000.0 * np.ones(len(steps)), "ELBO (nats)"))


def test_a_curve_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\), got \(3,\)"):
        figures.learning_curve([1, 2], [1.0, 2.0, 3.0], "ELBO (nats)")


def test_a_learning_curve_shows_every_value_and_its_unit():
    figure = figures.learning_curve([1, 2, 3], [1.0, -5000.0, 3.0], "ELBO (nats per image)")
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[1, 1], [2, -5000], [3, 3]])
    assert axes.get_ylim()[0] < -5000
    assert axes.get_ylabel() == "ELBO (nats per image)"


def test_scan_policy_shows_where_the_centres_are_with_y_downwards():
    z_where = np.tile(centred(11, 35), (100, 2, 1))
    z_where[:25, 0] = centred(41, 3)
    z_pres = np.tile([1, 0], (100, 1))
    figure = figures.scan_policy(z_where, z_pres, SIZE)
    first, second = figure.axes[:2]
    (mesh,) = first.findobj(QuadMesh)[:1]
    density = mesh.get_array()
    # 25 bins of 2 pixels: rows are y, columns are x.
    assert density.shape == (25, 25)
    assert density[17, 5] == 75.0
    assert density[1, 20] == 25.0
    assert density.sum() == 100.0
    assert first.get_ylim() == (SIZE, 0)
    assert first.get_title() == "1st window\n100 objects"
    assert second.get_title() == "2nd window\n0 objects"
    assert [text.get_text() for text in second.texts] == ["never used"]


def test_centres_outside_of_the_image_are_counted_in_the_title():
    z_where = np.array([[centred(-4, 10)], [centred(10, 60)], [centred(25, 25)]])
    figure = figures.scan_policy(z_where, np.ones((3, 1)), SIZE)
    assert figure.axes[0].get_title() == "1st window\n3 objects, 2 outside"


@pytest.mark.parametrize("num_steps", [1, 6])
def test_scan_policy_is_legible(num_steps):
    rng = np.random.default_rng(0)
    z_where = rng.normal((2.2, 0, 0), (0.2, 1, 1), (500, num_steps, 3))
    z_pres = np.arange(num_steps) < rng.integers(0, max(num_steps, 2), (500, 1))
    assert_legible(figures.scan_policy(z_where, z_pres, SIZE))


def test_confusion_cells_hold_images_and_their_share_of_the_true_count():
    figure = figures.confusion([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    # Positions are (x, y): inferred to the right, true downwards.
    assert cells[(0, 0)] == "3\n75.0 %"
    assert cells[(1, 0)] == "1\n25.0 %"
    assert cells[(1, 1)] == "4\n100.0 %"
    assert cells[(2, 2)] == "0"
    assert axes.get_title() == "87.50 % of 8 images counted right"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


@pytest.mark.parametrize("num_counts", [2, 4, 7])
def test_confusion_is_legible(num_counts):
    assert_legible(figures.confusion(np.full((num_counts, num_counts), 10_000)))


WINDOWS = np.array([[5, 10, 25, 30], [20, 22, 46, 48], [0, 0, 9, 9]], float)
BOXES = WINDOWS + np.array([3, 3, -3, -3])


def test_annotated_draws_windows_and_ink_of_the_objects_there_are():
    (axes,) = figures.annotated(np.zeros((50, 50)), WINDOWS, BOXES, 2, "scene").axes
    dashed = [patch for patch in axes.patches if patch.get_linestyle() in ("--", "dashed")]
    solid = [patch for patch in axes.patches if patch not in dashed]
    for patches, expected in ((solid, WINDOWS), (dashed, BOXES)):
        assert [patch.get_bbox().extents.tolist() for patch in patches] == expected[:2].tolist()
        assert [patch.get_edgecolor()[:3] for patch in patches] == [
            to_rgb(colour) for colour in figures.STEP_COLOURS[:2]
        ]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


@pytest.mark.parametrize("factor", [0.4, 1, 40])
def test_a_window_is_painted_at_its_pixels_whatever_the_size_of_the_picture(factor):
    size = int(50 * factor)
    image = np.zeros((size, size), np.uint8)
    figure = figures.annotated(image, WINDOWS * factor, BOXES * factor, 2, "scene")
    pixels = render(figure)
    (axes,) = figure.axes
    # The middle of the lower edge of window 2, away from any other line.
    x, y = axes.transData.transform((33 * factor, 48 * factor))
    edge = pixels[len(pixels) - 1 - int(y)][int(x) - 1 : int(x) + 2]
    np.testing.assert_allclose(edge, np.tile(to_rgb(figures.STEP_COLOURS[1]), (3, 1)), atol=0.02)
    inside = pixels[len(pixels) - 1 - int(y) - 6, int(x)]
    np.testing.assert_allclose(inside, 0, atol=0.02)
    # The picture shares the coordinates of the boxes: pixel k spans k to k + 1.
    assert tuple(axes.images[0].get_extent()) == (0, size, size, 0)


def test_a_picture_keeps_its_proportions_and_its_colours():
    image = np.zeros((40, 120, 3), np.uint8)
    image[..., 2] = 200
    figure = figures.annotated(image, WINDOWS, BOXES, 0, "wide")
    extent = figure.axes[0].get_window_extent()
    assert extent.width / extent.height == pytest.approx(3)
    middle = render(figure)[-int(extent.y0 + extent.height / 2), int(extent.x0 + extent.width / 2)]
    np.testing.assert_allclose(middle, [0, 0, 200 / 255], atol=0.01)


@pytest.mark.parametrize("shape", [(20, 20), (50, 50, 1), (2000, 1500), (30, 600), (600, 30)])
@pytest.mark.parametrize("num_objects", [0, 6])
def test_annotated_is_legible(shape, num_objects):
    windows = np.tile(WINDOWS, (2, 1)) * np.tile(shape[1::-1], 2) / 50
    title = "a folder/" + "a long name of a file " * 10 + ".jpeg"
    assert_legible(figures.annotated(np.ones(shape), windows, windows, num_objects, title))


def test_a_file_name_is_shown_as_it_is(tmp_path):
    name = r"price $\frac{1$ ^_ 日本.png"
    figure = figures.annotated(np.zeros((20, 20)), WINDOWS, BOXES, 0, name)
    assert figure.get_suptitle() == name
    # Neither the formula nor the letters that the font lacks are an error or a warning.
    figures.save(figure, tmp_path / "picture.png")


def test_a_picture_without_objects_says_so():
    figure = figures.annotated(np.zeros((20, 20)), WINDOWS, BOXES, 0, "empty")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no object found"]


def test_more_objects_than_windows_are_refused():
    with pytest.raises(ValueError, match="num_objects is 4, but there are 3 windows"):
        figures.annotated(np.zeros((20, 20)), WINDOWS, BOXES, 4, "scene")


def test_save_creates_folders_and_leaves_only_the_picture(tmp_path):
    path = tmp_path / "figures" / "elbo.png"
    figure = figures.learning_curve([0, 1], [0.0, 1.0], "ELBO (nats)")
    for _ in range(2):
        figures.save(figure, path)
    assert [p.name for p in path.parent.iterdir()] == ["elbo.png"]
    with Image.open(path) as image:
        assert image.size == tuple((figure.get_size_inches() * figures.DPI).astype(int))


@pytest.mark.parametrize("name", ["elbo", "elbo.docx"])
def test_an_unknown_format_is_refused_and_leaves_nothing(tmp_path, name):
    figure = figures.learning_curve([0, 1], [0.0, 1.0], "ELBO (nats)")
    with pytest.raises(ValueError, match="png"):
        figures.save(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_figures_need_no_display_and_no_pyplot(tmp_path):
    program = (
        "import sys; from air_jax import figures\n"
        "figures.save(figures.learning_curve([0, 1], [0, 1], 'ELBO (nats)'), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "elbo.png")], check=True, env=environment
    )
    assert (tmp_path / "elbo.png").exists()
