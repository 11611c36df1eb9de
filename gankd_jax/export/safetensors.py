"""A generator as safetensors: its layers, what they make up, and a card of how they came about.

`layerK.kernel` `[4, 4, i, o]` and `layerK.bias` `[o]`, batch norm folded in; for int8 also
`layerK.scale` `[o]`, by which the kernel is multiplied.  Nothing in the file can be executed.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from safetensors import SafetensorError

from gankd_jax.models import conv, sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import FoldedLayer, Generator
from gankd_jax.models.folding import unfold_generator
from gankd_jax.models.sampling import TrainedGenerator

# Keys of the file -> attributes of the module.
SIZES = {
    "width": "width",
    "image_size": "image_size",
    "channels": "channels",
    "latent": "latent_dim",
}


def write_safetensors(generator: Generator, layers: list[FoldedLayer]) -> bytes:
    """The file's bytes, without a card."""
    arrays: dict[str, np.ndarray] = {}
    for k, layer in enumerate(layers):
        arrays |= {f"layer{k}.kernel": layer.kernel, f"layer{k}.bias": layer.bias}
        if layer.kernel.dtype == np.int8:
            arrays[f"layer{k}.scale"] = layer.scale
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sizes = {key: getattr(generator, name) for key, name in SIZES.items()}
    about = {"generator": json.dumps(sizes), "card": "{}"}
    return safetensors.numpy.save(whole, about)


def read_safetensors(file: bytes) -> TrainedGenerator:
    """Returns the generator in a file, whose module has no norm, with its card.

    Raises:
      ValueError: The bytes are not such a file's.
    """
    try:
        arrays = safetensors.numpy.load(file)
        about = _about(file)
        sizes = {SIZES[key]: value for key, value in json.loads(about["generator"]).items()}
        generator = DCGANGenerator(**sizes, conv_impl=conv.resolve_conv_impl("auto"))
        layers = [_layer(arrays, k) for k in range(sum(n.endswith("kernel") for n in arrays))]
        card = json.loads(about["card"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a generator's weights: {error}") from error
    return dataclasses.replace(unfold_generator(generator, layers), card=card)


def _layer(arrays: dict[str, np.ndarray], k: int) -> FoldedLayer:
    bias = arrays[f"layer{k}.bias"]
    scale = arrays.get(f"layer{k}.scale", np.ones_like(bias))
    return FoldedLayer(arrays[f"layer{k}.kernel"], scale, bias)


def add_card(file: bytes, card: dict[str, Any]) -> bytes:
    """The same file with that card."""
    about = _about(file) | {"card": json.dumps(card)}
    return safetensors.numpy.save(safetensors.numpy.load(file), about)


def _about(file: bytes) -> dict[str, str]:
    """The header's text fields: JSON behind its own length in eight bytes."""
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]


def run_safetensors(file: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """The images that the file's generator draws."""
    return np.asarray(sampling.sample_images(*read_safetensors(file), latents))
