"""The renderers: scenes a second, and how well their gradients know the way.

    python benchmarks/render.py --out results/render.json
    python benchmarks/render.py --renderers raycast --out results/render.json

Scenes are random ones, a batch in one call: of one solid, and of three pieces of crockery by a
camera that is not the usual one. Gradients are those of finite differences and of
`render.surface_motion`: how long a batch of training takes with respect to all poses and the
camera, and, for every parameter, the cosine between that by steps and rays as training takes them
and a reference, over scenes in which the parameter is as wrong as a half-trained network has it.
The reference is by small steps in images of 64 rays a pixel.
"""

import argparse
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from air_jax import tables
from air_jax.models.scene3d import GRADIENTS, create_scene3d
from air_jax.render import finite_difference, raycast, surface_motion
from air_jax.render.mujoco import MujocoRenderer, RendererError
from air_jax.render.scene import CAMERA, CATALOGUES, Scene, View, create_scene
from air_jax.writer import write_json
from benchmarks import measure
from configs import scene3d_table

_OBJECTS = {"solids": 1, "crockery": 3}
# Of each parameter: how wrong it is, and the reference's step.
_PARAMETERS = {
    "x": (0.15, 0.01),
    "y": (0.15, 0.01),
    "yaw": (math.radians(15), math.radians(1)),
    "azimuth": (math.radians(5), math.radians(0.3)),
    "elevation": (math.radians(5), math.radians(0.3)),
}
_REFERENCE_RAYS = 8
# Rays along a pixel's side, step of positions, step of angles in degrees.
_SETTINGS = ((1, 0.06, 3.0), (1, 0.06, 9.0), (1, 0.12, 9.0), (2, 0.06, 3.0), (2, 0.06, 9.0))
_SMOKE = {
    "num_scenes": 4,
    "batch_size": 2,
    "seconds": 0.05,
    "supersampling": [1],
    "workers": 1,
    "settings": 1,
}


def random_scenes(catalogue: str, num_scenes: int, seed: int = 0) -> Scene:
    """Random scenes of as many objects as `_OBJECTS` has.

    Args:
      catalogue: one of `render.scene.CATALOGUES`.
      num_scenes: how many.
      seed: of them.
    """
    rng = np.random.default_rng(seed)
    shape = (num_scenes, _OBJECTS[catalogue])
    return create_scene(
        rng.integers(len(CATALOGUES[catalogue]), size=shape),
        np.ones(shape),
        rng.uniform(-1.2, 1.2, (*shape, 2)),
        rng.uniform(-math.pi, math.pi, shape),
        np.array(CAMERA[:2]) + rng.uniform(-0.1, 0.1, (num_scenes, 2)),
    )


@contextmanager
def _renderer(name: str, view: View, workers: int) -> Iterator[Callable[[Scene], Any]]:
    if name == "raycast":
        yield jax.jit(functools.partial(raycast.render, view=view))
    else:
        with MujocoRenderer(view, num_workers=workers) as renderer:
            yield renderer.render


def measure_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each renderer, catalogue and supersampling; times in seconds, all compiled."""
    rows = []
    for name in arguments.renderers:
        for catalogue in CATALOGUES:
            scenes = random_scenes(catalogue, arguments.num_scenes)
            for rays in arguments.supersampling:
                view = View(CATALOGUES[catalogue], supersampling=rays)
                with _renderer(name, view, arguments.workers) as render:
                    measure.duration(lambda: render(scenes))  # noqa: B023
                    taken = measure.durations(lambda: render(scenes), seconds=arguments.seconds)  # noqa: B023
                rows.append(
                    {
                        "renderer": name,
                        "catalogue": catalogue,
                        "supersampling": rays,
                        "num_scenes": arguments.num_scenes,
                        "workers": arguments.workers if name == "mujoco" else None,
                        "seconds": taken._asdict(),
                        "scenes_per_second": taken.per(arguments.num_scenes)._asdict(),
                    }
                )
    return rows


def _gradients(
    catalogue: str, true: Scene, parameter: str, rays: int, step: float | None
) -> np.ndarray:
    """d squared error / d parameter of every object, or of the camera, `[n * K]` or `[n]`.

    Without a step, that of the renderer itself.
    """
    view = View(CATALOGUES[catalogue], supersampling=rays)
    wrong, _ = _PARAMETERS[parameter]
    rng = np.random.default_rng(1)
    column = {"x": 0, "y": 1, "azimuth": 0, "elevation": 1}.get(parameter)
    field = {"x": "position", "y": "position", "yaw": "yaw"}.get(parameter, "camera")
    values = getattr(true, field) if column is None else getattr(true, field)[..., column]
    values = values.reshape(len(true.identity), -1)
    start = values + wrong * rng.normal(size=values.shape)

    def render(params: jax.Array, scene: Any) -> jax.Array:
        given = getattr(scene, field)
        if column is None:
            given = params.reshape(given.shape)
        else:
            given = given.at[..., column].set(params.reshape(given.shape[:-1]))
        draw = surface_motion.render if step is None else raycast.render
        return draw(scene._replace(**{field: given}), view)

    rendered: Callable[[jax.Array, Any], jax.Array] = render
    if step is not None:
        rendered = finite_difference.central_differences(render, [step] * values.shape[1])
    target = jax.jit(render)(values, true)

    def loss(params):
        return jnp.square(rendered(params, true) - target).sum()

    return np.asarray(jax.jit(jax.grad(loss))(start)).ravel()


def measure_gradient_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each catalogue and kind of gradient, by all poses and the camera; seconds."""
    rows = []
    for catalogue in CATALOGUES:
        scene = random_scenes(catalogue, arguments.batch_size)
        section = scene3d_table.get_config().scene.to_dict() | {"catalogue": catalogue}
        for gradient in GRADIENTS:
            model = create_scene3d({**section, "gradient": gradient}, image_size=32, channels=3)

            def loss(poses, camera, model=model, scene=scene):
                return model.render(scene.identity, scene.presence, poses, camera).sum()

            poses = jnp.concatenate([scene.position, scene.yaw[..., None]], axis=-1)
            backwards = jax.jit(jax.grad(loss, argnums=(0, 1)))
            given = poses, scene.camera[:, :2]
            measure.duration(lambda: backwards(*given))  # noqa: B023
            taken = measure.durations(lambda: backwards(*given), seconds=arguments.seconds)  # noqa: B023
            row = {"catalogue": catalogue, "gradient": gradient}
            rows.append({**row, "batch_size": arguments.batch_size, "seconds": taken._asdict()})
    return rows


