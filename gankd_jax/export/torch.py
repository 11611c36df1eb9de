"""A generator without batch norm as a PyTorch `state_dict`: `[n, z, 1, 1]` to `[n, c, s, s]`.

It loads with `strict=True` into an `nn.Sequential` of transposed convolutions and activations;
with int8 weights after each `weight` is multiplied by the `scale` beside it, [1, o, 1, 1].
"""

import io

import numpy as np
from jaxtyping import Float

from gankd_jax.interop.torch_writer import torch_bytes
from gankd_jax.models.family import FoldedLayer


def write_torch(layers: list[FoldedLayer]) -> bytes:
    """The file's bytes; each layer takes two places of the Sequential, with its activation."""
    arrays = {}
    for k, layer in enumerate(layers):
        arrays[f"{2 * k}.weight"] = np.ascontiguousarray(layer.kernel.transpose(2, 3, 0, 1))
        arrays[f"{2 * k}.bias"] = layer.bias
        if layer.kernel.dtype == np.int8:
            arrays[f"{2 * k}.scale"] = layer.scale[None, :, None, None]
    return torch_bytes(arrays)


def run_torch(file: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """The images that PyTorch draws in float32, channels last."""
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
