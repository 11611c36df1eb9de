"""ResNet: the SNGAN generator and critic of width d, for images of 32 or 64 pixels.

Residual blocks: batch norm, ReLU and nearest upsampling in the generator; ReLU and mean pooling in
the critic, whose kernels are divided by their largest singular value ("spectral").  At 32 pixels
every block has d channels: 256 in the paper's generator, 128 in its critic.  At 64 pixels the
generator's blocks have 8d, 4d, 2d and d channels and the critic mirrors it, as in the authors'
code.

Reference: Miyato et al. 2018, Spectral Normalization for GANs, arXiv 1802.05957, appendix B.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models import conv
from gankd_jax.models.family import (
    Critic,
    Family,
    FoldedLayer,
    Generator,
    PyTree,
    register_family,
)
from gankd_jax.models.norms import EPSILON, BatchNorm, apply_layer

# By the side of the images: channels in units of d, from 4x4 pixels to the whole image.
WIDTH_FACTORS = {32: (1, 1, 1, 1), 64: (16, 8, 4, 2, 1)}
HALVED_BLOCKS = {32: 2, 64: 5}  # the critic's first blocks, which halve the side
BLOCK_LAYERS = ("norm1", "conv1", "norm2", "conv2", "shortcut")  # of a generator's block
GLOROT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
GLOROT_RELU = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # of 3x3 kernels

Images = Float[Array, "b h w i"]


def block_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Returns the channels at 4x4 pixels and after each of the generator's blocks.

    Args:
        width: Channels of the last block.
        image_size: Pixels a side of the images, 32 or 64.
    """
    return tuple(factor * width for factor in WIDTH_FACTORS[image_size])


def upsample(images: Images) -> Float[Array, "b 2*h 2*w i"]:
    """Repeats every pixel in both directions."""
    return images.repeat(2, axis=1).repeat(2, axis=2)


def downsample(images: Images) -> Float[Array, "b h//2 w//2 i"]:
    """Averages every 2x2 pixels."""
    b, h, w, c = images.shape
    return images.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class Conv(nn.Module):
    """A convolution with bias that keeps the size of the images; its kernel is 1x1 or 3x3."""

    outputs: int
    side: int
    conv_impl: str
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "b h w o"]:
        """Convolves."""
        shape = (self.side, self.side, images.shape[-1], self.outputs)
        kernel = self.param("kernel", GLOROT if self.side == 1 else GLOROT_RELU, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
        images, kernel = promote_dtype(images, kernel, dtype=self.dtype)
        if self.side == 1:
            return images @ kernel[0, 0] + bias
        return conv.conv_stride1(images, kernel, self.conv_impl) + bias


class GeneratorBlock(nn.Module):
    """Doubles the side: two 3x3 convolutions beside a 1x1 shortcut."""

    outputs: int
    conv_impl: str
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Float[Array, "b 2*h 2*w o"]:
        """Returns the sum of both ways; the shortcut is cheaper before the upsampling."""
        hidden = upsample(nn.relu(BatchNorm(name="norm1")(images, train)))
        hidden = self._convolve(hidden, 3, "conv1")
        hidden = nn.relu(BatchNorm(name="norm2")(hidden, train))
        hidden = self._convolve(hidden, 3, "conv2")
        return hidden + upsample(self._convolve(images, 1, "shortcut"))

    def _convolve(self, images: Images, side: int, name: str) -> Float[Array, "b h w o"]:
        return Conv(self.outputs, side, self.conv_impl, self.dtype, name=name)(images)


class ResNetGenerator(nn.Module):
    """Maps latents to images in -1..1; the attributes are those of `family.Generator`."""

    width: int
    image_size: int
    channels: int
    latent_dim: int = 128
    norm: str = "batch"
    conv_impl: str = "dilated"
    dtype: Any = None

    @nn.compact
    def __call__(self, latents: Float[Array, "b z"], train: bool) -> Float[Array, "b s s c"]:
        """Generates one image for each latent; with `train`, batch norm uses this batch."""
        first, *widths = block_widths(self.width, self.image_size)
        dense = nn.Dense(16 * first, dtype=self.dtype, kernel_init=GLOROT, name="dense")
        flat = dense(latents)
        flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))  # for the first batch norm
        images = flat.reshape(-1, 4, 4, first)
        for k, outputs in enumerate(widths):
            block = GeneratorBlock(outputs, self.conv_impl, self.dtype, name=f"block{k}")
            images = block(images, train)
        images = nn.relu(BatchNorm(name="norm")(images, train))
        last = Conv(self.channels, 3, self.conv_impl, self.dtype, name="conv")
        return jnp.tanh(last(images))


class CriticBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: 1x1, or the images where nothing changes size."""

    outputs: int
    norm: str
    conv_impl: str
    is_first: bool  # on pixels, which no ReLU cuts off
    halves: bool
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Float[Array, "b _ _ o"]:
        """Returns the sum of both ways; the shortcut is cheaper after the pooling."""
        hidden_width = self.outputs if self.is_first else images.shape[-1]
        hidden = images if self.is_first else nn.relu(images)
        hidden = self._convolve(hidden, hidden_width, 3, name="conv1", train=train)
        hidden = self._convolve(nn.relu(hidden), self.outputs, 3, name="conv2", train=train)
        if self.halves:
            images, hidden = downsample(images), downsample(hidden)
        if self.halves or images.shape[-1] != self.outputs:
            images = self._convolve(images, self.outputs, 1, name="shortcut", train=train)
        return images + hidden

    def _convolve(
        self, images: Images, outputs: int, side: int, *, name: str, train: bool
    ) -> Float[Array, "b h w o"]:
        layer = Conv(outputs, side, self.conv_impl, self.dtype, name=name)
        return apply_layer(layer, images, norm=self.norm, train=train)


class ResNetCritic(nn.Module):
    """Maps images to scores, high for real (logits under bce).

    With the norm "spectral", every kernel is divided by an estimate of its largest singular value.
    Each batch scored in training improves it by one step of power iteration, as in PyTorch's
    `spectral_norm`.  The singular vectors are among the 'batch_stats'.
    """

    width: int
    image_size: int
    channels: int
    norm: str = "spectral"
    conv_impl: str = "dilated"
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Float[Array, "b s s c"], train: bool) -> Float[Array, " b"]:
        """Scores each image; with `train`, the singular vectors move."""
        for k, outputs in enumerate(reversed(block_widths(self.width, self.image_size))):
            halves = k < HALVED_BLOCKS[self.image_size]
            block = CriticBlock(
                outputs,
                self.norm,
                self.conv_impl,
                is_first=k == 0,
                halves=halves,
                dtype=self.dtype,
                name=f"block{k}",
            )
            images = block(images, train)
            # Stored only if the caller makes the collection 'intermediates' mutable.
            self.sow("intermediates", "features", images)
        sums = nn.relu(images).sum((1, 2))
        # Scores are the input of the losses, which are in float32 in any training.
        highest = lax.Precision.HIGHEST
        layer = nn.Dense(1, precision=highest, kernel_init=GLOROT, name="dense")
        return apply_layer(layer, sums, norm=self.norm, train=train)[:, 0]


def fold_batch_norm(variables: PyTree) -> list[FoldedLayer]:
    """Returns the layers of a generator, each batch norm as a factor and an offset.

    A batch norm stands before a ReLU and behind a sum, so that no convolution can take it in.

    Args:
        variables: 'params' and 'batch_stats' of a `ResNetGenerator`.

    Returns:
        The layers in float32, in the order of `_layer_paths`.
    """
    params, stats = (flatten_dict(variables[kind]) for kind in ("params", "batch_stats"))
    blocks = sum(name.startswith("block") for name in variables["params"])
    layers = []
    for path in _layer_paths(blocks):
        bias = np.asarray(params[*path, "bias"])
        if (*path, "mean") in stats:
            mean, var = (np.asarray(stats[*path, name]) for name in ("mean", "var"))
            kernel = np.asarray(params[*path, "scale"]) / np.sqrt(var + EPSILON)
            bias = bias - mean * kernel
        else:
            kernel = np.asarray(params[*path, "kernel"])
        kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)
        layers.append(FoldedLayer(kernel, np.ones_like(bias), bias))
    return layers


def unfold_layers(generator: Generator, layers: list[FoldedLayer]) -> tuple[Generator, PyTree]:
    """Returns the generator and the variables with which it equals the layers.

    Args:
        generator: A `ResNetGenerator`, which gives the sizes.
        layers: As `fold_batch_norm` returns them, quantized or not.
    """
    params, stats = {}, {}
    paths = _layer_paths(len(WIDTH_FACTORS[generator.image_size]) - 1)
    for path, layer in zip(paths, layers, strict=True):
        params[*path, "bias"] = jnp.asarray(layer.bias)
        if path[-1].startswith("norm"):
            params[*path, "scale"] = jnp.asarray(layer.weights[0, 0, 0])
            stats[*path, "mean"] = jnp.zeros_like(layer.bias)
            stats[*path, "var"] = jnp.full_like(layer.bias, 1 - EPSILON)
        else:
            weights = layer.weights[0, 0] if path == ("dense",) else layer.weights
            params[*path, "kernel"] = jnp.asarray(weights)
    return generator, {"params": unflatten_dict(params), "batch_stats": unflatten_dict(stats)}


def _layer_paths(blocks: int) -> list[tuple[str, ...]]:
    """Returns where the layers of a generator with that many blocks are among its parameters."""
    inner = [(f"block{k}", name) for k in range(blocks) for name in BLOCK_LAYERS]
    return [("dense",), *inner, ("norm",), ("conv",)]


def count_layer_macs(network: Generator | Critic) -> list[int]:
    """Counts the multiply-adds of each layer for one image, first to last; norms are left out.

    Args:
        network: A `ResNetGenerator` or `ResNetCritic`.
    """
    widths = block_widths(network.width, network.image_size)
    if isinstance(network, ResNetGenerator):
        macs = [16 * network.latent_dim * widths[0]]
        for k, (i, o) in enumerate(itertools.pairwise(widths)):
            pixels = (8 * 2**k) ** 2
            macs += [9 * i * o * pixels, 9 * o * o * pixels, i * o * pixels // 4]
        return [*macs, 9 * widths[-1] * network.channels * network.image_size**2]
    macs, side = [], network.image_size
    for k, (i, o) in enumerate(itertools.pairwise((network.channels, *reversed(widths)))):
        hidden = o if k == 0 else i
        macs += [9 * i * hidden * side**2, 9 * hidden * o * side**2]
        if k < HALVED_BLOCKS[network.image_size]:
            side //= 2
            macs.append(i * o * side**2)
    return [*macs, widths[0]]


register_family(
    Family(
        name="resnet",
        generator=ResNetGenerator,
        critic=ResNetCritic,
        image_sizes=tuple(WIDTH_FACTORS),
        generator_norms=("batch",),
        critic_norms=("spectral", "none"),
        fold=fold_batch_norm,
        unfold=unfold_layers,
        count_layer_macs=count_layer_macs,
    )
)
