"""The FID network with its weights, as the scores use it."""

from collections.abc import Sequence
from pathlib import Path

import jax

from gankd_jax.interop import inception_weights
from gankd_jax.metrics import features
from gankd_jax.metrics.features import Extractor
from gankd_jax.models.inception import LOGITS, WIDTHS

# Images in one pass of a CPU, which needs 31 MiB for them: glibc keeps no more from call to call,
# and 32 images in one pass take a fifth more time.
FEW = 4


def inception_extractor(
    weights: Path, *, layers: Sequence[str] | None = None, batch_size: int = 32
) -> Extractor:
    """The FID network with a file of folded weights: these layers, or all that the file serves.

    Raises:
        UserError: the file is missing, or lacks what the layers need.
    """
    wanted = tuple(layers or inception_weights.served(weights))
    params = inception_weights.load(weights, wanted)
    distances = tuple(x for x in WIDTHS if x in wanted)  # always in one order: the last is kept
    logits = LOGITS[0] if LOGITS[0] in wanted else None
    used = distances + ((logits,) if logits else ())
    fingerprint = inception_weights.fingerprint(params)
    at_once = min(FEW, batch_size) if jax.default_backend() == "cpu" else batch_size
    return Extractor(
        name=f"inception-{fingerprint}",
        about=f"Inception of 2015-12-05, weights {fingerprint}, images resized to 299x299 as by"
        " TensorFlow 1 and torch-fidelity (pytorch-fid resizes otherwise)",
        features=features.inception_features(params, used, batch_size=at_once),
        distances=distances,
        kept=distances[-1],
        logits=logits,
        batch_size=batch_size,
    )
