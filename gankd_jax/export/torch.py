"""PyTorch: a `state_dict` for a network from latents `[n, z, 1, 1]` to images `[n, c, s, s]`.

It loads with `strict=True` into an `nn.Sequential` of transposed convolutions and activations.  In
a file of int8 weights a `scale` `[1, o, 1, 1]` stands beside each `weight`: multiply the two first.
"""

import io

import numpy as np
from jaxtyping import Float

from gankd_jax.export.formats import ExportFormat, register_format
from gankd_jax.models.family import FoldedLayer


def write_torch(layers: list[FoldedLayer]) -> bytes:
    """Saves layers with `torch.save`; layer k is module 2k, its activation module 2k + 1.

    Args:
        layers: A generator's layers, first to last.

    Returns:
        The bytes of a `state_dict` that `torch.load(..., weights_only=True)` reads.
    """
    import torch

    arrays = {}
    for k, layer in enumerate(layers):
        arrays[f"{2 * k}.weight"] = layer.kernel.transpose(2, 3, 0, 1)
        arrays[f"{2 * k}.bias"] = layer.bias
        if layer.has_scale:
            arrays[f"{2 * k}.scale"] = layer.scale[None, :, None, None]
    state = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def run_torch(file: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """Runs a file with PyTorch in float32.

    Args:
        file: The bytes that `write_torch` returned.
        latents: Standard normal numbers; any count.

    Returns:
        Images in -1..1, with channels last.
    """
    import torch
    from torch.nn.functional import conv_transpose2d

    state = torch.load(io.BytesIO(file), weights_only=True)
    images = torch.tensor(latents)[:, :, None, None]
    count = sum(name.endswith(".weight") for name in state)
    for k in range(count):
        weight = state[f"{2 * k}.weight"].float() * state.get(f"{2 * k}.scale", 1)
        bias = state[f"{2 * k}.bias"]
        stride, padding = (1, 0) if k == 0 else (2, 1)
        images = conv_transpose2d(images, weight, bias, stride, padding)
        images = images.tanh() if k == count - 1 else images.relu()
    return images.permute(0, 2, 3, 1).numpy()


register_format(
    ExportFormat(
        name="torch",
        suffixes=(".pth", ".pt"),
        write=lambda _, layers: write_torch(layers),
        run=run_torch,
        packages=("torch",),
        extra="torch",
        sequential_only=True,
    )
)
