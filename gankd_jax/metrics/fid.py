"""The Fréchet distance of two sets of features, from moments that stream in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from absl import logging
from jaxtyping import Float


@dataclass(frozen=True)
class Moments:
    """What a set of features adds to a Gaussian fit: how many, their mean, their scatter.

    `scatter` is the sum of `(x - mean)(x - mean)^T`. Being centred, it loses nothing where the
    features lie far from zero (a plain sum of squares does).
    """

    count: int
    mean: Float[np.ndarray, " f"]
    scatter: Float[np.ndarray, "f f"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "n f"]) -> Moments:
        """Moments of `n >= 1` feature vectors, worked out in float64."""
        wide = np.asarray(features, np.float64)
        mean = wide.mean(axis=0)
        centred = wide - mean
        return cls(len(wide), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub, LeVeque 1979)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = np.outer(step, step * (self.count * other.count / count))
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
    """`|m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2))`, as pytorch-fid and torch-fidelity.

    The last trace is the sum of the singular values of `A^(1/2) B^(1/2)`, the square roots taken
    by symmetric eigenvalues: real and finite for singular covariances too, and accurate to
    rounding where the eigenvalues of `A B` are only to its square root. Never negative.

    Raises:
        ValueError: a mean or covariance is not finite, or the sizes differ.
    """
    offset = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    product = _square_root(covariance_a) @ _square_root(covariance_b)
    cross = np.linalg.svd(product, compute_uv=False).sum()
    spread = np.trace(covariance_a) + np.trace(covariance_b)
    distance = float(offset @ offset + spread - 2 * cross)
    if not np.isfinite(distance):
        raise ValueError("the Fréchet distance needs finite means and covariances")
    return max(distance, 0.0)


def frechet_from_moments(a: Moments, b: Moments) -> float:
    """`frechet_distance` of two sets; warns where a set has fewer samples than dimensions."""
    for moments in (a, b):
        _warn_if_few(moments)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def _warn_if_few(moments: Moments) -> None:
    """Log a warning if the covariance cannot have full rank."""
    samples, dimensions = moments.count, len(moments.mean)
    if samples < dimensions:
        logging.warning(
            "Fréchet distance: %d samples for %d dimensions; the value is biased upwards",
            samples,
            dimensions,
        )


def _square_root(covariance: Float[np.ndarray, "f f"]) -> Float[np.ndarray, "f f"]:
    """The symmetric square root; eigenvalues that rounding made negative count as zero."""
    wide = np.asarray(covariance, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the Fréchet distance needs finite means and covariances")
    values, vectors = np.linalg.eigh(wide)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
