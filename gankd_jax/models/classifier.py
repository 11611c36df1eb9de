"""The small classifier that judges images of labelled data sets."""

import itertools

import flax.linen as nn
from jaxtyping import Array, Float

from gankd_jax.models import conv

SIDE = 32  # larger images are averaged down to this
FEATURES = 128


def averaged_down(images: Float[Array, "b s s c"]) -> Float[Array, "b t t c"]:
    """Images of at most `SIDE` pixels a side, each the mean of those it covers."""
    if images.shape[1] <= SIDE:
        return images
    window = (images.shape[1] // SIDE,) * 2
    return nn.avg_pool(images, window, window)


class Classifier(nn.Module):
    """Images in -1..1 to logits and to the features before them: a LeNet with strides for pools."""

    classes: int
    image_size: int
    channels: int
    form: str = "dilated"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b s s c"]
    ) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Logits and features (`FEATURES` wide, not negative) of each image."""
        images = averaged_down(images)
        widths = (self.channels, 32, 64, 128)
        for k, (i, o) in enumerate(itertools.pairwise(widths)):
            kernel = self.param(f"kernel{k}", nn.initializers.he_normal(), (4, 4, i, o))
            bias = self.param(f"bias{k}", nn.initializers.zeros, (o,))
            images = nn.relu(conv.down(images, kernel, self.form) + bias)
        flat = images.reshape(images.shape[0], -1)
        features = nn.relu(nn.Dense(FEATURES, name="features")(flat))
        return nn.Dense(self.classes, name="logits")(features), features
