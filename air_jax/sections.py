"""What a config holds: each section is the argument list of one function.

So a field has one meaning and one place, and a key that nothing would read is an error.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from air_jax import distributions, train
from air_jax.data.dataset import create_dataset
from air_jax.evaluate import evaluate
from air_jax.models.air import AIR
from air_jax.models.modules import Baseline
from air_jax.models.scene2d import Scene2D

_SCALARS = {"seed", "num_seeds", "estimator", "num_samples", "centring", "limit"}


class Options(NamedTuple):
    """The config's section `train`; intervals in steps, multiples of `steps_per_call`.

    Attributes:
      batch_size: images of a step, over all devices.
      num_steps: length of the run.
      steps_per_call: steps inside one compiled call.
      log_every: between entries of training scalars.
      evaluate_every: between validations.
      checkpoint_every: between checkpoints.
      validation_images: images of a validation, the first ones of the set.
    """

    batch_size: int
    num_steps: int
    steps_per_call: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    validation_images: int

    def check(self, first_step: int) -> None:
        """Raises ValueError if a size is not positive or an interval not a multiple of the calls.

        Args:
          first_step: where the run starts or resumes.
        """
        for name, value in self._asdict().items():
            if value < 1:
                raise ValueError(f"train.{name} is {value}; it must be at least 1.")
        for name in ("num_steps", "log_every", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value % self.steps_per_call:
                raise ValueError(
                    f"train.{name} is {value}; it must be a multiple of train.steps_per_call, "
                    f"{self.steps_per_call}."
                )
        if first_step % self.steps_per_call or first_step > self.num_steps:
            raise ValueError(
                f"the run stopped at step {first_step}, which is no multiple of "
                f"train.steps_per_call, {self.steps_per_call}, up to train.num_steps, "
                f"{self.num_steps}."
            )


def check(config: Mapping[str, Any]) -> None:
    """Compares a config's keys with the arguments that its sections become.

    Args:
      config: a whole config, as plain types.

    Raises:
      ValueError: if a section or a key is missing or unknown; names it and the valid ones.
    """
    # What each section becomes, which arguments come from elsewhere, and which keys it has besides.
    takers: dict[str, tuple[Callable[..., Any], set[str], set[str]]] = {
        "data": (create_dataset, set(), set()),
        "scene": (Scene2D, {"image_size", "channels", "parent", "name"}, set()),
        "inference": (AIR, {"scene", "parent", "name"}, set()),
        "baseline": (Baseline, {"parent", "name"}, {"decay"}),
        "prior": (distributions.create_prior, {"num_steps"}, set()),
        "optimizer": (train.create_optimizer, {"num_steps"}, set()),
        "train": (Options, set(), set()),
        "evaluation": (evaluate, {"model", "scenes", "key"}, set()),
    }
    _compare("the config", config.keys(), takers.keys() | _SCALARS)
    for name, (function, from_elsewhere, besides) in takers.items():
        arguments = inspect.signature(function).parameters.keys()
        _compare(
            f"config section {name!r}", config[name].keys(), arguments - from_elsewhere | besides
        )


def _compare(what: str, given: Any, expected: Any) -> None:
    problems = [f"unknown {name!r}" for name in sorted(given - expected)]
    problems += [f"missing {name!r}" for name in sorted(expected - given)]
    if problems:
        raise ValueError(f"{what}: {', '.join(problems)}; it holds {', '.join(sorted(expected))}.")
