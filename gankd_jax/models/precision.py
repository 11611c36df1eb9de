"""The precision of a training's layers: float32, TF32, or bfloat16.

Parameters, optimizers, batch norm and losses are in float32 in any case.  Scores, samples and
exported files are computed in float32 whatever a generator was trained in.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# What JAX calls the precision of products of float32 numbers, by the name in a config.  With
# bfloat16 that is the precision of the few products that are left in float32.
TRAINING_PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
Network = TypeVar("Network")


def resolve_precision(precision: str, backend: str = "") -> str:
    """Resolves 'auto' to the precision that a backend's fast products have.

    Args:
        precision: 'auto', or one of `TRAINING_PRECISIONS`, which is returned unchanged.
        backend: 'cpu', 'gpu' or 'tpu'; the default backend of this process if it is empty.

    Returns:
        For 'auto', 'float32' on a CPU, 'tf32' on a GPU and 'bfloat16' on a TPU, whose units
        multiply such numbers only.
    """
    if precision != "auto":
        return precision
    return {"gpu": "tf32", "tpu": "bfloat16"}.get(backend or jax.default_backend(), "float32")


def has_dtype(network: Any) -> bool:
    """Returns whether a module or its class has the attribute `dtype`, that of its layers."""
    return any(field.name == "dtype" for field in dataclasses.fields(network))


def set_precision(network: Network, precision: str) -> Network:
    """Returns a network whose layers compute in a training's precision.

    Args:
        network: A Flax module, a function in place of one, or None.
        precision: One of `TRAINING_PRECISIONS`.

    Returns:
        For bfloat16, the module with that `dtype` if it has the attribute; else what was given.
    """
    is_module = dataclasses.is_dataclass(network) and has_dtype(network)
    if precision != "bfloat16" or not is_module:
        return network
    return dataclasses.replace(network, dtype=jnp.bfloat16)  # type: ignore[type-var]
