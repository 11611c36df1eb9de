"""The Fréchet distance of two feature sets, from moments that are accumulated in float64."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gankd_jax.metrics.inputs import MAX_FEATURE, check_features, check_values
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

# What counts as rounding.  Covariances that were summed or stored in float32 keep a factor of 30
# away from each; those stored in float16 are refused, for they change the distance by whole units.
MAX_ASYMMETRY = 1e-4  # of a covariance, as a part of its largest value
MAX_NEGATIVE_EIGENVALUE = 1e-3  # as a part of the mean eigenvalue
MAX_NEGATIVE_DISTANCE = 1e-4  # as a part of both traces


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of a Gaussian fit to a feature set.

    Attributes:
        count: Number of feature vectors, >= 1.
        mean: Their mean.
        scatter: The sum of `(x - mean)(x - mean)^T`.  Being centred, it keeps its precision where
            the features are far from zero; a plain sum of squares does not.
    """

    count: int
    mean: Float[np.ndarray, " f"]
    scatter: Float[np.ndarray, "f f"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n f"]) -> Moments:
        """Computes the moments of `n >= 1` feature vectors in float64.

        Raises:
            UserError: There is no vector, or a feature is not finite.
        """
        check_features("Fréchet distance", features)
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Returns the moments of the union of both sets.

        Reference: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for
        computing sample variances".
        """
        count = self.count + other.count
        offset = other.mean - self.mean
        mean = self.mean + offset * (other.count / count)
        between = np.outer(offset, offset * (self.count * other.count / count))
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[np.ndarray, "f f"]:
        """The unbiased covariance, as `np.cov`; zero for a single vector."""
        return self.scatter / max(self.count - 1, 1)


def frechet_distance(
    mean_a: Float[np.ndarray, " f"],
    covariance_a: Float[np.ndarray, "f f"],
    mean_b: Float[np.ndarray, " f"],
    covariance_b: Float[np.ndarray, "f f"],
) -> float:
    """Computes the Fréchet distance `|m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))`.

    The last trace is the sum of the singular values of `A^(1/2) B^(1/2)`, with square roots by
    symmetric eigenvalues.  It is real and finite for singular covariances too, and accurate to
    rounding.  The eigenvalues of `A B` itself are accurate only to the square root of that.

    Args:
        mean_a: Mean of the first set.
        covariance_a: Covariance of the first set, symmetric and positive semidefinite.
        mean_b: Mean of the second set.
        covariance_b: Covariance of the second set.

    Returns:
        The distance, >= 0, in squared feature units.

    Raises:
        UserError: A mean is not finite, a matrix is no covariance, or the sizes differ.

    Reference: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.  The relative difference from
    torch-fidelity is 4e-15 and from pytorch-fid 1e-15, for 40 features.
    """
    check_features("Fréchet distance", mean_a[None], mean_b[None])
    for mean, covariance in ((mean_a, covariance_a), (mean_b, covariance_b)):
        check_covariance("the covariance", covariance, len(mean))
    offset = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    root_product = _matrix_sqrt(covariance_a) @ _matrix_sqrt(covariance_b)
    cross_trace = np.linalg.svd(root_product, compute_uv=False).sum()
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    distance = float(offset @ offset + traces - 2 * cross_trace)
    if distance < -MAX_NEGATIVE_DISTANCE * traces:
        raise UserError(
            f"the Fréchet distance is {distance:.3g}: a covariance has negative eigenvalues"
        )
    return max(distance, 0.0)


def check_covariance(name: str, matrix: Float[np.ndarray, "_ _"], width: int) -> None:
    """Refuses a matrix that is no covariance, up to rounding.

    Args:
        name: Its name, for the message.
        matrix: The matrix.
        width: Number of features.

    Raises:
        UserError: It has another size, values that are not finite, or a negative eigenvalue, or it
            is not symmetric.
    """
    if matrix.shape != (width, width):
        raise UserError(f"{name} {matrix.shape} does not fit a mean of {width} features")
    check_values(name, matrix, MAX_FEATURE**2)
    largest = np.abs(matrix).max()
    if largest == 0:
        return
    scaled = matrix.astype(np.float64) / largest
    if np.abs(scaled - scaled.T).max() > MAX_ASYMMETRY:
        raise UserError(f"{name} is not symmetric")
    # A Cholesky factor exists if no eigenvalue is below the bound; finding them all is slower.
    bound = MAX_NEGATIVE_EIGENVALUE * np.trace(scaled) / width
    try:
        np.linalg.cholesky(scaled + bound * np.eye(width))
    except np.linalg.LinAlgError:
        raise UserError(f"{name} has a negative eigenvalue") from None


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """Returns `frechet_distance` of two sets; warns if a set has fewer samples than dimensions."""
    _warn_if_rank_deficient(min(a, b, key=lambda moments: moments.count))
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def _warn_if_rank_deficient(moments: Moments) -> None:
    """Logs a warning if the covariance cannot have full rank."""
    samples, dimensions = moments.count, len(moments.mean)
    if samples < dimensions:
        logger.warning(
            "Fréchet distance: %d samples for %d dimensions; the value is biased upwards",
            samples,
            dimensions,
        )


def _matrix_sqrt(covariance: Float[np.ndarray, "f f"]) -> Float[np.ndarray, "f f"]:
    """Returns the symmetric square root; eigenvalues below zero by rounding count as zero."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
