"""The Inception Score: how sure a classifier is of each image, and how varied its answers are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from gankd_jax.errors import UserError

TORCH_FIDELITY_SEED = 2020


def inception_score(
    logits: Float[np.ndarray, "n k"], *, splits: int = 10, seed: int = TORCH_FIDELITY_SEED
) -> tuple[float, float]:
    """Mean and standard deviation over splits of `exp(E_x KL(p(y|x) || p(y)))`.

    Exactly torch-fidelity's `isc_features_to_metric`: shuffled by `RandomState(seed)`, `splits`
    consecutive parts, float64, population deviation. On Inception its logits come without bias.

    Raises:
        UserError: fewer images than splits.
    """
    if len(logits) < splits:
        raise UserError(f"{len(logits)} images cannot make {splits} splits: give more images")
    # The shuffle is part of the definition, so the generator must be the reference's.
    order = np.random.RandomState(seed).permutation(len(logits))
    log_p = _log_softmax(logits[order].astype(np.float64))
    bounds = [i * len(logits) // splits for i in range(splits + 1)]
    parts = [_exp_mean_kl(log_p[a:b]) for a, b in pairwise(bounds)]
    return float(np.mean(parts)), float(np.std(parts))


def _log_softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _exp_mean_kl(log_p: Float[np.ndarray, "n k"]) -> float:
    """`exp` of the mean divergence from the mean distribution, in logarithms: never 0 * inf."""
    log_mean = np.logaddexp.reduce(log_p, axis=0) - np.log(len(log_p))
    return float(np.exp((np.exp(log_p) * (log_p - log_mean)).sum(axis=1).mean()))
