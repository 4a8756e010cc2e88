"""The kinds of model that a run can train, and what belongs to each: the only place to add one.

The loop, validation and evaluation know a model by its `Kind`, which a config names in `model`.
What a kind's sections are splatted into says which keys they hold (`sections.check`).
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from air_jax import draw, evaluate, evaluate3d, export, inference, inverse_graphics, train3d
from air_jax.checkpoint import CheckpointError
from air_jax.data import dataset
from air_jax.data.dataset import Dataset
from air_jax.data.tabletop import create_tabletop
from air_jax.distributions import create_prior
from air_jax.models.air import AIR
from air_jax.models.air3d import AIR3D
from air_jax.models.draw import DRAW
from air_jax.models.modules import create_baseline
from air_jax.models.scene2d import Scene2D
from air_jax.models.scene3d import Scene3D
from air_jax.train import Training, create_air_training, create_optimizer
from air_jax.trained import TrainedModel

Config = Mapping[str, Any]

_MODULE = frozenset({"parent", "name"})
_IMAGE = frozenset({"image_size", "channels"})


class Section(NamedTuple):
    """What a section of a config is: the argument list of a function.

    Attributes:
      function: takes the section as keyword arguments.
      from_elsewhere: its arguments that are not in the section.
    """

    function: Callable[..., Any]
    from_elsewhere: frozenset[str] = frozenset()


class Kind(NamedTuple):
    """What belongs to one kind of model.

    Attributes:
      data: what the section `data` becomes, from which a `Dataset` comes.
      images_shape: from the section `data` to the shape of all images that it asks for,
        `(n, H, W, C)`; n is 0 where that depends on files.
      scalars: entries of a config that only this kind reads.
      sections: likewise; `evaluation` holds the options of `evaluate`.
      create_training: from these scalars and sections, `num_train_steps`, `image_size`, `channels`
        and `freeze_non_finite`, all by name.
      create_model: from an exported config and parameters.
      evaluate: `(model, scenes, *, key, **options)` to plain numbers, JSON-able.
      validate: what a model said of scenes, and these, to the scalars of a validation.
      warnings: what is allowed in a config and yet seldom meant, in sentences.
    """

    data: Section
    images_shape: Callable[[Config], tuple[int, int, int, int]]
    scalars: frozenset[str]
    sections: Mapping[str, Section]
    create_training: Callable[..., Training]
    create_model: Callable[[Config, Any], TrainedModel]
    evaluate: Callable[..., dict[str, Any]]
    validate: Callable[[Any, Any], dict[str, float]]
    warnings: Callable[[Config], list[str]]


def _air_warnings(config: Config) -> list[str]:
    steps, length = config["prior"]["steps"], config["train"]["num_steps"]
    num_steps, data = config["inference"]["num_steps"], config["data"]
    warnings = []
    if steps > length:
        warnings.append(
            f"prior.steps is {steps} and train.num_steps {length}: the model will be judged with a "
            "prior that it was never trained with."
        )
    if data["source"] != "path" and max(data["counts"], default=0) > num_steps:
        warnings.append(
            f"scenes hold up to {max(data['counts'])} objects and the network takes {num_steps} "
            "steps (inference.num_steps)."
        )
    return warnings


def _images_shape(data: Config) -> tuple[int, int, int, int]:
    """Of `dataset.create_dataset`."""
    channels = 3 if data["source"] == "sprites" else 1
    number = 0 if data["source"] in ("path", "omniglot") else _num_images(data)
    return number, data["image_size"], data["image_size"], channels


def _images_shape_3d(data: Config) -> tuple[int, int, int, int]:
    """Of `tabletop.create_tabletop`."""
    return _num_images(data), data["image_size"], data["image_size"], 3


def _num_images(data: Config) -> int:
    return data["num_train"] + data["num_validation"] + data["num_test"]


def _air3d_warnings(config: Config) -> list[str]:
    data, scene, inference = config["data"], config["scene"], config["inference"]
    warnings = [
        f"data.{name} is {data[name]} and scene.{name} {scene[name]}: the model renders other "
        "scenes than it sees."
        for name in ("catalogue", "field_of_view")
        if data[name] != scene[name]
    ]
    # The corner of the square that they stand in, as the camera sees it.
    turned = math.radians(min(data["camera_range"][0], 45.0))
    farthest = data["extent"] * (math.cos(turned) + math.sin(turned))
    if farthest > scene["reach"]:
        warnings.append(
            f"data.extent is {data['extent']}, so that objects are up to {farthest:.2f} to a side, "
            f"and scene.reach {scene['reach']}: the model has no place for them."
        )
    if any(data["camera_range"]) and not any(scene["camera_scale"]):
        warnings.append("data.camera_range is not 0, but scene.camera_scale says that it is known.")
    if max(data["counts"]) > inference["num_steps"]:
        warnings.append(
            f"scenes hold up to {max(data['counts'])} objects and the network takes "
            f"{inference['num_steps']} steps (inference.num_steps)."
        )
    return warnings


_EVALUATION = Section(evaluate.evaluate, frozenset({"model", "scenes", "key"}))

KINDS = {
    "air": Kind(
        data=Section(dataset.create_dataset),
        images_shape=_images_shape,
        scalars=frozenset({"estimator", "num_samples", "centring"}),
        sections={
            "scene": Section(Scene2D, _IMAGE | _MODULE),
            "inference": Section(AIR, _MODULE | {"scene"}),
            "baseline": Section(create_baseline),
            "prior": Section(create_prior, frozenset({"num_steps"})),
            "optimizer": Section(create_optimizer, frozenset({"num_steps"})),
            "evaluation": _EVALUATION,
        },
        create_training=create_air_training,
        create_model=inference.create_model,
        evaluate=evaluate.evaluate,
        validate=evaluate.validation_scalars,
        warnings=_air_warnings,
    ),
    "draw": Kind(
        data=Section(dataset.create_dataset),
        images_shape=_images_shape,
        scalars=frozenset(),
        sections={
            "draw": Section(DRAW, _IMAGE | _MODULE),
            "optimizer": Section(
                create_optimizer, frozenset({"num_steps", "baseline_learning_rate"})
            ),
            "evaluation": _EVALUATION,
        },
        create_training=draw.create_draw_training,
        create_model=draw.create_model,
        evaluate=evaluate.evaluate,
        validate=evaluate.validation_scalars,
        warnings=lambda config: [],
    ),
    "air3d": Kind(
        data=Section(create_tabletop),
        images_shape=_images_shape_3d,
        scalars=frozenset({"estimator", "num_samples", "centring"}),
        sections={
            "scene": Section(Scene3D, _IMAGE | _MODULE),
            "inference": Section(AIR3D, _MODULE | {"scene"}),
            "baseline": Section(create_baseline),
            "prior": Section(create_prior, frozenset({"num_steps"})),
            "exploration": Section(train3d.create_exploration),
            "optimizer": Section(create_optimizer, frozenset({"num_steps"})),
            "evaluation": Section(evaluate3d.evaluate, frozenset({"model", "scenes", "key"})),
        },
        create_training=train3d.create_training,
        create_model=inverse_graphics.create_model,
        evaluate=evaluate3d.evaluate,
        validate=evaluate3d.validation_scalars,
        warnings=_air3d_warnings,
    ),
}


def of(config: Config) -> Kind:
    """The kind of a config; one from before there were several is AIR's.

    Args:
      config: a run's or an exported model's.

    Raises:
      ValueError: if there is no such kind; lists the valid names.
    """
    return KINDS[_name(config)]


def require(config: Config, name: str) -> None:
    """Refuses another kind of model.

    Args:
      config: a run's or an exported model's.
      name: the kind that is needed.

    Raises:
      ValueError: if the config's is another.
    """
    if _name(config) != name:
        raise ValueError(f"model is {_name(config)!r}; this needs {name!r}.")


def _name(config: Config) -> str:
    name = config.get("model", "air")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"model is {name!r}; valid names are {', '.join(map(repr, KINDS))}.")
    return name


def create_training(config: Config, **options: Any) -> Training:
    """What a run of the config trains.

    Args:
      config: a whole config.
      **options: `image_size`, `channels` and `freeze_non_finite`, as in `create_air_training`.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if a name in the config is unknown.
    """
    kind = of(config)
    names = kind.scalars | kind.sections.keys() - {"evaluation"}
    return kind.create_training(
        **{name: config[name] for name in names},
        num_train_steps=config["train"]["num_steps"],
        **options,
    )


def create_dataset(config: Config) -> Dataset:
    """The scenes that a run of the config is trained and judged on.

    Raises:
      ValueError: if an option is out of range.
      FileNotFoundError: if the data are not there.
    """
    return of(config).data.function(**config["data"])


def create_model(config: Config, params: Any) -> TrainedModel:
    """A model from its config (plain types, as exported, with `image`) and parameters."""
    return of(config).create_model(config, params)


def with_steps(model: TrainedModel, num_steps: int) -> TrainedModel:
    """A model of AIR or DAIR with another number of steps; no parameter depends on it.

    Args:
      model: of any kind; one that finds no objects stays as it is.
      num_steps: N.
    """
    if not isinstance(model, inference.Model):
        return model
    section = {**model.config["inference"], "num_steps": num_steps}
    return create_model({**model.config, "inference": section}, model.params)


def trained_counts(model: inference.Model | inverse_graphics.Model3D) -> list[int]:
    """Numbers of objects in a model's training scenes; 1 to N where they are not known."""
    data = model.config.get("data", {})  # a model need not say what it was trained on
    known = data.get("source") not in ("path", "omniglot")
    within = [count for count in data.get("counts", ()) if count <= model.air.num_steps]
    return within if known and within else list(range(1, model.air.num_steps + 1))


