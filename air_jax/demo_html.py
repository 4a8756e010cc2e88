"""What the demo's page shows, as HTML: no other host is asked for anything."""

import base64
from collections.abc import Sequence

import numpy as np

from air_jax import overlay
from air_jax.charts import plural
from air_jax.figures import STEP_COLOURS
from air_jax.markup import Markup, element
from air_jax.scene_view import View

_SIDE = 400  # of a picture with windows, pixels

STYLE = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container footer { display: none !important; }
.html-container { padding: 0 !important; }
.air h1 { font-size: 22px; margin: 0 0 4px; }
.air h2 { font-size: 15px; margin: 14px 0 6px; font-weight: 600; }
.air p { margin: 0; }
.air .quiet, .air figcaption { color: var(--body-text-color-subdued); font-size: 13px; }
.air figure { margin: 0; min-width: 0; }
.air img { display: block; width: 100%; margin: 0; image-rendering: pixelated; background: black;
  border-radius: 4px; }
.air .trio { display: grid; gap: 14px; align-items: start;
  grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) minmax(0, 1.1fr); }
.air .count { font-size: 22px; }
.air .count strong { font-size: 36px; line-height: 1; }
.air .probabilities { display: grid; grid-template-columns: auto 1fr auto; gap: 3px 8px;
  align-items: center; margin: 10px 0; font-variant-numeric: tabular-nums; font-size: 14px; }
