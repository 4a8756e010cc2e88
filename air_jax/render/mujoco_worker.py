"""A process that draws scenes with MuJoCo: what it gets, its model, its loop.

It is spawned by `MujocoRenderer`, and imports neither JAX nor the program.
"""

import contextlib
import math
import os
import signal
import traceback
from typing import Any, NamedTuple

import numpy as np

from air_jax.render.surfaces import RAMP_HALF, ColouredMesh, Surface

# From the camera to the first and to the last of what is drawn, in the world's units.
_NEAR, _FAR = 0.05, 3 * RAMP_HALF


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


class Plan(NamedTuple):
    """A view as a worker gets it: what it would need JAX to unpickle is taken apart.

    Attributes:
      meshes: of the catalogue.
      table, floor: surfaces.
      image_size, supersampling, field_of_view: see `View`.
      tiles: images along a side of the buffer.
      realism: beyond Lambert.
    """

    meshes: tuple[ColouredMesh, ...]
    table: Surface
    floor: Surface
    image_size: int
    supersampling: int
    field_of_view: float
    tiles: int
    realism: Realism


class Batch(NamedTuple):
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


class _Canvas:
    """A MuJoCo model of so many objects, each any of the catalogue, and a buffer to draw it into.

    Every slot is a mocap body that has the meshes of all models; those that it is not are fully
    transparent, which MuJoCo leaves out.
    """

    def __init__(self, plan: Plan, num_objects: int):
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
            raise RuntimeError(f"OpenGL has no buffer of {side}x{side}: take smaller images")
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
        spec.visual.map.znear, spec.visual.map.zfar = _NEAR, _FAR
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
        if plan.realism.texture:
            on_table, grey = "grain", _grain()
            texture = spec.add_texture(name="grain", type=mujoco.mjtTexture.mjTEXTURE_2D)
            texture.height, texture.width = grey.shape
            texture.nchannel = 3
            texture.data = np.repeat(grey[..., None], 3, axis=-1).tobytes()
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

    def draw(self, batch: Batch, at: Any, *, finish_each: bool = False) -> np.ndarray:
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


def _grain() -> np.ndarray:
    """Grey levels of a wooden table, uint8 `[64, 64]`, always the same."""
    rng = np.random.default_rng(0)
    size = 64
    x, y = np.meshgrid(np.arange(size) / size, np.arange(size) / size)
    rings = np.sin(2 * np.pi * (6 * y + 0.35 * np.sin(2 * np.pi * x) + 0.2 * np.sin(6 * np.pi * y)))
    grey = 0.78 + 0.16 * rings + 0.06 * rng.uniform(-1, 1, (size, 1)) * np.ones((1, size))
    return np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def work(link: Any, backend: str, images: Any, at: Any) -> None:
    """Draws what it gets until the link is closed.

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
