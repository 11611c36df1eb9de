"""The Inception Score: how sure a classifier is of each image, and how varied its answers are."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from gankd_jax.utils.errors import UserError

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
    split = assign_splits(len(logits), splits=splits, seed=seed)
    return InceptionScoreStats.empty(splits, logits.shape[1]).add(logits, split).score()


def assign_splits(
    count: int, *, splits: int = 10, seed: int = TORCH_FIDELITY_SEED
) -> Int[np.ndarray, " n"]:
    """Into which split each of `count` images falls.

    Raises:
        UserError: fewer images than splits.
    """
    if count < splits:
        raise UserError(f"{count} images cannot make {splits} splits: give more images")
    # The shuffle is part of the definition, so the generator must be the reference's.
    order = np.random.RandomState(seed).permutation(count)
    split = np.empty(count, np.int64)
    for part, (begin, end) in enumerate(pairwise(i * count // splits for i in range(splits + 1))):
        split[order[begin:end]] = part
    return split


@dataclass(frozen=True)
class InceptionScoreStats:
    """What a set of logits adds to the score: of each split s the sums over its images.

    With `q` the mean of `p`, the mean divergence is `E[sum p log p] - sum q log q`, so sums of
    `p` and of `sum p log p` are all that is needed, however many images there are.
    """

    counts: Int[np.ndarray, " s"]
    totals: Float[np.ndarray, "s k"]
    negentropies: Float[np.ndarray, " s"]

    @classmethod
    def empty(cls, splits: int, classes: int) -> InceptionScoreStats:
        """Of no images yet."""
        return cls(np.zeros(splits, np.int64), np.zeros((splits, classes)), np.zeros(splits))

    def add(
        self, logits: Float[np.ndarray, "n k"], split: Int[np.ndarray, " n"]
    ) -> InceptionScoreStats:
        """With the images of `logits` too."""
        log_p = _log_softmax(np.asarray(logits, np.float64))
        p = np.exp(log_p)
        member = (split == np.arange(len(self.counts))[:, None]).astype(np.float64)
        return InceptionScoreStats(
            self.counts + member.sum(axis=1).astype(np.int64),
            self.totals + member @ p,
            self.negentropies + member @ (p * log_p).sum(axis=1),
        )

    def score(self) -> tuple[float, float]:
        """Mean and standard deviation of the splits' scores."""
        q = self.totals / self.counts[:, None]
        log_q = np.log(q, where=q > 0, out=np.zeros_like(q))
        scores = np.exp(self.negentropies / self.counts - (q * log_q).sum(axis=1))
        return float(scores.mean()), float(scores.std())


def _log_softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
