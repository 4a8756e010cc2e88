"""What a model is worth on a set of scenes."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import numpy as np

from air_jax import metrics
from air_jax.data.scenes import Scenes
from air_jax.inference import Objects
from air_jax.trained import Inference, TrainedModel

# Greatest hidden share of an object in a scene, up to and with which it belongs here.
_OVERLAPS = {
    "none": 0.0,
    "up to 25 %": 0.25,
    "25 to 50 %": 0.5,
    "50 to 75 %": 0.75,
    "over 75 %": 1.0,
}


def evaluate(
    model: TrainedModel, scenes: Scenes, *, key: chex.PRNGKey, iwae_images: int, iwae_samples: int
) -> dict[str, Any]:
    """Measures a model on a set of scenes.

    Args:
      model: network, parameters and the prior it is judged with.
      scenes: images with, where known, counts and boxes.
      key: of the samples for ELBO and IWAE.
      iwae_images: number of images, from the first on, for the IWAE bound; all of them if larger.
      iwae_samples: K of the IWAE bound.

    Returns:
      Plain numbers and lists, JSON-able: `num_images`; `elbo` and its terms, nats per image, one
      sample; `iwae_K`, and `elbo_iwae_images`, the ELBO of the same images; and of a model that
      finds objects what `counting` gives, over the images whose count is known, what
      `metrics.localisation` gives, and, where objects hide others, what `by_overlap` gives. What
      the scenes do not allow to measure is None.
    """
    key_elbo, key_iwae = jax.random.split(key)
    found = model.infer(scenes.images, key=key_elbo)
    results = measure(found, scenes)
    results[f"iwae_{iwae_samples}"] = None
    if iwae_images:
        images = scenes.images[:iwae_images]
        bound = model.iwae(images, key=key_iwae, num_samples=iwae_samples)
        results[f"iwae_{iwae_samples}"] = float(bound.mean())
        results["elbo_iwae_images"] = float(found.elbo_terms["elbo"][:iwae_images].mean())
        results["iwae_num_images"] = len(images)
    return results


def check(*, iwae_images: int, iwae_samples: int) -> None:
    """Refuses options of `evaluate`, of any kind of model, before there is one to evaluate.

    Args:
      iwae_images: as in `evaluate`.
      iwae_samples: likewise.

    Raises:
      ValueError: if one is out of range.
    """
    if iwae_images < 0 or iwae_samples < 1:
        raise ValueError(
            f"evaluation.iwae_images is {iwae_images} and evaluation.iwae_samples {iwae_samples}; "
            "there must be a sample, and 0 images or more (0 for no IWAE bound)."
        )


def measure(found: Inference, scenes: Scenes) -> dict[str, Any]:
    """What `evaluate` returns but for the IWAE bound.

    Args:
      found: what a model says about the scenes.
      scenes: images with, where known, counts and boxes.

    Returns:
      Plain numbers and lists, JSON-able.
    """
    results: dict[str, Any] = {"num_images": len(scenes.images)}
    results |= {name: float(values.mean()) for name, values in found.elbo_terms.items()}
    if not isinstance(found, Objects):
        return results
    results |= dict.fromkeys(("count_accuracy", "average_precision_50"))
    results |= dict.fromkeys(("mean_iou", "share_matched"))
    if (scenes.counts >= 0).any():
        results |= counting(found, scenes.counts)
    if scenes.boxes.shape[1]:
        results |= metrics.localisation(
            found.boxes, found.presence, found.counts, scenes.boxes, scenes.counts
        )
    if scenes.hidden.any():
        results["by_overlap"] = by_overlap(found, scenes)
    return results


def validation_scalars(found: Inference, scenes: Scenes) -> dict[str, float]:
    """What a validation logs: ELBO and its terms and, where both know counts, their accuracy.

    Args:
      found: what a model says about the scenes.
      scenes: images with, where known, counts.
    """
    scalars = {name: float(values.mean()) for name, values in found.elbo_terms.items()}
    if isinstance(found, Objects) and (scenes.counts >= 0).any():
        results = counting(found, scenes.counts)
        scalars["count_accuracy"] = results["count_accuracy"]
        for count, accuracy in results["count_accuracy_per_count"].items():
            scalars[f"count_accuracy_n{count}"] = accuracy
    return scalars


def counting(objects: Objects, counts: np.ndarray) -> dict[str, Any]:
    """Count accuracy, in all and per true count, and the confusion matrix (true, inferred).

    Args:
      objects: inferred, n images.
      counts: true counts, int `[n]`, -1 where unknown, not everywhere.
    """
    num_counts = 1 + max(int(counts.max()), objects.count_probs.shape[-1] - 1)
    per_count = metrics.count_accuracy_per_count(objects.counts, counts)
    return {
        "count_accuracy": metrics.count_accuracy(objects.counts, counts),
        "count_accuracy_per_count": {str(n): value for n, value in per_count.items()},
        "confusion_matrix": metrics.confusion_matrix(objects.counts, counts, num_counts).tolist(),
    }


def by_overlap(objects: Objects, scenes: Scenes) -> dict[str, dict[str, float]]:
    """Counting and localisation by how much of its most hidden object a scene hides.

    Over scenes of two objects or more: with fewer there is nothing to overlap, and they are easier.
    More objects hide more, so that from share to share the counts differ too.

    Args:
      objects: inferred, n images.
      scenes: the images, with counts, boxes and hidden shares.

    Returns:
      For each range of shares that occurs `num_images`, `count_accuracy` and what
      `metrics.localisation` gives, against boxes of the whole objects.
    """
    greatest = scenes.hidden.max(axis=-1)
    results, low = {}, -1.0
    for name, high in _OVERLAPS.items():
        here = (scenes.counts >= 2) & (greatest > low) & (greatest <= high)
        low = high
        if not here.any():
            continue
        found = objects.boxes[here], objects.presence[here], objects.counts[here]
        results[name] = {
            "num_images": int(here.sum()),
            "count_accuracy": metrics.count_accuracy(objects.counts[here], scenes.counts[here]),
            **metrics.localisation(*found, scenes.boxes[here], scenes.counts[here]),
        }
    return results


def summary(results: Mapping[str, Any]) -> str:
    """An evaluation in a few lines for a terminal."""
    if "not_finite_at" in results:
        return f"seed {results['seed']}: not finite at step {results['not_finite_at']:,}, failed"
    lines = [f"test set, {results['num_images']:,} images, step {results['step']:,}"]
    for name, text in (
        ("count_accuracy", "count accuracy        {:.2%}"),
        ("average_precision_50", "AP at IoU 0.5         {:.3f}"),
        ("mean_iou", "mean IoU of matches   {:.3f}"),
        ("share_matched", "objects matched       {:.2%}"),
        ("elbo", "ELBO                  {:.1f} nats per image"),
        ("iwae_100", "IWAE-100              {:.1f} nats per image"),
        ("elbo_iwae_images", "ELBO of the same      {:.1f} nats per image"),
        ("seconds", "wall time             {:.0f} s"),
    ):
        if results.get(name) is not None:
            lines.append("  " + text.format(results[name]))
    for count, accuracy in results.get("count_accuracy_per_count", {}).items():
        lines.append(f"  count accuracy, n = {count}: {accuracy:.2%}")
    for overlap, values in results.get("by_overlap", {}).items():
        lines.append(
            f"  hidden {overlap}: count accuracy {values['count_accuracy']:.2%}, AP at IoU 0.5 "
            f"{values['average_precision_50']:.3f} ({values['num_images']:,} images)"
        )
    return "\n".join(lines)