.air .bar { height: 12px; border-radius: 3px; background: var(--border-color-primary); }
.air .bar span { display: block; height: 100%; border-radius: 3px; background: #5c9dff; }
.air .here { font-weight: 700; }
.air .steps { display: flex; flex-wrap: wrap; gap: 10px; }
.air .step { border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 8px;
  flex: 0 1 250px; display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 6px; }
.air .step > p { grid-column: 1 / -1; font-size: 14px; }
.air .badge { display: inline-block; min-width: 20px; text-align: center; font-weight: 700;
  color: black; border-radius: 3px; margin-right: 6px; }
.air .walk { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 4px 8px;
  text-align: center; max-width: 250px; }
.air .walk h2, .air .said h2 { margin-top: 0; }
.air .walk img.here { outline: 2px solid #5c9dff; outline-offset: 1px; }
.air .message { border-left: 4px solid #ffc233; padding: 6px 10px; border-radius: 4px;
  background: var(--background-fill-secondary); }
@media (max-width: 700px) {
  .air h1 { font-size: 19px; }
  .air .trio { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
  .air .said { grid-column: 1 / -1; }
  .air .answer .said { order: -1; }
  .air .probabilities { gap: 1px 8px; margin: 6px 0; font-size: 13px; }
  .air .walk { grid-template-columns: repeat(9, minmax(0, 1fr)); max-width: none; gap: 3px; }
  .air .step { flex: 1 1 100%; }
  #controls { order: 2; }
}
"""


def data_url(picture: np.ndarray) -> str:
    """A picture as a PNG inside an address.

    Args:
      picture: float in [0, 1], what is beyond is cut off, or uint8; `[H, W, 1]` or `[H, W, 3]`.
    """
    png = overlay.to_png(overlay.enlarge(picture, 1))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def heading(description: str) -> Markup:
    """What stands above everything.

    Args:
      description: of the model, a line of text.
    """
    return _block(
        element("h1", "Attend, infer, repeat"),
        element(
            "p",
            "Draw digits or shapes: the network looks at one object after the other, counts them, "
            "and draws the scene again.",
        ),
        _quiet(description),
    )


def message(text: str) -> Markup:
    """A sentence for the person at the page; nothing for an empty one."""
    sentence = element("p", text, class_="message") if text else None
    return _block(sentence, role="status", aria_live="polite")


def results(view: View) -> Markup:
    """What the model makes of an image: the count, the windows, and step by step."""
    count = view.num_objects
    windows = with_windows(view.image, view.windows[:count])
    steps = [_step(view, i) for i in range(count)]
    return _block(
        element(
            "div",
            _figure(windows, "what it saw, and where it looked", "the image with numbered windows"),
            _figure(view.canvases[count], "what it drew", "the reconstruction"),
            _count(view),
            class_="trio answer",
        ),
        element("h2", "Step by step"),
        element(
            "div",
            *(steps or [_quiet("No object was found: the canvas stays empty.")]),
            class_="steps",
        ),
    )


def changed(
    inferred: np.ndarray,
    canvas: np.ndarray,
    windows: np.ndarray,
    z_where: np.ndarray,
    strip: np.ndarray,
    values: Sequence[float],
    value: float,
) -> Markup:
    """A scene before and after its latents were changed.

    Args:
      inferred: the canvas before, `[H, W, C]`.
      canvas: the one after, `[H, W, C]`.
      windows: of the objects after, pixels, `[count, 4]`.
      z_where: of the chosen object, `[3]`.
      strip: the chosen object along the chosen dimension, `[K, h, h, C]`.
      values: of that dimension, K.
      value: that the object has.
    """
    here = int(np.abs(np.asarray(values) - value).argmin())
    walk = [
        _figure(picture, f"{at:g}", f"the object at {at:g}", class_="here" if i == here else None)
        for i, (picture, at) in enumerate(zip(strip, values, strict=True))
    ]
    numbers = ", ".join(f"{number:.2f}" for number in z_where)
    return _block(
        element(
            "div",
            _figure(with_windows(canvas, windows), "as you changed it", "the scene as changed"),
            _figure(inferred, "as it was inferred", "the scene as it was inferred"),
            element(
                "div",
                element("h2", "Along the chosen dimension"),
                element("div", *walk, class_="walk"),
                _quiet(f"z_where = (s, t_x, t_y) = ({numbers})", "where"),
                class_="said",
            ),
            class_="trio",
        )
    )


def nothing_to_change() -> Markup:
    """What stands in the place of `changed` where no object was found."""
    return _block(_quiet("No object was found: nothing to change."))


def with_windows(image: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """An image large enough to read the windows' numbers, uint8 `[k H, k W, 3]`.

    Args:
      image: `[H, W, C]`.
      windows: pixels of the image, `[count, 4]`.
    """
    return overlay.with_windows(image, windows, max(1, round(_SIDE / image.shape[0])))


def _count(view: View) -> Markup:
    """The count, and how likely every other one is."""
    count = view.num_objects
    rows = []
    for n, probability in enumerate(view.count_probs):
        here = "here" if n == count else None
        bar = element("span", style=f"width:{100 * probability:.1f}%")
        rows += [
            element("span", n, class_=here),
            element("div", bar, class_="bar"),
            element("span", f"{100 * probability:.1f} %", class_=here),
        ]
    noun = plural(count, "object").partition(" ")[2]
    return element(
        "div",
        element("p", element("strong", count), f" {noun}", class_="count", data_count=count),
        element(
            "div",
            *rows,
            class_="probabilities",
            role="group",
            aria_label="probability of every count",
        ),
        _quiet(f"The network took {view.milliseconds:.1f} ms.", "time"),
        class_="said",
    )


def _step(view: View, i: int) -> Markup:
    x_min, y_min, x_max, y_max = view.windows[i]
    where = f"{x_max - x_min:.0f} pixels at ({(x_min + x_max) / 2:.0f}, {(y_min + y_max) / 2:.0f})"
    colour = f"background:{STEP_COLOURS[i % len(STEP_COLOURS)]}"
    return element(
        "div",
        element(
            "p",
            element("span", i + 1, class_="badge", style=colour),
            element("span", where, class_="quiet"),
        ),
        _figure(view.glimpses[i], "glimpse", f"what step {i + 1} read"),
        _figure(view.objects[i], "object", f"what step {i + 1} drew"),
        _figure(view.canvases[i + 1], "canvas", f"the canvas after step {i + 1}"),
        class_="step",
    )


def _figure(picture: np.ndarray, caption: str, alt: str, **attributes: str | None) -> Markup:
    """A picture with what stands below it and its text for readers; attributes are the image's."""
    return element(
        "figure",
        element("img", src=data_url(picture), alt=alt, **attributes),
        element("figcaption", caption),
    )


def _quiet(text: str, more: str = "") -> Markup:
    """A paragraph in grey, perhaps with another class."""
    return element("p", text, class_=f"quiet {more}".strip())


def _block(*children: Markup | None, **attributes: str) -> Markup:
    """A part of the page that `STYLE` is meant for."""
    return element("div", *children, class_="air", **attributes)
