"""safetensors: a generator's layers, its sizes, and a card with its recipe and scores.

The file holds `layerK.kernel` `[4, 4, i, o]` and `layerK.bias` `[o]`, with batch norm folded in.
An int8 file also holds `layerK.scale` `[o]`, the factor of the kernel.  The metadata name the
network family.  Nothing in a file can be executed.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from safetensors import SafetensorError

from gankd_jax.export.formats import ExportFormat, register_format
from gankd_jax.models import conv, sampling
from gankd_jax.models.family import FAMILIES, FoldedLayer, Generator, family_of
from gankd_jax.models.folding import unfold_generator
from gankd_jax.models.sampling import TrainedGenerator

# Keys of the file -> attributes of the generator.
SIZES = {
    "width": "width",
    "image_size": "image_size",
    "channels": "channels",
    "latent": "latent_dim",
}


def write_safetensors(generator: Generator, layers: list[FoldedLayer]) -> bytes:
    """Serialises a generator's sizes and layers; the card is empty.

    Args:
        generator: Gives the sizes; its norm is ignored.
        layers: Its folded layers, first to last.
    """
    arrays: dict[str, np.ndarray] = {}
    for k, layer in enumerate(layers):
        arrays |= {f"layer{k}.kernel": layer.kernel, f"layer{k}.bias": layer.bias}
        if layer.has_scale:
            arrays[f"layer{k}.scale"] = layer.scale
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    sizes = {key: getattr(generator, name) for key, name in SIZES.items()}
    metadata = {"family": family_of(generator).name, "generator": json.dumps(sizes), "card": "{}"}
    return safetensors.numpy.save(contiguous, metadata)


def read_safetensors(file: bytes) -> TrainedGenerator:
    """Reads a generator, which has no norm, with its card.

    Raises:
        ValueError: The bytes are not those of such a file.
    """
    try:
        arrays = safetensors.numpy.load(file)
        metadata = read_metadata(file)
        sizes = {SIZES[key]: value for key, value in json.loads(metadata["generator"]).items()}
        # Files of older versions do not name it.
        family = FAMILIES[metadata.get("family", "dcgan")]
        generator = family.generator(**sizes, conv_impl=conv.resolve_conv_impl("auto"))
        count = sum(name.endswith("kernel") for name in arrays)
        layers = [_read_layer(arrays, k) for k in range(count)]
        card = json.loads(metadata["card"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a generator's weights: {error}") from error
    return dataclasses.replace(unfold_generator(generator, layers), card=card)


def _read_layer(arrays: dict[str, np.ndarray], k: int) -> FoldedLayer:
    bias = arrays[f"layer{k}.bias"]
    scale = arrays.get(f"layer{k}.scale", np.ones_like(bias))
    return FoldedLayer(arrays[f"layer{k}.kernel"], scale, bias)


def has_card(file: bytes) -> bool:
    """Returns whether `write_safetensors` wrote the header of a file, and not another program."""
    try:
        return "card" in read_metadata(file)
    except (KeyError, TypeError, ValueError):
        return False


def add_card(file: bytes, card: dict[str, Any]) -> bytes:
    """Puts a card into a file.

    Args:
        file: The bytes that `write_safetensors` returned.
        card: Any JSON object; it replaces the card of the file.
    """
    metadata = read_metadata(file) | {"card": json.dumps(card)}
    return safetensors.numpy.save(safetensors.numpy.load(file), metadata)


def read_metadata(file: bytes) -> dict[str, str]:
    """Reads the text fields of the header, which is JSON after eight bytes with its length.

    Args:
        file: The bytes of any safetensors file that has such fields.
    """
    return json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])["__metadata__"]


def run_safetensors(file: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """Generates images with the generator that a file holds.

    Args:
        file: The bytes that `write_safetensors` returned.
        latents: Standard normal numbers; any count.

    Returns:
        Images in -1..1.
    """
    return np.asarray(sampling.sample_images(*read_safetensors(file), latents))


register_format(
    ExportFormat(
        name="safetensors",
        suffixes=(".safetensors",),
        write=write_safetensors,
        run=run_safetensors,
        add_card=add_card,
    )
)
