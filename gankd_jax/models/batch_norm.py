"""Batch norm with its derivative written out: autodiff's moves the images twice as often.

S. Ioffe and C. Szegedy, Batch Normalization, arXiv 1502.03167; as PyTorch's `BatchNorm2d` but for
the running variance, which is of the batch as it is (no n / (n - 1)).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

EPSILON = 1e-5
MOMENTUM = 0.9  # 0.1 in PyTorch's terms
PIXELS = (0, 1, 2)  # the axes that a channel's statistics are taken over

Images = Float[Array, "b h w c"]
Channels = Float[Array, " c"]
Normed = tuple[Images, Channels, Channels]


class BatchNorm(nn.Module):
    """Normalises each channel by its batch (`train`) or by running averages of batches before."""

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Images:
        """Mean 0 and variance 1 in each channel, then scaled and offset."""
        channels = images.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        if not train:
            return (images - mean.value) * (lax.rsqrt(var.value + EPSILON) * scale) + bias
        normed, seen_mean, seen_var = batch_normalize(images, scale, bias)
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * seen_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * seen_var
        return normed


@jax.custom_vjp
def batch_normalize(images: Images, scale: Channels, bias: Channels) -> Normed:
    """The images normalised by their own mean and variance, and both of these."""
    return _forward(images, scale, bias)[0]


def _forward(images: Images, scale: Channels, bias: Channels) -> tuple[Normed, tuple]:
    mean = images.mean(PIXELS)
    var = jnp.square(images - mean).mean(PIXELS)
    factor = lax.rsqrt(var + EPSILON)
    normed = (images - mean) * (factor * scale) + bias
    return (normed, mean, var), (images, mean, factor, scale)


def _backward(kept: tuple, slopes: Normed) -> tuple[Images, Channels, Channels]:
    """Section 3 of the paper, its sums gathered into one factor and one term for each channel."""
    images, mean, factor, scale = kept
    slope, mean_slope, var_slope = slopes
    count = images.size // images.shape[-1]
    centred = images - mean
    to_bias = slope.sum(PIXELS)
    to_scale = factor * (slope * centred).sum(PIXELS)
    along = (2 * var_slope - scale * factor**2 * to_scale) / count
    level = (mean_slope - scale * factor * to_bias) / count
    return scale * factor * slope + along * centred + level, to_scale, to_bias


batch_normalize.defvjp(_forward, _backward)
