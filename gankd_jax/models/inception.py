"""The feature extractor of FID: Inception v3 of 2015-12-05, for inference, batch norm folded in."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

INPUT_SIZE = 299  # pixels a side of the network's input
CLASSES = 1008
POOL_LAYERS = ("64", "192", "768", "1280", "2048")  # layers averaged over space, by their width
LOGIT_LAYERS = ("logits_unbiased", "logits")

# By default, accelerators round the inputs of each product to 8 or 11 bits.
_PRECISION = lax.Precision.HIGHEST


def preprocess_images(images: Num[Array, "n h w 3"]) -> Float[Array, "n 299 299 3"]:
    """Resizes images in 0..255 and scales them to -1..1, as `FidInception` takes them."""
    return (resize_tf1(images) - 128) / 128


def resize_tf1(images: Num[Array, "n h w 3"]) -> Float[Array, "n 299 299 3"]:
    """Resizes like TensorFlow 1: bilinear, without aligned corners or half-pixel centres.

    Args:
        images: In 0..255, of any size.

    Returns:
        Images in 0..255.

    Reference: torch-fidelity's `interpolate_bilinear_2d_like_tensorflow1x`, in its arithmetic.
    """
    x = images.astype(jnp.float32)
    for axis in (2, 1):
        low, high, fraction = _interpolation_weights(x.shape[axis])
        below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = below + (above - below) * fraction.reshape((-1,) + (1,) * (3 - axis))
    return x


def _interpolation_weights(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each output pixel its two input pixels and the weight of the second."""
    place = np.arange(INPUT_SIZE, dtype=np.float32) * np.float32(size / INPUT_SIZE)
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), place - low


class FidInception(nn.Module):
    """Returns the features of several layers from one pass, which stops after the last of them.

    Layers are "64", "192", "768", "1280" and "2048", each averaged over space and named by its
    width; "logits_unbiased" (1008 classes without the last bias, on which the Inception Score is
    defined); and "logits".

    Parameters are `{name: {"kernel", "bias"}}`.  Names are those of the TensorFlow graph, with `_`
    for `/`.  `init` returns zeros, because the published weights are always loaded.

    Attributes:
        layers: The layers to return.

    Reference: torch-fidelity's `FeatureExtractorInceptionV3`.
    """

    layers: tuple[str, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "n 299 299 3"]) -> dict[str, Float[Array, "n _"]]:
        """Extracts features from images of `preprocess_images`, as `{layer: features}`."""
        features: dict[str, Array] = {}
        for layer, stage in _STAGES.items():
            if set(self.layers) <= features.keys():
                break
            x = stage(x)
            features[layer] = x.mean(axis=(1, 2))
        if not set(self.layers) <= features.keys():
            features |= _Classifier(name="softmax")(features["2048"])
        return {layer: features[layer] for layer in self.layers}


class InceptionMaps(nn.Module):
    """Sows the last map of stages of the FID network as a critic sows its hidden layers.

    Its parameters are those of `FidInception`.  Images are resized as in evaluation, but not
    rounded to whole numbers, which has no gradient.

    Attributes:
        layers: Of `POOL_LAYERS`, without a gap from the first one.
    """

    layers: tuple[str, ...]

    @nn.compact
    def __call__(self, images: Float[Array, "b s s c"], train: bool = False) -> None:
        """Takes images in -1..1, grey ones too; no layer depends on `train`."""
        colour = jnp.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
        x = preprocess_images(127.5 * (colour + 1))
        for layer in self.layers:
            x = _STAGES[layer](x)
            self.sow("intermediates", "features", x)


def parameter_shapes(layers: Sequence[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Returns the shapes of the parameters that some layers need.

    Args:
        layers: Of `POOL_LAYERS` and `LOGIT_LAYERS`.

    Returns:
        `{name: {"kernel": shape, "bias": shape}}`, with the names of `FidInception`.
    """
    x = jax.ShapeDtypeStruct((1, INPUT_SIZE, INPUT_SIZE, 3), jnp.float32)
    network = FidInception(tuple(layers))
    params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    return {name: {part: a.shape for part, a in parts.items()} for name, parts in params.items()}


class _Classifier(nn.Module):
    """The last layer; returns the logits without and with its bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "n 2048"]) -> dict[str, Float[Array, "n 1008"]]:
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], CLASSES))
        bias = self.param("bias", nn.initializers.zeros, (CLASSES,))
        unbiased = jnp.matmul(x, kernel, precision=_PRECISION)
        return dict(zip(LOGIT_LAYERS, (unbiased, unbiased + bias), strict=True))


