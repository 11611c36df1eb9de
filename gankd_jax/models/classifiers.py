"""Small classifiers whose features and logits score images of labelled data sets."""

import itertools

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from gankd_jax.models import conv

MAX_SIZE = 32  # pixels a side; larger images are averaged down to this
LENET_FEATURES = 128
# Of the MLP-Mixer.
TOKENS = 8  # patches a side
MIXER_FEATURES = 64
BLOCKS = 3


def downsample_mean(images: Float[Array, "b s s c"]) -> Float[Array, "b t t c"]:
    """Averages pixels of images larger than `MAX_SIZE`, down to that size."""
    if images.shape[1] <= MAX_SIZE:
        return images
    window = (images.shape[1] // MAX_SIZE,) * 2
    return nn.avg_pool(images, window, window)


class LeNet(nn.Module):
    """Maps images in -1..1 to logits and features: a LeNet with strides in place of pooling."""

    classes: int
    image_size: int
    channels: int
    conv_impl: str = "dilated"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"], train: bool = False
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and the features before them: `LENET_FEATURES` numbers, all >= 0.

        It sows its hidden layers as a critic does, and as in some critics no layer depends on
        `train`.
        """
        images = downsample_mean(images)
        widths = (self.channels, 32, 64, 128)
        for k, (i, o) in enumerate(itertools.pairwise(widths)):
            kernel = self.param(f"kernel{k}", nn.initializers.he_normal(), (4, 4, i, o))
            bias = self.param(f"bias{k}", nn.initializers.zeros, (o,))
            images = nn.relu(conv.conv_stride2(images, kernel, self.conv_impl) + bias)
            self.sow("intermediates", "layers", images)
        flat = images.reshape(images.shape[0], -1)
        features = nn.relu(nn.Dense(LENET_FEATURES, name="features")(flat))
        self.sow("intermediates", "layers", features)
        return nn.Dense(self.classes, name="logits")(features), features


class MlpMixer(nn.Module):
    """Maps images in -1..1 to logits and features.

    Reference: Tolstikhin et al. 2021, MLP-Mixer, arXiv 2105.01601.
    """

    classes: int
    image_size: int
    channels: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Returns logits and the features before them: `MIXER_FEATURES` numbers."""
        images = downsample_mean(images)
        b, patch = len(images), images.shape[1] // TOKENS
        split = images.reshape(b, TOKENS, patch, TOKENS, patch, self.channels)
        patches = split.transpose(0, 1, 3, 2, 4, 5).reshape(b, TOKENS * TOKENS, -1)
        tokens = nn.Dense(MIXER_FEATURES, name="patches")(patches)
        for k in range(BLOCKS):
            transposed = nn.LayerNorm(name=f"norm{k}a")(tokens).swapaxes(1, 2)
            tokens += _mlp(transposed, TOKENS * TOKENS, f"places{k}").swapaxes(1, 2)
            tokens += _mlp(
                nn.LayerNorm(name=f"norm{k}b")(tokens), 2 * MIXER_FEATURES, f"channels{k}"
            )
        features = nn.LayerNorm(name="norm")(tokens).mean(axis=1)
        return nn.Dense(self.classes, name="logits")(features), features


def _mlp(inputs: Float[Array, "*n i"], hidden: int, name: str) -> Float[Array, "*n i"]:
    """Applies two layers; the outputs are as wide as the inputs."""
    activations = jax.nn.gelu(nn.Dense(hidden, name=f"{name}a")(inputs))
    return nn.Dense(inputs.shape[-1], name=f"{name}b")(activations)
