"""What `air_jax.infer` says of the objects that a model found in an image."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from air_jax import figures
from air_jax.data import images
from air_jax.inference import Objects
from air_jax.writer import rounded


def in_original(objects: Objects, prepared: images.Prepared, shape: tuple[int, ...]) -> Objects:
    """Boxes and windows in pixels of the user's image; boxes NaN where none of the ink is in it.

    Args:
      objects: of one image, each leaf with a first axis of length 1.
      prepared: the image as the model saw it.
      shape: of the user's image, `(H, W, ...)`.
    """
    windows, boxes = (
        images.to_original_boxes(edges, prepared.scale, prepared.offset)
        for edges in (objects.windows, objects.boxes)
    )
    boxes = np.clip(boxes, 0, np.array([shape[1], shape[0]] * 2, np.float32))
    visible = (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdims=True)
    return objects._replace(windows=windows, boxes=np.where(visible, boxes, np.nan))


def describe(objects: Objects) -> dict[str, Any]:
    """The objects of one image, JSON-able.

    Args:
      objects: each leaf with a first axis of length 1.

    Returns:
      `count`; `count_probs`; `objects`, in the order found, each with `box` (None where it is NaN),
      `window` and `presence`; `elbo` in nats.
    """
    count = int(objects.counts[0])
    found = zip(objects.boxes[0], objects.windows[0], objects.presence[0], strict=True)
    listed = [
        {
            "box": rounded(box) if np.isfinite(box).all() else None,
            "window": rounded(window),
            "presence": rounded([presence])[0],
        }
        for box, window, presence in found
    ]
    return {
        "count": count,
        "count_probs": rounded(objects.count_probs[0]),
        "objects": listed[:count],
        "elbo": rounded(objects.elbo_terms["elbo"])[0],
    }


def picture(image: np.ndarray, objects: Objects, title: str) -> Figure:
    """The image with windows and boxes.

    Args:
      image: as the user gave it, `[H, W]` or `[H, W, 3]`.
      objects: in its pixels, each leaf with a first axis of length 1.
      title: any text.
    """
    count = int(objects.counts[0])
    return figures.annotated(image, objects.windows[0], objects.boxes[0], count, title)
