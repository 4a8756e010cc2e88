"""What a representation of a scene is good for: two questions about two digits (Sec. 3.1.2).

Scenes of exactly two digits, the codes that models have of them, and the labels of two tasks:

    sum         of the two digits, 0 to 18: 19 classes
    ascending   whether the digit on the left is smaller than that on the right: 2 classes

The paper's text does not say what it makes of two equal digits. Here they do not ascend, so that
55 % of the scenes are "no" and 45 % "yes". On the left is the digit whose box has its centre
further left; where two are level, to half a pixel, it is the upper one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from air_jax.classification import Inputs
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes
from air_jax.draw import DrawModel
from air_jax.inference import Detections, Model
from air_jax.trained import TrainedModel

# Number of classes of each task.
TASKS = {"sum": 19, "ascending": 2}

_SOURCES = ("auto", "tfds", "embedded")


def two_digit_scenes(
    data: Mapping[str, Any], *, num_train: int, num_validation: int, num_test: int
) -> dict[str, Scenes]:
    """Scenes of two digits like those of a run, but not its own: composed anew.

    The digits of the three sets are those of MNIST's training, validation and test split as
    everywhere, so that no digit of the test scenes was seen by any model or classifier.

    Args:
      data: section of a run's config, see `dataset.create_dataset`.
      num_train: scenes whose labels a classifier may be given.
      num_validation: for hyper-parameters and early stopping.
      num_test: for what is reported.

    Returns:
      `train`, `validation` and `test`.

    Raises:
      ValueError: if the run's images are not made of digits.
    """
    if data["source"] not in _SOURCES:
        raise ValueError(
            f"data.source is {data['source']!r}; the tasks are about digits: it must be one of "
            f"{', '.join(map(repr, _SOURCES))}."
        )
    sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    # Another seed, or the same digits in the same order would be drawn as for the run's scenes.
    other = {"counts": [2], "seed": data["seed"] + 1}
    dataset = create_dataset(**{**data, **sizes, **other, "resident": True})
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def task_labels(scenes: Scenes) -> dict[str, np.ndarray]:
    """Classes of scenes of two digits in each of `TASKS`, int32 `[M]` each.

    Raises:
      ValueError: if a scene has another number of digits.
    """
    if not (scenes.counts == 2).all():
        raise ValueError(f"counts are {np.unique(scenes.counts)}; the tasks are about two digits.")
    labels = scenes.labels[:, :2]
    # Sums of edges: twice the centres.
    x = scenes.boxes[:, :2, 0] + scenes.boxes[:, :2, 2]
    y = scenes.boxes[:, :2, 1] + scenes.boxes[:, :2, 3]
    first_is_left = (x[:, 0] < x[:, 1]) | ((x[:, 0] == x[:, 1]) & (y[:, 0] < y[:, 1]))
    left = np.where(first_is_left, labels[:, 0], labels[:, 1])
    right = np.where(first_is_left, labels[:, 1], labels[:, 0])
    return {
        "sum": labels.sum(1).astype(np.int32),
        "ascending": (left < right).astype(np.int32),
    }


def object_code(found: Detections) -> np.ndarray:
    """AIR's code: z_pres, z_where and z_what of each step, in the order of inference.

    Args:
      found: posterior means, for N steps.

    Returns:
      float32 `[n, N (1 + 3 + D)]`; a step that found no object is all zeros.
    """
    num_steps = found.presence.shape[1]
    is_object = (np.arange(num_steps) < found.counts[:, None])[..., None]
    steps = np.concatenate(
        [np.ones_like(found.presence[..., None]), found.z_where, found.z_what], -1
    )
    return np.where(is_object, steps, 0.0).reshape(len(steps), -1).astype(np.float32)


def code(model: TrainedModel, images: np.ndarray) -> np.ndarray:
    """A model's code of images: its latents at their posterior means, one after the other.

    Args:
      model: AIR or DAIR, see `object_code`, or DRAW: z of its T steps.
      images: as `TrainedModel.infer` takes them, n of them.

    Returns:
      float32 `[n, *]`.

    Raises:
      ValueError: if the model is of another kind.
    """
    if isinstance(model, Model):
        return object_code(model.detect(images))
    if isinstance(model, DrawModel):
        z = model.infer(images).z
        return z.reshape(len(z), -1)
    raise ValueError(f"{type(model).__name__} has no code here; give AIR, DAIR or DRAW.")


def num_objects(model: TrainedModel) -> int | None:
    """N, of how many objects `code` is made, one after the other; None if it is not (DRAW)."""
    return model.air.num_steps if isinstance(model, Model) else None


def codes(model: TrainedModel, scenes: Mapping[str, Scenes]) -> Inputs:
    """The code of each of `two_digit_scenes`."""
    return Inputs(**{name: code(model, part.images) for name, part in scenes.items()})


def reconstruction_error(images: np.ndarray, reconstructions: np.ndarray) -> float:
    """Squared error of an image, summed over its pixels (white is 1), mean over the images.

    Args:
      images: uint8 `[n, H, W, C]`.
      reconstructions: in [0, 1], likewise.
    """
    error = images.astype(np.float32) / 255.0 - reconstructions
    return float(np.square(error).sum((1, 2, 3)).mean())
