"""What a report says of one run: read from its workdir, and asked of its model."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from air_jax import figures, gallery, kinds, report_scenes, report_scenes3d, seeds, writer
from air_jax.checkpoint import CheckpointError
from air_jax.data.dataset import Dataset
from air_jax.inverse_graphics import Model3D
from air_jax.provenance import flatten
from air_jax.report_page import Looked, Picture, Run
from air_jax.report_scenes import DPI
from air_jax.report_tables import show

Config = dict[str, Any]

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
    return Picture(
        figures.to_png(figure, DPI),
        "Rows of images: the data, and below them reconstructions at several training steps",
        "The same validation images as training went on.",
    )


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
    scenes = type(dataset.test)(*(array[:num_images] for array in dataset.test))
    # As the evaluation of each does, so that these are the ELBOs of which it has the mean.
    key = _keys(run).evaluation
    look: Callable[[], Looked]
    try:
        if isinstance(model, Model3D):
            of_scenes = model.infer(scenes.images, key=key)
            look = functools.partial(report_scenes3d.look, model, scenes, of_scenes)
        else:
            found = model.infer(scenes.images, key=jax.random.split(key)[0])
            look = functools.partial(report_scenes.look, model, scenes, found)
    except (ValueError, TypeError) as error:
        notes.append(f"The model does not take the test scenes: {error}")
        return None
    return look()


def _keys(run: Workdir) -> seeds.Keys:
    (seed,) = seeds.create_seeds({**run.config, "num_seeds": 1}, run.folder)
    return seed.keys
