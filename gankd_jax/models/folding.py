"""A generator without batch norm, and its weights in fewer bytes."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8

from gankd_jax.models.family import Generator
from gankd_jax.models.sampling import TrainedGenerator

EPSILON = 1e-5  # Flax's batch norm, and PyTorch's


@dataclasses.dataclass(frozen=True)
class FoldedLayer:
    """One 4x4 layer: `kernel * scale` by output channel, then `bias`.

    The kernel is float32 or float16 with a scale of ones, or int8.
    """

    kernel: np.ndarray  # [4, 4, i, o]
    scale: Float[np.ndarray, " o"]
    bias: Float[np.ndarray, " o"]

    @property
    def weights(self) -> Float[np.ndarray, "4 4 i o"]:
        """The kernel's values in float32."""
        return self.kernel.astype(np.float32) * self.scale

    @property
    def bytes(self) -> int:
        """What the layer takes in a file: kernel, float32 bias, and int8's float32 scales."""
        scales = self.scale.nbytes if self.kernel.dtype == np.int8 else 0
        return self.kernel.nbytes + self.bias.nbytes + scales


def fold_generator(generator: TrainedGenerator) -> list[FoldedLayer]:
    """The layers of `generator`, each with the batch norm that follows it folded in.

    Batch norm on settled statistics is linear: `y = (x - mean) g + b` with
    `g = gamma / sqrt(var + eps)`; the kernel takes `g`, the bias becomes `(bias - mean) g + b`.
    """
    params = generator.variables["params"]
    stats = generator.variables.get("batch_stats", {})
    layers = []
    for k in range(len([name for name in params if name.startswith("layer")])):
        kernel, bias = (np.asarray(params[f"layer{k}"][name]) for name in ("kernel", "bias"))
        if f"norm{k}" in stats:
            norm, seen = params[f"norm{k}"]["batch"], stats[f"norm{k}"]["batch"]
            gain = np.asarray(norm["scale"]) / np.sqrt(np.asarray(seen["var"]) + EPSILON)
            bias = (bias - np.asarray(seen["mean"])) * gain + np.asarray(norm["bias"])
            kernel = kernel * gain
        layers.append(FoldedLayer(kernel, np.ones_like(bias), bias))
    return layers


def quantize(layer: FoldedLayer, precision: str) -> FoldedLayer:
    """The layer's kernel in `precision`; int8 has one scale for each output channel."""
    if precision == "int8":
        return _int8(layer)
    return dataclasses.replace(layer, kernel=layer.kernel.astype(precision))


def _int8(layer: FoldedLayer) -> FoldedLayer:
    largest = np.abs(layer.kernel).max(axis=(0, 1, 2))
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    numbers: Int8[np.ndarray, "4 4 i o"] = np.round(layer.kernel / scale).astype(np.int8)
    return FoldedLayer(numbers, scale, layer.bias)


def quantize_generator(generator: TrainedGenerator, precision: str) -> tuple[TrainedGenerator, int]:
    """A generator that draws with its weights as `precision` stores them, and their bytes."""
    layers = [quantize(layer, precision) for layer in fold_generator(generator)]
    return to_flax(generator.module, layers), sum(layer.bytes for layer in layers)


def to_flax(generator: Generator, layers: list[FoldedLayer]) -> TrainedGenerator:
    """A generator without norm, and its variables, that draws what the layers draw."""
    params = {
        f"layer{k}": {"kernel": jnp.asarray(layer.weights), "bias": jnp.asarray(layer.bias)}
        for k, layer in enumerate(layers)
    }
    plain = dataclasses.replace(generator, norm="none")  # type: ignore[type-var]
    return TrainedGenerator(plain, {"params": params})
