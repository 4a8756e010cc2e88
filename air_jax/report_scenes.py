"""What a report shows of a model of pictures: what it made of single scenes, and where it looks."""

from collections.abc import Callable

import numpy as np

from air_jax import evaluate, figures, gallery, overlay, scan_policy
from air_jax.charts import plural
from air_jax.data.scenes import Scenes
from air_jax.inference import Model, Objects
from air_jax.report_page import Case, Looked, Picture, Steps
from air_jax.trained import Inference, TrainedModel

DPI = 110
_SIDE = 150  # of a scene's picture, pixels
_EXAMPLES = 12
_FAILURES = 24
_WORST = 9
_STEPS = ("step", "used in", "median side of the window", "median centre (x, y)")


def look(model: TrainedModel, scenes: Scenes, found: Inference) -> Looked:
    """What a model made of scenes.

    A failure is a scene whose objects it miscounts. Of a model or of scenes without counts those
    that it explains worst stand in their place.

    Args:
      model: of AIR, DAIR or DRAW.
      scenes: n of them.
      found: what it says about them.
    """
    known = scenes.counts >= 0
    failed = np.ones(len(known), bool)
    if isinstance(found, Objects) and known.any():
        failed = known & (found.counts != scenes.counts)
        said = f"{failed.sum():,} of {known.sum():,} test scenes were miscounted"
    else:
        why = "Nobody counted" if isinstance(found, Objects) else "The model finds no objects"
        said = f"{why}: of {plural(len(known), 'test scene')} those that it explains worst"
    looked = choose(lambda i: _case(found, scenes, i), found.elbo_terms["elbo"], failed, said)
    if not isinstance(model, Model) or not isinstance(found, Objects):
        return looked
    size = model.air.scene.image_size
    heat_map = Picture(
        figures.to_png(figures.scan_policy(*gallery.windows(found), size), DPI),
        "Heat maps of the centres of the windows, one for each step",
        f"Where each step looks: centres of the windows, {looked.summary}.",
    )
    looked = looked._replace(steps=_steps(found), heat_map=heat_map)
    if known.any():
        matrix = evaluate.counting(found, scenes.counts)["confusion_matrix"]
        looked = looked._replace(confusion=matrix)
    if scenes.boxes.shape[1] >= 2:
        told = scan_policy.scan_policy(
            *(found.boxes, found.counts, scenes.boxes, scenes.labels, scenes.counts),
            image_size=size,
        )
        looked = looked._replace(policy=told)
    return looked


def choose(case: Callable[[int], Case], elbo: np.ndarray, failed: np.ndarray, said: str) -> Looked:
    """The scenes that are shown: the first ones, and failures and others with the lowest ELBO.

    Args:
      case: of a scene by its number.
      elbo: of n scenes, `[n]`.
      failed: whether the model failed at a scene, bool `[n]`.
      said: what failures are and how many there are, without a full stop.
    """
    number, total = len(failed), int(failed.sum())
    order = np.argsort(np.nan_to_num(elbo, nan=-np.inf), kind="stable")
    if total > _FAILURES:
        said += f", of which {_FAILURES} are shown"
    said += "; the lowest ELBO comes first." if total else "."

    def cases(scenes: np.ndarray, most: int) -> tuple[Case, ...]:
        return tuple(case(int(i)) for i in scenes[:most])

    return Looked(
        summary=plural(number, "test scene"),
        examples=cases(np.arange(number), _EXAMPLES),
        failures=cases(order[failed[order]], _FAILURES),
        failures_summary=said,
        worst=cases(order[~failed[order]], _WORST),
    )


def enlarged(pixels: np.ndarray, alt: str) -> Picture:
    """An image as large as the page shows it, see `overlay.enlarge`."""
    return Picture(overlay.to_png(overlay.enlarge(pixels, _factor(pixels))), alt)


def _factor(pixels: np.ndarray) -> int:
    return max(1, round(_SIDE / len(pixels)))


def _steps(found: Objects) -> Steps:
    """How often each step is used, and where and how large its window is."""
    rows = []
    for step in range(found.windows.shape[1]):
        used = found.counts > step
        row = [f"{step + 1}", f"{100 * used.mean():.1f} %"]
        if used.any():
            windows = found.windows[used, step]
            x, y = np.median((windows[:, :2] + windows[:, 2:]) / 2, axis=0)
            side = np.median(windows[:, 2] - windows[:, 0])
            row += [f"{side:.1f} pixels", f"{x:.1f}, {y:.1f}"]
        else:
            row += ["—", "—"]
        rows.append(tuple(row))
    return Steps("The windows of each step, where it is in use", _STEPS, tuple(rows))


def _case(found: Inference, scenes: Scenes, index: int) -> Case:
    image, drawn = scenes.images[index], found.reconstructions[index]
    true = int(scenes.counts[index])
    facts = [("true count", str(true) if true >= 0 else "unknown")]
    seen, wrong = enlarged(image, f"Test scene {index} as it is"), False
    if isinstance(found, Objects):
        count = int(found.counts[index])
        windows = overlay.with_windows(image, found.windows[index, :count], _factor(image))
        seen = Picture(
            overlay.to_png(windows), f"Test scene {index} with {plural(count, 'window')}"
        )
        sure = found.count_probs[index, count]
        facts += [("inferred", f"{count}, with probability {sure:.2f}")]
        wrong = true not in (-1, count)
    facts += [("ELBO", f"{found.elbo_terms['elbo'][index]:,.1f} nats")]
    return Case(
        title=f"Test scene {index}",
        pictures=(seen, enlarged(drawn, f"Reconstruction of test scene {index}")),
        facts=tuple(facts),
        wrong=wrong,
    )
