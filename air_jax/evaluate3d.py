"""What a model of 3-D scenes is worth: identities, poses, camera, counts (paper, Sec. 3.2)."""

import math
from typing import Any

import chex
import numpy as np
from scipy.optimize import linear_sum_assignment

from air_jax import metrics
from air_jax.data.tabletop import Scenes3D
from air_jax.distributions import wrap_angle
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.render.scene import CAMERA, Catalogue, View

_WRONG_IDENTITY = 1e3  # of a match, beyond any distance on the table


def evaluate(
    model: Model3D, scenes: Scenes3D, *, key: chex.PRNGKey, iwae_images: int, iwae_samples: int
) -> dict[str, Any]:
    """Measures a model on a set of scenes.

    Args:
      model: network, parameters and the prior it is judged with.
      scenes: images with the scenes that they are of.
      key: of the samples for ELBO and IWAE; an `jax.random` key.
      iwae_images: number of images, from the first on, for the IWAE bound.
      iwae_samples: K of the IWAE bound.

    Returns:
      Plain numbers, JSON-able: `num_images`, the ELBO and its terms, and what `measure` gives.
    """
    found = model.infer(scenes.images, key=key)
    results: dict[str, Any] = {"num_images": len(scenes.images)}
    results |= {name: float(values.mean()) for name, values in found.elbo_terms.items()}
    results |= measure(found, scenes, model.air.scene.view)
    results[f"iwae_{iwae_samples}"] = None
    if iwae_images:
        bound = model.iwae(scenes.images[:iwae_images], key=key, num_samples=iwae_samples)
        results[f"iwae_{iwae_samples}"] = float(bound.mean())
        results["elbo_iwae_images"] = float(found.elbo_terms["elbo"][:iwae_images].mean())
    return results


def validation_scalars(found: Objects3D, scenes: Scenes3D) -> dict[str, float]:
    """What a validation logs: ELBO and its terms, counts, and identities of what `match` pairs.

    Args:
      found: what a model says about the scenes.
      scenes: images with the scenes that they are of.
    """
    scalars = {name: float(values.mean()) for name, values in found.elbo_terms.items()}
    scalars["count_accuracy"] = metrics.count_accuracy(found.counts, scenes.counts)
    matches = match(found, scenes)
    if len(matches):
        scene, step, place = matches.T
        right = found.identities[scene, step] == scenes.identities[scene, place]
        scalars["identity_accuracy"] = float(right.mean())
    return scalars


def match(found: Objects3D, scenes: Scenes3D) -> np.ndarray:
    """Pairs inferred with true objects, as many as there are of both, `(scene, step, place)`.

    By the least sum of distances on the table, where a pair of the same identity comes before any
    of two identities. `[P, 3]`.

    Args:
      found: inferred.
      scenes: true.
    """
    pairs = []
    for scene, (inferred, true) in enumerate(zip(found.counts, scenes.counts, strict=True)):
        if not inferred or not true:
            continue
        places = np.flatnonzero(scenes.identities[scene] >= 0)
        some, others = found.poses[scene][:inferred, :2], scenes.poses[scene][places, :2]
        distance = np.linalg.norm(some[:, None] - others, axis=-1)
        wrong = found.identities[scene][:inferred, None] != scenes.identities[scene][places]
        rows, columns = linear_sum_assignment(distance + _WRONG_IDENTITY * wrong)
        pairs += [(scene, step, places[j]) for step, j in zip(rows, columns, strict=True)]
    return np.array(pairs, np.int64).reshape(-1, 3)


