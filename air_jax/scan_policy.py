"""What decides which object is attended first: its place, its class or its size?

The paper reads from its figure 3 that the policy is spatial, and not based on identity or size
(Sec. 3.1). Here that is a number: the mutual information of being first with each of these.
"""

import math
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from air_jax import metrics

_GRID = 5  # cells a side
_SECTORS = 8  # of 45 degrees; their borders separate left from right, and above from below
_SIZE_BINS = 5  # of equal numbers of objects
_RATIO_BINS = 3  # likewise, for each of smaller and larger
_UNKNOWN_CLASS = -1
# Shuffles at a time: a few million choices are as many as fit in memory with ease.
_CHOICES_AT_ONCE = 2**22


def first_attended(
    boxes: np.ndarray,
    inferred_counts: np.ndarray,
    true_boxes: np.ndarray,
    true_counts: np.ndarray,
    num_objects: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """Which true object the first step found, in the scenes that were understood as they are.

    These are scenes of `num_objects` objects, inferred as so many, each matched to an inferred one
    with an IoU of at least 0.5 (one to one, the sum of these IoUs the largest).

    Args:
      boxes: inferred boxes in pixels, in the order of the steps, `[M, N, 4]`.
      inferred_counts: inferred number of objects, int `[M]`, in 0..N.
      true_boxes: true boxes in pixels, `[M, K, 4]`, those of the true objects first.
      true_counts: true number of objects, int `[M]`, at most K; -1 where unknown.
      num_objects: number of true objects of the scenes to take, at least 2.

    Returns:
      Indices of the scenes, ascending, int64 `[S]`, and for each the index of the true object
      that the first step is matched to, int64 `[S]`.

    Raises:
      ValueError: if shapes disagree or `num_objects` is less than 2.
    """
    boxes, true_boxes = np.asarray(boxes, np.float64), np.asarray(true_boxes, np.float64)
    inferred_counts, true_counts = np.asarray(inferred_counts), np.asarray(true_counts)
    if num_objects < 2:
        raise ValueError(f"num_objects is {num_objects}; an order needs at least 2 objects")
    num_images = len(true_counts)
    if (
        boxes.ndim != 3
        or true_boxes.ndim != 3
        or boxes.shape[::2] != (num_images, 4)
        or true_boxes.shape[::2] != (num_images, 4)
        or inferred_counts.shape != (num_images,)
    ):
        raise ValueError(
            "expected boxes [M, N, 4], inferred_counts [M], true_boxes [M, K, 4], true_counts "
            f"[M]; got {boxes.shape}, {inferred_counts.shape}, {true_boxes.shape}, "
            f"{true_counts.shape}"
        )
    scenes, first = [], []
    for scene in np.flatnonzero((true_counts == num_objects) & (inferred_counts == num_objects)):
        iou = metrics.box_iou(boxes[scene, :num_objects], true_boxes[scene, :num_objects])
        iou = np.where(iou >= metrics.IOU_THRESHOLD, iou, 0.0)
        steps, objects = linear_sum_assignment(iou, maximize=True)
        if iou[steps, objects].all():
            scenes.append(int(scene))
            first.append(int(objects[0]))  # scipy returns the rows, here steps, in order
    return np.array(scenes, np.int64), np.array(first, np.int64)


def mutual_information(
    first: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    image_size: int,
    num_shuffles: int = 1_000,
    seed: int = 0,
) -> dict[str, dict[str, Any] | None]:
    """How much an object's features tell about whether it was attended first.

    Over the objects of S scenes of n objects each, `I(first; feature) = H(first) - H(first |
    feature)` with H(first) that of a share of 1 / n: ln 2 for pairs. A feature of an object by
    itself cannot tell all of a policy that compares (the left one of two may be in the right
    half), so each has a counterpart that compares the object with the others of its scene:

      position: centre of the box, in 5 × 5 cells of the image.
      relative_position: direction from the mean centre of the others, in 8 sectors.
      class: label.
      class_pair: label and the other's label; of pairs only, None for other n.
      size: area of the box, in 5 bins of equal numbers.
      relative_size: area over the mean area of the others, in 6 bins: less or more than 1, and
        each by its ratio in three.

    The estimate from counts is too large in small samples, and the objects of a scene are not
    independent. Both are put right by shuffles that keep each scene and choose its first object
    anew, uniformly: they adjust the fraction for chance, in the manner of Vinh, Epps & Bailey
    (2010), Eq. 2, and give the p-value. Features that depend on each other, such as class and
    size, share information; nothing here tells which is the cause.

    Args:
      first: index of the object that was attended first, int `[S]`, in 0..n - 1.
      boxes: true boxes in pixels, `[S, n, 4]`.
      labels: classes, int `[S, n]`; if any is -1, unknown, class and class_pair are None.
      image_size: side of the images in pixels.
      num_shuffles: how often the order is shuffled, at least 1.
      seed: of the shuffles.

    Returns:
      For each feature, None if S is 0, else `nats`, the estimate as it is; `null_mean`, its mean
      over the shuffles, nats; `fraction`, `(nats - null_mean) / (H(first) - null_mean)`, 1 for a
      policy that the feature determines and 0 on average for one that it does not touch;
      `null_95`, the fraction that 5 % of the shuffles exceed; `p_value`, the share of shuffles
      with at least as many nats, this order counted as one of them.

    Raises:
      ValueError: if shapes disagree, an index is out of range, n is less than 2, or
        `num_shuffles` is less than 1.
    """
    first, labels = np.asarray(first), np.asarray(labels)
    boxes = np.asarray(boxes, np.float64)
    if (
        boxes.ndim != 3
        or boxes.shape[1] < 2
        or boxes.shape[2] != 4
        or labels.shape != boxes.shape[:2]
        or first.shape != boxes.shape[:1]
    ):
        raise ValueError(
            "expected first [S], boxes [S, n, 4] and labels [S, n] with n of 2 or more; got "
            f"{first.shape}, {boxes.shape}, {labels.shape}"
        )
    num_scenes, num_objects = labels.shape
    if num_scenes and not 0 <= first.min() <= first.max() < num_objects:
        raise ValueError(f"first lies in {first.min()}..{first.max()}, not 0..{num_objects - 1}")
    if num_shuffles < 1:
        raise ValueError(f"num_shuffles is {num_shuffles}; it must be at least 1")
    cells = _features(boxes, labels, image_size)
    if not num_scenes:
        return dict.fromkeys(cells)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHOICES_AT_ONCE // num_scenes)
    null: dict[str, list[np.ndarray]] = {name: [] for name in cells}
    # All features see the same shuffles.
    for start in range(0, num_shuffles, chunk):
        shape = min(chunk, num_shuffles - start), num_scenes
        choices = rng.integers(num_objects, size=shape)
        for name, cell in cells.items():
            if cell is not None:
                null[name].append(_information(choices, cell))
    return {
        name: None
        if cell is None
        else _compare(_information(first[None], cell)[0], np.concatenate(null[name]), num_objects)
        for name, cell in cells.items()
    }


def scan_policy(
    boxes: np.ndarray,
    inferred_counts: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    true_counts: np.ndarray,
    *,
    image_size: int,
    num_objects: int = 2,
    num_shuffles: int = 1_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The scan policy of a model on a set of scenes.

    Args:
      boxes: inferred boxes in pixels, in the order of the steps, `[M, N, 4]`.
      inferred_counts: inferred number of objects, int `[M]`, in 0..N.
      true_boxes: true boxes in pixels, `[M, K, 4]`, those of the true objects first.
      true_labels: classes, int `[M, K]`; -1 where unknown or absent.
      true_counts: true number of objects, int `[M]`, at most K; -1 where unknown.
      image_size: side of the images in pixels.
      num_objects: number of true objects of the scenes to take, at least 2.
      num_shuffles: as for `mutual_information`.
      seed: as for `mutual_information`.

    Returns:
      Plain numbers, JSON-able: `num_objects`; `num_scenes`, those that `first_attended` could
      use, of `num_candidates`, those that hold so many objects; `entropy` of being first, nats;
      `features`, what `mutual_information` gives.

    Raises:
      ValueError: if shapes disagree or an argument is out of range.
    """
    scenes, first = first_attended(boxes, inferred_counts, true_boxes, true_counts, num_objects)
    true_boxes, true_labels = np.asarray(true_boxes), np.asarray(true_labels)
    if true_labels.shape != true_boxes.shape[:2]:
        raise ValueError(f"true_labels must be {true_boxes.shape[:2]}, got {true_labels.shape}")
    # Zeros stand for the objects where no scene has as many.
    taken = np.zeros((len(scenes), num_objects, 4)), np.zeros((len(scenes), num_objects), int)
    if len(scenes):
        taken = true_boxes[scenes, :num_objects], true_labels[scenes, :num_objects]
    features = mutual_information(
        first, *taken, image_size=image_size, num_shuffles=num_shuffles, seed=seed
    )
    return {
        "num_objects": num_objects,
        "num_scenes": len(scenes),
        "num_candidates": int(np.count_nonzero(np.asarray(true_counts) == num_objects)),
        "entropy": _entropy(num_objects),
        "features": features,
    }


def _features(
    boxes: np.ndarray, labels: np.ndarray, image_size: int
) -> dict[str, np.ndarray | None]:
    """Every object's cell of every feature, int `[S, n]`; None for what cannot be told."""
    num_others = boxes.shape[1] - 1
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    grid = np.clip(centres * _GRID // image_size, 0, _GRID - 1).astype(np.int64)
    # c - (sum - c) / (n - 1) is the way from the others' mean to the object.
    away = centres - (centres.sum(axis=1, keepdims=True) - centres) / num_others
    turn = np.arctan2(away[..., 1], away[..., 0]) / (2 * np.pi) % 1.0
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    ratio = areas / np.maximum((areas.sum(axis=1, keepdims=True) - areas) / num_others, 1e-9)
    log_ratio = np.log(np.maximum(ratio, 1e-9))
    known = bool(np.all(labels != _UNKNOWN_CLASS))
    _, classes = np.unique(labels, return_inverse=True)
    classes = classes.reshape(labels.shape)
    pairs = classes * (classes.max(initial=0) + 1) + classes[:, ::-1]
    larger = np.where(log_ratio > 0, _RATIO_BINS, 0)
    return {
        "position": grid[..., 0] + _GRID * grid[..., 1],
        # A turn of almost 1 may be rounded up to it.
        "relative_position": (turn * _SECTORS).astype(np.int64) % _SECTORS,
        "class": classes if known else None,
        "class_pair": pairs if known and num_others == 1 else None,
        "size": _quantile_bins(areas, _SIZE_BINS),
        "relative_size": larger + _quantile_bins(np.abs(log_ratio), _RATIO_BINS),
    }


def _quantile_bins(values: np.ndarray, num_bins: int) -> np.ndarray:
    if not values.size:
        return np.zeros(values.shape, np.int64)
    edges = np.quantile(values, np.arange(1, num_bins) / num_bins)
    return np.searchsorted(edges, values, side="right")


def _information(choices: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """I(first; cell) in nats for each of several choices of the first objects.

    Args:
      choices: index of each scene's first object, int `[R, S]`.
      cells: of every object, int `[S, n]`.

    Returns:
      `[R]`.
    """
    num_scenes, num_objects = cells.shape
    num_cells = int(cells.max()) + 1
    chosen = cells[np.arange(num_scenes), choices]
    chosen = chosen + num_cells * np.arange(len(choices))[:, None]
    firsts = np.bincount(chosen.ravel(), minlength=num_cells * len(choices))
    totals = np.bincount(cells.ravel(), minlength=num_cells)
    share = firsts.reshape(-1, num_cells) / np.maximum(totals, 1)
    return _entropy(num_objects) - _binary_entropy(share) @ (totals / cells.size)


def _compare(nats: float, null: np.ndarray, num_objects: int) -> dict[str, float]:
    mean = float(null.mean())
    # In very few scenes every order tells as much as there is to tell: nothing beyond chance.
    span = max(_entropy(num_objects) - mean, 1e-9)
    # Sums in another order may differ in the last bits.
    as_many = np.count_nonzero(null >= nats - 1e-12)
    return {
        "nats": float(nats),
        "null_mean": mean,
        "fraction": (float(nats) - mean) / span,
        "null_95": (float(np.quantile(null, 0.95)) - mean) / span,
        "p_value": (1 + int(as_many)) / (1 + len(null)),
    }


def _entropy(num_objects: int) -> float:
    """Entropy of whether an object is the first of so many, nats."""
    share = 1 / num_objects
    return -share * math.log(share) - (1 - share) * math.log1p(-share)


def _binary_entropy(share: np.ndarray) -> np.ndarray:
    logs = [np.log(np.where(p > 0, p, 1.0)) for p in (share, 1 - share)]
    return -share * logs[0] - (1 - share) * logs[1]
