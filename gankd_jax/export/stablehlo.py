"""A generator as serialised StableHLO: latents `[n, z]` to images `[n, s, s, c]` in -1..1, any n.

`jax.export` reads it again, on a CPU, an NVIDIA GPU or a TPU.  Weights in float16 or int8 are
stored so, and cast when it runs.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.models.family import FoldedLayer, Generator

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(generator: Generator, layers: list[FoldedLayer]) -> bytes:
    """The program's bytes, its weights within."""
    plain = dataclasses.replace(generator, norm="none", conv_impl="dilated")  # type: ignore[type-var]

    def draw(latents: Float[Array, "n z"]) -> Float[Array, "n s s c"]:
        params = {}
        for k, layer in enumerate(layers):
            # The barrier keeps the small numbers small until the program runs.
            kernel = jax.lax.optimization_barrier(jnp.asarray(layer.kernel))
            weights = kernel.astype(jnp.float32) * layer.scale
            params[f"layer{k}"] = {"kernel": weights, "bias": jnp.asarray(layer.bias)}
        return plain.apply({"params": params}, latents, train=False)

    (count,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((count, generator.latent_dim), jnp.float32)
    with _no_places():
        return bytes(jax.export.export(jax.jit(draw), platforms=PLATFORMS)(shape).serialize())


@contextlib.contextmanager
def _no_places() -> Iterator[None]:
    """Programs that do not tell the files and lines of this machine which made them."""
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def run_stablehlo(
    program: bytes, latents: Float[np.ndarray, "n z"]
) -> Float[np.ndarray, "n s s c"]:
    """The images that the deserialised program draws."""
    return np.asarray(jax.export.deserialize(bytearray(program)).call(latents))
