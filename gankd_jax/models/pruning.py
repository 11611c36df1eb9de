"""A student's first weights: those of the teacher's weightiest channels."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Params = Any  # a generator's: layer0, norm0, layer1, ... as Flax gives them


def prune_generator(student: Params, teacher: Params) -> Params:
    """The teacher's weights cut to the student's shapes.

    Of each hidden layer the channels stay that weigh most on the next layer: by the sum of the
    absolute weights that read them, times their scale in batch norm (the criterion of magnitude, as
    Li et al. 2017 prune filters).  They keep their order.

    Args:
      student: a generator's params, which give the shapes.
      teacher: params of a generator at least as wide, with the same norm, latent and image.
    """
    count = sum(name.startswith("layer") for name in student)
    inputs = jnp.arange(student["layer0"]["kernel"].shape[2])  # the latent's numbers
    found = {}
    for k in range(count):
        layer, width = teacher[f"layer{k}"], student[f"layer{k}"]["kernel"].shape[3]
        kept = _weightiest(teacher, k, width) if k < count - 1 else jnp.arange(width)
        kernel = layer["kernel"][:, :, inputs][..., kept]
        found[f"layer{k}"] = {"kernel": kernel, "bias": layer["bias"][kept]}
        if f"norm{k}" in student:
            found[f"norm{k}"] = jax.tree.map(
                lambda leaf, kept=kept: leaf[kept], teacher[f"norm{k}"]
            )
        inputs = kept
    return found


def _weightiest(teacher: Params, k: int, count: int) -> Int[Array, " count"]:
    """The places of layer k's channels of most weight, in their order."""
    weight: Float[Array, " width"] = jnp.sum(
        jnp.abs(teacher[f"layer{k + 1}"]["kernel"]), axis=(0, 1, 3)
    )
    if f"norm{k}" in teacher:
        weight = weight * jnp.abs(jax.tree.leaves(_scales(teacher[f"norm{k}"]))[0])
    return jnp.sort(jnp.argsort(-weight)[:count])


def _scales(norm: Params) -> Params:
    return {kind: values["scale"] for kind, values in norm.items()}
