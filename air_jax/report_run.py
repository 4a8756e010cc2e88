"""What a report says of one run: read from its workdir, and asked of its model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from air_jax import evaluate, figures, gallery, kinds, overlay, scan_policy, seeds, writer
from air_jax.charts import plural
from air_jax.checkpoint import CheckpointError
from air_jax.data.dataset import Dataset
from air_jax.data.scenes import Scenes
from air_jax.inference import Model, Objects
from air_jax.inverse_graphics import Model3D
from air_jax.provenance import flatten
from air_jax.report_page import Case, Looked, Picture, Run
from air_jax.report_tables import show
from air_jax.trained import Inference, TrainedModel

Config = dict[str, Any]

_SIDE = 150  # of a scene's picture, pixels
_DPI = 110
_EXAMPLES = 12
_FAILURES = 24
_WORST = 9
_VERSIONS = ("started", "commit", "python", "backend", "devices", "num_devices", "num_processes")


class Workdir(NamedTuple):
    """A run on disk.

    Attributes:
      folder: with its metrics, its model and its evaluation.
      record: with its `run.json`; another one where a program trained several seeds.
      config: the run's.
    """

    folder: Path
    record: Path
    config: Config


def find(folder: Path) -> list[Workdir]:
    """The runs of a workdir: one, or one for each seed of a program that trained several.

    Args:
      folder: given by the user: a run's workdir, or a seed's folder within one.

    Raises:
      ValueError: if it is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the workdir of a run")
    path = folder / "config.json"
    if not path.is_file():
        if folder.name.startswith("seed_") and (folder.parent / "config.json").is_file():
            found = [run for run in find(folder.parent) if run.folder.name == folder.name]
            if found:
                return found
        raise ValueError(
            f"{folder} is no workdir of a run: it has no config.json. Give the --workdir of a "
            "training"
        )
    config = _read_json(path)
    if not isinstance(config.get("train"), dict):
        hint = f": give {folder.parent}, of which this is the model" if "format" in config else ""
        raise ValueError(f"{folder} is no workdir of a run: its config.json is not a run's{hint}")
    kinds.of(config)
    try:
        trained = seeds.create_seeds({"num_seeds": 1, "seed": 0, **config}, folder)
    except TypeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return [Workdir(seed.folder, folder, dict(seed.exported)) for seed in trained]


def read(
    run: Workdir, name: str, *, num_images: int, create_dataset: Callable[[Config], Dataset]
) -> Run:
    """All that is to be said of a run. What cannot be had is left out, with a note.

    Args:
      run: on disk.
      name: of it in the report.
      num_images: test scenes that its model looks at, from the first on.
      create_dataset: from a config to its scenes.
    """
    notes: list[str] = []
    scalars = writer.read_scalars(run.folder)
    evaluation = _evaluation(run.folder, notes)
    starts = _starts(run.record / "run.json", notes)
    steps = max((entry["step"] for entry in scalars), default=0)
    total = show(run.config["train"].get("num_steps"))
    if "not_finite_at" in evaluation:
        notes.append(f"The run diverged: it is not finite at step {evaluation['not_finite_at']}.")
    elif not evaluation:
        notes.append(
            f"The run is not finished: it has no evaluation.json. Its last entry is of step "
            f"{steps:,} of {total}."
        )
    return Run(
        name=name,
        kind=f"{_kind(run.config)}, {steps:,} of {total} training steps.",
        # Evaluated first: what it says of scenes goes into the notes.
        looked=_look(run, evaluation, starts, num_images, create_dataset, notes),
        timeline=_timeline(run.folder, notes),
        config=flatten(run.config),
        versions=_versions(starts),
        scalars=scalars,
        evaluation=evaluation,
        notes=tuple(notes),
    )


def _kind(config: Config) -> str:
    if config.get("model", "air") == "air":
        return str(config.get("inference", {}).get("variant", "air")).upper()
    return {"draw": "DRAW", "air3d": "AIR through a renderer"}[config["model"]]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no entries with names")
    return content


