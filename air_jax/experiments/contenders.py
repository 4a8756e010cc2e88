"""What `air_jax.experiments.representation` compares, codes and pixels, and by how much work."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging

from air_jax import autoencoder, representation, tables
from air_jax.classification import Budget, Inputs
from air_jax.data.dataset import create_dataset
from air_jax.data.scenes import Scenes


class Plan(NamedTuple):
    """What is measured.

    Attributes:
      sizes: numbers of labelled images, ascending.
      num_seeds: of each representation.
      num_validation: scenes by which hyper-parameters are chosen.
      num_test: scenes that are reported.
      code_sizes: lengths of the autoencoder's code.
      autoencoder_steps: training steps of each autoencoder.
      budget: of each classifier.
    """

    sizes: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 30_000)
    num_seeds: int = 3
    num_validation: int = 2_000
    num_test: int = 5_000
    code_sizes: tuple[int, ...] = (50, 100, 200)
    autoencoder_steps: int = 4_000
    budget: Budget = Budget()

    def check(self) -> None:
        """Raises ValueError if there is nothing to measure, or sizes do not ascend."""
        if not self.sizes or self.sizes[0] < 1 or sorted(set(self.sizes)) != list(self.sizes):
            raise ValueError(f"sizes is {self.sizes}; they must ascend, from 1 at least.")
        counted = {
            "seeds": self.num_seeds,
            "trials": self.budget.trials,
            "rounds": self.budget.max_rounds,
        }
        for name, value in counted.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")


SMOKE = Plan(
    sizes=(20, 40),
    num_seeds=2,
    num_validation=40,
    num_test=40,
    code_sizes=(3,),
    autoencoder_steps=4,
    budget=Budget(trials=1, max_rounds=2, steps_per_round=3, batch_size=8),
)


class Contender(NamedTuple):
    """A representation.

    Attributes:
      family: of its classifiers, see `classification.SIZES`.
      seeds: of each seed, the inputs that its hyper-parameters may choose from.
      errors: reconstruction errors of the test scenes, one for each model; empty for none.
      code_sizes: lengths of the code that there are; None for pixels.
      note: what its models are, JSON-able.
      num_objects: that a code is made of, one after the other; None for other codes, for pixels,
        and where it is not the same number for all seeds.
    """

    family: str
    seeds: Sequence[Sequence[Inputs]]
    errors: Sequence[float]
    code_sizes: Sequence[int] | None
    note: Any
    num_objects: int | None = None


def of_models(models: Mapping[str, Any], scenes: Mapping[str, Scenes], plan: Plan) -> Contender:
    """Codes of trained models; seeds take them in turn."""
    used = dict(list(models.items())[: plan.num_seeds])
    images = scenes["test"].images
    codes, errors = [], []
    for folder, model in used.items():
        codes.append(representation.codes(model, scenes))
        reconstructions = model.infer(images).reconstructions
        errors.append(representation.reconstruction_error(images, reconstructions))
        logging.info("%s: squared error %.2f", folder, errors[-1])
    num_objects = {representation.num_objects(model) for model in used.values()}
    return Contender(
        family="mlp",
        seeds=[[codes[seed % len(codes)]] for seed in range(plan.num_seeds)],
        errors=errors,
        code_sizes=sorted({part.train.shape[1] for part in codes}),
        note=list(used),
        num_objects=num_objects.pop() if len(num_objects) == 1 else None,
    )


def autoencoders(config: Mapping[str, Any], scenes: Mapping[str, Scenes], plan: Plan) -> Contender:
    """Trains autoencoders of all lengths of code, for each seed, on what AIR was trained on."""
    images = create_dataset(**{**config["data"], "resident": True}).train.images
    test = scenes["test"].images
    seeds = []
    errors: dict[int, list[float]] = {size: [] for size in plan.code_sizes}
    for seed in range(plan.num_seeds):
        key = jax.random.key(seed)
        variants = []
        for size in plan.code_sizes:
            model = autoencoder.train_autoencoder(
                images,
                code_size=size,
                key=jax.random.fold_in(key, size),
                num_steps=plan.autoencoder_steps,
            )
            codes = {name: model.encode(part.images) for name, part in scenes.items()}
            variants.append(Inputs(**codes))
            error = representation.reconstruction_error(test, model.reconstruct(test))
            errors[size].append(error)
            logging.info("autoencoder %d, seed %d: squared error %.2f", size, seed, error)
        seeds.append(variants)
    by_size = {str(size): tables.spread(found) for size, found in errors.items()}
    # The table's is that of the best reconstructions.
    best = min(errors.values(), key=statistics.fmean)
    return Contender("mlp", seeds, best, plan.code_sizes, {"reconstruction_error": by_size})


def pixels(scenes: Mapping[str, Scenes], plan: Plan) -> Contender:
    images = Inputs(**{name: part.images for name, part in scenes.items()})
    return Contender("cnn", [[images]] * plan.num_seeds, [], None, None)
