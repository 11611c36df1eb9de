"""The Inception Score: known limits, values by hand, torch-fidelity's splits and values."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.metrics.inception_score import InceptionScoreStats, assign_splits, inception_score
from gankd_jax.utils.errors import UserError


def test_certain_and_balanced_predictions_score_the_number_of_classes() -> None:
    logits = 2000.0 * np.eye(5)[np.arange(40) % 5]
    score, deviation = inception_score(logits, splits=1)
    assert score == pytest.approx(5, rel=1e-12)
    assert deviation == 0


def test_equal_predictions_score_one() -> None:
    logits = np.tile(np.array([3.0, -1.0, 0.5]), (30, 1))
    assert inception_score(logits, splits=3) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_score_of_two_images_equals_the_value_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    q = [0.6, 0.4]
    kl = [sum(p[i][k] * np.log(p[i][k] / q[k]) for k in range(2)) for i in range(2)]
    assert inception_score(np.log(p), splits=1)[0] == pytest.approx(np.exp(sum(kl) / 2), rel=1e-12)


def test_score_averages_consecutive_splits_of_shuffled_images() -> None:
    logits = np.random.default_rng(0).normal(size=(23, 4)) * 3
    shuffled = logits[np.random.RandomState(7).permutation(23)]
    bounds = [0, 7, 15, 23]  # i * 23 // 3
    scores = []
    for begin, end in pairwise(bounds):
        p = np.exp(shuffled[begin:end])
        p /= p.sum(1, keepdims=True)
        scores.append(np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))
    expected = pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)
    assert inception_score(logits, splits=3, seed=7) == expected


def test_fewer_images_than_splits_raises_user_error() -> None:
    with pytest.raises(UserError, match="9 images"):
        inception_score(np.zeros((9, 3)))
    with pytest.raises(UserError, match="needs 1 split or more, not 0"):
        inception_score(np.zeros((9, 3)), splits=0)


@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_score_equals_torch_fidelity(scale: float, parity: Any) -> None:
    torch = import_reference("torch")
    reference_score = import_reference("torch_fidelity.metric_isc").isc_features_to_metric
    logits = (scale * np.random.default_rng(1).normal(size=(503, 40))).astype(np.float32)
    expected = reference_score(torch.tensor(logits))
    mean, deviation = inception_score(logits)
    pairs = zip((mean, deviation), expected.values(), strict=True)
    error = max(abs(value / reference_value - 1) for value, reference_value in pairs)
    parity.check("Inception Score and its deviation, torch-fidelity", error, bound=1e-6)


def test_statistics_added_in_batches_give_the_same_score() -> None:
    logits = np.random.default_rng(2).normal(size=(50, 6)) * 4
    split = assign_splits(50)
    stats = InceptionScoreStats.empty(10, 6)
    for first in range(0, 50, 7):
        stats = stats.add(logits[first : first + 7], split[first : first + 7])
    assert stats.score() == pytest.approx(inception_score(logits), rel=1e-12)
