"""What the demo's page shows, as HTML: no other host is asked for anything."""

import base64
import html
from collections.abc import Sequence

import numpy as np

from air_jax import overlay
from air_jax.charts import plural
from air_jax.figures import STEP_COLOURS
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


def heading(description: str) -> str:
    """What stands above everything.

    Args:
      description: of the model, a line of text.
    """
    return (
        '<div class="air"><h1>Attend, infer, repeat</h1><p>Draw digits or shapes: the network '
        "looks at one object after the other, counts them, and draws the scene again.</p>"
        f'<p class="quiet">{html.escape(description)}</p></div>'
    )


def message(text: str) -> str:
    """A sentence for the person at the page; nothing for an empty one."""
    inner = f'<p class="message">{html.escape(text)}</p>' if text else ""
    return f'<div class="air" role="status" aria-live="polite">{inner}</div>'


def results(view: View) -> str:
    """What the model makes of an image: the count, the windows, and step by step."""
    count = view.num_objects
    rows = "".join(
        f'<span class="{"here" if n == count else ""}">{n}</span>'
        f'<div class="bar"><span style="width:{100 * p:.1f}%"></span></div>'
        f'<span class="{"here" if n == count else ""}">{100 * p:.1f} %</span>'
        for n, p in enumerate(view.count_probs)
    )
    windows = with_windows(view.image, view.windows[:count])
    said = (
        f'<div class="said"><p class="count" data-count="{count}"><strong>{count}</strong> '
        f"{plural(count, 'object').partition(' ')[2]}</p>"
        f'<div class="probabilities" role="group" aria-label="probability of every count">{rows}'
        f'</div><p class="quiet time">The network took {view.milliseconds:.1f} ms.</p></div>'
    )
    shown = _figure(windows, "what it saw, and where it looked", "the image with numbered windows")
    drawn = _figure(view.canvases[count], "what it drew", "the reconstruction")
    steps = "".join(_step(view, i) for i in range(count))
    if not steps:
        steps = '<p class="quiet">No object was found: the canvas stays empty.</p>'
    return (
        f'<div class="air"><div class="trio answer">{shown}{drawn}{said}</div>'
        f'<h2>Step by step</h2><div class="steps">{steps}</div></div>'
    )


def changed(
    inferred: np.ndarray,
    canvas: np.ndarray,
    windows: np.ndarray,
    z_where: np.ndarray,
    strip: np.ndarray,
    values: Sequence[float],
    value: float,
) -> str:
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
    before = _figure(inferred, "as it was inferred", "the scene as it was inferred")
    after = _figure(with_windows(canvas, windows), "as you changed it", "the scene as changed")
    here = int(np.abs(np.asarray(values) - value).argmin())
    walk = "".join(
        f'<figure><img class="{"here" if i == here else ""}" src="{data_url(picture)}" '
        f'alt="the object at {at:g}"><figcaption>{at:g}</figcaption></figure>'
        for i, (picture, at) in enumerate(zip(strip, values, strict=True))
    )
    numbers = ", ".join(f"{number:.2f}" for number in z_where)
    return (
        f'<div class="air"><div class="trio">{after}{before}<div class="said">'
        f"<h2>Along the chosen dimension</h2>"
        f'<div class="walk">{walk}</div>'
        f'<p class="quiet where">z_where = (s, t_x, t_y) = ({numbers})</p></div></div></div>'
    )


def nothing_to_change() -> str:
    """What stands in the place of `changed` where no object was found."""
    return '<div class="air"><p class="quiet">No object was found: nothing to change.</p></div>'


def with_windows(image: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """An image large enough to read the windows' numbers, uint8 `[k H, k W, 3]`.

    Args:
      image: `[H, W, C]`.
      windows: pixels of the image, `[count, 4]`.
    """
    return overlay.with_windows(image, windows, max(1, round(_SIDE / image.shape[0])))


def _step(view: View, i: int) -> str:
    colour = STEP_COLOURS[i % len(STEP_COLOURS)]
    pictures = (
        (view.glimpses[i], "glimpse", f"what step {i + 1} read"),
        (view.objects[i], "object", f"what step {i + 1} drew"),
        (view.canvases[i + 1], "canvas", f"the canvas after step {i + 1}"),
    )
    figures = "".join(_figure(*picture) for picture in pictures)
    badge = f'<span class="badge" style="background:{colour}">{i + 1}</span>'
    x_min, y_min, x_max, y_max = view.windows[i]
    where = f"{x_max - x_min:.0f} pixels at ({(x_min + x_max) / 2:.0f}, {(y_min + y_max) / 2:.0f})"
    return f'<div class="step"><p>{badge}<span class="quiet">{where}</span></p>{figures}</div>'


def _figure(picture: np.ndarray, caption: str, alt: str) -> str:
    return (
        f'<figure><img src="{data_url(picture)}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
