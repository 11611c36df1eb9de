"""The FID network as a feature extractor."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from gankd_jax.interop import inception_weights
from gankd_jax.metrics.feature_stats import ExtractFn, FeatureExtractor
from gankd_jax.models.inception import LOGIT_LAYERS, POOL_LAYERS, FidInception, preprocess_images
from gankd_jax.utils.errors import UserError

# Images per pass on a CPU, for which the network needs 31 MiB.  glibc keeps no larger blocks from
# call to call: 32 images in one pass take a fifth more time.
CPU_BATCH_SIZE = 4


def load_inception_extractor(
    weights: Path, *, layers: Sequence[str] | None = None, batch_size: int = 32
) -> FeatureExtractor:
    """Loads the FID network.

    Args:
        weights: File of folded weights, as `gankd weights` writes it.
        layers: Layers to use: pooled ones by their width, "logits_unbiased".  None for all that
            the weights serve.
        batch_size: Images per call; on a CPU a pass takes at most `CPU_BATCH_SIZE` of them.

    Returns:
        The network.  Its `pair_layer` is the widest of the layers.

    Raises:
        UserError: The file is missing, or lacks weights of a layer.
    """
    requested = tuple(layers or inception_weights.available_layers(weights))
    params = inception_weights.load_weights(weights, requested)
    fd_layers = tuple(layer for layer in POOL_LAYERS if layer in requested)  # from narrow to wide
    logit_layer = LOGIT_LAYERS[0] if LOGIT_LAYERS[0] in requested else None
    fingerprint = inception_weights.params_fingerprint(params)
    on_cpu = jax.default_backend() == "cpu"
    return FeatureExtractor(
        name=f"inception-{fingerprint}",
        description=f"Inception of 2015-12-05, weights {fingerprint}, images resized to 299x299 as"
        " by TensorFlow 1 and torch-fidelity (pytorch-fid resizes otherwise)",
        extract=inception_features(
            params,
            fd_layers + ((logit_layer,) if logit_layer else ()),
            batch_size=min(CPU_BATCH_SIZE, batch_size) if on_cpu else batch_size,
        ),
        fd_layers=fd_layers,
        pair_layer=fd_layers[-1],
        logit_layer=logit_layer,
        batch_size=batch_size,
    )


def available_maps() -> tuple[str, ...]:
    """Returns the layers of `InceptionMaps` that the weights of `gankd weights fetch` serve.

    Raises:
        UserError: There are no weights, or none of its first layers.
    """
    path = inception_weights.default_weights_path()
    changed = path.stat().st_mtime_ns if path.exists() else 0
    layers = _read_map_layers(path, changed)
    if not layers:
        raise UserError(f"{path} has no weights of layer {POOL_LAYERS[0]}: `gankd weights fetch`")
    return layers


@functools.cache
def _read_map_layers(path: Path, changed: int) -> tuple[str, ...]:
    """Reads the layers of a file once for each time that it was written."""
    layers = inception_weights.available_layers(path)
    return tuple(layer for layer in POOL_LAYERS if layer in layers)


def inception_features(
    params: Mapping[str, Mapping[str, np.ndarray]], layers: Sequence[str], *, batch_size: int
) -> ExtractFn:
    """Builds the function from images in 0..255 to features of the FID network.

    The function takes grey or colour images of any size and number.

    Args:
        params: Folded weights, `{name: {"kernel", "bias"}}`.
        layers: Layers to return.
        batch_size: Images per pass.  The last batch is padded, which saves another compilation.
    """
    network = FidInception(tuple(layers))
    variables = jax.device_put({"params": params})
    # Resizing is compiled for each image size; apart from the network, which is slow to compile.
    preprocess = jax.jit(preprocess_images)
    apply = jax.jit(network.apply)

    def extract(images: Num[np.ndarray, "n h w c"]) -> dict[str, Array]:
        parts = []
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size]
            padding = (batch_size - len(batch), *images.shape[1:])
            padded = np.concatenate([batch, np.zeros(padding, batch.dtype)])
            colour = np.repeat(padded, 3, axis=3) if padded.shape[3] == 1 else padded
            parts.append(apply(variables, preprocess(colour)))
        features = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(images)], *parts)
        return {layer: features[layer] for layer in layers}

    return extract