def _evaluation(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = folder / "evaluation.json"
    if not path.exists():
        return {}
    try:
        found = _read_json(path)
    except ValueError as error:
        notes.append(f"The evaluation cannot be read: {error}.")
        return {}
    matrix = found.get("confusion_matrix")
    if matrix is not None and not _is_square(matrix):
        notes.append("The confusion matrix of evaluation.json is damaged.")
        del found["confusion_matrix"]
    return found


def _is_square(matrix: Any) -> bool:
    return isinstance(matrix, list) and all(
        isinstance(row, list)
        and len(row) == len(matrix)
        and all(isinstance(images, int) and images >= 0 for images in row)
        for row in matrix
    )


def _starts(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, list) and all(isinstance(start, dict) for start in found):
            return found
        notes.append("run.json is damaged: nothing is known of the versions.")
    except FileNotFoundError:
        notes.append("There is no run.json: nothing is known of the versions.")
    except (ValueError, RecursionError):
        notes.append("run.json is damaged: nothing is known of the versions.")
    return []


def _versions(starts: list[dict[str, Any]]) -> dict[str, Any]:
    if not starts:
        return {}
    last = starts[-1]
    packages = last.get("packages")
    described = last.get("data")
    return {
        "starts": len(starts),
        **{name: last.get(name) for name in (*_VERSIONS, "arguments")},
        **(flatten({"data": described}) if isinstance(described, dict) else {}),
        **(packages if isinstance(packages, dict) else {}),
    }


def _timeline(folder: Path, notes: list[str]) -> Picture | None:
    try:
        figure = gallery.timeline(folder)
    except ValueError as error:
        notes.append(f"{error}.")
        return None
    if figure is None:
        return None
    alt = "Rows of images: the data, and below them reconstructions at several training steps"
    return Picture(figures.to_png(figure, _DPI), alt)


def _look(
    run: Workdir,
    evaluation: Mapping[str, Any],
    starts: list[dict[str, Any]],
    num_images: int,
    create_dataset: Callable[[Config], Dataset],
    notes: list[str],
) -> Looked | None:
    try:
        model = kinds.load(run.folder)
    except CheckpointError as error:
        notes.append(f"The model cannot be loaded, so no scene was looked at: {error}.")
        return None
    if isinstance(model, Model3D):
        notes.append("A model of 3-D scenes is not asked about single scenes here.")
        return None
    try:
        dataset = create_dataset(run.config)
    except (ValueError, TypeError, OSError, ImportError) as error:
        notes.append(f"The test scenes cannot be made, so none was looked at: {error}")
        return None
    described = evaluation.get("data") or (starts[0].get("data") if starts else None) or {}
    digest = described.get("digest") if isinstance(described, dict) else None
    if digest not in (None, dataset.description["digest"]):
        notes.append(
            "The scenes shown here are of other data than those that the run had: the digests "
            f"are {dataset.description['digest']} and {digest}."
        )
    scenes = Scenes(*(array[:num_images] for array in dataset.test))
    try:
        # As in the evaluation, so that these are the ELBOs of which it has the mean.
        key, _ = jax.random.split(_keys(run).evaluation)
        found = model.infer(scenes.images, key=key)
    except (ValueError, TypeError) as error:
        notes.append(f"The model does not take the test scenes: {error}")
        return None
    return look(model, scenes, found)


def _keys(run: Workdir) -> seeds.Keys:
    (seed,) = seeds.create_seeds({**run.config, "num_seeds": 1}, run.folder)
    return seed.keys


def look(model: TrainedModel, scenes: Scenes, found: Inference) -> Looked:
    """What a model made of scenes.

    A failure is a scene whose objects it miscounts. Of a model or of scenes without counts those
    that it explains worst stand in their place.

    Args:
      model: of AIR, DAIR or DRAW.
      scenes: n of them.
      found: what it says about them.
    """
    number = len(scenes.images)
    summary = f"{plural(number, 'test scene')}"
    known = scenes.counts >= 0
    failures, others = order_by_elbo(found, scenes)
    if isinstance(found, Objects) and known.any():
        total = int((known & (found.counts != scenes.counts)).sum())
        said = f"{total:,} of {int(known.sum()):,} test scenes were miscounted"
    else:
        total, said = number, f"Nobody counted: of {summary} those that are explained worst"
        if not isinstance(found, Objects):
            said = f"The model finds no objects: of {summary} those that it explains worst"
    shown = min(total, _FAILURES)
    if total > shown:
        said += f", of which {shown} are shown"
    if total:
        said += "; the lowest ELBO comes first."
    else:
        said += "."
    looked = Looked(
        summary=summary,
        examples=tuple(_case(found, scenes, i) for i in range(min(number, _EXAMPLES))),
        failures=tuple(_case(found, scenes, int(i)) for i in failures[:_FAILURES]),
        failures_summary=said,
        worst=tuple(_case(found, scenes, int(i)) for i in others[:_WORST]),
    )
    if not isinstance(model, Model) or not isinstance(found, Objects):
        return looked
    size = model.air.scene.image_size
    heat_map = figures.scan_policy(*gallery.windows(found), size)
    alt = "Heat maps of the centres of the windows, one for each step"
    looked = looked._replace(
        steps=_steps(found),
        heat_map=Picture(figures.to_png(heat_map, _DPI), alt),
    )
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


def order_by_elbo(found: Inference, scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Which scenes a model failed at, and the others, each with the lowest ELBO first.

    Args:
      found: what it says about n scenes.
      scenes: these. A scene whose count is unknown is no failure; where no count is known or the
        model does not count, each scene is one.

    Returns:
      Indices, int `[k]` and `[n - k]`.
    """
    elbo = np.nan_to_num(found.elbo_terms["elbo"], nan=-np.inf)
    order = np.argsort(elbo, kind="stable")
    known = scenes.counts >= 0
    if not isinstance(found, Objects) or not known.any():
        return order, order[:0]
    failed = (known & (found.counts != scenes.counts))[order]
    return order[failed], order[~failed]


def _steps(found: Objects) -> tuple[tuple[str, ...], ...]:
    """A row for each step: how often it is used, and where and how large its window is."""
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
    return tuple(rows)


def _case(found: Inference, scenes: Scenes, index: int) -> Case:
    image, drawn = scenes.images[index], found.reconstructions[index]
    factor = max(1, round(_SIDE / len(image)))
    true = int(scenes.counts[index])
    facts = [("true count", str(true) if true >= 0 else "unknown")]
    seen, shows, wrong = overlay.enlarge(image, factor), "as it is", False
    if isinstance(found, Objects):
        count = int(found.counts[index])
        seen = overlay.with_windows(image, found.windows[index, :count], factor)
        shows = f"with {plural(count, 'window')}"
        sure = found.count_probs[index, count]
        facts += [("inferred", f"{count}, with probability {sure:.2f}")]
        wrong = true not in (-1, count)
    facts += [("ELBO", f"{found.elbo_terms['elbo'][index]:,.1f} nats")]
    return Case(
        title=f"Test scene {index}",
        pictures=(
            _picture(seen, f"Test scene {index} {shows}"),
            _picture(overlay.enlarge(drawn, factor), f"Reconstruction of test scene {index}"),
        ),
        facts=tuple(facts),
        wrong=wrong,
    )


def _picture(pixels: np.ndarray, alt: str) -> Picture:
    return Picture(overlay.to_png(pixels), alt)
