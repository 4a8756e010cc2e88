"""MuJoCo as the renderer of scenes, headless, in processes of its own.

It is the black box whose gradient is to be had by finite differences alone (paper, Sec. 3.2):
OpenGL on a CPU or a GPU, fed from outside of JAX. Without `Realism` it draws what `raycast` draws.

The workers are spawned, not forked, as JAX has threads, and they import this module but neither JAX
nor the program: what needs JAX is imported where it is used.
"""

import collections
import contextlib
import importlib.util
import math
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import jax

    from air_jax.render.scene import Box, Frustum, Scene, Sphere, View

# Segments of a whole circle, and by how much its radius is too long that it has a circle's area.
_SEGMENTS = 32
_SWELL = math.sqrt(2 * math.pi / _SEGMENTS / math.sin(2 * math.pi / _SEGMENTS))
# From the camera, or for the floor from the origin, in the world's units.
_NEAR, _FAR = 0.05, 100.0
# Where the ramp at the floor's end ends: outwards and upwards, in units of _FAR.
_RAMP = (15.0, 9.0)
# Images are drawn side by side into a square buffer, and read together.
_BUFFER_SIZE = 1024
_MAX_TILES = 8
_BACKENDS = ("egl", "osmesa")
_DEBIAN = "libosmesa6 libegl1 libegl-mesa0 libgl1-mesa-dri"


class RendererError(RuntimeError):
    """MuJoCo cannot draw here, or not these scenes."""


class Realism(NamedTuple):
    """What `raycast` does not draw; by default nothing.

    Attributes:
      shadows: whether objects throw shadows.
      specular: share of the directional light that every object also reflects as a mirror would,
        blurred, in [0, 1].
      texture: whether the table has a grain.
    """

    shadows: bool = False
    specular: float = 0.0
    texture: bool = False


