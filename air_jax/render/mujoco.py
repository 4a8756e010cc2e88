"""MuJoCo as the renderer of scenes, headless, in processes of its own.

It is the black box whose gradient is to be had by finite differences alone (paper, Sec. 3.2):
OpenGL on a CPU or a GPU, fed from outside of JAX. Without `Realism` it draws what `raycast` draws.

The workers, which do what is in `mujoco_worker`, are spawned, not forked, as JAX has threads.
"""

import collections
import contextlib
import importlib.util
import math
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from typing import Any

import jax
import numpy as np

from air_jax.render import mujoco_worker
from air_jax.render.mujoco_worker import Batch, Plan, Realism
from air_jax.render.scene import Scene, View
from air_jax.render.surfaces import create_floor, create_meshes, create_table

# Images are drawn side by side into a square buffer, and read together.
_BUFFER_SIZE = 1024
_MAX_TILES = 8
_BACKENDS = ("egl", "osmesa")
_DEBIAN = "libosmesa6 libegl1 libegl-mesa0 libgl1-mesa-dri"


class RendererError(RuntimeError):
    """MuJoCo cannot draw here, or not these scenes."""


def _create_plan(view: View, realism: Realism) -> Plan:
    side = view.image_size * view.supersampling
    return Plan(
        meshes=create_meshes(view.catalogue),
        table=create_table(view.table_half),
        floor=create_floor(view.table_half),
        image_size=view.image_size,
        supersampling=view.supersampling,
        field_of_view=view.field_of_view,
        tiles=min(max(_BUFFER_SIZE // side, 1), _MAX_TILES),
        realism=realism,
    )


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Keeps `multiprocessing` from having a new process import the program that runs, and JAX."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Worker:
    """A process that draws, its link and its memory, which has no name: the system frees it."""

    def __init__(self, plan: Plan, backend: str):
        self._plan, self._backend = plan, backend
        context = get_context("spawn")
        self._images = context.RawArray("f", plan.tiles**2 * plan.image_size**2 * 3)
        self.at = context.RawArray("q", 1)
        self.images = np.frombuffer(self._images, np.float32).reshape(
            -1, plan.image_size, plan.image_size, 3
        )
        self.start()

    def start(self) -> None:
        context = get_context("spawn")
        self.link, end = context.Pipe()
        # Not the plan: with more than a pipe holds, `start` waits for ever for a process that dies.
        arguments = end, self._backend, self._images, self.at
        self.process = context.Process(
            target=mujoco_worker.work, args=arguments, daemon=True, name="mujoco"
        )
        with _no_main():
            self.process.start()
        end.close()  # else its death does not close the link
        self._send(self._plan)

    def receive(self) -> str | None:
        """What the worker says.

        Raises:
          EOFError: if it is dead.
        """
        try:
            return self.link.recv()
        except OSError as error:
            raise EOFError from error

    def draw(self, batch: Batch, *, finish_each: bool) -> None:
        """Has the worker begin; `receive` waits for its end."""
        self.at[0] = 0
        self._send((batch, finish_each))

    def _send(self, message: Any) -> None:
        # If the worker is dead, that shows where its answer is awaited.
        with contextlib.suppress(OSError):
            self.link.send(message)

    def stop(self) -> None:
        self.link.close()
        self.process.kill()  # it has nothing to lose
        self.process.join()
        self.process.close()


class MujocoRenderer:
    """Draws scenes with MuJoCo in worker processes, which start at once.

    Use it in a `with` statement, or call `close`. After an error, an interrupt included, its
    processes are gone; `render` starts new ones.

    Args:
      view: catalogue, sizes, supersampling. Circles are polygons, colours have 256 levels.
      num_workers: processes, each of which wants a core.
      realism: what is drawn beyond Lambert's law.

    Raises:
      ImportError: if MuJoCo is not installed.
      RendererError: if there is no OpenGL without a display.
      ValueError: if there is to be no worker.
    """

    def __init__(self, view: View, num_workers: int = 2, realism: Realism | None = None):
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}, at least 1 is needed")
        if importlib.util.find_spec("mujoco") is None:
            raise ImportError(
                "the package mujoco is not installed: pip install 'air_jax[render]', "
                "or pip install 'mujoco>=4.0,<5'"
            )
        self.view = view
        self._plan = _create_plan(view, realism or Realism())
        self._num_workers = num_workers
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._closed = False
        self._start()

    def __enter__(self) -> "MujocoRenderer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        with self._lock:
            self._closed = True
            self._stop()

    def _stop(self) -> None:
        while self._workers:
            self._workers.pop().stop()

    def _start(self) -> None:
        asked = os.environ.get("MUJOCO_GL")
        failures = {}
        for backend in (asked,) if asked else _BACKENDS:
            failure = None
            try:
                for _ in range(self._num_workers):
                    self._workers.append(_Worker(self._plan, backend))
                for worker in self._workers:
                    failure = failure or _greet(worker)
                if failure is None:
                    return
            except BaseException:
                self._stop()
                raise
            self._stop()
            failures[backend] = failure.strip().splitlines()[-1]
        tried = "; ".join(f"MUJOCO_GL={backend}: {text}" for backend, text in failures.items())
        raise RendererError(
            f"MuJoCo cannot draw without a display ({tried}). On Debian install {_DEBIAN}"
        )

    def render(self, scene: Scene) -> np.ndarray:
        """Draws scenes.

        Args:
          scene: leaves of NumPy or JAX with the same batch axes, any number of them.

        Returns:
          float32 `[..., H, W, 3]` in [0, 1]; NaN for a scene with a number that is not finite.

        Raises:
          RendererError: if a worker dies twice at the same scenes, or cannot be started.
          ValueError: if shapes differ, there is no such model, or the renderer is closed.
        """
        flat, batch = _flatten(scene, len(self.view.catalogue))
        size = self.view.image_size
        images = np.empty((len(flat.identity), size, size, 3), np.float32)
        with self._lock:
            if self._closed:
                raise ValueError("this renderer is closed: create another one")
            try:
                if not self._workers:
                    self._start()
                self._draw(flat, images, batch)
            except BaseException:
                self._stop()
                raise
        for leaf in flat:
            images[~np.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))] = np.nan
        return images.reshape(*batch, size, size, 3)

    def _draw(self, flat: Batch, images: np.ndarray, batch: tuple[int, ...]) -> None:
        """Has the workers draw all scenes, some at a time, as many each as the others."""
        num_scenes, most = len(images), self._plan.tiles**2
        rounds = math.ceil(num_scenes / (most * self._num_workers))
        each = math.ceil(num_scenes / max(rounds * self._num_workers, 1))
        starts = collections.deque(range(0, num_scenes, max(each, 1)))
        idle = list(self._workers)
        busy: dict[Any, tuple[_Worker, int]] = {}
        died: set[int] = set()
        while starts or busy:
            while idle and starts:
                worker, start = idle.pop(), starts.popleft()
                if not worker.process.is_alive():  # since it was last asked for something
                    _restart(worker)
                again = start in died
                worker.draw(_take(flat, slice(start, start + each)), finish_each=again)
                busy[worker.link] = worker, start
            for link in connection.wait(list(busy)):
                worker, start = busy.pop(link)
                idle.append(worker)
                try:
                    failure = worker.receive()
                except EOFError:
                    index = start + worker.at[0]
                    if start in died:
                        text = "the process that was to draw it died twice"
                        raise RendererError(_describe(text, flat, index, batch)) from None
                    died.add(start)
                    starts.appendleft(start)
                    _restart(worker)
                else:
                    if failure is not None:
                        index = start + worker.at[0]
                        raise RendererError(_describe(failure, flat, index, batch))
                    stop = min(start + each, num_scenes)
                    images[start:stop] = worker.images[: stop - start]


