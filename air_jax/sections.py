"""What a config holds: each section is the argument list of one function.

So a field has one meaning and one place, a key that nothing would read is an error, and a field's
type is that of its argument. What the model's own sections become, `kinds` knows.
"""

import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from air_jax import evaluate, kinds
from air_jax.kinds import Kind, Section

_SCALARS = {"model": str, "seed": int, "num_seeds": int}
# What JAX computes with: 32 bits.
_GREATEST_INT = 2**31 - 1
_GREATEST_FLOAT = 3.4e38
_GREATEST_WHOLE = 2**24  # up to here single precision has every whole number
_MAX_SHOWN = 200  # characters of a value in a message


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
    """Refuses a config that no run could be made of, before anything is read, computed or written.

    Keys and types are those of the arguments that the sections become; ranges are checked by what
    takes them: the model is built, but for its numbers. What the section `data` says of scenes is
    left to its function, which needs the digits.

    Args:
      config: a whole config, as plain types.

    Raises:
      ValueError: if a section, a key or the kind of model is missing or unknown, a value is not of
        its type or out of range, entries contradict each other, or the run would need more memory
        than there is; names the entry and what is expected.
    """
    kind = kinds.of(config)
    sections = {"data": kind.data, "train": Section(Options), **kind.sections}
    of_scalars = inspect.signature(kind.create_training).parameters
    scalars = _SCALARS | {name: of_scalars[name].annotation for name in kind.scalars}
    _compare("the config", config.keys(), sections.keys() | scalars.keys())
    for name, annotation in scalars.items():
        _check_type(name, config[name], annotation)
    for name, section in sections.items():
        if not isinstance(config[name], Mapping):
            raise ValueError(f"{name} is {config[name]!r}; it must be a section, key by key.")
        arguments = inspect.signature(section.function).parameters
        fields = {key: argument.annotation for key, argument in arguments.items()}
        fields = {key: fields[key] for key in fields.keys() - section.from_elsewhere}
        _compare(f"config section {name!r}", config[name].keys(), fields.keys())
        for key in config[name]:
            _check_type(f"{name}.{key}", config[name][key], fields[key])

    data, options = config["data"], Options(**config["train"])
    options.check(first_step=0)
    evaluate.check(**config["evaluation"])
    if config["seed"] < 0 or config["num_seeds"] < 1:
        raise ValueError(
            f"seed is {config['seed']} and num_seeds {config['num_seeds']}; the one must be at "
            "least 0, the other at least 1."
        )
    if data["image_size"] < 1:
        raise ValueError(f"data.image_size is {data['image_size']}; it must be positive.")
    if options.batch_size > data["num_train"]:
        raise ValueError(
            f"train.batch_size is {options.batch_size} and data.num_train {data['num_train']}: a "
            "batch has no more images than the training set. Choose a smaller batch or more images."
        )
    if config["num_seeds"] > 1 and not data.get("resident", True):
        raise ValueError(
            f"num_seeds is {config['num_seeds']} and data.resident is False: each seed of a "
            "program draws other images, and one that is frozen draws its own again. Set "
            "data.resident to True, or train the seeds one after another."
        )
    _build(config, kind)


def _build(config: Mapping[str, Any], kind: Kind) -> None:
    """Builds everything but the numbers, and refuses what cannot fit into the memory."""
    number, *image = kind.images_shape(config["data"])
    if not config["data"].get("resident", True):
        number -= config["data"]["num_train"]
    # As uint8; a pass takes at least one image as float32, with its canvas.
    _check_memory(
        "data.image_size and data.num_train, num_validation, num_test",
        "these images",
        max(number, 8) * math.prod(image),
    )
    size = {"image_size": image[0], "channels": image[-1]}
    training = kinds.create_training(config, **size)
    state = jax.eval_shape(training.init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for _, leaf in leaves)
    path, largest = max(leaves, key=lambda entry: entry[1].size)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    _check_memory(
        "the sizes of the model and num_seeds",
        f"parameters and moments, the largest of them {name} {list(largest.shape)},",
        num_bytes * config["num_seeds"],
    )


def _check_memory(name: str, what: str, num_bytes: int) -> None:
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > available:
        raise ValueError(
            f"{name}: {what} would take {num_bytes / 2**30:,.0f} GiB, and this machine has "
            f"{available / 2**30:,.0f} GiB of memory. Choose smaller sizes."
        )


def _check_type(name: str, value: Any, annotation: Any) -> None:
    if not _fits(value, annotation):
        raise ValueError(f"{name} is {_shown(value)}; it must be {_described(annotation)}.")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain value is one of an argument's type; lists stand for tuples, as in JSON."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, member) for member in arguments)
    if origin in (tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and len(value) != len(arguments):
            return False
        return all(_fits(item, arguments[0]) for item in value)
    if annotation in (int, float):
        is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if annotation is int or is_whole:
            return is_whole and abs(value) <= (
                _GREATEST_INT if annotation is int else _GREATEST_WHOLE
            )
        return isinstance(value, float) and abs(value) <= _GREATEST_FLOAT  # NaN is not
    # No path has a null character, and no name.
    return isinstance(value, annotation) and not (annotation is str and "\0" in value)


def _described(annotation: Any) -> str:
    """A type of `_fits` in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_described(member) for member in arguments)
    if origin is tuple:
        return f"{len(arguments)} numbers, each {_described(arguments[0])}"
    if origin is Sequence:
        return f"a list of numbers, each {_described(arguments[0])}"
    words = {
        int: f"a whole number of at most {_GREATEST_INT:,}",
        float: f"a finite number (a whole one of at most {_GREATEST_WHOLE:,})",
        str: "text without null characters",
        bool: "True or False",
        types.NoneType: "None",
    }
    return words[annotation]


def _shown(value: Any) -> str:
    """A value for a message, which may be of any length."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a huge number"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _compare(what: str, given: Any, expected: Any) -> None:
    problems = [f"unknown {name!r}" for name in sorted(given - expected)]
    problems += [f"missing {name!r}" for name in sorted(expected - given)]
    if problems:
        raise ValueError(f"{what}: {', '.join(problems)}; it holds {', '.join(sorted(expected))}.")
