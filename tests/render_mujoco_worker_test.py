"""MuJoCo's processes: where they die, fail or are interrupted, and what is left of them."""

import importlib.util
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from air_jax.render import mujoco, mujoco_worker
from air_jax.render.mujoco import MujocoRenderer, RendererError
from air_jax.render.scene import Scene
from tests.render_mujoco_test import SMALL, empty_scene, random_scenes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None,
    reason="the package mujoco is not installed: pip install 'air_jax[render]'",
)


@pytest.fixture(scope="module")
def small():
    with MujocoRenderer(SMALL, num_workers=1) as renderer:
        yield renderer


# A worker for which MuJoCo fails where an object stands at 0.25, as FATAL says.
FATAL = """
import os, pathlib, signal
from air_jax.render import mujoco_worker

class Fatal:
    def __init__(self, package):
        self.package = package

    def __getattr__(self, name):
        return getattr(self.package, name)

    def mj_kinematics(self, model, data):
        self.package.mj_kinematics(model, data)
        how, _, marker = os.environ.get("FATAL", "").partition(":")
        if not how or data.mocap_pos[0, 0] != 0.25:
            return
        if how == "raise":
            raise RuntimeError("out of paint")
        if how == "always" or not pathlib.Path(marker).exists():
            pathlib.Path(marker or os.devnull).touch()
            os.kill(os.getpid(), signal.SIGKILL)

def work(*arguments):
    create = mujoco_worker._Canvas.__init__

    def create_fatal(self, plan, num_objects):
        create(self, plan, num_objects)
        self._mujoco = Fatal(self._mujoco)

    mujoco_worker._Canvas.__init__ = create_fatal
    work_on(*arguments)

work_on = mujoco_worker.work
"""


@pytest.fixture
def fatal(tmp_path, monkeypatch):
    """A renderer of two workers that fail as the environment's FATAL says."""
    (tmp_path / "fatal_worker.py").write_text(FATAL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mujoco_worker, "work", importlib.import_module("fatal_worker").work)
    with MujocoRenderer(SMALL, num_workers=2) as renderer:
        yield renderer
    del sys.modules["fatal_worker"]


def processes(renderer: MujocoRenderer) -> list[int]:
    return [worker.process.pid for worker in renderer._workers]


def test_a_worker_that_dies_between_renders_is_replaced(small):
    scenes = random_scenes(4, 1, 3)
    expected = small.render(scenes)
    (before,) = processes(small)
    os.kill(before, signal.SIGKILL)
    small._workers[0].process.join()
    np.testing.assert_array_equal(small.render(scenes), expected)
    assert processes(small) != [before]


def test_the_scenes_of_a_worker_that_dies_are_drawn_again(small, fatal, tmp_path, monkeypatch):
    scenes = random_scenes(40, 1, 3)
    scenes.position[33, 0, 0] = 0.25
    before = processes(fatal)
    monkeypatch.setenv("FATAL", f"once:{tmp_path}/marker")
    for worker in fatal._workers:  # they have the environment of their start
        mujoco._restart(worker)
    started = processes(fatal)
    np.testing.assert_array_equal(fatal.render(scenes), small.render(scenes))
    assert (tmp_path / "marker").exists()
    assert len(set(processes(fatal)) & set(started)) == 1 and not set(before) & set(started)


def test_a_scene_that_cannot_be_drawn_is_named(small, fatal, monkeypatch):
    scenes = random_scenes(40, 1, 3)
    scenes.position[33, 0, 0] = 0.25
    expected = small.render(scenes)
    monkeypatch.setenv("FATAL", "always")
    fatal._stop()
    with pytest.raises(RendererError, match=r"^scene 33: .*died twice.*position=\[\[0.25, "):
        fatal.render(scenes)
    assert processes(fatal) == []
    grid = Scene(*(leaf.reshape(2, 20, *leaf.shape[1:]) for leaf in scenes))
    monkeypatch.setenv("FATAL", "raise")
    with pytest.raises(RendererError, match=r"(?s)^scene \(1, 13\): .*out of paint.*identity="):
        fatal.render(grid)
    # And it draws again.
    monkeypatch.delenv("FATAL")
    np.testing.assert_array_equal(fatal.render(scenes), expected)


def test_an_interrupt_leaves_no_answer_to_a_later_render(small, monkeypatch):
    scenes = random_scenes(4, 1, 3)
    expected = small.render(scenes)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mujoco.connection, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small.render(random_scenes(64, 1, 3, seed=1))
    assert processes(small) == []
    np.testing.assert_array_equal(small.render(scenes), expected)


def test_nothing_is_left_after_the_block():
    others, files = set(multiprocessing.active_children()), set(os.listdir("/dev/shm"))
    with pytest.raises(KeyError), MujocoRenderer(SMALL, num_workers=2) as renderer:
        renderer.render(random_scenes(2, 1, 3))
        pids = processes(renderer)
        assert len(set(multiprocessing.active_children()) - others) == 2
        raise KeyError
    assert set(multiprocessing.active_children()) == others
    assert set(os.listdir("/dev/shm")) == files
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    with pytest.raises(ValueError, match="closed"):
        renderer.render(random_scenes(2, 1, 3))


# A program with no guard around what it does.
PROGRAM = """
import os, signal, sys
import jax
from air_jax.render.mujoco import MujocoRenderer
from air_jax.render.scene import SOLIDS, View

renderer = MujocoRenderer(View(SOLIDS, image_size=8, supersampling=1), num_workers=1)
(worker,) = renderer._workers
print(worker.process.pid, "jaxlib" in open(f"/proc/{worker.process.pid}/maps").read(), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
raise KeyError
"""


@pytest.mark.parametrize("end", ["exception", "killed"])
def test_nothing_is_left_after_the_program_and_workers_do_not_import_it(tmp_path, end):
    files = set(os.listdir("/dev/shm"))
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.run(
        [sys.executable, tmp_path / "program.py", end],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 1), process.stderr
    pid, has_jax = process.stdout.split()
    assert has_jax == "False"
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        # A process whose parent is gone may stay as a zombie where nobody collects it.
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                break
        time.sleep(0.02)
    assert time.monotonic() < deadline
    assert set(os.listdir("/dev/shm")) <= files


def test_without_the_package_an_error_says_what_to_install(monkeypatch):
    assert "mujoco" not in sys.modules  # only the workers import it
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'air_jax[render]'")):
        MujocoRenderer(SMALL)


def test_without_opengl_an_error_says_what_to_install(monkeypatch):
    children = set(multiprocessing.active_children())
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(
        RendererError, match="nonsense.*libosmesa6 libegl1 libegl-mesa0 libgl1-mesa-dri"
    ):
        MujocoRenderer(SMALL, num_workers=1)
    assert set(multiprocessing.active_children()) == children


def test_a_worker_that_dies_at_its_start_is_an_error(monkeypatch, capfd):
    monkeypatch.setattr(mujoco_worker, "work", os.abort)  # to which its arguments are too many
    with pytest.raises(RendererError, match="the process died at its start, exit code 1"):
        MujocoRenderer(SMALL, num_workers=2)


def test_another_backend_is_tried_where_one_does_not_work(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco, "_BACKENDS", ("nonsense", *mujoco._BACKENDS))
    with MujocoRenderer(SMALL, num_workers=1) as renderer:
        assert renderer.render(empty_scene()).shape == (16, 16, 3)
    assert "MUJOCO_GL" not in os.environ
