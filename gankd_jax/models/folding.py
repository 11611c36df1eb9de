"""Generators for export: batch norm folded into the layers, weights in fewer bytes."""

import dataclasses

import numpy as np

from gankd_jax.models.family import FoldedLayer, Generator, family_of
from gankd_jax.models.sampling import TrainedGenerator

KERNEL_DTYPES = ("float32", "float16", "int8")  # of the kernels in an exported file


def fold_generator(generator: TrainedGenerator) -> list[FoldedLayer]:
    """Returns the layers of a generator, each with the batch norm that follows it folded in."""
    return family_of(generator.module).fold(generator.variables)


def unfold_generator(module: Generator, layers: list[FoldedLayer]) -> TrainedGenerator:
    """Builds the Flax generator of folded layers; it has no norm.

    Args:
        module: Gives the sizes; its norm is ignored.
        layers: As `fold_generator` returns them, quantized or not.
    """
    return TrainedGenerator(*family_of(module).unfold(module, layers))


def quantize(layer: FoldedLayer, precision: str) -> FoldedLayer:
    """Stores a layer's kernel in one of `KERNEL_DTYPES`.

    For int8 each output channel has its own scale, so that its largest weight becomes 127.  The
    rounding error is then at most half of the scale.

    Args:
        layer: In float32.
        precision: Name of the kernel's new dtype.
    """
    dtype = np.dtype(precision)
    if not np.issubdtype(dtype, np.integer):
        return dataclasses.replace(layer, kernel=layer.kernel.astype(dtype))
    steps = np.iinfo(dtype).max
    largest = np.abs(layer.kernel).max(axis=(0, 1, 2))
    scale = np.where(largest > 0, largest / steps, 1).astype(np.float32)
    return FoldedLayer(np.round(layer.kernel / scale).astype(dtype), scale, layer.bias)


def quantize_generator(generator: TrainedGenerator, precision: str) -> tuple[TrainedGenerator, int]:
    """Rounds a generator's weights to what a file of that precision stores.

    Args:
        generator: In float32; its batch norm is folded in.
        precision: One of `KERNEL_DTYPES`.

    Returns:
        The generator with the rounded weights, which computes in float32, and the bytes that its
        weights take in a file.
    """
    layers = [quantize(layer, precision) for layer in fold_generator(generator)]
    return unfold_generator(generator.module, layers), sum(layer.nbytes for layer in layers)
