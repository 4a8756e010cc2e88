"""Small networks that the models are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from air_jax.models import spatial_transformer

# With it the maps are peaked enough, from the first steps on, for their places to differ.
_PLACE_GAIN = 8.0
# The object loop is written out for the compiler, so that its time grows with every step.
_MAX_STEPS = 64


def hashable(section: Mapping[str, Any]) -> dict[str, Any]:
    """A config's section with its lists as tuples: attributes of modules are static arguments."""
    return {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in section.items()
    }


def check_positive(section: str, **values: float | Sequence[float]) -> None:
    """Refuses sizes, scales and rates that are not positive.

    Args:
      section: of the config that they come from.
      **values: a number, or all numbers of a sequence, which may be empty.

    Raises:
      ValueError: if one is not; names it.
    """
    for name, value in values.items():
        numbers = value if isinstance(value, Sequence) else (value,)
        # In single precision, where the smallest numbers of Python are 0.
        if not all(np.float32(number) > 0 for number in numbers):
            raise ValueError(f"{section}.{name} is {value}; it must be positive.")


def check_num_steps(num_steps: int) -> None:
    """Refuses an object loop that has no step, or more than could be compiled.

    Args:
      num_steps: N.

    Raises:
      ValueError: if it is out of range.
    """
    if not 1 <= num_steps <= _MAX_STEPS:
        raise ValueError(
            f"inference.num_steps is {num_steps}; it must be between 1 and {_MAX_STEPS}, the most "
            "objects of an image."
        )


class MLP(nn.Module):
    """Dense layers with ReLU between them: `[..., D]` to `[..., output_size]`.

    Attributes:
      hidden: width of each hidden layer.
      output_size: width of the last, linear layer.
      bias: initial bias of the last layer.
    """

    hidden: Sequence[int]
    output_size: int
    bias: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        for width in self.hidden:
            inputs = nn.relu(nn.Dense(width)(inputs))
        return nn.Dense(self.output_size, bias_init=nn.initializers.constant(self.bias))(inputs)


class PlaceMap(nn.Module):
    """A shift `(t_x, t_y)` by a local soft-argmax over a map of places.

    The centre of mass of a softmax over a grid of places, weighed down by the distance from its
    peak. A place that is regressed, or averaged over the whole grid, lies between two objects where
    either could be the next one; this one has to be at one of them. Not in the paper: it is what
    keeps DAIR from pairs that it would count as three (WORKSPACE.md has the measurement).

    Attributes:
      hidden: widths of the hidden layers from the features to the map.
      grid_size: places on each side of the grid.
      radius: standard deviation of the weights about the peak, in units of half a window side.
      span: the greatest shift, likewise: windows of scale s are centred at most at `span / s`
        of half an image side from the middle.
      scale: s of the windows whose centres the places are, where features of neighbourhoods add to
        the map.
    """

    hidden: Sequence[int]
    grid_size: int
    radius: float
    span: float = 1.0
    scale: float = 1.0

    @nn.compact
    def __call__(self, features: jax.Array, neighbourhoods: jax.Array | None = None) -> jax.Array:
        """Chooses a place for each image.

        Args:
          features: `[B, D]`.
          neighbourhoods: features of the image's neighbourhoods, `[B, h, w, F]`, each of which
            speaks for the places that lie in it; None for none.

        Returns:
          `(t_x, t_y)`, `[B, 2]`.
        """
        chex.assert_rank(features, 2)
        logits = MLP(self.hidden, self.grid_size**2)(features)
        side = jnp.linspace(-self.span, self.span, self.grid_size)
        if neighbourhoods is not None:
            evidence = nn.Dense(1, name="evidence")(neighbourhoods)
            # A window with the shift t is centred at -t / s.
            evidence = spatial_transformer.sample(evidence, -side / self.scale)
            logits = logits + evidence.reshape(logits.shape)
        logits = _PLACE_GAIN * logits
        places = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
        peak = places[logits.argmax(axis=-1)]
        squared_distance = jnp.square(places - peak[:, None]).sum(-1)
        weights = nn.softmax(logits - squared_distance / (2 * float(self.radius) ** 2))
        return jnp.dot(weights, places, precision=jax.lax.Precision.HIGHEST)


