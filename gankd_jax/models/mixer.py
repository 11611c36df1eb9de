"""The second classifier: an MLP-Mixer, as unlike the first as a network of its size can be."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from gankd_jax.models.classifier import averaged_down

TOKENS = 8  # on a side
FEATURES = 64
BLOCKS = 3


class Mixer(nn.Module):
    """Images in -1..1 to logits and to the features before them (Tolstikhin et al. 2021)."""

    classes: int
    image_size: int
    channels: int

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Logits and features (`FEATURES` wide) of each image."""
        images = averaged_down(images)
        b, patch = len(images), images.shape[1] // TOKENS
        cut = images.reshape(b, TOKENS, patch, TOKENS, patch, self.channels)
        patches = cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, TOKENS * TOKENS, -1)
        tokens = nn.Dense(FEATURES, name="patches")(patches)
        for k in range(BLOCKS):
            turned = nn.LayerNorm(name=f"norm{k}a")(tokens).swapaxes(1, 2)
            tokens += _mlp(turned, TOKENS * TOKENS, f"places{k}").swapaxes(1, 2)
            tokens += _mlp(nn.LayerNorm(name=f"norm{k}b")(tokens), 2 * FEATURES, f"channels{k}")
        features = nn.LayerNorm(name="norm")(tokens).mean(axis=1)
        return nn.Dense(self.classes, name="logits")(features), features


def _mlp(inputs: Float[Array, "*n i"], hidden: int, name: str) -> Float[Array, "*n i"]:
    """Two layers, back to the width of the inputs."""
    found = jax.nn.gelu(nn.Dense(hidden, name=f"{name}a")(inputs))
    return nn.Dense(inputs.shape[-1], name=f"{name}b")(found)
