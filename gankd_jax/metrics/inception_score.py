"""The Inception Score, from sums over class probabilities that are accumulated batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from gankd_jax.metrics.inputs import check_features
from gankd_jax.metrics.registry import UNSURE_BELOW
from gankd_jax.utils.errors import UserError

TORCH_FIDELITY_SEED = 2020  # of its shuffle; another seed gives other splits and slightly other IS
MAX_ROUNDING = 1e-3  # of the sums in a file, per image; float32 sums of 50,000 images keep to 1e-5


def inception_score(
    logits: Float[np.ndarray, "n k"], *, splits: int = 10, seed: int = TORCH_FIDELITY_SEED
) -> tuple[float, float]:
    """Computes the Inception Score `exp(E_x KL(p(y|x) || p(y)))` over splits of the images.

    Args:
        logits: Logits of each image, in any order of the images.
        splits: Number of parts that are scored separately.
        seed: Seed of the shuffle before splitting.

    Returns:
        Mean (in 1..k) and population standard deviation of the splits' scores.

    Raises:
        UserError: There are fewer images than splits, no split, or a logit is not finite.

    Reference: Salimans et al. 2016 (arXiv 1606.03498), section 4.  The same splits as
    torch-fidelity's `isc_features_to_metric`, in float64; the relative difference is below 1e-12.
    On Inception, torch-fidelity uses logits without bias.
    """
    split = assign_splits(len(logits), splits=splits, seed=seed)
    return InceptionScoreStats.empty(splits, logits.shape[1]).add(logits, split).score()


def assign_splits(
    count: int, *, splits: int = 10, seed: int = TORCH_FIDELITY_SEED
) -> Int[np.ndarray, " n"]:
    """Returns the split, in 0..`splits`-1, of each of `count` images.

    Args:
        count: Number of images.
        splits: Number of parts, equal in size up to one image.
        seed: Seed of the shuffle.

    Raises:
        UserError: There are fewer images than splits, or no split.
    """
    if splits < 1:
        raise UserError(f"the Inception Score needs 1 split or more, not {splits}")
    if count < splits:
        raise UserError(f"{count} images cannot make {splits} splits: give more images")
    # The shuffle is part of torch-fidelity's definition, so it needs the same legacy generator.
    order = np.random.RandomState(seed).permutation(count)
    bounds = [i * count // splits for i in range(splits + 1)]
    split = np.empty(count, np.int64)
    for index, (begin, end) in enumerate(pairwise(bounds)):
        split[order[begin:end]] = index
    return split


def count_unsure(logits: Float[np.ndarray, "n k"]) -> int:
    """Returns the number of images whose likeliest class has a probability below `UNSURE_BELOW`."""
    return int((log_softmax(logits, axis=1).max(axis=1) < np.log(UNSURE_BELOW)).sum())


@dataclass(frozen=True)
class InceptionScoreStats:
    """Sums over the images of each split, sufficient for the Inception Score.

    With `q` the mean of the probabilities `p`, the mean divergence is
    `E[sum p log p] - sum q log q`.  So sums of `p` and of `p log p` suffice for any number of
    images.

    Attributes:
        counts: Images of each split.
        totals: Sums of the class probabilities.
        negentropies: Sums of `sum_k p_k log p_k`.
    """

    counts: Int[np.ndarray, " s"]
    totals: Float[np.ndarray, "s k"]
    negentropies: Float[np.ndarray, " s"]

    @classmethod
    def empty(cls, splits: int, classes: int) -> InceptionScoreStats:
        """Returns the statistics of no images."""
        return cls(np.zeros(splits, np.int64), np.zeros((splits, classes)), np.zeros(splits))

    def add(
        self, logits: Float[np.ndarray, "n k"], split: Int[np.ndarray, " n"]
    ) -> InceptionScoreStats:
        """Returns the statistics with a batch added.

        Args:
            logits: Logits of the batch.
            split: The split of each image, from `assign_splits`.

        Raises:
            UserError: A logit is not finite.
        """
        check_features("Inception Score", logits)
        log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
        p = np.exp(log_p)
        in_split = (split == np.arange(len(self.counts))[:, None]).astype(np.float64)
        return InceptionScoreStats(
            self.counts + in_split.sum(axis=1).astype(np.int64),
            self.totals + in_split @ p,
            self.negentropies + in_split @ (p * log_p).sum(axis=1),
        )

    def score(self) -> tuple[float, float]:
        """Returns the mean and the population standard deviation of the splits' scores."""
        mean_entropies, entropies_of_mean = self._entropies()
        scores = np.exp(entropies_of_mean - mean_entropies)
        return float(scores.mean()), float(scores.std())

    def class_shares(self) -> Float[np.ndarray, " k"]:
        """Returns the mean probability of each class over all images."""
        return self.totals.sum(axis=0) / self.counts.sum()

    def check(self) -> None:
        """Refuses sums that no images have; a file can hold such.

        Raises:
            UserError: There is no split, or an empty one, or the sums of one are out of range.
        """
        if len(self.counts) == 0 or (self.counts < 1).any():
            raise UserError("a split of the Inception Score has no images")
        sums = self.totals.sum(axis=1)
        if (self.totals < 0).any() or (abs(sums - self.counts) > MAX_ROUNDING * self.counts).any():
            raise UserError("the class probabilities do not add up to the number of images")
        mean_entropies, entropies_of_mean = self._entropies()
        if (mean_entropies < -MAX_ROUNDING).any() or (
            mean_entropies > entropies_of_mean + MAX_ROUNDING
        ).any():
            raise UserError("the entropies of the Inception Score are out of range")

    def _entropies(self) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
        """Returns each split's mean entropy, and the entropy of its mean probabilities."""
        q = self.totals / self.counts[:, None]
        log_q = np.log(q, where=q > 0, out=np.zeros_like(q))
        return -self.negentropies / self.counts, -(q * log_q).sum(axis=1)
