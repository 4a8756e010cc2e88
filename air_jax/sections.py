"""What a config holds: each section is the argument list of one function.

So a field has one meaning and one place, and a key that nothing would read is an error. What the
model's own sections become, `kinds` knows.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from air_jax import kinds
from air_jax.kinds import Section

_SCALARS = {"model", "seed", "num_seeds"}


class Options(NamedTuple):
    """The config's section `train`; intervals in steps, multiples of `steps_per_call`.

    Attributes:
      batch_size: images of a step, over all devices.
      num_steps: length of the run.
      steps_per_call: steps inside one compiled call.
      log_every: between entries of training scalars.
      evaluate_every: between validations.
      checkpoint_every: between checkpoints.
      snapshot_every: between models that are kept, 0 for none.
      validation_images: images of a validation, the first ones of the set.
    """

    batch_size: int
    num_steps: int
    steps_per_call: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    snapshot_every: int
    validation_images: int

    def check(self, first_step: int) -> None:
        """Raises ValueError if a size is too small or an interval not a multiple of the calls.

        Args:
          first_step: where the run starts or resumes.
        """
        for name, value in self._asdict().items():
            least = 0 if name == "snapshot_every" else 1
            if value < least:
                raise ValueError(f"train.{name} is {value}; it must be at least {least}.")
        intervals = ("log_every", "evaluate_every", "checkpoint_every", "snapshot_every")
        for name in ("num_steps", *intervals):
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
      ValueError: if a section, a key or the kind of model is missing or unknown; names it and the
        valid ones. Or if many seeds are to share images that are streamed.
    """
    kind = kinds.of(config)
    sections = {"data": kind.data, "train": Section(Options), **kind.sections}
    _compare("the config", config.keys(), sections.keys() | _SCALARS | kind.scalars)
    for name, section in sections.items():
        arguments = inspect.signature(section.function).parameters.keys()
        expected = arguments - section.from_elsewhere | section.besides
        _compare(f"config section {name!r}", config[name].keys(), expected)
    if config["num_seeds"] > 1 and not config["data"].get("resident", True):
        raise ValueError(
            f"num_seeds is {config['num_seeds']} and data.resident is False: each seed of a "
            "program draws other images, and one that is frozen draws its own again. Set "
            "data.resident to True, or train the seeds one after another."
        )


def _compare(what: str, given: Any, expected: Any) -> None:
    problems = [f"unknown {name!r}" for name in sorted(given - expected)]
    problems += [f"missing {name!r}" for name in sorted(expected - given)]
    if problems:
        raise ValueError(f"{what}: {', '.join(problems)}; it holds {', '.join(sorted(expected))}.")