class Neighbourhoods(nn.Module):
    """Features of an image's patches, each seen with the eight around it.

    Two layers with weights that all places share: `[B, H, W, C]` to `[B, H / S, W / S, F]`. The
    same as two convolutions, but as products of matrices: inside a loop XLA compiles convolutions
    for CPUs to something many times slower.

    Attributes:
      patch_size: S.
      features: F, ReLU units of both layers.
    """

    patch_size: int
    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        maps = nn.relu(nn.Dense(self.features)(cut_patches(images, self.patch_size)))
        height, width = maps.shape[1:3]
        padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
        around = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        return nn.relu(nn.Dense(self.features)(jnp.concatenate(around, axis=-1)))


class ImageProjection(nn.Module):
    """Projects images to the pre-activations of an LSTM: `[B, H, W, C]` to `[B, 4 D]`.

    By way of a small embedding, which is nearly all that the weights between the pixels and the
    LSTM's four gates can use: at 50x50 it has a quarter of their number, and they were half of the
    time of a train step (WORKSPACE.md has the measurement).

    Patches that share their weights can tell a residue of what was drawn from a part that still has
    to be, wherever it is; pixels have to learn that for every place. Not in the paper: it is for
    objects that hide one another (WORKSPACE.md has the measurement).

    Attributes:
      hidden_size: D, the LSTM's width.
      embedding_size: width of the embedding, a hidden layer of ReLU units.
      init_scale: bound of the embedding's uniform initial kernel where there are no patches. The
        usual `1 / sqrt(H W C)` makes the image a whisper beside the recurrent input, since most
        pixels are 0.
      patch_size: side of the patches of which the embedding sees features, in pixels; 0 for the
        pixels themselves.
      patch_features: ReLU units of each patch, where there are patches.
    """

    hidden_size: int
    embedding_size: int
    init_scale: float
    patch_size: int = 0
    patch_features: int = 32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        chex.assert_rank(images, 4)
        if self.patch_size:
            patches = cut_patches(images, self.patch_size)
            images = nn.relu(nn.Dense(self.patch_features, name="patches")(patches))
            kernel_init = nn.initializers.lecun_normal()
        else:
            kernel_init = _uniform(self.init_scale)
        flat = images.reshape(images.shape[0], -1)
        # Named as if it were the only hidden layer: so it is in models that know no patches.
        embedding = nn.relu(nn.Dense(self.embedding_size, kernel_init=kernel_init)(flat))
        return nn.Dense(4 * self.hidden_size, use_bias=False)(embedding)


def _uniform(bound: float) -> nn.initializers.Initializer:
    """Kernels that are uniform within a bound."""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def cut_patches(images: jax.Array, size: int) -> jax.Array:
    """Images as rows of patches that do not overlap.

    Args:
      images: `[B, H, W, C]`.
      size: S, the patches' side, of which H and W are multiples.

    Returns:
      `[B, H / S, W / S, S S C]`.

    Raises:
      ValueError: if the images do not divide into patches.
    """
    chex.assert_rank(images, 4)
    batch, height, width, channels = images.shape
    if size < 1 or height % size or width % size:
        raise ValueError(
            f"patch_size is {size}; the images' sides, {height} and {width}, must be multiples."
        )
    rows, columns = height // size, width // size
    patches = images.reshape(batch, rows, size, columns, size, channels).swapaxes(2, 3)
    return patches.reshape(batch, rows, columns, size * size * channels)


