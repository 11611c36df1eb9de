"""The FID network with its weights, as the scores use it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from gankd_jax.interop import inception_weights
from gankd_jax.metrics.feature_stats import FeatureExtractor, Features
from gankd_jax.models.inception import LOGIT_LAYERS, POOL_LAYERS, FidInception, preprocess_images

# Images in one pass of a CPU, which needs 31 MiB for them: glibc keeps no more from call to call,
# and 32 images in one pass take a fifth more time.
FEW = 4


def load_inception_extractor(
    weights: Path, *, layers: Sequence[str] | None = None, batch_size: int = 32
) -> FeatureExtractor:
    """The FID network with a file of folded weights: these layers, or all that the file serves.

    Raises:
        UserError: the file is missing, or lacks what the layers need.
    """
    wanted = tuple(layers or inception_weights.available_layers(weights))
    params = inception_weights.load_weights(weights, wanted)
    distances = tuple(
        x for x in POOL_LAYERS if x in wanted
    )  # always in one order: the last is kept
    logits = LOGIT_LAYERS[0] if LOGIT_LAYERS[0] in wanted else None
    used = distances + ((logits,) if logits else ())
    fingerprint = inception_weights.params_fingerprint(params)
    at_once = min(FEW, batch_size) if jax.default_backend() == "cpu" else batch_size
    return FeatureExtractor(
        name=f"inception-{fingerprint}",
        about=f"Inception of 2015-12-05, weights {fingerprint}, images resized to 299x299 as by"
        " TensorFlow 1 and torch-fidelity (pytorch-fid resizes otherwise)",
        features=inception_features(params, used, batch_size=at_once),
        distances=distances,
        kept=distances[-1],
        logits=logits,
        batch_size=batch_size,
    )


def inception_features(
    params: Mapping[str, Mapping[str, np.ndarray]], layers: Sequence[str], *, batch_size: int
) -> Features:
    """The FID network's features of uint8 images, grey or colour, of any size and number.

    The network sees batches of one size, the last one padded, and so is compiled once.
    """
    network = FidInception(tuple(layers))
    variables = jax.device_put({"params": params})
    resized = jax.jit(
        preprocess_images
    )  # apart from the network, which is slow to compile, for each size
    apply = jax.jit(network.apply)

    def features(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, Array]:
        parts = []
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            padding = (batch_size - len(part), *images.shape[1:])
            whole = np.concatenate([part, np.zeros(padding, np.uint8)])
            colour = np.repeat(whole, 3, axis=3) if whole.shape[3] == 1 else whole
            parts.append(apply(variables, resized(colour)))
        joined = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(images)], *parts)
        return {layer: joined[layer] for layer in layers}

    return features
