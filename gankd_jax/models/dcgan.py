"""DCGAN: a generator and critic of width d, for images of 16, 32, 64 or 128 pixels.

At 64 pixels the generator's hidden layers have 8d, 4d, 2d and d channels.  At 32 pixels it starts
with 4d, at 16 with 2d, at 128 with 16d.  The critic mirrors it.

Reference: Radford et al. 2016, arXiv 1511.06434; with the layers of the common PyTorch DCGAN, as in
the paper on distillation (arXiv 1902.00159).
"""

import dataclasses
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float, Int, Key

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

LEAKY_SLOPE = 0.2
INIT_STDDEV = 0.02  # of all kernels, as in the DCGAN paper

Params = Any  # a generator's parameters: layer0, norm0, layer1, ...


def init_kernel(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "4 4 i o"]:
    """Samples a kernel from N(0, 0.02).

    The numbers are sampled as a vector and then reshaped: XLA's CPU compiler needs a quarter of the
    time for it, and the numbers are the same.

    Args:
        key: Random key.
        shape: Shape of the kernel, `(4, 4, inputs, outputs)`.
    """
    return (INIT_STDDEV * jax.random.normal(key, (math.prod(shape),))).reshape(shape)


def hidden_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Returns the channels of the generator's hidden layers, first to last.

    Args:
        width: Channels of the last hidden layer, d in the paper.
        image_size: Pixels a side of the images.

    Returns:
        One number for each layer from 4x4 pixels to half the image's side.
    """
    layers = int(math.log2(image_size // 4))
    return tuple(width * 2**k for k in reversed(range(layers)))


class ConvParams(nn.Module):
    """A 4x4 kernel and a bias, under the same names for every implementation of a layer."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "4 4 i o"], Float[Array, " o"]]:
        """Returns the kernel, initialised from N(0, 0.02), and the bias, initialised with zeros."""
        kernel = self.param("kernel", init_kernel, (4, 4, self.inputs, self.outputs))
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