def measure_gradients(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each catalogue, parameter and setting: the cosine to the reference."""
    rows = []
    for catalogue in CATALOGUES:
        true = random_scenes(catalogue, arguments.num_scenes // 4 or 1, seed=2)
        for parameter, (_, small) in _PARAMETERS.items():
            reference = _gradients(catalogue, true, parameter, _REFERENCE_RAYS, small)
            is_place = parameter in ("x", "y")
            settings: list[tuple[int, float | None]] = [
                (rays, position if is_place else math.radians(degrees))
                for rays, position, degrees in _SETTINGS[: arguments.settings]
            ]
            settings += [(rays, None) for rays in arguments.supersampling]
            for rays, step in dict.fromkeys(settings):
                found = _gradients(catalogue, true, parameter, rays, step)
                norms = np.linalg.norm(found) * np.linalg.norm(reference)
                rows.append(
                    {
                        "catalogue": catalogue,
                        "parameter": parameter,
                        "supersampling": rays,
                        "step": step,
                        "cosine": float(found @ reference / norms) if norms else None,
                        "same_sign": float((np.sign(found) == np.sign(reference)).mean()),
                    }
                )
    return rows


def _speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("renderer", "catalogue", "rays a pixel", "ms a call [quartiles]", "scenes/s")
    lines = []
    for row in rows:
        taken = measure.Spread(**row["seconds"])
        times = (1e3 * taken.median, 1e3 * taken.low, 1e3 * taken.high)
        milliseconds = measure.Spread(*times, taken.repeats)
        rate = measure.Spread(**row["scenes_per_second"])
        cells = (f"{row['supersampling'] ** 2}", f"{milliseconds:.3g}", f"{rate:,.0f}")
        lines.append((row["renderer"], row["catalogue"], *cells))
    return tables.markdown(header, lines)


def _gradient_speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("catalogue", "gradient", "images", "ms [quartiles]")
    lines = []
    for row in rows:
        taken = measure.Spread(**row["seconds"])
        times = (1e3 * taken.median, 1e3 * taken.low, 1e3 * taken.high)
        milliseconds = measure.Spread(*times, taken.repeats)
        name = row["gradient"].replace("_", " ")
        lines.append((row["catalogue"], name, f"{row['batch_size']}", f"{milliseconds:.3g}"))
    return tables.markdown(header, lines)


def _gradient_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("catalogue", "parameter", "rays a pixel", "step", "cosine", "same sign (%)")
    lines = []
    for row in rows:
        is_place = row["parameter"] in ("x", "y")
        if row["step"] is None:
            step = "surface motion"
        else:
            step = f"{row['step']:.2f}" if is_place else f"{math.degrees(row['step']):.0f}°"
        cosine = "-" if row["cosine"] is None else f"{row['cosine']:.3f}"
        cells = (f"{row['supersampling'] ** 2}", step, cosine, f"{100 * row['same_sign']:.0f}")
        lines.append((row["catalogue"], row["parameter"], *cells))
    return tables.markdown(header, lines)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of the renderers and their gradients.")
    parser.add_argument("--renderers", nargs="+", default=["raycast", "mujoco"])
    parser.add_argument("--supersampling", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--num-scenes", type=int, default=1216, help="of a call")
    parser.add_argument("--batch-size", type=int, default=64, help="of a gradient that is timed")
    parser.add_argument("--workers", type=int, default=2, help="processes of MuJoCo")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring a case")
    parser.add_argument("--settings", type=int, default=len(_SETTINGS), help=argparse.SUPPRESS)
    arguments = measure.parse(parser, argv, smoke=_SMOKE)
    for name in arguments.renderers:
        if name not in ("raycast", "mujoco"):
            parser.error(f"renderer is {name!r}; valid names are 'raycast', 'mujoco'.")
    return arguments


def benchmark(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = _parse(argv)
    machine, speed = measure.machine(), measure_speed(arguments)
    gradient_speed, gradients = measure_gradient_speed(arguments), measure_gradients(arguments)
    if arguments.out:
        written = {
            **{"machine": machine, "speed": speed},
            **{"gradient_speed": gradient_speed, "gradients": gradients},
        }
        write_json(arguments.out, written)
    shown = (
        _speed_table(speed),
        _gradient_speed_table(gradient_speed),
        _gradient_table(gradients),
    )
    print(*shown, sep="\n", end="")


if __name__ == "__main__":
    try:
        benchmark()
    except (RendererError, ValueError, OSError) as error:
        sys.exit(str(error))