class _Conv(nn.Module):
    """Convolution, bias and ReLU; with `pooled`, after an average pool of 3x3 at stride 1."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    pooled: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ _"]:
        shape = (*self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = _convolve(x, kernel, self.stride, self.padding)
        if self.pooled:  # after the 1x1 convolution, with which it commutes: fewer channels
            y = nn.avg_pool(y, (3, 3), padding="SAME", count_include_pad=False)
        return nn.relu(y + bias)


def _convolve(x: Array, kernel: Array, stride: int, padding: str) -> Array:
    """Convolves in the way that XLA runs fastest on a CPU, and no slower elsewhere.

    A 1x1 kernel becomes a matrix product.  An unpadded convolution goes through another library on
    a CPU, at less than half the speed of a padded one; so it gets a row of padding, which is cut
    off again.
    """
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=_PRECISION)
    y = lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding="SAME" if padding == "SAME" else ((stride, 0), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_PRECISION,
    )
    return y if padding == "SAME" else y[:, 1:]


def _max_pool(x: Array, stride: int = 2, padding: str = "VALID") -> Array:
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


def _to_64(x: Array) -> Array:
    x = _Conv(32, (3, 3), stride=2, padding="VALID", name="conv")(x)
    x = _Conv(32, (3, 3), padding="VALID", name="conv_1")(x)
    x = _Conv(64, (3, 3), name="conv_2")(x)
    return _max_pool(x)


def _to_192(x: Array) -> Array:
    x = _Conv(80, name="conv_3")(x)
    x = _Conv(192, (3, 3), padding="VALID", name="conv_4")(x)
    return _max_pool(x)


def _to_768(x: Array) -> Array:
    x = _mixed_35(x, "mixed", pool=32)
    x = _mixed_35(x, "mixed_1", pool=64)
    x = _mixed_35(x, "mixed_2", pool=64)
    x = _halve_35(x, "mixed_3")
    x = _mixed_17(x, "mixed_4", narrow=128)
    x = _mixed_17(x, "mixed_5", narrow=160)
    x = _mixed_17(x, "mixed_6", narrow=160)
    return _mixed_17(x, "mixed_7", narrow=192)


def _to_1280(x: Array) -> Array:
    return _halve_17(x, "mixed_8")


def _to_2048(x: Array) -> Array:
    x = _mixed_8(x, "mixed_9", _Conv(192, pooled=True, name="mixed_9_tower_2_conv")(x))
    return _mixed_8(
        x, "mixed_10", _Conv(192, name="mixed_10_tower_2_conv")(_max_pool(x, 1, "SAME"))
    )


_STAGES = dict(zip(POOL_LAYERS, (_to_64, _to_192, _to_768, _to_1280, _to_2048), strict=True))


def _mixed_35(x: Array, name: str, *, pool: int) -> Array:
    """A block on 35x35 pixels (Mixed_5b to 5d)."""
    a = _Conv(64, name=f"{name}_conv")(x)
    b = _Conv(48, name=f"{name}_tower_conv")(x)
    b = _Conv(64, (5, 5), name=f"{name}_tower_conv_1")(b)
    c = _Conv(64, name=f"{name}_tower_1_conv")(x)
    c = _Conv(96, (3, 3), name=f"{name}_tower_1_conv_1")(c)
    c = _Conv(96, (3, 3), name=f"{name}_tower_1_conv_2")(c)
    d = _Conv(pool, pooled=True, name=f"{name}_tower_2_conv")(x)
    return jnp.concatenate([a, b, c, d], axis=-1)


def _halve_35(x: Array, name: str) -> Array:
    """From 35x35 to 17x17 pixels (Mixed_6a)."""
    a = _Conv(384, (3, 3), stride=2, padding="VALID", name=f"{name}_conv")(x)
    b = _Conv(64, name=f"{name}_tower_conv")(x)
    b = _Conv(96, (3, 3), name=f"{name}_tower_conv_1")(b)
    b = _Conv(96, (3, 3), stride=2, padding="VALID", name=f"{name}_tower_conv_2")(b)
    return jnp.concatenate([a, b, _max_pool(x)], axis=-1)


def _mixed_17(x: Array, name: str, *, narrow: int) -> Array:
    """A block on 17x17 pixels (Mixed_6b to 6e); 7x7 kernels are pairs of 1x7 and 7x1."""
    wide, tall = (1, 7), (7, 1)
    a = _Conv(192, name=f"{name}_conv")(x)
    b = _Conv(narrow, name=f"{name}_tower_conv")(x)
    b = _Conv(narrow, wide, name=f"{name}_tower_conv_1")(b)
    b = _Conv(192, tall, name=f"{name}_tower_conv_2")(b)
    c = _Conv(narrow, name=f"{name}_tower_1_conv")(x)
    c = _Conv(narrow, tall, name=f"{name}_tower_1_conv_1")(c)
    c = _Conv(narrow, wide, name=f"{name}_tower_1_conv_2")(c)
    c = _Conv(narrow, tall, name=f"{name}_tower_1_conv_3")(c)
    c = _Conv(192, wide, name=f"{name}_tower_1_conv_4")(c)
    d = _Conv(192, pooled=True, name=f"{name}_tower_2_conv")(x)
    return jnp.concatenate([a, b, c, d], axis=-1)


def _halve_17(x: Array, name: str) -> Array:
    """From 17x17 to 8x8 pixels (Mixed_7a)."""
    a = _Conv(192, name=f"{name}_tower_conv")(x)
    a = _Conv(320, (3, 3), stride=2, padding="VALID", name=f"{name}_tower_conv_1")(a)
    b = _Conv(192, name=f"{name}_tower_1_conv")(x)
    b = _Conv(192, (1, 7), name=f"{name}_tower_1_conv_1")(b)
    b = _Conv(192, (7, 1), name=f"{name}_tower_1_conv_2")(b)
    b = _Conv(192, (3, 3), stride=2, padding="VALID", name=f"{name}_tower_1_conv_3")(b)
    return jnp.concatenate([a, b, _max_pool(x)], axis=-1)


def _mixed_8(x: Array, name: str, pooled: Array) -> Array:
    """A block on 8x8 pixels (Mixed_7b and 7c, which differ in how they pool)."""
    a = _Conv(320, name=f"{name}_conv")(x)
    b = _Conv(384, name=f"{name}_tower_conv")(x)
    c = _Conv(448, name=f"{name}_tower_1_conv")(x)
    c = _Conv(384, (3, 3), name=f"{name}_tower_1_conv_1")(c)
    forks = [
        _Conv(384, size, name=f"{name}_{tower}_mixed_conv{end}")(y)
        for tower, y in (("tower", b), ("tower_1", c))
        for size, end in (((1, 3), ""), ((3, 1), "_1"))
    ]
    return jnp.concatenate([a, *forks, pooled], axis=-1)