class Norm(nn.Module):
    """Batch norm, a norm of each image ('layer'), or none."""

    kind: str

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Normalises; epsilon is 1e-5."""
        if self.kind == "batch":
            return BatchNorm(name="batch")(images, train)
        if self.kind == "layer":
            return nn.GroupNorm(num_groups=1, epsilon=EPSILON, name="layer")(images)
        return images


def bias_before_norm(bias: Float[Array, " o"], norm: str, train: bool) -> Float[Array, " o"]:
    """Returns a layer's bias; in front of batch norm it has no gradient on a GPU.

    Batch norm takes away what a bias adds, so that the gradient is rounding noise, and to sum it up
    takes a GPU up to two kernels for each layer.

    Args:
        bias: Of the layer.
        norm: What follows the layer.
        train: Whether batch norm uses the batch.
    """
    if norm != "batch" or not train:
        return bias
    return lax.platform_dependent(bias, cuda=lax.stop_gradient, default=lambda bias: bias)


class DCGANGenerator(nn.Module):
    """Maps latents to images in -1..1; the attributes are those of `family.Generator`."""

    width: int
    image_size: int
    channels: int
    latent_dim: int = 100
    norm: str = "batch"
    conv_impl: str = "dilated"
    dtype: Any = None

    @nn.compact
    def __call__(self, latents: Float[Array, "b z"], train: bool) -> Float[Array, "b s s c"]:
        """Generates one image for each latent; with `train`, batch norm uses this batch."""
        hidden = hidden_widths(self.width, self.image_size)
        kernel, bias = ConvParams(self.latent_dim, hidden[0], name="layer0")()
        latents, kernel = promote_dtype(latents, kernel, dtype=self.dtype)
        flat = latents @ kernel.transpose(2, 0, 1, 3).reshape(self.latent_dim, -1)
        images = flat.reshape(-1, 4, 4, hidden[0]) + bias_before_norm(bias, self.norm, train)
        for k, (i, o) in enumerate(zip(hidden, (*hidden[1:], self.channels), strict=True)):
            images = nn.relu(Norm(self.norm, name=f"norm{k}")(images, train))
            kernel, bias = ConvParams(i, o, name=f"layer{k + 1}")()
            images, kernel = promote_dtype(images, kernel, dtype=self.dtype)
            if k + 1 < len(hidden):
                bias = bias_before_norm(bias, self.norm, train)
            images = self.conv_transpose(images, kernel) + bias
        return jnp.tanh(images)

    def conv_transpose(
        self, images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"]
    ) -> Float[Array, "b 2*h 2*w o"]:
        """Applies a layer without its bias."""
        return conv.conv_transpose_stride2(images, kernel, self.conv_impl)


class DCGANCritic(nn.Module):
    """Maps images to scores, high for real (logits under bce); no norm in the first layer.

    With the norm "spectral", every kernel is divided by an estimate of its largest singular value,
    as in `ResNetCritic`.
    """

    width: int
    image_size: int
    channels: int
    norm: str = "batch"
    conv_impl: str = "dilated"
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Float[Array, "b s s c"], train: bool) -> Float[Array, " b"]:
        """Scores each image; with `train`, batch norm uses this batch and singular vectors move."""
        hidden = tuple(reversed(hidden_widths(self.width, self.image_size)))
        for k, (i, o) in enumerate(zip((self.channels, *hidden[:-1]), hidden, strict=True)):
            layer = ConvParams(i, o, name=f"layer{k}")
            kernel, bias = apply_layer(layer, norm=self.norm, train=train)
            images, kernel = promote_dtype(images, kernel, dtype=self.dtype)
            if k > 0:
                bias = bias_before_norm(bias, self.norm, train)
            images = conv.conv_stride2(images, kernel, self.conv_impl) + bias
            if k > 0:
                images = Norm(self.norm, name=f"norm{k}")(images, train)
            images = nn.leaky_relu(images, LEAKY_SLOPE)
            # Stored only if the caller makes the collection 'intermediates' mutable.
            self.sow("intermediates", "features", images)
        # Scores are the input of the losses, which are in float32 in any training.
        layer = ConvParams(hidden[-1], 1, name=f"layer{len(hidden)}")
        kernel, bias = apply_layer(layer, norm=self.norm, train=train)
        flat = images.reshape(images.shape[0], -1)
        return jnp.matmul(flat, kernel.reshape(-1), precision=lax.Precision.HIGHEST) + bias


def fold_batch_norm(variables: PyTree) -> list[FoldedLayer]:
    """Folds the batch norms of a generator into its layers.

    With stored statistics, batch norm is linear: `y = (x - mean) g + b`, where
    `g = gamma / sqrt(var + eps)`.  So the kernel is multiplied by `g`, and the bias becomes
    `(bias - mean) g + b`.

    Args:
        variables: 'params' and, with batch norm, 'batch_stats' of a `DCGANGenerator`.

    Returns:
        The layers in float32, first to last.
    """
    params, stats = variables["params"], variables.get("batch_stats", {})
    layers = []
    for k in range(_count_layers(params)):
        kernel, bias = (np.asarray(params[f"layer{k}"][name]) for name in ("kernel", "bias"))
        if f"norm{k}" in stats:
            norm, batch = params[f"norm{k}"]["batch"], stats[f"norm{k}"]["batch"]
            gain = np.asarray(norm["scale"]) / np.sqrt(np.asarray(batch["var"]) + EPSILON)
            bias = (bias - np.asarray(batch["mean"])) * gain + np.asarray(norm["bias"])
            kernel = kernel * gain
        layers.append(FoldedLayer(kernel, np.ones_like(bias), bias))
    return layers


def unfold_layers(generator: Generator, layers: list[FoldedLayer]) -> tuple[Generator, PyTree]:
    """Returns the generator without norm, and the variables with which it equals the layers.

    Args:
        generator: A `DCGANGenerator`, which gives the sizes.
        layers: As `fold_batch_norm` returns them, quantized or not.
    """
    params = {
        f"layer{k}": {"kernel": jnp.asarray(layer.weights), "bias": jnp.asarray(layer.bias)}
        for k, layer in enumerate(layers)
    }
    assert isinstance(generator, DCGANGenerator)
    return dataclasses.replace(generator, norm="none"), {"params": params}


def prune_generator(student: Params, teacher: Params) -> Params:
    """Cuts the teacher's parameters to the student's shapes.

    Each hidden layer keeps the channels that weigh most on the next layer, in their order.  A
    channel's importance is the L1 norm of the weights that read it, times its scale in batch norm.

    Args:
        student: Parameters of a generator, which give the shapes; their values are not used.
        teacher: Parameters of a generator at least as wide, with the same norm, latents and images.

    Returns:
        Parameters of the student's shapes.

    Reference: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710.
    """
    count = _count_layers(student)
    inputs = jnp.arange(student["layer0"]["kernel"].shape[2])
    pruned = {}
    for k in range(count):
        layer, width = teacher[f"layer{k}"], student[f"layer{k}"]["kernel"].shape[3]
        outputs = _top_l1_channels(teacher, k, width) if k < count - 1 else jnp.arange(width)
        kernel = layer["kernel"][:, :, inputs][..., outputs]
        pruned[f"layer{k}"] = {"kernel": kernel, "bias": layer["bias"][outputs]}
        if f"norm{k}" in student:
            pruned[f"norm{k}"] = jax.tree.map(
                lambda leaf, outputs=outputs: leaf[outputs], teacher[f"norm{k}"]
            )
        inputs = outputs
    return pruned


def _top_l1_channels(params: Params, k: int, count: int) -> Int[Array, " count"]:
    """Returns the indices of layer k's `count` most important channels, sorted."""
    importance: Float[Array, " width"] = jnp.sum(
        jnp.abs(params[f"layer{k + 1}"]["kernel"]), axis=(0, 1, 3)
    )
    if f"norm{k}" in params:
        (norm,) = params[f"norm{k}"].values()
        importance = importance * jnp.abs(norm["scale"])
    return jnp.sort(jnp.argsort(-importance)[:count])


