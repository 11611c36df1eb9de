"""The Kernel Inception Distance: an unbiased squared MMD of two sets of features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gankd_jax.utils.errors import UserError

TORCH_FIDELITY_SEED = 2020
ROWS = 1000  # of a kernel's matrix at a time


def kernel_distance(
    features_a: Float[np.ndarray, "n f"],
    features_b: Float[np.ndarray, "m f"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = TORCH_FIDELITY_SEED,
    within_b: Float[np.ndarray, " k"] | None = None,
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the squared MMD, kernel (x.y / f + 1)^3.

    Exactly torch-fidelity's `kid_features_to_metric`, subsets by `RandomState(seed)` included, in
    float64 where it keeps the features' float32. Below zero where the sets are hardly different.
    `within_b` is what the function of that name gives for the same settings, where it is known.

    Raises:
        UserError: a set has fewer features than `subset_size`.
    """
    if min(len(features_a), len(features_b)) < subset_size:
        raise UserError(
            f"kernel distance: sets of {len(features_a)} and {len(features_b)} images are smaller"
            f" than subsets of {subset_size}; give more images or a smaller subset size"
        )
    sizes = {"subsets": subsets, "subset_size": subset_size, "seed": seed}
    in_a, in_b = _marks(len(features_a), len(features_b), **sizes)
    a, b = features_a.astype(np.float64), features_b.astype(np.float64)
    known = _within(in_b, b) if within_b is None else within_b
    pairs = _within(in_a, a) + known
    across = _sums(in_a, a, in_b, b) / subset_size**2
    values = pairs / (subset_size * (subset_size - 1)) - 2 * across
    return float(np.mean(values)), float(np.std(values))


def kernel_sums_within_b(
    count_a: int,
    features_b: Float[np.ndarray, "m f"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = TORCH_FIDELITY_SEED,
) -> Float[np.ndarray, " k"]:
    """The kernel's sums within the second set, equal for every first set of `count_a` features."""
    sizes = {"subsets": subsets, "subset_size": subset_size, "seed": seed}
    _, in_b = _marks(count_a, len(features_b), **sizes)
    return _within(in_b, features_b.astype(np.float64))


def _marks(
    count_a: int, count_b: int, *, subsets: int, subset_size: int, seed: int
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k m"]]:
    """The subsets of each set, marked by ones."""
    # They are part of the definition, so the generator must be the reference's.
    rng = np.random.RandomState(seed)
    in_a, in_b = np.zeros((subsets, count_a)), np.zeros((subsets, count_b))
    for k in range(subsets):
        in_a[k, rng.choice(count_a, subset_size, replace=False)] = 1
        in_b[k, rng.choice(count_b, subset_size, replace=False)] = 1
    return in_a, in_b


def _within(
    marks: Float[np.ndarray, "k n"], x: Float[np.ndarray, "n f"]
) -> Float[np.ndarray, " k"]:
    """For each subset the kernel summed over the pairs of different features.

    Without the diagonals, so that its expectation is that of infinite sets (Gretton 2012).
    """
    return _sums(marks, x, marks, x) - marks @ _diagonal(x)


def _sums(
    in_a: Float[np.ndarray, "k n"],
    a: Float[np.ndarray, "n f"],
    in_b: Float[np.ndarray, "k m"],
    b: Float[np.ndarray, "m f"],
) -> Float[np.ndarray, " k"]:
    """For each of k subsets, marked by ones, the kernel summed over its pairs.

    Each pair's kernel is worked out once for all subsets, some rows at a time.
    """
    total = np.zeros(len(in_a))
    for first in range(0, len(a), ROWS):
        rows = slice(first, first + ROWS)
        kernel = a[rows] @ b.T / a.shape[1] + 1
        kernel *= kernel * kernel
        total += ((in_a[:, rows] @ kernel) * in_b).sum(axis=1)
    return total


def _diagonal(a: Float[np.ndarray, "n f"]) -> Float[np.ndarray, " n"]:
    """The kernel of each feature with itself."""
    return (np.square(a).sum(axis=1) / a.shape[1] + 1) ** 3
