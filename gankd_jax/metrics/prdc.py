"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from gankd_jax.metrics.inputs import check_features

# k of precision and recall, k of density and coverage: the defaults of both papers.  Larger values
# give larger balls, so higher precision, recall and coverage for the same images.
NEIGHBOURS = (3, 5)
METRICS = "precision, recall, density and coverage"
WORKING_MEMORY = 256  # MiB of a block of distances
# Features whose sizes differ by more are compared in float64: their squares leave float32's range.
MAX_FLOAT32_RATIO = 2.0**50


def prdc_scores(
    fake: Float[np.ndarray, "n f"],
    real: Float[np.ndarray, "m f"],
    *,
    real_radii: Float[np.ndarray, "m 2"] | None = None,
) -> dict[str, float]:
    """Computes precision, recall, density and coverage, whatever the scale of the features.

    The ball of a feature reaches to its k-th nearest neighbour in its own set, itself not counted.

    - precision: the fraction of fakes within a real ball (k = 3, edges count);
    - recall: the fraction of reals within a fake ball (k = 3, edges count);
    - density: the mean number of real balls around a fake, over k (k = 5, edges do not count);
    - coverage: the fraction of real balls that hold a fake (k = 5, edges do not count).

    Args:
        fake: Features of the generated images, n > 5.
        real: Features of the real images, m > 5.
        real_radii: `neighbour_radii(real)`, to save time where the real images are compared with
            many sets; None to compute them.

    Returns:
        The scores by name, in 0..1; density can exceed 1.

    Raises:
        UserError: A set has no more features than neighbours, or a feature is not finite.

    Reference: Kynkäänniemi et al. 2019 (arXiv 1904.06991) and Naeem et al. 2020 (arXiv 2002.09797).
    Precision and recall differ from torch-fidelity's by less than its float32 rounding (3e-8
    relative), density and coverage from the package prdc's by 2e-16.
    """
    check_features(METRICS, fake, real, least=max(NEIGHBOURS) + 1)
    pr_radii, dc_radii = (neighbour_radii(real) if real_radii is None else real_radii).T
    fake_radii, _ = neighbour_radii(fake).T
    precise_fakes, ball_hits, first = 0, 0, 0
    is_recalled, is_covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for distances in _distance_blocks(fake, real):
        block_radii = fake_radii[first : first + len(distances), None]
        in_ball = distances < dc_radii
        precise_fakes += int((distances <= pr_radii).any(axis=1).sum())
        ball_hits += int(in_ball.sum())
        is_recalled |= (distances <= block_radii).any(axis=0)
        is_covered |= in_ball.any(axis=0)
        first += len(distances)
    return {
        "precision": precise_fakes / len(fake),
        "recall": float(is_recalled.mean()),
        "density": ball_hits / (NEIGHBOURS[1] * len(fake)),
        "coverage": float(is_covered.mean()),
    }


def neighbour_radii(features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n 2"]:
    """Computes the distance of each feature to its k-th nearest other one, for both `NEIGHBOURS`.

    Raises:
        UserError: There are no more features than neighbours, or one is not finite.
    """
    check_features(METRICS, features, least=max(NEIGHBOURS) + 1)
    # Each feature is its own neighbour at distance 0, so the k-th other one has index k.
    blocks = [
        np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for distances in _distance_blocks(features, features)
    ]
    return np.concatenate(blocks)


def _distance_blocks(
    a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]
) -> Iterator[Float[np.ndarray, "_ m"]]:
    """Yields Euclidean distances in blocks of rows that fit in `WORKING_MEMORY`.

    In float32, squares overflow above 1e19 and vanish below 1e-22.  So both sets are first scaled
    to about 1, by a power of two, which rounds nothing.
    """
    from sklearn.metrics import pairwise_distances_chunked  # slow to import

    peaks = np.concatenate([np.abs(x).max(axis=1) for x in (a, b)]).astype(np.float64)
    exponent = np.frexp(peaks.max())[1]
    is_wide = peaks.max() > MAX_FLOAT32_RATIO * peaks.min(where=peaks > 0, initial=np.inf)
    dtype = np.float32 if a.dtype == b.dtype == np.float32 and not is_wide else np.float64
    scaled_a = np.ldexp(a.astype(dtype), -exponent)
    # The same object tells scikit-learn that the distances on the diagonal are 0.
    scaled_b = scaled_a if b is a else np.ldexp(b.astype(dtype), -exponent)
    for block in pairwise_distances_chunked(scaled_a, scaled_b, working_memory=WORKING_MEMORY):
        yield np.ldexp(block.astype(np.float64), exponent)
