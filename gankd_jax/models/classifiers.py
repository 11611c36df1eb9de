"""Classifiers whose features and logits score images of labelled data sets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gankd_jax.models import conv
from gankd_jax.models.conv import im2col
from gankd_jax.models.norms import BatchNorm

MAX_SIZE = 32  # pixels a side; larger images are averaged down to this
SIDE_MULTIPLE = 8  # of the images after that: every network here halves their sides three times
WINDOW = 2  # pixels a side of the whitened windows
LOGIT_SCALE = 1 / 9  # keeps the first logits small


def accepts_image_size(image_size: int) -> bool:
    """Returns whether the classifiers take images of that side.

    Args:
        image_size: Pixels a side, before the images are averaged down.
    """
    window = max(1, image_size // MAX_SIZE)
    return image_size // window % SIDE_MULTIPLE == 0


def downsample_mean(images: Float[Array, "b s s c"]) -> Float[Array, "b t t c"]:
    """Averages pixels of images larger than `MAX_SIZE`, down to that size."""
    if images.shape[1] <= MAX_SIZE:
        return images
    window = (images.shape[1] // MAX_SIZE,) * 2  # `accepts_image_size` follows it
    return nn.avg_pool(images, window, window)


class WhitenedConvNet(nn.Module):
    """Maps images in -1..1 to logits and features by six 3x3 convolutions on whitened pixels.

    The first layer's kernel is no parameter: `compute_whitening` sets it from the training images.
    The images' sides are those of `accepts_image_size`.

    Reference: K. Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, with
      fewer channels and with zeros at the border.

    Attributes:
        classes: Number of classes.
        channels: Channels of the images.
        width: Channels of the first of three blocks; each block has twice as many as the last.
        conv_impl: See `conv.conv_stride1`.
    """

    classes: int
    channels: int
    width: int = 64
    conv_impl: str = "dilated"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and the features before them: `4 * width` numbers.

        It sows its hidden layers as a critic does.
        """
        images = downsample_mean(images)
        window_size = WINDOW * WINDOW * self.channels
        shape = (WINDOW, WINDOW, self.channels, 2 * window_size)
        whitening = self.variable("batch_stats", "whitening", jnp.zeros, shape)
        bias = self.param("whitening_bias", nn.initializers.zeros, shape[3:])
        images = nn.gelu(_convolve_windows(images, whitening.value) + bias)
        for block in range(3):
            channels = self.width * 2**block
            images = max_pool(_conv3x3(self, images, channels, f"kernel{block}a"))
            images = nn.gelu(BatchNorm(name=f"norm{block}a")(images, train))
            images = _conv3x3(self, images, channels, f"kernel{block}b")
            images = nn.gelu(BatchNorm(name=f"norm{block}b")(images, train))
            self.sow("intermediates", "layers", images)
        features = images.max(axis=(1, 2))
        self.sow("intermediates", "layers", features)
        logits = nn.Dense(self.classes, use_bias=False, name="logits")(features)
        return LOGIT_SCALE * logits, features


class ResNet(nn.Module):
    """Maps images in -1..1 to logits and features by three residual blocks on 2x2 blocks of pixels.

    The images' sides are those of `accepts_image_size`.

    Reference: He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv 1603.05027.

    Attributes:
        classes: Number of classes.
        channels: Channels of the images.
        width: Channels of the first block; each block has twice as many as the last.
        conv_impl: See `conv.conv_stride1`.
    """

    classes: int
    channels: int
    width: int = 64
    conv_impl: str = "dilated"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and the features before them: `4 * width` numbers, all >= 0."""
        images = im2col.fold_blocks(downsample_mean(images))
        images = _conv3x3(self, images, self.width, "kernel")
        for stage in range(3):
            channels = self.width * 2**stage
            if stage:
                images = nn.avg_pool(images, (2, 2), (2, 2))
                images = nn.Dense(channels, use_bias=False, name=f"project{stage}")(images)
            hidden = nn.relu(BatchNorm(name=f"norm{stage}a")(images, train))
            hidden = _conv3x3(self, hidden, channels, f"kernel{stage}a")
            hidden = nn.relu(BatchNorm(name=f"norm{stage}b")(hidden, train))
            images += _conv3x3(self, hidden, channels, f"kernel{stage}b")
            self.sow("intermediates", "layers", images)
        features = nn.relu(BatchNorm(name="norm")(images, train)).mean(axis=(1, 2))
        return nn.Dense(self.classes, name="logits")(features), features


def _conv3x3(
    module: WhitenedConvNet | ResNet, images: Float[Array, "b h w i"], channels: int, name: str
) -> Float[Array, "b h w o"]:
    """Convolves images with a kernel that is a parameter of the module."""
    shape = (3, 3, images.shape[3], channels)
    kernel = module.param(name, nn.initializers.he_normal(), shape)
    return conv.conv_stride1(images, kernel, module.conv_impl)


def compute_whitening(images: Float[Array, "b s s c"]) -> Float[Array, "w w c o"]:
    """Returns the first kernel of a `WhitenedConvNet`: its outputs are uncorrelated, of variance 1.

    Args:
        images: Training images in -1..1; a few thousand are enough.

    Returns:
        The principal components of the images' windows, each divided by its standard deviation, and
        their negatives.
    """
    images = downsample_mean(images)
    side, c = images.shape[1] - WINDOW + 1, images.shape[3]
    windows = jnp.stack(
        [images[:, r : r + side, s : s + side] for r in range(WINDOW) for s in range(WINDOW)],
        axis=3,
    ).reshape(-1, WINDOW * WINDOW * c)
    variances, components = jnp.linalg.eigh(windows.T @ windows / len(windows))
    # Components that hardly vary would be noise alone.
    kernel = components / jnp.sqrt(jnp.maximum(variances, 1e-3 * variances[-1]))
    return jnp.concatenate([kernel, -kernel], axis=1).reshape(WINDOW, WINDOW, c, -1)


def max_pool(images: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """Returns the largest of each 2x2 pixels.

    As maxima of slices its gradient is twenty times as fast on a CPU as that of `nn.max_pool`.
    """
    rows = jnp.maximum(images[:, ::2], images[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _convolve_windows(
    images: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"]
) -> Float[Array, "b h w o"]:
    """Convolves windows that begin at each pixel; pixels beyond the border are zeros."""
    padding = [(0, WINDOW - 1)] * 2
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=conv.LAYOUT
    )