class _Surface(NamedTuple):
    """Triangles that are seen from the side that their normals point to.

    Attributes:
      vertices: float32 `[V, 3]`.
      normals: of the vertices, of length 1, float32 `[V, 3]`.
      faces: three vertices each, counter-clockwise, int32 `[F, 3]`.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


class _Mesh(NamedTuple):
    """All that has one colour in a model of the catalogue."""

    model: int
    colour: tuple[float, float, float]
    surface: _Surface


class _Plan(NamedTuple):
    """A view as a worker gets it: what it would need JAX to unpickle is taken apart.

    Attributes:
      meshes: of the catalogue.
      table, floor: surfaces.
      texture: grey levels of the table, uint8 `[s, s]`, or None.
      image_size, supersampling, field_of_view: see `View`.
      tiles: images along a side of the buffer.
      realism: beyond Lambert.
    """

    meshes: tuple[_Mesh, ...]
    table: _Surface
    floor: _Surface
    texture: np.ndarray | None
    image_size: int
    supersampling: int
    field_of_view: float
    tiles: int
    realism: Realism


class _Batch(NamedTuple):
    """Scenes, in NumPy, named as in `Scene`; one leading axis. Leaves float32, identity int32."""

    identity: np.ndarray
    presence: np.ndarray
    position: np.ndarray
    yaw: np.ndarray
    scale: np.ndarray
    tint: np.ndarray
    camera: np.ndarray
    light: np.ndarray
    brightness: np.ndarray
    table: np.ndarray


def _take(batch: _Batch, place: int | slice) -> _Batch:
    return _Batch(*(leaf[place] for leaf in batch))


def _join(surfaces: Sequence[_Surface]) -> _Surface:
    first = np.cumsum([0, *(len(surface.vertices) for surface in surfaces)], dtype=np.int32)
    return _Surface(
        np.concatenate([surface.vertices for surface in surfaces]),
        np.concatenate([surface.normals for surface in surfaces]),
        np.concatenate([surface.faces + n for surface, n in zip(surfaces, first, strict=False)]),
    )


def _sheet(points: np.ndarray, facing: ArrayLike, *, both_sides: bool = False) -> _Surface:
    """A grid of points as triangles, each turned to where it is facing, `[rows, columns, 3]`.

    No vertex is shared with another sheet or with the other side, so that edges stay sharp.
    """
    normals = np.broadcast_to(np.asarray(facing, float), points.shape).reshape(-1, 3)
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    index = np.arange(points.shape[0] * points.shape[1]).reshape(points.shape[:2])
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)]).reshape(-1, 3)
    vertices = points.reshape(-1, 3)
    corner = vertices[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    has_area = np.linalg.norm(across, axis=-1) > 1e-9  # not at a pole
    faces, across = faces[has_area], across[has_area]
    turned = (across * normals[faces].mean(1)).sum(-1) < 0
    faces = np.where(turned[:, None], faces[:, ::-1], faces)
    front = _Surface(
        vertices.astype(np.float32), normals.astype(np.float32), faces.astype(np.int32)
    )
    if not both_sides:
        return front
    return _join([front, front._replace(normals=-front.normals, faces=front.faces[:, ::-1])])


def _box_surface(part: "Box") -> _Surface:
    sheets = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            corners = np.full((2, 2, 3), side)
            corners[..., (axis + 1) % 3] = [[-1, -1], [1, 1]]
            corners[..., (axis + 2) % 3] = [[-1, 1], [-1, 1]]
            points = np.array(part.centre) + corners * np.array(part.half)
            sheets.append(_sheet(points, side * np.eye(3)[axis]))
    return _join(sheets)


def _sphere_surface(part: "Sphere") -> _Surface:
    around = np.linspace(0, 2 * np.pi, _SEGMENTS + 1)
    above = np.linspace(-np.pi / 2, np.pi / 2, _SEGMENTS // 2 + 1)[:, None]
    upright = np.broadcast_to(np.sin(above), (len(above), len(around)))
    normals = np.stack(
        [np.cos(above) * np.cos(around), np.cos(above) * np.sin(around), upright], -1
    )
    return _sheet(np.array(part.centre) + _SWELL * part.radius * normals, normals)


def _frustum_surfaces(part: "Frustum") -> list[tuple[Any, _Surface]]:
    """A frustum's colours and what has them. A solid one needs no inside."""
    both_sides = not all(part.closed)
    low, high = part.z
    radius_low, radius_high = part.radius
    slope = (radius_high - radius_low) / (high - low)

    def ring(start: float, turn: float, z: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        segments = round(_SEGMENTS * turn)
        angle = 2 * np.pi * np.linspace(start, start + turn, segments + 1)
        direction = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
        radii = [radius_low + slope * (height - low) for height in z]
        points = [
            _SWELL * radius * direction + [0, 0, height]
            for radius, height in zip(radii, z, strict=True)
        ]
        return np.stack(points), direction - [0, 0, slope]

    surfaces: list[tuple[Any, _Surface]] = []
    if part.checker is None:
        side = _sheet(*ring(0.0, 1.0, part.z), both_sides=both_sides)
        surfaces.append((part.colour, side))
    else:
        levels = np.linspace(low, high, part.rows + 1).tolist()
        for row in range(part.rows):
            for half in range(2):
                field = ring(half / 2, 0.5, levels[row : row + 2])
                colour = part.checker if (half + row) % 2 else part.colour
                surfaces.append((colour, _sheet(*field, both_sides=both_sides)))
    for end, closed in enumerate(part.closed):
        if closed:
            rim, _ = ring(0.0, 1.0, [part.z[end]])
            disc = np.concatenate([np.full_like(rim, [0, 0, part.z[end]]), rim])
            outwards = [0.0, 0.0, 2.0 * end - 1.0]
            surfaces.append((part.colour, _sheet(disc, outwards, both_sides=both_sides)))
    return surfaces


def _meshes(catalogue) -> tuple[_Mesh, ...]:
    """Of each model of a catalogue one mesh for each of its colours."""
    from air_jax.render.scene import Box, Sphere

    meshes = []
    for index, model in enumerate(catalogue):
        of_colour = collections.defaultdict(list)
        for part in model.parts:
            if isinstance(part, Box):
                of_colour[part.colour].append(_box_surface(part))
            elif isinstance(part, Sphere):
                of_colour[part.colour].append(_sphere_surface(part))
            else:
                for colour, surface in _frustum_surfaces(part):
                    of_colour[colour].append(surface)
        meshes += [_Mesh(index, colour, _join(s)) for colour, s in of_colour.items()]
    return tuple(meshes)


def _floor(half: tuple[float, float]) -> _Surface:
    """What is beside the table, and far off a ramp to 25 degrees above the horizon, lit like it.

    So a picture has no horizon. The ramp is no steeper, as MuJoCo takes a face's own normal where
    that of a vertex is far from it.
    """
    up = [0.0, 0.0, 1.0]
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [-1, -1, 0]], float)
    inner, outer = corners * [*half, 0.0], corners * _FAR
    above = corners * _FAR * _RAMP[0] + [0.0, 0.0, _FAR * _RAMP[1]]
    return _join([_sheet(np.stack([inner, outer]), up), _sheet(np.stack([outer, above]), up)])


