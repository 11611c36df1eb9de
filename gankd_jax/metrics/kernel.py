"""The Kernel Inception Distance: an unbiased squared MMD of two sets of features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gankd_jax.errors import UserError

TORCH_FIDELITY_SEED = 2020


def kernel_distance(
    features_a: Float[np.ndarray, "n f"],
    features_b: Float[np.ndarray, "m f"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = TORCH_FIDELITY_SEED,
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the squared MMD, kernel (x.y / f + 1)^3.

    Exactly torch-fidelity's `kid_features_to_metric`, subsets by `RandomState(seed)` included, in
    float64 where it keeps the features' float32. Below zero where the sets are hardly different.

    Raises:
        UserError: a set has fewer features than `subset_size`.
    """
    if min(len(features_a), len(features_b)) < subset_size:
        raise UserError(
            f"kernel distance: sets of {len(features_a)} and {len(features_b)} images are smaller"
            f" than subsets of {subset_size}; give more images or a smaller subset size"
        )
    # The subsets are part of the definition, so the generator must be the reference's.
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = features_a[rng.choice(len(features_a), subset_size, replace=False)]
        b = features_b[rng.choice(len(features_b), subset_size, replace=False)]
        values.append(_squared_mmd(a.astype(np.float64), b.astype(np.float64)))
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(a: Float[np.ndarray, "m f"], b: Float[np.ndarray, "m f"]) -> float:
    """Without the diagonals, so that its expectation is that of infinite sets (Gretton 2012)."""
    m = len(a)
    within = sum(k.sum() - np.trace(k) for k in (_kernel(a, a), _kernel(b, b)))
    return float(within / (m * (m - 1)) - 2 * _kernel(a, b).mean())


def _kernel(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> Float[np.ndarray, "n m"]:
    k = a @ b.T / a.shape[1] + 1
    return k * k * k
