"""What a config holds: each section is the argument list of one function.

So a field has one meaning and one place, and a key that nothing would read is an error.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from air_jax import distributions, train
from air_jax.data.dataset import create_dataset
from air_jax.evaluate import evaluate
from air_jax.models.air import AIR
from air_jax.models.modules import Baseline
from air_jax.models.scene2d import Scene2D

_SCALARS = {"seed", "estimator"}


def check(config: Mapping[str, Any], *, loop_options: Callable[..., Any]) -> None:
    """Compares a config's keys with the arguments that its sections become.

    Args:
      config: a whole config, as plain types.
      loop_options: what takes the section `train`.

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
        "train": (loop_options, set(), set()),
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
