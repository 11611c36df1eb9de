"""Norms: batch norm with its own derivative, and critics' layers with spectral norm.

Autodiff's derivative of batch norm moves the images twice as often.  The layer equals PyTorch's
`BatchNorm2d`, except that the running variance is the batch's own, without the factor n / (n - 1).

Reference: S. Ioffe and C. Szegedy, Batch Normalization, arXiv 1502.03167; Miyato et al. 2018,
Spectral Normalization for GANs, arXiv 1802.05957.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

EPSILON = 1e-5
MOMENTUM = 0.9  # 0.1 in PyTorch's terms
PIXEL_AXES = (0, 1, 2)  # axes over which a channel's statistics are computed

Images = Float[Array, "b h w c"]
Channels = Float[Array, " c"]
Normalized = tuple[Images, Channels, Channels]  # images, mean, variance


class BatchNorm(nn.Module):
    """Normalises each channel by the batch (`train`) or by the running averages of past batches."""

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Images:
        """Brings each channel to mean 0 and variance 1, then scales and shifts it."""
        channels = images.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        if not train:
            return (images - mean.value) * (lax.rsqrt(var.value + EPSILON) * scale) + bias
        normalized, batch_mean, batch_var = batch_normalize(images, scale, bias)
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return normalized


def apply_layer(layer: nn.Module, *inputs: Array, norm: str, train: bool) -> Any:
    """Applies a critic's layer, with its kernel normalised if the norm is "spectral".

    Args:
        layer: Has a parameter `kernel`, whose last axis counts its outputs.
        inputs: Of the layer.
        norm: Of the critic.
        train: Whether this call improves the estimate of the largest singular value.

    Returns:
        What the layer returns.
    """
    if norm == "spectral":
        return nn.SpectralNorm(layer, name=f"{layer.name}_spectral")(*inputs, update_stats=train)
    return layer(*inputs)


@jax.custom_vjp
def batch_normalize(images: Images, scale: Channels, bias: Channels) -> Normalized:
    """Normalises images by their own statistics.

    Args:
        images: Any batch.
        scale: Factor of each channel after normalisation.
        bias: Offset of each channel after normalisation.

    Returns:
        The normalised images, and the mean and biased variance of each channel.
    """
    return _forward(images, scale, bias)[0]


def _forward(images: Images, scale: Channels, bias: Channels) -> tuple[Normalized, tuple]:
    mean, var = lax.platform_dependent(images, cuda=_moments_in_one_pass, default=_moments)
    factor = lax.rsqrt(var + EPSILON)
    normalized = (images - mean) * (factor * scale) + bias
    return (normalized, mean, var), (images, mean, factor, scale)


def _moments(images: Images) -> tuple[Channels, Channels]:
    """Returns the mean and variance of each channel."""
    mean = images.mean(PIXEL_AXES)
    return mean, jnp.square(images - mean).mean(PIXEL_AXES)


def _moments_in_one_pass(images: Images) -> tuple[Channels, Channels]:
    """Returns the same by sums that do not wait for one another: on a GPU, half the kernels.

    It is Flax's own way.  The variance loses digits where a channel's mean is far larger than its
    deviation, which is not so behind a convolution whose bias stays small.
    """
    mean = images.mean(PIXEL_AXES)
    square = jnp.square(images).mean(PIXEL_AXES)
    return mean, jnp.maximum(square - jnp.square(mean), 0.0)


def _backward(saved: tuple, gradients: Normalized) -> tuple[Images, Channels, Channels]:
    """Computes the gradients of section 3 of the paper.

    Its sums are gathered into one factor and one offset for each channel, which saves passes over
    the images.
    """
    images, mean, factor, scale = saved
    gradient, mean_gradient, var_gradient = gradients
    count = images.size // images.shape[-1]
    centred = images - mean
    bias_gradient = gradient.sum(PIXEL_AXES)
    scale_gradient = factor * (gradient * centred).sum(PIXEL_AXES)
    slope = (2 * var_gradient - scale * factor**2 * scale_gradient) / count
    offset = (mean_gradient - scale * factor * bias_gradient) / count
    image_gradient = scale * factor * gradient + slope * centred + offset
    return image_gradient, scale_gradient, bias_gradient


batch_normalize.defvjp(_forward, _backward)
