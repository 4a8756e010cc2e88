"""Fixed runs, the curves of their training, and the bands that curves of sound code lie in.

    python -m tests.learning_bands --seeds=100:148 small_air_nvil small_dair_enumerate

trains every named run (all of them without a name) once a seed and writes mean and standard
deviation over the seeds of every point of the curves to tests/learning_bands.json, which keeps what
it has of other runs. To be done again after a change that is meant to change how a run learns.
"""

import argparse
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from air_jax import kinds, parallel
from air_jax.experiments.runs import seed_range
from air_jax.seeds import create_seeds
from configs import air, dair, smoke

FILE = pathlib.Path(__file__).with_suffix(".json")
# A mean over the seeds of a test may be so many of its own standard deviations off. Were the 100
# points of a run normal and independent, one sound run in a thousand would leave a band of 48
# seeds, and one in two hundred a band of 24.
WIDTH = 5.0


class Run(NamedTuple):
    """A run whose curve is known.

    Attributes:
      config: of `num_steps` and `steps_per_call` of its own.
      ends: step that each block of steps ends before; the first begins at 0.
      num_seeds: of a test, whose curves are averaged: they are small, and the mean shows more.
    """

    config: Callable[[], Any]
    ends: tuple[int, ...]
    num_seeds: int

    def settings(self) -> dict[str, Any]:
        """The config as plain types."""
        config = self.config()
        config.train.num_steps = self.ends[-1]
        config.train.steps_per_call = self.ends[-1] // 2
        # No folder of this machine goes into a band's settings.
        config.data.cache_dir = ""
        return json.loads(config.to_json())


def _small(variant: str, estimator: str) -> Any:
    """Scenes of 24x24 pixels and a handful of units: two seconds of training, once compiled."""
    config = smoke.get_config()
    config.estimator = estimator
    config.data.update(counts=(0, 1, 2), image_size=24, digit_scale=(0.5, 0.5))
    config.data.update(num_train=512, num_validation=8, num_test=8)
    config.scene.update(window_size=12, z_what_size=4, decoder_hidden=(16,), scale_prior=(2.0, 0.2))
    config.inference.variant = variant
    config.inference.glimpse_source = {"air": "image", "dair": "error"}[variant]
    config.inference.place = {"air": "regression", "dair": "map"}[variant]
    config.inference.update(hidden_size=16, embedding_size=16, place_grid=6)
    config.inference.update(predictor_hidden=(16,), encoder_hidden=(16,))
    config.baseline.update(hidden_size=16, embedding_size=16)
    config.prior.update(start=1e-4, end=1e-1, steps=200)
    config.optimizer.update(learning_rate=3e-3, baseline_learning_rate=1e-2, clip_norm=10.0)
    config.train.batch_size = 16
    return config


def _whole(create: Callable[[], Any], estimator: str) -> Any:
    """A shipped config, on digits that are always there and on fewer scenes."""
    config = create()
    config.estimator = estimator
    config.data.update(source="embedded", num_train=4_000, num_validation=8, num_test=8)
    return config


SMALL_ENDS = (10, 30, 100, 200, 300)
WHOLE_ENDS = (10, 30, 100, 200, 400)
RUNS = {
    "small_air_nvil": Run(functools.partial(_small, "air", "nvil"), SMALL_ENDS, 4),
    "small_dair_enumerate": Run(functools.partial(_small, "dair", "enumerate"), SMALL_ENDS, 4),
    "air_nvil": Run(functools.partial(_whole, air.get_config, "nvil"), WHOLE_ENDS, 1),
    "air_enumerate": Run(functools.partial(_whole, air.get_config, "enumerate"), WHOLE_ENDS, 1),
    "dair_nvil": Run(functools.partial(_whole, dair.get_config, "nvil"), WHOLE_ENDS, 1),
    "dair_enumerate": Run(functools.partial(_whole, dair.get_config, "enumerate"), WHOLE_ENDS, 1),
}


