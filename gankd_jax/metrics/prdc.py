"""Fidelity and variety of a set of features by nearest neighbours: four scores in 0..1 or so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from gankd_jax.utils.errors import UserError

NEIGHBOURS = (3, 5)  # of precision and recall, of density and coverage
WORKING_MEMORY = 256  # MiB for a block of distances


def prdc_scores(
    fake: Float[np.ndarray, "n f"],
    real: Float[np.ndarray, "m f"],
    *,
    real_radii: Float[np.ndarray, "m 2"] | None = None,
) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi 2019), density and coverage (Naeem 2020).

    Each real (fake) feature has a ball that reaches its k-th nearest neighbour among the real
    (fake) ones, itself not counted. precision: the share of fakes in a real ball; recall: the
    share of reals in a fake ball; k = 3 and edges count, as torch-fidelity. density: in how many
    real balls a fake lies, over k; coverage: the share of real balls that hold a fake; k = 5 and
    edges do not count, as prdc.

    Distances are worked out block by block in `WORKING_MEMORY`.  `real_radii` are `radii(real)`,
    where they are known.

    Raises:
        UserError: a set has no more features than neighbours.
    """
    real_edge, real_reach = (neighbour_radii(real) if real_radii is None else real_radii).T
    fake_edge, _ = neighbour_radii(fake).T
    precise, density, first = 0, 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for distances in _blocks(fake, real):
        edge = fake_edge[first : first + len(distances), None]
        inside = distances < real_reach
        precise += int((distances <= real_edge).any(axis=1).sum())
        density += int(inside.sum())
        recalled |= (distances <= edge).any(axis=0)
        covered |= inside.any(axis=0)
        first += len(distances)
    return {
        "precision": precise / len(fake),
        "recall": float(recalled.mean()),
        "density": density / (NEIGHBOURS[1] * len(fake)),
        "coverage": float(covered.mean()),
    }


def neighbour_radii(features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n 2"]:
    """The distance of each feature to its k-th nearest other one, for each k of `NEIGHBOURS`.

    Raises:
        UserError: there are no more features than neighbours.
    """
    if len(features) <= max(NEIGHBOURS):
        raise UserError(f"precision and recall need more than {max(NEIGHBOURS)} images in each set")
    # Each feature is its own neighbour at distance 0, so the k-th other one has index k.
    parts = [
        np.partition(distances, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
        for distances in _blocks(features, features)
    ]
    return np.concatenate(parts)


def _blocks(
    a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]
) -> Iterator[Float[np.ndarray, "_ m"]]:
    """Euclidean distances, some rows at a time."""
    from sklearn.metrics import pairwise_distances_chunked  # slow to import

    return pairwise_distances_chunked(a, b, working_memory=WORKING_MEMORY)
