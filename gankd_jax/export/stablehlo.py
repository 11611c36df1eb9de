"""StableHLO: a serialised program from latents `[n, z]` to images `[n, s, s, c]`, for any n.

`jax.export` reads it again on a CPU, an NVIDIA GPU or a TPU.  Weights in float16 or int8 are stored
as such and cast when the program runs.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.export.formats import ExportFormat, register_format
from gankd_jax.models import sampling
from gankd_jax.models.family import FoldedLayer, Generator, family_of

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(generator: Generator, layers: list[FoldedLayer]) -> bytes:
    """Exports a generator and its weights as one program.

    Args:
        generator: Gives the sizes; its norm is ignored.
        layers: Its folded layers.

    Returns:
        The serialised program, for the platforms of `PLATFORMS`.
    """
    # The other implementations are tuned for one backend; this one suits all.
    portable = dataclasses.replace(generator, conv_impl="dilated")  # type: ignore[type-var]

    def generate(latents: Float[Array, "n z"]) -> Float[Array, "n s s c"]:
        # Without the barrier, XLA would store the cast weights in the program.
        stored = [
            dataclasses.replace(
                layer, kernel=jax.lax.optimization_barrier(jnp.asarray(layer.kernel))
            )
            for layer in layers
        ]
        plain, variables = family_of(generator).unfold(portable, stored)
        return sampling.apply_in_float32(plain, variables, latents)

    (count,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((count, generator.latent_dim), jnp.float32)
    with _without_source_locations():
        return bytes(jax.export.export(jax.jit(generate), platforms=PLATFORMS)(shape).serialize())


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keeps the paths of this machine out of programs."""
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def run_stablehlo(
    program: bytes, latents: Float[np.ndarray, "n z"]
) -> Float[np.ndarray, "n s s c"]:
    """Runs a serialised program on JAX's default backend.

    Args:
        program: The bytes that `write_stablehlo` returned.
        latents: Standard normal numbers; any count.

    Returns:
        Images in -1..1.
    """
    return np.asarray(jax.export.deserialize(bytearray(program)).call(latents))


register_format(
    ExportFormat(
        name="stablehlo", suffixes=(".stablehlo",), write=write_stablehlo, run=run_stablehlo
    )
)
