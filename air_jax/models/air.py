"""The inference network q(z | x): AIR and DAIR."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from air_jax.models import modules, spatial_transformer
from air_jax.models.scene2d import Scene2D
from air_jax.models.trace import Trace

_MAX_PLACES = 256


class Noise(NamedTuple):
    """All randomness of one pass. With it fixed, the pass is a deterministic function.

    Attributes:
      pres: uniform in [0, 1), `[B, N]`.
      where: standard normal, `[B, N, P]`.
      what: standard normal, `[B, N, D]`.
    """

    pres: jax.Array
    where: jax.Array
    what: jax.Array


class Memory(NamedTuple):
    """What a step of the object loop leaves to the next one.

    Attributes:
      lstm: cell and hidden state, `[B, hidden_size]` each.
      latents: AIR's z_where and z_what of the step before, `[B, P]` and `[B, D]`; DAIR takes none.
      canvas: the objects so far, `[B, H, W, C']`, C' channels as the scene composes them.
    """

    lstm: tuple[jax.Array, jax.Array]
    latents: tuple[jax.Array, ...]
    canvas: jax.Array


def error_canvas(canvas: jax.Array, images: jax.Array) -> jax.Array:
    """DAIR's input: what the objects so far leave unexplained, `[B, H, W, C]`.

    The paper's text has `x_i - x`; here it is `x - x_i`, ink positive, the same for a network whose
    first layer is linear, and right for a window that shall show the ink still to be explained.
    """
    return images - canvas


class AIR(nn.Module):
    """AIR, `h_i = R(x, z_{i-1}, h_{i-1})`, and DAIR, `h_i = R(x - x_{i-1}, h_{i-1})` (Sec. 3).

    A loop of N steps with static shapes: every step runs for every image, and what comes after the
    first `z_pres = 0` is masked by the objectives. Since step i is reached only when every step
    before it was present, its latents are computed as if it was, and `z_pres` is not an input of
    the recurrence.

    The posterior of the pose is centred on its prior (`loc = prior_loc + net`,
    `scale = softplus(net) prior_scale`): the first windows already have the size of an object.

    Attributes:
      scene: the scene model, whose decoder is learned along.
      variant: "air" or "dair".
      num_steps: N.
      hidden_size: width of the LSTM.
      embedding_size: width of the embedding of the image (of the error canvas) before it.
      predictor_hidden: hidden widths from h_i to q(z_pres_i), q(z_where_i).
      encoder_hidden: hidden widths from the glimpse to q(z_what_i).
      glimpse_source: "image" or "error", where the window reads. The paper's text leaves it open.
      presence_logit: initial log-odds of one more object.
      image_init_scale: bound of the embedding's uniform initial kernel.
      place: "regression" of the centre of q(z_where_i), as the paper's text suggests, or "map", see
        `modules.PlaceMap`, which needs a scene model with `with_place`.
      place_grid: `grid_size` of the map.
      place_radius: `radius` of the map.
      place_span: `span` of the map.
      patch_size: of the embedding, see `modules.ImageProjection`; 0 for pixels.
      patch_features: of the embedding.
      evidence: units that each patch of the error canvas has beside that, seen with its neighbours:
        they speak for the places in it on the map, and the greatest of each unit for one more
        object. 0 for none. Not in the paper (WORKSPACE.md has the measurement).
    """

    scene: Scene2D
    variant: str
    num_steps: int
    hidden_size: int
    embedding_size: int
    predictor_hidden: Sequence[int]
    encoder_hidden: Sequence[int]
    glimpse_source: str
    presence_logit: float
    image_init_scale: float
    place: str = "regression"  # models that were exported without it do that
    place_grid: int = 16
    place_radius: float = 0.4
    place_span: float = 1.0
    patch_size: int = 0
    patch_features: int = 32
    evidence: int = 0

    def setup(self):
        if self.variant not in ("air", "dair"):
            raise ValueError(f"variant is {self.variant!r}; valid names are 'air', 'dair'.")
        if self.glimpse_source not in ("image", "error"):
            raise ValueError(
                f"glimpse_source is {self.glimpse_source!r}; valid names are 'image', 'error'."
            )
        if self.place not in ("regression", "map"):
            raise ValueError(f"place is {self.place!r}; valid names are 'regression', 'map'.")
        modules.check_positive(
            "inference",
            hidden_size=self.hidden_size,
            embedding_size=self.embedding_size,
            predictor_hidden=self.predictor_hidden,
            encoder_hidden=self.encoder_hidden,
            image_init_scale=self.image_init_scale,
            place_radius=self.place_radius,
            place_span=self.place_span,
            patch_features=self.patch_features,
        )
        if not 2 <= self.place_grid <= _MAX_PLACES:
            raise ValueError(
                f"inference.place_grid is {self.place_grid}; a map has 2 to {_MAX_PLACES} places a "
                "side."
            )
        if min(self.patch_size, self.evidence) < 0 or (self.evidence and not self.patch_size):
            raise ValueError(
                f"inference.patch_size is {self.patch_size} and inference.evidence "
                f"{self.evidence}; neither is negative, and evidence is that of patches."
            )
        self.projection = modules.ImageProjection(
            self.hidden_size,
            self.embedding_size,
            self.image_init_scale,
            self.patch_size,
            self.patch_features,
        )
        self.cell = modules.LSTMCell(self.hidden_size)
        self.predict_where = modules.MLP(self.predictor_hidden, 2 * self.scene.pose_size)
        if self.place == "map":
            self.predict_place = modules.PlaceMap(
                self.predictor_hidden,
                self.place_grid,
                self.place_radius,
                self.place_span,
                self.scene.scale_prior[0],
            )
        if self.evidence:
            self.neighbourhoods = modules.Neighbourhoods(self.patch_size, self.evidence)
        self.predict_pres = modules.MLP(self.predictor_hidden, 1, bias=self.presence_logit)
        self.encoder = modules.Encoder(self.encoder_hidden, self.scene.z_what_size)

    def sample_noise(self, keys: jax.Array) -> Noise:
        """See `sample_noise` of this module."""
        return sample_noise(keys, self)

    def q_pose(self, hidden: jax.Array, error: jax.Array) -> distrax.MultivariateNormalDiag:
        """q(z_where_i | h_i) over the pose latent, event shape `(P,)`.

        Args:
          hidden: h_i, `[B, hidden_size]`.
          error: the error canvas before the step, `[B, H, W, C]`, of which the map takes evidence.
        """
        loc, scale = jnp.split(self.predict_where(hidden), 2, axis=-1)
        prior = self.scene.prior_pose()
        loc = prior.loc + loc
        if self.place == "map":
            loc = self.scene.with_place(loc, self.predict_place(hidden, self._evidence(error)))
        scale = nn.softplus(scale) + 1e-4
        return distrax.MultivariateNormalDiag(loc, scale * prior.scale_diag)

    def __call__(self, images: jax.Array, noise: Noise, *, every_count: bool) -> Trace:
        """Infers the objects of a batch of images.

        Args:
          images: float32 `[B, H, W, C]` in [0, 1].
          noise: see `sample_noise` and `posterior_mean_noise`.
          every_count: whether to walk the path on which every object is present and score each
            n = 0..N along it, or to compose the sampled objects only.

        Returns:
          The trace.
        """
        batch_size = images.shape[0]
        chex.assert_rank(images, 4)
        chex.assert_shape(noise.pres, (batch_size, self.num_steps))
        projected, memory = self.begin(images)
        z_pres = jnp.ones((batch_size,))
        canvases, steps = [self.scene.colours(memory.canvas)], []
        for i in range(self.num_steps):
            memory, error, logit = self.decide(memory, images, projected)
            z_pres = z_pres * (noise.pres[:, i] < nn.sigmoid(logit))
            present = jnp.ones_like(z_pres) if every_count else z_pres
            here = noise.where[:, i], noise.what[:, i]
            memory, step = self.look(memory, images, error, here, present)
            canvases.append(self.scene.colours(memory.canvas))
            steps.append({"z_pres": z_pres, "presence_logit": logit, "errors": error, **step})

        stacked = {name: jnp.stack([step[name] for step in steps], axis=1) for name in steps[0]}
        scored = jnp.stack(canvases if every_count else canvases[-1:], axis=1)
        targets = jnp.broadcast_to(images[:, None], scored.shape)
        log_p_x = self.scene.log_likelihood(targets, scored)
        return Trace(log_p_x=log_p_x, canvases=scored, **stacked)

    def begin(self, images: jax.Array) -> tuple[jax.Array | None, Memory]:
        """What is done once, before the first step.

        Args:
          images: float32 `[B, H, W, C]`.

        Returns:
          AIR's projection of the images (None for DAIR, which projects error canvases), and the
          memory that the first step begins with.
        """
        batch_size = images.shape[0]
        canvas = self.scene.empty_canvas(batch_size)
        chex.assert_equal_shape([images, self.scene.colours(canvas)])
        projected: jax.Array | None = None
        latents: tuple[jax.Array, ...] = ()
        if self.variant == "air":
            projected = self.projection(images)
            sizes = (self.scene.pose_size, self.scene.z_what_size)
            latents = tuple(jnp.zeros((batch_size, size)) for size in sizes)
        return projected, Memory(self.cell.initial_carry(batch_size), latents, canvas)

    def decide(
        self, memory: Memory, images: jax.Array, projected: jax.Array | None
    ) -> tuple[Memory, jax.Array, jax.Array]:
        """First half of a step: the recurrence, and whether there is one more object.

        Args:
          memory: of the step before.
          images: float32 `[B, H, W, C]`.
          projected: from `begin`.

        Returns:
          The memory with h_i, the error canvas before the step `[B, H, W, C]`, and the log-odds of
          q(z_pres_i = 1 | h_i), `[B]`.
        """
        error = error_canvas(self.scene.colours(memory.canvas), images)
        if self.variant == "dair":
            projected = self.projection(error)
        lstm = self.cell(memory.lstm, projected, memory.latents)
        features, evidence = lstm[1], self._evidence(error)
        if evidence is not None:
            features = jnp.concatenate([features, evidence.max((1, 2))], axis=-1)
        return memory._replace(lstm=lstm), error, self.predict_pres(features)[:, 0]

    def _evidence(self, error: jax.Array) -> jax.Array | None:
        """Features of the error canvas's neighbourhoods, `[B, h, w, evidence]`, if any."""
        return self.neighbourhoods(error) if self.evidence else None

    def look(
        self,
        memory: Memory,
        images: jax.Array,
        error: jax.Array,
        noise: tuple[jax.Array, jax.Array],
        present: jax.Array,
    ) -> tuple[Memory, dict[str, jax.Array]]:
        """Second half of a step: where the object is and what it is.

        Args:
          memory: from `decide`.
          images: float32 `[B, H, W, C]`.
          error: from `decide`.
          noise: standard normal, of z_where `[B, P]` and of z_what `[B, D]`.
          present: 0/1, whether the object is drawn, `[B]`.

        Returns:
          The memory for the next step, and the step's part of the `Trace`.
        """
        prior_pose, prior_what = self.scene.prior_pose(), self.scene.prior_what()

        # q(z_where_i | h_i)
        q_pose = self.q_pose(memory.lstm[1], error)
        pose = q_pose.loc + q_pose.scale_diag * noise[0]
        z_where = self.scene.pose_to_where(pose)

        # q(z_what_i | x_att)
        source = images if self.glimpse_source == "image" else error
        glimpse = spatial_transformer.attend(source, z_where, window_size=self.scene.window_size)
        q_what = self.encoder(glimpse)
        z_what = q_what.loc + q_what.scale_diag * noise[1]

        # p(x | z)
        log_p_x_before = self.scene.log_likelihood(images, self.scene.colours(memory.canvas))
        window, placed = self.scene.render_object(z_where, z_what)
        canvas = self.scene.compose(memory.canvas, placed, present)

        latents = (z_where, z_what) if self.variant == "air" else ()
        step = {
            "z_where": z_where,
            "z_what": z_what,
            "kl_where": q_pose.kl_divergence(prior_pose),
            "kl_what": q_what.kl_divergence(prior_what),
            "log_ratio_where": prior_pose.log_prob(pose) - q_pose.log_prob(pose),
            "log_ratio_what": prior_what.log_prob(z_what) - q_what.log_prob(z_what),
            "log_p_x_before": jax.lax.stop_gradient(log_p_x_before),
            "glimpses": glimpse,
            "windows": self.scene.colours(window),
            "objects": self.scene.colours(placed),
        }
        return memory._replace(latents=latents, canvas=canvas), step


