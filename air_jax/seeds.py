"""Independent runs that one program trains together; most programs train one."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax

from air_jax import export, kinds
from air_jax.train import TrainState
from air_jax.trained import TrainedModel


class Keys(NamedTuple):
    """Keys of the initial parameters, the steps and the evaluation of one seed."""

    init: chex.PRNGKey
    run: chex.PRNGKey
    evaluation: chex.PRNGKey


class Seed(NamedTuple):
    """One run.

    Attributes:
      folder: its workdir.
      number: what its keys are made of.
      exported: the config as it is exported with the model.
      place: along the seeds' axis of the state, or None where the state has no such axis.
    """

    folder: pathlib.Path
    number: int
    exported: Mapping[str, Any]
    place: int | None

    @property
    def keys(self) -> Keys:
        """Its keys."""
        return Keys(*jax.random.split(jax.random.key(self.number), 3))

    def pick(self, tree: Any) -> Any:
        """This seed's part of a tree with the seeds' axis in front of every leaf."""
        return tree if self.place is None else jax.tree.map(lambda leaf: leaf[self.place], tree)

    def model(self, state: TrainState) -> TrainedModel:
        """Its model, from the state of all."""
        # First: one process alone must not compute upon what is on the devices of several.
        params = self.pick(jax.device_get(state.params["model"]))
        return kinds.create_model(self.exported, params)

    def export(self, state: TrainState, name: str = "model") -> None:
        """Writes its model to `folder/name`, from the state of all."""
        model = self.model(state)
        config = {**model.config, "step": int(self.pick(jax.device_get(state.step)))}
        export.export_model(self.folder / name, model.params, config)


def create_seeds(config: Mapping[str, Any], folder: pathlib.Path) -> tuple[Seed, ...]:
    """The seeds of a run: one in the workdir itself, or several in folders `seed_N` inside it.

    Args:
      config: the run's, with `image` where models are to be made.
      folder: the workdir.

    Raises:
      ValueError: if `num_seeds` is not positive.
    """
    first, num_seeds = config["seed"], config["num_seeds"]
    if num_seeds < 1:
        raise ValueError(f"num_seeds is {num_seeds}; it must be at least 1.")
    if num_seeds == 1:
        return (Seed(folder, first, config, None),)
    return tuple(
        Seed(folder / f"seed_{number}", number, {**config, "seed": number, "num_seeds": 1}, place)
        for place, number in enumerate(range(first, first + num_seeds))
    )
