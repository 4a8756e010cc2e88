"""The 3-D scene model p(x, z): a renderer's objects on a table, seen by a camera (paper, Sec. 3.2).

Nothing of it is learned: the renderer says what an image of a scene is, and inference has to find
the scene.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import distrax
import jax
import jax.numpy as jnp

from air_jax import distributions
from air_jax.models.modules import hashable
from air_jax.render import finite_difference, raycast, surface_motion
from air_jax.render import scene as description
from air_jax.render.scene import CATALOGUES, MAX_SUPERSAMPLING, View

POSE_SIZE = 3  # x, y, yaw
CAMERA_SIZE = 2  # azimuth, elevation
GRADIENTS = ("finite_differences", "surface_motion")


class Sampled3D(NamedTuple):
    """Scenes drawn from p(x, z), with what stands in them.

    Attributes:
      images: `[B, H, W, 3]`.
      z_where: `(x, y, yaw)` on the table, units of length and radians, `[B, N, 3]`; those beyond a
        scene's count were not drawn.
      z_what: identities, int32 `[B, N]`, likewise.
      camera: azimuth and elevation, radians, `[B, 2]`.
    """

    images: jax.Array
    z_where: jax.Array
    z_what: jax.Array
    camera: jax.Array


@dataclasses.dataclass(frozen=True)
class Scene3D:
    """Scenes of at most N objects of a catalogue.

    z_what is an object's identity, uniform over the catalogue; z_where is its place on the table
    and its yaw, uniform over the circle. A place is `reach * tanh(u)` with u Gaussian, right and
    away as the camera sees them: objects cannot leave the image. Where they can, an object of the
    wrong identity is put out of sight, which costs less than one that is seen, and nothing brings
    it back. What the whole scene shares is the camera's azimuth and elevation, Gaussian, or fixed.

    Attributes:
      catalogue: one of `render.scene.CATALOGUES`.
      image_size: side of the image in pixels.
      channels: C, 3.
      field_of_view: of the image's side, degrees.
      supersampling: rays along each side of a pixel.
      reach: farthest that a place is to the sides, in front or behind, in units of length.
      position_scale: standard deviation of p(u), without a unit; 0.9 is nearly uniform in x and y.
      camera_scale: standard deviations of the camera's azimuth and elevation about
        `render.scene.CAMERA`, degrees; zeros where the camera is known.
      likelihood_scale: standard deviation of p(x | z), in pixel values.
      position_step: of the finite differences, in units of length; half a pixel is about 0.06.
      angle_step: likewise, of yaw and camera, degrees; both are not used otherwise.
      gradient: "finite_differences" through a black box, as in the paper, or "surface_motion", the
        ray caster's own (`render.surface_motion`), which takes no further images.
    """

    catalogue: str
    image_size: int
    channels: int
    field_of_view: float
    supersampling: int
    reach: float
    position_scale: float
    camera_scale: tuple[float, float]
    likelihood_scale: float
    position_step: float
    angle_step: float
    gradient: str = "finite_differences"  # models that were exported before it have none

    def __post_init__(self):
        if self.catalogue not in CATALOGUES:
            raise ValueError(
                f"catalogue is {self.catalogue!r}; valid names are "
                f"{', '.join(map(repr, CATALOGUES))}."
            )
        if self.channels != 3:
            raise ValueError(f"channels is {self.channels}; the renderer's images have 3.")
        if not (0 < self.field_of_view < 180 and 1 <= self.supersampling <= MAX_SUPERSAMPLING):
            raise ValueError(
                f"scene.field_of_view is {self.field_of_view} degrees and scene.supersampling "
                f"{self.supersampling}; the one lies between 0 and 180, the other is 1 to "
                f"{MAX_SUPERSAMPLING}."
            )
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"scene.gradient is {self.gradient!r}; valid names are "
                f"{', '.join(map(repr, GRADIENTS))}."
            )
        positive = ("reach", "position_scale", "likelihood_scale", "position_step", "angle_step")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive.")
        if min(self.camera_scale) < 0 or (min(self.camera_scale) == 0 < max(self.camera_scale)):
            raise ValueError(
                f"camera_scale is {self.camera_scale}; both must be positive, or both 0."
            )

    @property
    def view(self) -> View:
        """What the renderer takes beside a scene."""
        return View(
            CATALOGUES[self.catalogue],
            image_size=self.image_size,
            field_of_view=self.field_of_view,
            supersampling=self.supersampling,
        )

    @property
    def num_identities(self) -> int:
        """Models in the catalogue."""
        return len(CATALOGUES[self.catalogue])

    @property
    def camera_is_known(self) -> bool:
        """Whether there is nothing that the whole scene shares."""
        return not any(self.camera_scale)

    def prior_position(self) -> distrax.MultivariateNormalDiag:
        """p(u) of both coordinates, event shape `(2,)`."""
        return distrax.MultivariateNormalDiag(jnp.zeros(2), jnp.full(2, self.position_scale))

    def place(self, latent: jax.Array) -> jax.Array:
        """u to a place on the table, right and away as the camera sees them, `[..., 2]`."""
        return self.reach * jnp.tanh(latent)

    def to_world(self, seen: jax.Array, camera: jax.Array) -> jax.Array:
        """Poses as the camera sees them to those on the table.

        Args:
          seen: place to the right and away, yaw, `[..., 3]`.
          camera: azimuth and elevation, radians, `[..., 2]`.

        Returns:
          `(x, y, yaw)`, `[..., 3]`.
        """
        return _turn(seen, camera[..., 0])

    def from_world(self, poses: jax.Array, camera: jax.Array) -> jax.Array:
        """The inverse of `to_world`."""
        return _turn(poses, -camera[..., 0])

    def prior_camera(self) -> distrax.MultivariateNormalDiag:
        """p(azimuth, elevation), radians, event shape `(2,)`."""
        scale = [math.radians(degrees) for degrees in self.camera_scale]
        return distrax.MultivariateNormalDiag(
            jnp.array(description.CAMERA[:CAMERA_SIZE]), jnp.array(scale)
        )

    def render(
        self, z_what: jax.Array, presence: jax.Array, z_where: jax.Array, camera: jax.Array
    ) -> jax.Array:
        """Draws scenes, with a gradient with respect to poses and camera.

        Args:
          z_what: identities, int32 `[B, N]`.
          presence: 0/1, `[B, N]`.
          z_where: `(x, y, yaw)`, `[B, N, 3]`.
          camera: azimuth and elevation, radians, `[B, 2]`.

        Returns:
          `[B, H, W, 3]`.
        """
        batch_size, num_steps = z_what.shape
        chex.assert_shape(z_where, (batch_size, num_steps, POSE_SIZE))
        if self.gradient == "surface_motion":
            scene = _describe(z_what, presence, z_where, camera)
            return surface_motion.render(scene, self.view)
        poses = z_where.reshape(batch_size, num_steps * POSE_SIZE)
        angle_step = math.radians(self.angle_step)
        steps = [self.position_step, self.position_step, angle_step] * num_steps
        if self.camera_is_known:
            return self._through(steps)(poses, (z_what, presence, camera))
        params = jnp.concatenate([poses, camera], axis=-1)
        steps += [angle_step] * CAMERA_SIZE
        return self._through(steps)(params, (z_what, presence, None))

    def draw(
        self, z_what: jax.Array, presence: jax.Array, z_where: jax.Array, camera: jax.Array
    ) -> jax.Array:
        """As `render`, without a gradient that means anything."""
        return raycast.render(_describe(z_what, presence, z_where, camera), self.view)

    def sample(self, key: chex.PRNGKey, counts: jax.Array, num_steps: int) -> Sampled3D:
        """Draws scenes from the model, without the likelihood's noise.

        Args:
          key: PRNG key.
          counts: number of objects of each scene, int32 `[B]`, at most `num_steps`.
          num_steps: N.
        """
        key_what, key_place, key_yaw, key_camera = jax.random.split(key, 4)
        shape = (counts.shape[0], num_steps)
        z_what = jax.random.randint(key_what, shape, 0, self.num_identities)
        latent = self.prior_position().sample(seed=key_place, sample_shape=shape)
        yaw = jax.random.uniform(key_yaw, (*shape, 1), minval=-jnp.pi, maxval=jnp.pi)
        noise = jax.random.normal(key_camera, (shape[0], CAMERA_SIZE))
        scale = jnp.radians(jnp.array(self.camera_scale))
        camera = jnp.array(description.CAMERA[:CAMERA_SIZE]) + scale * noise
        seen = jnp.concatenate([self.place(latent), yaw], axis=-1)
        z_where = self.to_world(seen, camera[:, None])
        presence = (jnp.arange(num_steps) < counts[:, None]).astype(jnp.float32)
        return Sampled3D(self.draw(z_what, presence, z_where, camera), z_where, z_what, camera)

    def _through(self, steps):
        """The renderer as a function of its continuous parameters, with a gradient."""

        def render(params, others):
            z_what, presence, camera = others
            num_poses = POSE_SIZE * z_what.shape[-1]
            if camera is None:
                camera = params[:, num_poses:]
            poses = params[:, :num_poses].reshape(*z_what.shape, POSE_SIZE)
            return self.draw(z_what, presence, poses, camera)

        return finite_difference.central_differences(render, steps)

    @functools.cached_property
    def empty(self) -> jax.Array:
        """The table without objects, seen by the prior's mean camera, `[H, W, 3]`."""
        with jax.ensure_compile_time_eval():
            nothing = jnp.zeros((1,))
            scene = description.create_scene(nothing, nothing, jnp.zeros((1, 2)), nothing)
            return raycast.render(scene, self.view)

    def log_likelihood(self, images: jax.Array, canvas: jax.Array) -> jax.Array:
        """log p(x | z) = log N(x; canvas, likelihood_scale), nats, `[..., H, W, C]` to `[...]`."""
        return distributions.image_log_prob(images, canvas, scale=self.likelihood_scale)


def _describe(z_what, presence, z_where, camera):
    """Latents as a scene that the renderers take."""
    return description.create_scene(z_what, presence, z_where[..., :2], z_where[..., 2], camera)


def _turn(poses, angle):
    """Poses `[..., 3]` turned about the upright axis by an angle `[...]`."""
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    x, y, yaw = poses[..., 0], poses[..., 1], poses[..., 2]
    return jnp.stack([cos * x - sin * y, sin * x + cos * y, yaw + angle], axis=-1)


def create_scene3d(section: Mapping[str, Any], *, image_size: int, channels: int) -> Scene3D:
    """Builds the scene model from its config section.

    Args:
      section: keyword arguments of `Scene3D` but the next two.
      image_size: side of the images in pixels.
      channels: C.

    Raises:
      TypeError: if the section has an unknown key or lacks one.
      ValueError: if a value is not one that there is.
    """
    return Scene3D(image_size=image_size, channels=channels, **hashable(section))