def _count_layers(params: Params) -> int:
    return sum(name.startswith("layer") for name in params)


def count_layer_macs(network: Generator | Critic) -> list[int]:
    """Counts the multiply-adds of each layer for one image, first to last; norms are left out.

    Args:
        network: A `DCGANGenerator` or `DCGANCritic`.
    """
    hidden = hidden_widths(network.width, network.image_size)
    # A 4x4 kernel at stride 2 meets every pixel of the smaller image with all 16 of its taps.
    widths = (*hidden, network.channels)
    convs = [16 * i * o * (4 * 2**k) ** 2 for k, (i, o) in enumerate(itertools.pairwise(widths))]
    if isinstance(network, DCGANGenerator):
        return [16 * network.latent_dim * hidden[0], *convs]
    return [*reversed(convs), 16 * hidden[0]]


def count_paper_parameters(width: int, image_size: int = 64, latent_dim: int = 100) -> int:
    """Counts a generator's parameters as the paper does.

    Counted are kernels, and biases as if there were one output channel; batch norm is left out.  At
    64 pixels that is 672 d^2 + 12831 d + 1, which gives every row of the paper's table.

    Args:
        width: Channels of the last hidden layer, d in the paper.
        image_size: Pixels a side of the images.
        latent_dim: Numbers in a latent.

    Reference: arXiv 1902.00159.
    """
    hidden = (*hidden_widths(width, image_size), 1)
    layers = zip((latent_dim, *hidden[:-1]), hidden, strict=True)
    return sum(16 * i * o + o for i, o in layers)


register_family(
    Family(
        name="dcgan",
        generator=DCGANGenerator,
        critic=DCGANCritic,
        image_sizes=(16, 32, 64, 128),
        generator_norms=("batch", "none"),
        # Batch norm mixes the images of a batch; penalties need one of the others.
        critic_norms=("batch", "layer", "spectral", "none"),
        fold=fold_batch_norm,
        unfold=unfold_layers,
        prune=prune_generator,
        count_layer_macs=count_layer_macs,
        count_paper_parameters=lambda generator: count_paper_parameters(
            generator.width, generator.image_size, generator.latent_dim
        ),
        is_sequential=True,
    )
)
