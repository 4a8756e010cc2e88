"""What `air_jax.infer` says of the scenes that a model found through a renderer."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from air_jax import figures
from air_jax.inverse_graphics import Objects3D
from air_jax.render.scene import Catalogue
from air_jax.writer import rounded


def describe(objects: Objects3D, catalogue: Catalogue) -> dict[str, Any]:
    """The scene of one image, JSON-able.

    Args:
      objects: each leaf with a first axis of length 1.
      catalogue: the models' names.

    Returns:
      `count`; `objects`, in the order found, each with `identity`, `identity_probs` by name,
      `position` (x, y in units of length), `yaw` (degrees) and `presence`; `camera` with `azimuth`
      and `elevation` in degrees; `elbo` in nats.
    """
    count = int(objects.counts[0])
    listed = []
    for i in range(count):
        probs = rounded(objects.identity_probs[0, i])
        x, y, yaw = objects.poses[0, i]
        listed.append(
            {
                "identity": catalogue[objects.identities[0, i]].name,
                "identity_probs": {
                    model.name: prob for model, prob in zip(catalogue, probs, strict=True)
                },
                "position": rounded(np.array([x, y])),
                "yaw": rounded(np.array([math.degrees(yaw)]))[0],
                "presence": rounded(objects.presence[0, i : i + 1])[0],
            }
        )
    azimuth, elevation = rounded(np.degrees(objects.cameras[0]))
    return {
        "count": count,
        "objects": listed,
        "camera": {"azimuth": azimuth, "elevation": elevation},
        "elbo": rounded(objects.elbo_terms["elbo"])[0],
    }


def picture(image: np.ndarray, objects: Objects3D, catalogue: Catalogue, title: str) -> Figure:
    """The image as the model saw it, beside the scene that was found.

    Args:
      image: `[H, W, 3]` in [0, 1].
      objects: each leaf with a first axis of length 1.
      catalogue: the models' names.
      title: any text.
    """
    names = [catalogue[i].name for i in objects.identities[0, : int(objects.counts[0])]]
    return figures.side_by_side(
        {"image": image, ", ".join(names) or "nothing": objects.reconstructions[0]}, title
    )
