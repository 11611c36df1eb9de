"""The Kernel Inception Distance: an unbiased squared MMD of two feature sets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from gankd_jax.metrics.inputs import check_features
from gankd_jax.utils.errors import UserError

TORCH_FIDELITY_SEED = 2020  # of its subsets
# Rows of the kernel matrix per block: 80 MB for 10,000 features.  Fewer rows save memory.
BLOCK_ROWS = 1000


def kernel_distance(
    features_a: Float[np.ndarray, "n f"],
    features_b: Float[np.ndarray, "m f"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = TORCH_FIDELITY_SEED,
    within_b: Float[np.ndarray, " k"] | None = None,
) -> tuple[float, float]:
    """Computes KID: the squared MMD with kernel `(x.y / f + 1)^3`, over random subsets.

    Args:
        features_a: Features of the first set.
        features_b: Features of the second set.
        subsets: Number of random subsets, k.
        subset_size: Images of each set in a subset.
        seed: Seed of the subsets.
        within_b: `kernel_sums_within_b` for the same arguments, to save time where the second set
            is compared with many; None to compute it.

    Returns:
        Mean and standard deviation over the subsets.  The estimate is unbiased, so it can be below
        zero for sets that hardly differ.

    Raises:
        UserError: A set has fewer features than `subset_size`, this is below 2, there is no subset,
            or a feature is not finite.

    Reference: Bińkowski et al. 2018 (arXiv 1801.01401), section 4.  The same subsets as
    torch-fidelity's `kid_features_to_metric`; the relative difference is up to 1e-5, because
    torch-fidelity sums in float32 where this is float64.
    """
    check_features("kernel distance", features_a, features_b)
    settings = {"subsets": subsets, "subset_size": subset_size, "seed": seed}
    in_a, in_b = _subset_masks(len(features_a), len(features_b), **settings)
    a, b = features_a.astype(np.float64), features_b.astype(np.float64)
    if within_b is None:
        within_b = _sum_distinct_pairs(in_b, b)
    within = _sum_distinct_pairs(in_a, a) + within_b
    across = _sum_pairs(in_a, a, in_b, b) / subset_size**2
    values = within / (subset_size * (subset_size - 1)) - 2 * across
    # Squares of values of large features overflow; scaling by a power of two rounds nothing.
    exponent = np.frexp(np.abs(values).max())[1]
    deviation = np.ldexp(np.std(np.ldexp(values, -exponent)), exponent)
    return float(np.mean(values)), float(deviation)


def kernel_sums_within_b(
    count_a: int,
    features_b: Float[np.ndarray, "m f"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = TORCH_FIDELITY_SEED,
) -> Float[np.ndarray, " k"]:
    """Computes the kernel sums of `kernel_distance` within the second set.

    They are the same for every first set of `count_a` features.

    Args:
        count_a: Features of the first set; the random subsets of the second depend on it.
        features_b: Features of the second set.
        subsets: As in `kernel_distance`.
        subset_size: As in `kernel_distance`.
        seed: As in `kernel_distance`.

    Returns:
        One sum for each subset.

    Raises:
        UserError: As `kernel_distance`.
    """
    check_features("kernel distance", features_b)
    settings = {"subsets": subsets, "subset_size": subset_size, "seed": seed}
    _, in_b = _subset_masks(count_a, len(features_b), **settings)
    return _sum_distinct_pairs(in_b, features_b.astype(np.float64))


def _subset_masks(
    count_a: int, count_b: int, *, subsets: int, subset_size: int, seed: int
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k m"]]:
    """Draws the random subsets of both sets, as masks of zeros and ones.

    Raises:
        UserError: The settings allow no estimate.
    """
    if subset_size < 2 or subsets < 1:
        raise UserError(
            "kernel distance needs subsets of 2 or more images, and 1 subset or more;"
            f" not {subsets} of {subset_size}"
        )
    if min(count_a, count_b) < subset_size:
        raise UserError(
            f"kernel distance: sets of {count_a} and {count_b} images are smaller than subsets of"
            f" {subset_size}; give more images or a smaller subset size"
        )
    # The subsets are part of torch-fidelity's definition, so they need the same legacy generator.
    rng = np.random.RandomState(seed)
    in_a, in_b = np.zeros((subsets, count_a)), np.zeros((subsets, count_b))
    for k in range(subsets):
        in_a[k, rng.choice(count_a, subset_size, replace=False)] = 1
        in_b[k, rng.choice(count_b, subset_size, replace=False)] = 1
    return in_a, in_b


def _sum_distinct_pairs(
    masks: Float[np.ndarray, "k n"], x: Float[np.ndarray, "n f"]
) -> Float[np.ndarray, " k"]:
    """Sums the kernel over pairs of different features, for each subset.

    Without the diagonal the estimate is unbiased (Gretton et al. 2012, eq. 3).
    """
    diagonal = (np.square(x).sum(axis=1) / x.shape[1] + 1) ** 3
    return _sum_pairs(masks, x, masks, x) - masks @ diagonal


def _sum_pairs(
    in_a: Float[np.ndarray, "k n"],
    a: Float[np.ndarray, "n f"],
    in_b: Float[np.ndarray, "k m"],
    b: Float[np.ndarray, "m f"],
) -> Float[np.ndarray, " k"]:
    """Sums the kernel over all pairs of each subset.

    The kernel of a pair is computed once for all subsets, in blocks of rows.
    """
    sums = np.zeros(len(in_a))
    for first in range(0, len(a), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        kernel = a[rows] @ b.T / a.shape[1] + 1
        kernel *= kernel * kernel
        sums += ((in_a[:, rows] @ kernel) * in_b).sum(axis=1)
    return sums