def measure(found: Objects3D, scenes: Scenes3D, view: View) -> dict[str, Any]:
    """Counts, identities, poses, camera and reconstructions against the true scenes.

    Args:
      found: what a model says about the images.
      scenes: images with the scenes that they are of.
      view: of the images.

    Returns:
      Plain numbers, JSON-able. `reconstruction_error`: mean over images of the squared error summed
      over pixels and channels, and for scenes of one object that of each model. `count_accuracy`
      and `count_accuracy_per_count`. Of the objects that `match` pairs: `identity_accuracy`; of
      those of the right identity `position_error` in units of length, `position_error_pixels` as
      seen by the true camera, `rotation` with each model's errors (see `rotation_errors`);
      `num_matched`. `camera_error`, degrees, of azimuth and elevation.
    """
    images = scenes.images.astype(np.float32) / 255
    squared = np.square(images - found.reconstructions).sum((1, 2, 3))
    per_count = metrics.count_accuracy_per_count(found.counts, scenes.counts)
    results: dict[str, Any] = {
        "reconstruction_error": float(squared.mean()),
        "reconstruction_error_median": float(np.median(squared)),
        "count_accuracy": metrics.count_accuracy(found.counts, scenes.counts),
        "count_accuracy_per_count": {str(n): value for n, value in per_count.items()},
    }
    if (scenes.counts == 1).all():
        results["reconstruction_error_per_model"] = {
            model.name: float(squared[here].mean())
            for i, model in enumerate(view.catalogue)
            if (here := scenes.identities[:, 0] == i).any()
        }
    deviation = np.degrees(np.abs(wrap_angle(found.cameras - scenes.cameras)))
    results["camera_error"] = deviation.mean(0).tolist()
    matches = match(found, scenes)
    results["num_matched"] = len(matches)
    if not len(matches):
        return results
    scene, step, place = matches.T
    true_identity = scenes.identities[scene, place]
    right = found.identities[scene, step] == true_identity
    results["identity_accuracy"] = float(right.mean())
    results["identity_accuracy_per_model"] = {
        model.name: float(right[true_identity == i].mean())
        for i, model in enumerate(view.catalogue)
        if (true_identity == i).any()
    }
    if not right.any():
        return results
    scene, step, place = matches[right].T
    inferred, true = found.poses[scene, step], scenes.poses[scene, place]
    pixels = [project(poses[:, :2], scenes.cameras[scene], view) for poses in (inferred, true)]
    results["position_error"] = _mean_distance(inferred[:, :2], true[:, :2])
    results["position_error_pixels"] = _mean_distance(*pixels)
    identities = scenes.identities[scene, place]
    turned = np.degrees(wrap_angle(inferred[:, 2] - true[:, 2]))
    results["rotation"] = rotation_errors(turned, identities, view.catalogue)
    return results


def rotation_errors(
    turned: np.ndarray, identities: np.ndarray, catalogue: Catalogue
) -> dict[str, dict[str, float]]:
    """Errors of the yaw, degrees, raw and modulo each model's symmetry.

    Args:
      turned: inferred less true yaw, degrees in [-180, 180), `[P]`.
      identities: places in the catalogue, `[P]`.
      catalogue: the models.

    Returns:
      For every model that occurs and of which some turns can be told, `raw_median` and `raw_mean`,
      `median` and `mean` modulo its symmetry.
    """
    errors = {}
    for i, model in enumerate(catalogue):
        here = turned[identities == i]
        if not len(here) or not model.fold:
            continue
        period = 360 / model.fold
        folded = np.abs(np.mod(here + period / 2, period) - period / 2)
        errors[model.name] = {
            "raw_median": float(np.median(np.abs(here))),
            "raw_mean": float(np.abs(here).mean()),
            "median": float(np.median(folded)),
            "mean": float(folded.mean()),
        }
    return errors


def project(places: np.ndarray, cameras: np.ndarray, view: View) -> np.ndarray:
    """Where points of the table are in the image, pixels from its upper left corner.

    Args:
      places: `(x, y)` on the table, `[P, 2]`.
      cameras: azimuth and elevation, radians, `[P, 2]`.
      view: of the images.

    Returns:
      `(column, row)`, `[P, 2]`.
    """
    sin, cos = np.sin(cameras), np.cos(cameras)
    away = np.stack([sin[:, 0] * cos[:, 1], -cos[:, 0] * cos[:, 1], sin[:, 1]], axis=-1)
    right = np.stack([cos[:, 0], sin[:, 0], np.zeros(len(cos))], axis=-1)
    up = np.cross(away, right)
    points = np.concatenate([places, np.zeros((len(places), 1))], axis=-1) - CAMERA[2] * away
    depth = -(points * away).sum(-1)
    half = math.tan(math.radians(view.field_of_view) / 2)
    column = (points * right).sum(-1) / depth / half
    row = -(points * up).sum(-1) / depth / half
    return (np.stack([column, row], axis=-1) + 1) / 2 * view.image_size


def _mean_distance(some: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(some - others, axis=-1).mean())
