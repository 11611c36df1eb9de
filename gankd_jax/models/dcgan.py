"""The DCGAN generator and critic of width d, for 16, 32, 64 and 128 pixels.

At 64 pixels the generator's hidden layers have 8d, 4d, 2d and d channels (arXiv 1902.00159; the
network is the common PyTorch DCGAN); 32 starts at 4d, 16 at 2d, 128 at 16d.  The critic mirrors it.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from gankd_jax.models import conv
from gankd_jax.models.batch_norm import BatchNorm

LEAK = 0.2
GENERATOR_NORMS = ("batch", "none")
CRITIC_NORMS = ("batch", "layer", "none")


def draw_kernel(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "4 4 i o"]:
    """Numbers from N(0, 0.02).

    They are drawn in a row: the same numbers, for which XLA's CPU compiler needs a quarter of the
    time.
    """
    return (0.02 * jax.random.normal(key, (math.prod(shape),))).reshape(shape)


def hidden_widths(width: int, image_size: int) -> tuple[int, ...]:
    """Channels of the generator's hidden layers, from 4x4 pixels to half the image's side."""
    layers = int(math.log2(image_size // 4))
    return tuple(width * 2**k for k in reversed(range(layers)))


class ConvParams(nn.Module):
    """A 4x4 kernel and a bias, under the names that every form of the layer shares."""

    inputs: int
    outputs: int

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "4 4 i o"], Float[Array, " o"]]:
        """The kernel, drawn from N(0, 0.02), and the bias, drawn as zeros."""
        kernel = self.param("kernel", draw_kernel, (4, 4, self.inputs, self.outputs))
        return kernel, self.param("bias", nn.initializers.zeros, (self.outputs,))


class Norm(nn.Module):
    """Batch norm, a norm per image ('layer'), or none."""

    kind: str

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Normalise; epsilon 1e-5."""
        if self.kind == "batch":
            return BatchNorm(name="batch")(images, train)
        if self.kind == "layer":
            return nn.GroupNorm(num_groups=1, epsilon=1e-5, name="layer")(images)
        return images


class DCGANGenerator(nn.Module):
    """Latents to images in -1..1: `apply(variables, latents, train=...)`."""

    width: int
    image_size: int
    channels: int
    latent_dim: int = 100
    norm: str = "batch"
    conv_impl: str = "dilated"

    @nn.compact
    def __call__(self, latents: Float[Array, "b z"], train: bool) -> Float[Array, "b s s c"]:
        """Draw one image per latent; with `train`, batch norm sees this batch."""
        hidden = hidden_widths(self.width, self.image_size)
        kernel, bias = ConvParams(self.latent_dim, hidden[0], name="layer0")()
        flat = latents @ kernel.transpose(2, 0, 1, 3).reshape(self.latent_dim, -1)
        images = flat.reshape(-1, 4, 4, hidden[0]) + bias
        for k, (i, o) in enumerate(zip(hidden, (*hidden[1:], self.channels), strict=True)):
            images = nn.relu(Norm(self.norm, name=f"norm{k}")(images, train))
            kernel, bias = ConvParams(i, o, name=f"layer{k + 1}")()
            images = conv.conv_transpose_stride2(images, kernel, self.conv_impl) + bias
        return jnp.tanh(images)


class DCGANCritic(nn.Module):
    """Images to scores, high for real (a logit under bce); no norm in the first layer."""

    width: int
    image_size: int
    channels: int
    norm: str = "batch"
    conv_impl: str = "dilated"

    @nn.compact
    def __call__(self, images: Float[Array, "b s s c"], train: bool) -> Float[Array, " b"]:
        """Score each image; with `train`, batch norm sees this batch."""
        hidden = tuple(reversed(hidden_widths(self.width, self.image_size)))
        for k, (i, o) in enumerate(zip((self.channels, *hidden[:-1]), hidden, strict=True)):
            kernel, bias = ConvParams(i, o, name=f"layer{k}")()
            images = conv.conv_stride2(images, kernel, self.conv_impl) + bias
            if k > 0:
                images = Norm(self.norm, name=f"norm{k}")(images, train)
            images = nn.leaky_relu(images, LEAK)
            self.sow("intermediates", "features", images)  # kept only where they are asked for
        kernel, bias = ConvParams(hidden[-1], 1, name=f"layer{len(hidden)}")()
        return images.reshape(images.shape[0], -1) @ kernel.reshape(-1) + bias