def create_air(
    *, scene: Mapping[str, Any], inference: Mapping[str, Any], image_size: int, channels: int
) -> AIR:
    """Builds the network and its scene model from their config sections.

    Args:
      scene: keyword arguments of `Scene2D` but the next two.
      inference: keyword arguments of `AIR`.
      image_size: side of the images in pixels.
      channels: C.

    Raises:
      TypeError: if a section has an unknown key or lacks one.
      ValueError: if there is no step or no latent.
    """
    model = Scene2D(image_size=image_size, channels=channels, **modules.hashable(scene))
    air = AIR(scene=model, **modules.hashable(inference))
    # Here, because the noise of a pass has these sizes too.
    modules.check_num_steps(air.num_steps)
    modules.check_positive("scene", z_what_size=model.z_what_size)
    return air


def sample_noise(keys: jax.Array, air: AIR) -> Noise:
    """Draws the noise of a batch, example by example.

    Args:
      keys: one key per example, `[B]`; so a batch cut over several devices draws what one would.
      air: the network, for the sizes.
    """
    num_steps, scene = air.num_steps, air.scene

    def draw(key):
        key_pres, key_where, key_what = jax.random.split(key, 3)
        return Noise(
            pres=jax.random.uniform(key_pres, (num_steps,)),
            where=jax.random.normal(key_where, (num_steps, scene.pose_size)),
            what=jax.random.normal(key_what, (num_steps, scene.z_what_size)),
        )

    return jax.vmap(draw)(keys)


def posterior_mean_noise(batch_size: int, air: AIR) -> Noise:
    """Noise that puts z_where and z_what at their posterior means and z_pres at its mode."""
    shape = (batch_size, air.num_steps)
    return Noise(
        pres=jnp.full(shape, 0.5),
        where=jnp.zeros((*shape, air.scene.pose_size)),
        what=jnp.zeros((*shape, air.scene.z_what_size)),
    )