def _greet(worker: _Worker) -> str | None:
    """Waits until a new worker can draw; why it cannot, if so."""
    try:
        return worker.receive()
    except EOFError:
        worker.process.join()
        return f"the process died at its start, exit code {worker.process.exitcode}"


def _restart(worker: _Worker) -> None:
    worker.stop()
    worker.start()
    failure = _greet(worker)
    if failure is not None:
        raise RendererError(f"a worker died and could not be started again: {failure}")


def _take(batch: Batch, place: int | slice) -> Batch:
    return Batch(*(leaf[place] for leaf in batch))


def _describe(text: str, flat: Batch, index: int, batch: tuple[int, ...]) -> str:
    place = tuple(int(i) for i in np.unravel_index(index, batch)) if batch else ()
    parameters = ", ".join(f"{k}={v.tolist()}" for k, v in _take(flat, index)._asdict().items())
    return f"scene {place[0] if len(place) == 1 else place}: {text.strip()}. It is {parameters}"


def _flatten(scene: Scene, num_models: int) -> tuple[Batch, tuple[int, ...]]:
    """A scene's leaves in NumPy with one batch axis, and the batch axes that they had."""
    identity = np.asarray(scene.identity, np.int32)
    batch, k = identity.shape[:-1], identity.shape[-1]
    shapes: dict[str, tuple[int, ...]] = {"position": (k, 2), "tint": (k, 3), "table": (2, 3)}
    shapes |= {"camera": (3,), "light": (2,), "brightness": (2,)}
    leaves = []
    for name, value in scene._asdict().items():
        leaf = np.asarray(value, np.int32 if name == "identity" else np.float32)
        shape = (*batch, *shapes.get(name, (k,)))
        if leaf.shape != shape:
            raise ValueError(f"scene.{name} is {leaf.shape}, its identity has it {shape}")
        leaves.append(leaf.reshape(-1, *shape[len(batch) :]))
    flat = Batch(*leaves)
    wrong = (flat.presence > 0.5) & ((flat.identity < 0) | (flat.identity >= num_models))
    if wrong.any():
        raise ValueError(
            f"scene.identity has {flat.identity[wrong][0]}, the catalogue has {num_models} models"
        )
    return flat, batch


def traceable(renderer: MujocoRenderer) -> Callable[[Scene], jax.Array]:
    """`renderer.render` as a function for `jit` and `vmap`, which hands over all scenes at once.

    It has no gradient of its own; see `finite_difference`. An error of the renderer ends the
    computation that calls it.

    Args:
      renderer: which is to stay open as long as the function is called.

    Returns:
      A function of scenes with any batch axes to float32 `[..., H, W, 3]`.
    """
    size = renderer.view.image_size

    def render(scene):
        batch = scene.identity.shape[:-1]
        shape = jax.ShapeDtypeStruct((*batch, size, size, 3), np.float32)
        return jax.pure_callback(renderer.render, shape, scene, vmap_method="broadcast_all")

    return render
