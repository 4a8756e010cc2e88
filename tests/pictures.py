"""What tests of figures share: pixels, texts, and whether these can be read."""

import itertools
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

SIZE = 50


def centred(x, y, scale=2.5):
    """z_where of a window centred at pixel position (x, y): centre = (1 - t / s) * S / 2."""
    return scale, (1 - 2 * x / SIZE) * scale, (1 - 2 * y / SIZE) * scale


def render(figure):
    """Draws the figure and returns its pixels, `[height, width, 3]` in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def texts_of(figure):
    """Every text drawn, with its extent in pixels, but not the numbers of windows."""
    drawn = []
    draw = Text.draw

    def record(text, renderer):
        drawn.append(text)
        draw(text, renderer)

    with mock.patch.object(Text, "draw", record):
        render(figure)
    return [
        (text.get_text(), text.get_window_extent())
        for text in drawn
        if text.get_visible() and text.get_text().strip() and not isinstance(text, Annotation)
    ]


def assert_legible(figure):
    texts = texts_of(figure)
    assert texts
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in texts:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text!r} is cut off"
    for (text, box), (other, other_box) in itertools.combinations(texts, 2):
        assert not box.overlaps(other_box), f"{text!r} and {other!r} overlap"
    for legend, axes in itertools.product(figure.legends, figure.axes):
        for text in legend.get_texts():
            overlap = text.get_window_extent().overlaps(axes.get_window_extent())
            assert not overlap, f"{text.get_text()!r} of the legend lies on a picture"