class LSTMCell(nn.Module):
    """LSTM cell that takes part of its input already projected.

    The same equations as `flax.linen.LSTMCell`, which projects its whole input at every step: here
    what does not change from step to step (AIR's image) is projected once, outside the loop.

    Attributes:
      hidden_size: D.
    """

    hidden_size: int

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, jax.Array], projected: jax.Array, inputs: Sequence[jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """One step.

        Args:
          carry: cell and hidden state, `[B, D]` each.
          projected: pre-activations of the projected input, `[B, 4 D]`.
          inputs: further inputs, `[B, *]` each.

        Returns:
          New cell and hidden state; the hidden state is the output.
        """
        cell, hidden = carry
        stacked = jnp.concatenate([*inputs, hidden], axis=-1)
        gates = projected + nn.Dense(4 * self.hidden_size, name="gates")(stacked)
        gate_in, gate_forget, candidate, gate_out = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(gate_forget) * cell + nn.sigmoid(gate_in) * jnp.tanh(candidate)
        return cell, nn.sigmoid(gate_out) * jnp.tanh(cell)

    def initial_carry(self, batch_size: int) -> tuple[jax.Array, jax.Array]:
        """Zero states, `[batch_size, D]` each."""
        zeros = jnp.zeros((batch_size, self.hidden_size))
        return zeros, zeros


class Encoder(nn.Module):
    """q(z_what | x_att): a diagonal Gaussian from a glimpse `[B, h, w, C]` (AIR, Fig. 2, VAE)."""

    hidden: Sequence[int]
    z_what_size: int

    @nn.compact
    def __call__(self, glimpse: jax.Array) -> distrax.MultivariateNormalDiag:
        outputs = MLP(self.hidden, 2 * self.z_what_size)(glimpse.reshape(glimpse.shape[0], -1))
        loc, scale = jnp.split(outputs, 2, axis=-1)
        return distrax.MultivariateNormalDiag(loc, nn.softplus(scale) + 1e-4)


class Decoder(nn.Module):
    """y_att from z_what: `[B, D]` to a window `[B, h, w, C]` in (0, 1) (AIR, Fig. 2, VAE).

    Attributes:
      hidden: widths of the hidden layers.
      window_size: h = w.
      channels: C.
      bias: initial output logit; negative, so that the first canvases are nearly empty.
    """

    hidden: Sequence[int]
    window_size: int
    channels: int
    bias: float

    @nn.compact
    def __call__(self, z_what: jax.Array) -> jax.Array:
        shape = (self.window_size, self.window_size, self.channels)
        size = self.window_size**2 * self.channels
        logits = MLP(self.hidden, size, bias=self.bias)(z_what)
        return nn.sigmoid(logits).reshape(z_what.shape[0], *shape)


class Baseline(nn.Module):
    """Neural baselines: a prediction per step, from the image and the latents produced so far.

    A recurrent network of its own (AIR, Sec. 2.2; NVIL, Mnih & Gregor, 2014). It sees the latents
    before step i as what they left unexplained of the image, which says more about what is still
    to be gained than the latents themselves (WORKSPACE.md has the measurement), and never
    `z_pres_i`, so it leaves the gradient unbiased. Its input is stopped: the baseline learns from
    its own loss alone.

    Attributes:
      hidden_size: width of the LSTM.
      embedding_size: width of the embedding of each error canvas.
      image_init_scale: bound of the embedding's initial kernel.
    """

    hidden_size: int
    embedding_size: int
    image_init_scale: float

    @nn.compact
    def __call__(self, errors: jax.Array) -> jax.Array:
        """Predicts the standardised gain of every step, see `estimators.nvil`.

        Args:
          errors: the image less the canvas before each step, `[B, N, H, W, C]`.

        Returns:
          `[B, N]`, in standard deviations of the gain.
        """
        chex.assert_rank(errors, 5)
        batch_size, num_steps = errors.shape[:2]
        flat = jax.lax.stop_gradient(errors).reshape(-1, *errors.shape[2:])
        projected = ImageProjection(self.hidden_size, self.embedding_size, self.image_init_scale)(
            flat
        )
        projected = projected.reshape(batch_size, num_steps, -1)
        cell = LSTMCell(self.hidden_size)
        head = nn.Dense(1)
        carry = cell.initial_carry(batch_size)
        outputs = []
        for i in range(num_steps):
            carry = cell(carry, projected[:, i], [])
            outputs.append(head(carry[1])[:, 0])
        return jnp.stack(outputs, axis=1)


def create_baseline(
    *, hidden_size: int, embedding_size: int, image_init_scale: float, decay: float
) -> tuple[Baseline, float]:
    """The baseline network of a config's section, and the decay that goes with it.

    Args:
      hidden_size: as in `Baseline`.
      embedding_size: likewise.
      image_init_scale: likewise.
      decay: weight of the past in the moving moments of the gain.

    Raises:
      ValueError: if a size or scale is not positive or the decay not in [0, 1).
    """
    options = {"hidden_size": hidden_size, "embedding_size": embedding_size}
    check_positive("baseline", **options, image_init_scale=image_init_scale)
    if not 0 <= decay < 1:
        raise ValueError(
            f"baseline.decay is {decay}; it is the weight of the past in a moving mean, in [0, 1)."
        )
    return Baseline(**options, image_init_scale=image_init_scale), decay