def _grain() -> np.ndarray:
    """Grey levels of a wooden table, uint8 `[64, 64]`, always the same."""
    rng = np.random.default_rng(0)
    size = 64
    x, y = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    rings = np.sin(2 * np.pi * (6 * y + 0.35 * np.sin(2 * np.pi * x) + 0.2 * np.sin(6 * np.pi * y)))
    grey = 0.78 + 0.16 * rings + 0.06 * rng.uniform(-1, 1, (size, 1)) * np.ones((1, size))
    return np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def _plan(view: "View", realism: Realism) -> _Plan:
    corners = np.array([[[-1, -1, 0], [1, -1, 0]], [[-1, 1, 0], [1, 1, 0]]], float)
    side = view.image_size * view.supersampling
    return _Plan(
        meshes=_meshes(view.catalogue),
        table=_sheet(corners * [*view.table_half, 0.0], [0.0, 0.0, 1.0]),
        floor=_floor(view.table_half),
        texture=_grain() if realism.texture else None,
        image_size=view.image_size,
        supersampling=view.supersampling,
        field_of_view=view.field_of_view,
        tiles=min(max(_BUFFER_SIZE // side, 1), _MAX_TILES),
        realism=realism,
    )


class _Canvas:
    """A MuJoCo model of so many objects, each any of the catalogue, and a buffer to draw it into.

    Every slot is a mocap body that has the meshes of all models; those that it is not are fully
    transparent, which MuJoCo leaves out.
    """

    def __init__(self, plan: _Plan, num_objects: int):
        import mujoco

        self._mujoco: Any = mujoco
        self.num_objects = num_objects
        self._plan = plan
        self._model = self._create_model()
        self._data = mujoco.MjData(self._model)
        self._model_of_geom = np.array([mesh.model for mesh in plan.meshes])
        self._colours = np.array([mesh.colour for mesh in plan.meshes])
        self._slot = np.repeat(np.arange(num_objects), len(plan.meshes))
        self._camera = mujoco.MjvCamera()
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(self._model, maxgeom=self._model.ngeom + 1)
        for flag in ("REFLECTION", "FOG", "HAZE", "SKYBOX"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = plan.realism.shadows
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        side = plan.tiles * plan.image_size * plan.supersampling
        if (self._context.offWidth, self._context.offHeight) != (side, side):
            raise RendererError(f"OpenGL has no buffer of {side}x{side}: take smaller images")
        self._pixels = np.zeros((side, side, 3), np.uint8)

    def free(self) -> None:
        self._context.free()

    def _create_model(self):
        mujoco, plan = self._mujoco, self._plan
        spec = mujoco.MjSpec()
        side = plan.tiles * plan.image_size * plan.supersampling
        spec.visual.global_.offwidth = spec.visual.global_.offheight = side
        spec.visual.global_.fovy = plan.field_of_view
        spec.visual.quality.offsamples = 0
        # Gives the ambient light, which MuJoCo would otherwise leave out of a shadow.
        spec.visual.headlight.diffuse = spec.visual.headlight.specular = [0.0] * 3
        spec.stat.extent = 1.0  # the unit of these
        spec.visual.map.znear, spec.visual.map.zfar = _NEAR, 3 * _RAMP[0] * _FAR
        spec.visual.map.shadowclip = 6.0
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            specular=[float(plan.realism.specular > 0)] * 3,
            castshadow=plan.realism.shadows,
        )
        # A geom of this colour, which is that of a new one, has its material's instead.
        rgba = [0.5, 0.5, 0.5, 1.0]
        shiny = {"specular": plan.realism.specular, "shininess": 0.6}
        spec.add_material(name="object", rgba=rgba, **shiny)
        spec.add_material(name="floor", rgba=rgba, specular=0.0)
        on_table = "floor"
        if plan.texture is not None:
            on_table = "grain"
            texture = spec.add_texture(name="grain", type=mujoco.mjtTexture.mjTEXTURE_2D)
            texture.height, texture.width = plan.texture.shape
            texture.nchannel = 3
            texture.data = np.repeat(plan.texture[..., None], 3, axis=-1).tobytes()
            textures = [""] * mujoco.mjtTextureRole.mjNTEXROLE
            textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "grain"
            spec.add_material(name="grain", rgba=rgba, textures=textures, specular=0.0)

        def add_geom(body, name, material):
            kind, nothing = mujoco.mjtGeom.mjGEOM_MESH, {"contype": 0, "conaffinity": 0}
            body.add_geom(type=kind, meshname=name, material=material, **nothing)

        surfaces = {"table": plan.table, "floor": plan.floor}
        surfaces |= {str(index): mesh.surface for index, mesh in enumerate(plan.meshes)}
        for name, surface in surfaces.items():
            mesh = spec.add_mesh(name=name)
            mesh.uservert, mesh.usernormal = surface.vertices.ravel(), surface.normals.ravel()
            mesh.userface = mesh.userfacenormal = surface.faces.ravel()
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
            if name == "table":
                mesh.usertexcoord = [0, 0, 1, 0, 0, 1, 1, 1]
                mesh.userfacetexcoord = surface.faces.ravel()
        add_geom(spec.worldbody, "table", on_table)
        add_geom(spec.worldbody, "floor", "floor")
        for _ in range(self.num_objects):
            body = spec.worldbody.add_body(mocap=True)
            for index in range(len(plan.meshes)):
                add_geom(body, str(index), "object")
        return spec.compile()

    def draw(self, batch: _Batch, at: Any, *, finish_each: bool = False) -> np.ndarray:
        """Draws scenes.

        Args:
          batch: no more of them than there are tiles.
          at: array of one number, which is set to the index of the scene that is being drawn.
          finish_each: whether to wait for each, so that `at` is exact if OpenGL crashes.

        Returns:
          float32 `[n, H, W, 3]`.
        """
        mujoco, model, data = self._mujoco, self._model, self._data
        scene, camera, tiles = self._scene, self._camera, self._plan.tiles
        num_scenes = len(batch.identity)
        zero = np.zeros_like(batch.yaw)
        positions = np.concatenate([batch.position, zero[..., None]], -1)
        turns = np.stack([np.cos(batch.yaw / 2), zero, zero, np.sin(batch.yaw / 2)], -1)
        # Of table and floor, then of all meshes of each slot.
        rgba = np.ones((num_scenes, model.ngeom, 4), np.float32)
        rgba[:, :2, :3] = batch.table
        colours = self._colours * batch.tint[:, :, None]
        rgba[:, 2:, :3] = colours.reshape(num_scenes, -1, 3)
        seen = batch.identity[..., None] == self._model_of_geom
        seen &= batch.presence[..., None] > 0.5
        rgba[:, 2:, 3] = seen.reshape(num_scenes, -1)
        azimuth, elevation = batch.light.T
        flat = np.cos(elevation)
        light = np.stack([np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(elevation)], -1)
        side = self._plan.image_size * self._plan.supersampling
        for i in range(num_scenes):
            at[0] = i
            data.mocap_pos[:], data.mocap_quat[:] = positions[i], turns[i]
            model.geom_rgba[:] = rgba[i]
            mujoco.mj_kinematics(model, data)
            # A rotation times the scale: OpenGL gets it as it is.
            scale = batch.scale[i][self._slot, None]
            data.geom_xmat[2:] *= scale
            offset = positions[i][self._slot]
            data.geom_xpos[2:] = offset + scale * (data.geom_xpos[2:] - offset)
            data.light_xdir[0], data.light_xpos[0] = -light[i], 4 * light[i]
            model.vis.headlight.ambient[:], model.light_diffuse[0] = batch.brightness[i]
            camera.azimuth = 90 + math.degrees(batch.camera[i, 0])
            camera.elevation = -math.degrees(batch.camera[i, 1])
            camera.distance = batch.camera[i, 2]
            mujoco.mjv_updateScene(
                model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene
            )
            place = mujoco.MjrRect(i % tiles * side, i // tiles * side, side, side)
            mujoco.mjr_render(place, scene, self._context)
            if finish_each:
                mujoco.mjr_finish()
        return self._read(num_scenes)

    def _read(self, num_scenes: int) -> np.ndarray:
        """The first images in the buffer, `[n, H, W, 3]`."""
        tiles, size, samples = self._plan.tiles, self._plan.image_size, self._plan.supersampling
        rows = -(-num_scenes // tiles)
        width, height = tiles * size, rows * size
        pixels = self._pixels[: height * samples]
        place = self._mujoco.MjrRect(0, 0, width * samples, height * samples)
        self._mujoco.mjr_readPixels(pixels, None, place, self._context)
        total = np.zeros((height, width, 3), np.uint32)
        for row in range(samples):
            for column in range(samples):
                total += pixels[row::samples, column::samples]
        # OpenGL's rows go upwards.
        images = total.reshape(rows, size, tiles, size, 3)[:, ::-1].swapaxes(1, 2)
        images = images.reshape(rows * tiles, size, size, 3)[:num_scenes]
        return images * np.float32(1 / (255 * samples**2))


def _work(link, backend: str, images: Any, at: Any) -> None:
    """A worker: draws what it gets until the link is closed.

    Args:
      link: end of a pipe. A plan comes in, then `(batch, finish_each)` again and again; None, or
        what went wrong, goes out when each is done.
      backend: for MUJOCO_GL.
      images: shared memory for the images of as many scenes as there are tiles.
      at: shared, the scene that is being drawn.
    """
    # An interrupt from the keyboard goes to this process too; its parent says when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["MUJOCO_GL"] = backend
    # Mesa's own threads only get in the way of the other workers.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    # A closed link: the parent is gone or wants no more.
    with contextlib.suppress(EOFError, OSError):
        plan = link.recv()
        size = plan.image_size
        images = np.frombuffer(images, np.float32).reshape(-1, size, size, 3)
        try:
            import mujoco

            side = plan.tiles * size * plan.supersampling
            context = mujoco.GLContext(side, side)
            context.make_current()
            canvas = _Canvas(plan, 1)
        except Exception:
            link.send(traceback.format_exc())
            return
        link.send(None)
        while True:
            batch, finish_each = link.recv()
            try:
                num_objects = batch.identity.shape[1]
                if canvas.num_objects != num_objects:
                    canvas.free()
                    canvas = _Canvas(plan, num_objects)
                images[: len(batch.identity)] = canvas.draw(batch, at, finish_each=finish_each)
            except Exception:
                link.send(traceback.format_exc())
            else:
                link.send(None)


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

    def __init__(self, plan: _Plan, backend: str):
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
        self.process = context.Process(target=_work, args=arguments, daemon=True, name="mujoco")
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

    def draw(self, batch: _Batch, *, finish_each: bool) -> None:
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

    def __init__(self, view: "View", num_workers: int = 2, realism: Realism | None = None):
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}, at least 1 is needed")
        if importlib.util.find_spec("mujoco") is None:
            raise ImportError(
                "the package mujoco is not installed: pip install 'air_jax[render]', "
                "or pip install 'mujoco>=4.0,<5'"
            )
        self.view = view
        self._plan = _plan(view, realism or Realism())
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

    def render(self, scene: "Scene") -> np.ndarray:
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

    def _draw(self, flat: _Batch, images: np.ndarray, batch: tuple[int, ...]) -> None:
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


def _describe(text: str, flat: _Batch, index: int, batch: tuple[int, ...]) -> str:
    place = tuple(int(i) for i in np.unravel_index(index, batch)) if batch else ()
    parameters = ", ".join(f"{k}={v.tolist()}" for k, v in _take(flat, index)._asdict().items())
    return f"scene {place[0] if len(place) == 1 else place}: {text.strip()}. It is {parameters}"


def _flatten(scene: "Scene", num_models: int) -> tuple[_Batch, tuple[int, ...]]:
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
    flat = _Batch(*leaves)
    wrong = (flat.presence > 0.5) & ((flat.identity < 0) | (flat.identity >= num_models))
    if wrong.any():
        raise ValueError(
            f"scene.identity has {flat.identity[wrong][0]}, the catalogue has {num_models} models"
        )
    return flat, batch


def traceable(renderer: MujocoRenderer) -> "Callable[[Scene], jax.Array]":
    """`renderer.render` as a function for `jit` and `vmap`, which hands over all scenes at once.

    It has no gradient of its own; see `finite_difference`. An error of the renderer ends the
    computation that calls it.

    Args:
      renderer: which is to stay open as long as the function is called.

    Returns:
      A function of scenes with any batch axes to float32 `[..., H, W, 3]`.
    """
    import jax

    size = renderer.view.image_size

    def render(scene):
        batch = scene.identity.shape[:-1]
        shape = jax.ShapeDtypeStruct((*batch, size, size, 3), np.float32)
        return jax.pure_callback(renderer.render, shape, scene, vmap_method="broadcast_all")

    return render
