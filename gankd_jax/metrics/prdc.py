"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from gankd_jax.utils.errors import UserError

# k of precision and recall, k of density and coverage: the defaults of both papers.  Larger values
# give larger balls, so higher precision, recall and coverage for the same images.
NEIGHBOURS = (3, 5)
WORKING_MEMORY = 256  # MiB of a block of distances


def prdc_scores(
    fake: Float[np.ndarray, "n f"],
    real: Float[np.ndarray, "m f"],
    *,
    real_radii: Float[np.ndarray, "m 2"] | None = None,
) -> dict[str, float]:
    """Computes precision, recall, density and coverage.

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
        UserError: A set has no more features than neighbours.

    Reference: Kynkäänniemi et al. 2019 (arXiv 1904.06991) and Naeem et al. 2020 (arXiv 2002.09797).
    Precision and recall differ from torch-fidelity's by less than its float32 rounding (3e-8
    relative), density and coverage from the package prdc's by 2e-16.
    """
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
        UserError: There are no more features than neighbours.
    """
    if len(features) <= max(NEIGHBOURS):
        raise UserError(f"precision and recall need more than {max(NEIGHBOURS)} images in each set")
    # Each feature is its own neighbour at distance 0, so the k-th other one has index k.
    blocks = [
        np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for distances in _distance_blocks(features, features)
    ]
    return np.concatenate(blocks)


def _distance_blocks(
    a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]
) -> Iterator[Float[np.ndarray, "_ m"]]:
    """Yields Euclidean distances in blocks of rows that fit in `WORKING_MEMORY`."""
    from sklearn.metrics import pairwise_distances_chunked  # slow to import

    return pairwise_distances_chunked(a, b, working_memory=WORKING_MEMORY)