def load(directory: str | Path) -> TrainedModel:
    """Loads an exported model.

    Args:
      directory: a run's workdir, or the folder `model` inside it.

    Returns:
      An `inference.Model` of AIR or DAIR, a `draw.DrawModel` of DRAW, an
      `inverse_graphics.Model3D` of AIR through a renderer.

    Raises:
      CheckpointError: if the folder holds no model, a damaged one or one with other settings.
    """
    params, config = export.load_model(directory)
    try:
        return create_model(config, params)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the config of the model in {directory} is not one that this air_jax knows "
            f"({type(error).__name__}: {error}). Use the air_jax that wrote it"
        ) from error


def load_objects(directory: str | Path) -> inference.Model | inverse_graphics.Model3D:
    """Loads an exported model that finds objects, in images or in 3-D scenes.

    Args:
      directory: a run's workdir, or the folder `model` inside it.

    Raises:
      CheckpointError: as `load`, or if the model is of another kind.
    """
    model = load(directory)
    if isinstance(model, inverse_graphics.Model3D):
        return model
    return _require_air(model, directory)


def load_air(directory: str | Path) -> inference.Model:
    """Loads an exported model that finds objects.

    Args:
      directory: a run's workdir, or the folder `model` inside it.

    Raises:
      CheckpointError: as `load`, or if the model is of another kind.
    """
    return _require_air(load(directory), directory)


def _require_air(model: TrainedModel, directory: str | Path) -> inference.Model:
    if not isinstance(model, inference.Model):
        raise CheckpointError(
            f"the model in {directory} is {_name(model.config)!r}, which finds no objects. Give "
            "one of AIR or DAIR"
        )
    return model