def train_curves(run: Run, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Trains a run once a seed.

    A curve has, of every scalar of the train step and every block of steps, the mean ("elbo") and
    the standard deviation from step to step ("elbo, from step to step"): examples that share their
    noise, or steps their batch, move the latter at once. Of gradients' norms it would be that of
    one rare step with many times the usual norm, which sound runs have too.

    Args:
      run: what to train.
      seeds: numbers of the seeds.

    Returns:
      Curves, float `[seeds, blocks]` each.
    """
    settings = run.settings()
    images = kinds.create_dataset(settings).train.images
    training = kinds.create_training(settings, image_size=images.shape[1], channels=images.shape[3])
    options = settings["train"]
    run_steps = parallel.pmap_steps(training.train_step, options["steps_per_call"])
    positions = parallel.batch_positions(options["batch_size"], jax.local_device_count())
    placed = parallel.shard(positions), parallel.replicate(images)
    curves: dict[str, list[np.ndarray]] = {}
    for number in seeds:
        (seed,) = create_seeds({**settings, "seed": number}, pathlib.Path())
        state = parallel.replicate(training.init(seed.keys.init))
        key = parallel.replicate(seed.keys.run)
        calls = []
        for _ in range(options["num_steps"] // options["steps_per_call"]):
            state, metrics = run_steps(state, *placed, key)
            calls.append(metrics)
        for name in calls[0]:
            blocks = np.split(np.concatenate([call[name] for call in calls]), run.ends[:-1])
            curves.setdefault(name, []).append(np.array([block.mean() for block in blocks]))
            if not name.startswith("gradient_norm"):
                varied = np.array([block.std() for block in blocks])
                curves.setdefault(f"{name}, from step to step", []).append(varied)
    return {name: np.stack(rows) for name, rows in curves.items()}


def measure(name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The band of a run, JSON-able.

    Args:
      name: of the run, in `RUNS`.
      seeds: numbers of at least two seeds.
    """
    run = RUNS[name]
    curves = train_curves(run, seeds)
    return {
        "command": f"python -m tests.learning_bands --seeds={seeds[0]}:{seeds[-1] + 1} {name}",
        "seeds": list(seeds),
        "ends": list(run.ends),
        "settings": run.settings(),
        "mean": {name: _rounded(rows.mean(0)) for name, rows in curves.items()},
        "deviation": {name: _rounded(rows.std(0, ddof=1)) for name, rows in curves.items()},
    }


def outside(band: dict[str, Any], curves: dict[str, np.ndarray]) -> list[str]:
    """Where the mean of some curves leaves a band, in words, the farthest first.

    The limits are `mean ± WIDTH sd sqrt(1/K + 1/M)`: K curves here, and M seeds of the band, whose
    mean is known no better. A hundredth of the mean is always allowed, for scalars that hardly
    differ between seeds.

    Args:
      band: from `measure`.
      curves: from `train_curves`, `[K, blocks]` each.
    """
    if curves.keys() != band["mean"].keys():
        both = sorted(curves.keys() ^ band["mean"].keys())
        return [f"scalars that only the curves or only the band has: {', '.join(both)}"]
    found = []
    for name, rows in curves.items():
        mean, deviation = np.array(band["mean"][name]), np.array(band["deviation"][name])
        share = np.sqrt(1 / len(rows) + 1 / len(band["seeds"]))
        allowed = np.maximum(WIDTH * share * deviation, 0.01 * np.abs(mean))
        here = rows.mean(0)
        for block, (first, end) in enumerate(
            zip([0, *band["ends"][:-1]], band["ends"], strict=True)
        ):
            # Written so that what is not a number is outside.
            if not abs(here[block] - mean[block]) <= allowed[block]:
                times = abs(here[block] - mean[block]) / max(allowed[block], 1e-12)
                found.append(
                    (
                        times,
                        f"{name}, steps {first} to {end - 1}: {here[block]:.4g} is not within "
                        f"{mean[block]:.4g} ± {allowed[block]:.2g}",
                    )
                )
    found.sort(key=lambda entry: -np.nan_to_num(entry[0], nan=np.inf))
    return [words for _, words in found]


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def main(argv: Sequence[str]) -> None:
    """Measures bands; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=seed_range, default=range(100, 124))
    parser.add_argument("--out", type=pathlib.Path, default=FILE)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, []], metavar="RUN")
    options = parser.parse_args(argv)
    for name in options.runs or RUNS:
        band = measure(name, options.seeds)
        bands = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
        options.out.write_text(json.dumps({**bands, name: band}, indent=1) + "\n", "utf-8")
        print(f"{name}: {len(options.seeds)} seeds, {band['ends'][-1]} steps each", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
