"""Speed of a network that looks at images: how many a second, and how long one takes.

    python benchmarks/inference.py --out results/inference.json
    python benchmarks/inference.py --model runs/air runs/dair

`infer` is `Model.infer`, with its ELBO and the boxes of the ink; `detect` is `Model.detect`, which
stops where its images have no more objects, and `detect, N steps` the same without stopping. Time
includes what they do on the host. A trained model sees validation scenes of its own data. Random
parameters stop nowhere special: so there are two controlled cases, in which every image has no
object (one step), or N.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import kinds, main, parallel, tables
from air_jax.checkpoint import CheckpointError
from air_jax.data.dataset import create_dataset
from air_jax.inference import Model, create_model
from air_jax.models.air import AIR, posterior_mean_noise
from air_jax.writer import write_json
from benchmarks import measure

_CONFIGS = ["configs/air.py", "configs/dair.py"]
# Log-odds of one more object beside which a random network's own say nothing.
_CERTAIN = 1e3
_SMOKE = {"config": ["configs/smoke.py"], "batch_sizes": [4], "seconds": 0.05}

METHODS: dict[str, Callable[[Model, np.ndarray], Any]] = {
    "infer": lambda model, images: model.infer(images, batch_size=len(images)),
    "detect, N steps": lambda model, images: model.detect(
        images, stop_early=False, batch_size=len(images)
    ),
    "detect": lambda model, images: model.detect(images, batch_size=len(images)),
}


def _random_params(air: AIR) -> Any:
    scene = air.scene
    images = jnp.zeros((1, scene.image_size, scene.image_size, scene.channels))

    def init(key):
        return air.init(key, images, posterior_mean_noise(1, air), every_count=True)["params"]

    return jax.jit(init)(jax.random.key(0))


def random_models(config: Mapping[str, Any]) -> dict[str, Model]:
    """Random networks by their case: as they are, with no object in any image, with N in each.

    Args:
      config: a run's, as plain types.
    """
    image = {"image_size": config["data"]["image_size"], "channels": 1}
    model = create_model({**config, "image": image}, None)
    # Only the parameters differ: all three are one compiled program.
    networks = {
        "random": model.air,
        "0 objects": model.air.clone(presence_logit=-_CERTAIN),
        f"{model.air.num_steps} objects": model.air.clone(presence_logit=_CERTAIN),
    }
    return {name: model._replace(params=_random_params(air)) for name, air in networks.items()}


def _scenes(data: Mapping[str, Any], num_images: int) -> np.ndarray:
    """Validation scenes of a config's data, repeated where there are fewer."""
    sizes = {"num_train": 1, "num_validation": num_images, "num_test": 1, "cache_dir": ""}
    images = create_dataset(**{**data, **sizes}).validation.images
    return np.resize(images, (num_images, *images.shape[1:]))


def measure_model(
    models: Mapping[str, Model], images: np.ndarray, *, batch_sizes: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """Measures every method on batches of every size.

    Args:
      models: of one network, by the name of their parameters' case.
      images: at least as many as the largest batch, uint8 `[n, H, W, C]`.
      batch_sizes: images of a call.
      seconds: how long to repeat a call, three times at least.

    Returns:
      A row per size, method and case; times in seconds, without those of compiling.
    """
    placed = {
        name: model._replace(params=parallel.replicate(model.params))
        for name, model in models.items()
    }
    # A network of the same sizes may have been measured before: its programs would be taken.
    jax.clear_caches()
    rows: list[dict[str, Any]] = []
    for size in batch_sizes:
        for method, call in METHODS.items():
            compile_seconds = None
            for case, model in placed.items():
                if method == "infer" and case != next(iter(placed)):
                    continue  # it always takes N steps
                batch = images[:size]
                first = measure.duration(lambda: call(model, batch))  # noqa: B023
                taken = measure.durations(lambda: call(model, batch), seconds=seconds)  # noqa: B023
                if compile_seconds is None:
                    compile_seconds = first - taken.median
                found = call(model, batch)
                rows.append(
                    {
                        "batch_size": size,
                        "method": method,
                        "parameters": case,
                        "seconds": taken._asdict(),
                        "images_per_second": taken.per(size)._asdict(),
                        "compile_seconds": compile_seconds,
                        "mean_count": float(found.counts.mean()),
                        "num_steps": int(getattr(found, "num_steps", [model.air.num_steps])[0]),
                    }
                )
    return rows


_HEADER: tuple[str, ...] = (
    *("network", "parameters", "batch", "method", "steps", "ms a call [quartiles]"),
    *("images/s [quartiles]", "compilation"),
)


def _row(result: Mapping[str, Any]) -> list[str]:
    milliseconds = measure.Spread(**result["seconds"])
    milliseconds = milliseconds._replace(
        **{name: 1e3 * getattr(milliseconds, name) for name in ("median", "low", "high")}
    )
    return [
        *(result["network"], result["parameters"], str(result["batch_size"]), result["method"]),
        str(result["num_steps"]),
        f"{milliseconds:.3g}",
        f"{measure.Spread(**result['images_per_second']):,.0f}",
        f"{result['compile_seconds']:.1f} s",
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of inference.")
    parser.add_argument("--config", nargs="+", help=f"networks; {' '.join(_CONFIGS)} if no --model")
    parser.add_argument("--model", nargs="+", default=[], help="workdirs of trained models")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16, 64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring a case")
    arguments = measure.parse(parser, argv, smoke=_SMOKE)
    if arguments.config is None:
        arguments.config = [] if arguments.model else _CONFIGS
    return arguments


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = _parse(argv)
    jax.config.update("jax_enable_compilation_cache", False)  # or compiling would take no time
    options = {"batch_sizes": arguments.batch_sizes, "seconds": arguments.seconds}
    machine = measure.machine()
    networks: dict[str, dict[str, Model]] = {}
    for path in arguments.config:
        networks[path] = random_models(main.read_config([f"--config={path}"]))
    for directory in arguments.model:
        networks[directory] = {"trained": kinds.load_air(directory)}
    results: list[dict[str, Any]] = []
    for name, models in networks.items():
        data = next(iter(models.values())).config["data"]
        rows = measure_model(models, _scenes(data, max(arguments.batch_sizes)), **options)
        results += [{"network": name, **row} for row in rows]
        if arguments.out:
            write_json(arguments.out, {"machine": machine, "results": results})
    print(tables.markdown(_HEADER, [_row(result) for result in results]), end="")


if __name__ == "__main__":
    try:
        benchmark()
    except (main.ConfigError, CheckpointError, ValueError, OSError) as error:
        sys.exit(str(error))
