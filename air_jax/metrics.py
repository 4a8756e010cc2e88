"""How well scenes were understood: counts, boxes, and shares with their uncertainty.

Pure functions of NumPy arrays. A box is `(x_min, y_min, x_max, y_max)` in pixels, edges
included: pixel k spans [k, k + 1]. An object that is absent has a box of zeros. A true count
of -1 says that the count of this image is unknown; such images are left out everywhere.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

UNKNOWN_COUNT = -1
IOU_THRESHOLD = 0.5


def count_accuracy(inferred: ArrayLike, true: ArrayLike) -> float:
    """Share of images whose inferred number of objects equals the true one.

    Args:
      inferred: inferred counts, int `[M]`.
      true: true counts, int `[M]`; -1 where unknown, which leaves the image out.

    Returns:
      A share in [0, 1]; nan when no true count is known.

    Raises:
      ValueError: if the two are not vectors of the same length.
    """
    inferred, true = _known_counts(inferred, true)
    return float(np.mean(inferred == true)) if true.size else math.nan


def count_accuracy_per_count(inferred: ArrayLike, true: ArrayLike) -> dict[int, float]:
    """Count accuracy among the images of each true count.

    Args:
      inferred: inferred counts, int `[M]`.
      true: true counts, int `[M]`; -1 where unknown, which leaves the image out.

    Returns:
      `{true count: share in [0, 1]}` for the true counts that occur, in ascending order.

    Raises:
      ValueError: if the two are not vectors of the same length.
    """
    inferred, true = _known_counts(inferred, true)
    return {int(n): float(np.mean(inferred[true == n] == n)) for n in np.unique(true)}


def confusion_matrix(inferred: ArrayLike, true: ArrayLike, num_counts: int) -> np.ndarray:
    """Number of images of each true count (row) that were given each count (column).

    Args:
      inferred: inferred counts, int `[M]`, in 0..num_counts - 1.
      true: true counts, int `[M]`, in 0..num_counts - 1; -1 where unknown.
      num_counts: size of the matrix, the largest possible count plus one.

    Returns:
      int64 `[num_counts, num_counts]`, indexed `[true, inferred]`.

    Raises:
      ValueError: if the two are not vectors of the same length, or a count does not fit.
    """
    inferred, true = _known_counts(inferred, true)
    for name, counts in (("inferred", inferred), ("true", true)):
        if counts.size and not 0 <= counts.min() <= counts.max() < num_counts:
            raise ValueError(
                f"{name} counts lie in {counts.min()}..{counts.max()}, but num_counts="
                f"{num_counts} allows 0..{num_counts - 1}; pass the largest count plus one"
            )
    flat = np.bincount(true * num_counts + inferred, minlength=num_counts**2)
    return flat.reshape(num_counts, num_counts)


def ink_boxes(objects: ArrayLike) -> np.ndarray:
    """Extent of each object's pixels above half of its own maximum.

    A window is larger than a thin digit in it; this is the box of the digit itself.

    Args:
      objects: one object per image plane, ink positive, `[..., H, W]`.

    Returns:
      Boxes in pixels, float32 `[..., 4]`; zeros where an object has no ink at all.

    Raises:
      ValueError: if `objects` has fewer than two dimensions.
    """
    objects = np.asarray(objects)
    if objects.ndim < 2:
        raise ValueError(f"objects must be [..., H, W], got shape {objects.shape}")
    peak = objects.max(axis=(-2, -1), keepdims=True, initial=0)
    ink = objects > peak / 2  # true division: half of an odd uint8 peak is not rounded down
    return extents(ink).astype(np.float32)


def extents(masks: np.ndarray) -> np.ndarray:
    """The smallest box around the True pixels of each image plane.

    Args:
      masks: bool `[..., H, W]`.

    Returns:
      Boxes in pixels, int64 `[..., 4]`; zeros where no pixel is True.
    """
    edges = []
    for axis in (-2, -1):  # rows collapse first: columns are left, that is x
        used = np.any(masks, axis=axis)
        end = used.shape[-1] - used[..., ::-1].argmax(axis=-1)
        edges.append((used.argmax(axis=-1), np.where(used.any(axis=-1), end, 0)))
    (x_min, x_max), (y_min, y_max) = edges
    return np.stack([x_min, y_min, x_max, y_max], axis=-1)


def box_iou(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`.

    Args:
      a: boxes, `[..., A, 4]`.
      b: boxes, `[..., B, 4]`; the leading dimensions of the two broadcast.

    Returns:
      float64 `[..., A, B]` in [0, 1]; 0 for a box without area, with whatever it is compared.

    Raises:
      ValueError: if either is not `[..., count, 4]`.
    """
    a = np.asarray(a, np.float64)
    b = np.asarray(b, np.float64)
    for boxes in (a, b):
        if boxes.ndim < 2 or boxes.shape[-1] != 4:
            raise ValueError(f"boxes must be [..., count, 4], got shape {boxes.shape}")
    a, b = a[..., :, None, :], b[..., None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0.0), axis=-1)
    union = _area(a) + _area(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def localisation(
    boxes: np.ndarray,
    scores: np.ndarray,
    inferred_counts: np.ndarray,
    true_boxes: np.ndarray,
    true_counts: np.ndarray,
) -> dict[str, float]:
    """How well inferred objects lie on the true ones, over a whole set of images.

    Average precision ranks all N proposals of all images by score, whatever the inferred
    count. In that order each takes the free true box of its image with the largest IoU, if
    that reaches 0.5 (Everingham et al. (2010), Sec. 4.2, but a proposal whose best true box
    is taken may take another free one). Proposals of equal score enter the curve together,
    so that the value does not depend on the order of the images. It is the area under the
    precision envelope: precision at recall r is the largest at any recall of r or more.

    The other two match, in each image, the first `inferred_counts` proposals to the true
    objects one to one such that the sum of the IoUs of 0.5 and above is largest.

    A proposal with a box of zeros matches nothing, and counts as a wrong one.

    Args:
      boxes: proposed boxes in pixels, `[M, N, 4]`.
      scores: probability that each proposal is an object, `[M, N]`.
      inferred_counts: inferred number of objects, int `[M]`, in 0..N.
      true_boxes: true boxes in pixels, `[M, K, 4]`, those of the true objects first.
      true_counts: true number of objects, int `[M]`, at most K; -1 where unknown, which
        leaves the image out.

    Returns:
      `average_precision_50`; `mean_iou`, over the matched pairs; `share_matched`, the share
      of true objects that are matched. All are nan when there is no true object at all, and
      `mean_iou` when nothing is matched.

    Raises:
      ValueError: if shapes disagree, a count exceeds its boxes, or a score is not a number.
    """
    # In float64, so that an IoU of exactly one half is not lost to rounding.
    boxes = np.asarray(boxes, np.float64)
    scores = np.asarray(scores, np.float64)
    true_boxes = np.asarray(true_boxes, np.float64)
    inferred_counts = np.asarray(inferred_counts)
    true_counts = np.asarray(true_counts)
    _check_localisation(boxes, scores, inferred_counts, true_boxes, true_counts)

    known = true_counts != UNKNOWN_COUNT
    boxes, scores, inferred_counts = boxes[known], scores[known], inferred_counts[known]
    true_boxes, true_counts = true_boxes[known], true_counts[known]
    num_true = int(true_counts.sum())
    if num_true == 0:
        return dict.fromkeys(("average_precision_50", "mean_iou", "share_matched"), math.nan)

    iou = box_iou(boxes, true_boxes)  # [M, N, K]
    present = np.arange(true_boxes.shape[1]) < true_counts[:, None]  # [M, K]
    # Only overlaps that count as a match take part: a total with lesser ones in it can prefer
    # two near misses to one match.
    iou = np.where((iou >= IOU_THRESHOLD) & present[:, None, :], iou, 0.0)
    correct = _match_by_score(iou, scores)
    matched = _match_one_to_one(iou, inferred_counts, true_counts)
    return {
        "average_precision_50": _area_under_envelope(scores.ravel(), correct.ravel(), num_true),
        "mean_iou": float(matched.mean()) if matched.size else math.nan,
        "share_matched": matched.size / num_true,
    }


def left_out(
    images: ArrayLike, reconstructions: ArrayLike, boxes: ArrayLike, true_counts: ArrayLike
) -> np.ndarray:
    """How many of an image's true objects its reconstruction leaves out.

    An object is left out where less than half of the ink in its box is explained: ink is the sum of
    the image over the box and the channels, explained the sum of the lesser of image and
    reconstruction. So what is drawn beside the object or brighter than it explains nothing, and no
    model needs to say what its objects are. Where true objects overlap, a box holds ink of both,
    and the object that is drawn may hide that the other is not; digits' boxes share no pixel.

    Args:
      images: in [0, 1], `[M, H, W, C]`.
      reconstructions: likewise.
      boxes: of the true objects, `[M, K, 4]`.
      true_counts: number of true objects, at most K, int `[M]`.

    Returns:
      Number left out, int64 `[M]`, from 0 to the true count. An object without ink is not.

    Raises:
      ValueError: if the shapes disagree.
    """
    images, reconstructions = np.asarray(images), np.asarray(reconstructions)
    boxes, true_counts = np.asarray(boxes), np.asarray(true_counts)
    if (
        images.ndim != 4
        or reconstructions.shape != images.shape
        or boxes.shape != (len(images), *boxes.shape[1:2], 4)
        or true_counts.shape != (len(images),)
    ):
        raise ValueError(
            "expected images and reconstructions [M, H, W, C], boxes [M, K, 4], true_counts [M]; "
            f"got {images.shape}, {reconstructions.shape}, {boxes.shape}, {true_counts.shape}"
        )
    y, x = (np.arange(size) + 0.5 for size in images.shape[1:3])  # centres of the pixels
    columns = (boxes[..., :1] < x) & (x < boxes[..., 2:3])  # [M, K, W]
    rows = (boxes[..., 1:2] < y) & (y < boxes[..., 3:4])  # [M, K, H]

    def inside(planes: np.ndarray) -> np.ndarray:
        lines = np.einsum("mhw,mkw->mkh", planes.sum(-1), columns.astype(np.float32))
        return (lines * rows).sum(-1)

    missing = inside(np.minimum(images, reconstructions)) < inside(images) / 2
    present = np.arange(boxes.shape[1]) < true_counts[:, None]
    return (missing & present).sum(-1)


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a share, from Wilson (1927).

    Unlike the normal approximation it stays in [0, 1] and has a width when all succeed.

    Args:
      successes: number of successes, in 0..trials.
      trials: number of trials, at least 1.
      z: half-width in standard deviations; 1.96 gives 95 %.

    Returns:
      Lower and upper end, in [0, 1].

    Raises:
      ValueError: if the counts are impossible.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"need trials >= 1 and 0 <= successes <= trials, got {successes} of {trials}"
        )
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = (
        z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    )
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def _known_counts(inferred: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    inferred, true = np.asarray(inferred), np.asarray(true)
    if inferred.ndim != 1 or inferred.shape != true.shape:
        raise ValueError(
            "inferred and true counts must be vectors of the same length, got shapes "
            f"{inferred.shape} and {true.shape}"
        )
    known = true != UNKNOWN_COUNT
    return inferred[known].astype(np.int64), true[known].astype(np.int64)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def _check_localisation(
    boxes: np.ndarray,
    scores: np.ndarray,
    inferred_counts: np.ndarray,
    true_boxes: np.ndarray,
    true_counts: np.ndarray,
) -> None:
    num_images = len(true_counts)
    if (
        boxes.ndim != 3
        or true_boxes.ndim != 3
        or boxes.shape != (num_images, *scores.shape[1:], 4)
        or scores.shape[:1] != (num_images,)
        or true_boxes.shape[::2] != (num_images, 4)
        or inferred_counts.shape != (num_images,)
    ):
        raise ValueError(
            "expected boxes [M, N, 4], scores [M, N], inferred_counts [M], true_boxes [M, K, 4], "
            f"true_counts [M]; got {boxes.shape}, {scores.shape}, {inferred_counts.shape}, "
            f"{true_boxes.shape}, {true_counts.shape}"
        )
    for name, counts, limit in (
        ("inferred_counts", inferred_counts, boxes.shape[1]),
        ("true_counts", true_counts, true_boxes.shape[1]),
    ):
        if np.any(counts > limit):
            raise ValueError(f"{name} reach {counts.max()}, but each image has {limit} boxes")
    if np.any(np.isnan(scores)):
        raise ValueError(f"{np.isnan(scores).sum()} of {scores.size} scores are nan; cannot rank")


def _match_by_score(iou: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Whether each proposal found a true box of its own, `[M, N, K]`, `[M, N]` -> `[M, N]`.

    Matching never crosses images, so all images take their next-best proposal at once.
    """
    num_images, num_proposals, num_true = iou.shape
    images = np.arange(num_images)
    order = np.argsort(-scores, axis=1, kind="stable")
    free = np.ones((num_images, num_true), bool)
    correct = np.zeros((num_images, num_proposals), bool)
    for rank in range(num_proposals):
        proposal = order[:, rank]
        overlap = iou[images, proposal] * free
        best = overlap.argmax(axis=1)
        hit = overlap[images, best] > 0
        correct[images, proposal] = hit
        free[images[hit], best[hit]] = False
    return correct


def _match_one_to_one(
    iou: np.ndarray, inferred_counts: np.ndarray, true_counts: np.ndarray
) -> np.ndarray:
    """IoU of each matched pair of all images, `[number of matched pairs]`."""
    matched = [np.zeros(0)]
    for image in np.flatnonzero((inferred_counts > 0) & (true_counts > 0)):
        overlap = iou[image, : inferred_counts[image], : true_counts[image]]
        matched.append(overlap[linear_sum_assignment(overlap, maximize=True)])
    all_matched = np.concatenate(matched)
    return all_matched[all_matched > 0]


def _area_under_envelope(scores: np.ndarray, correct: np.ndarray, num_true: int) -> float:
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last_of_equals = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    num_proposed = np.flatnonzero(last_of_equals) + 1
    num_correct = np.cumsum(correct[order])[last_of_equals]
    precision, recall = num_correct / num_proposed, num_correct / num_true
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
