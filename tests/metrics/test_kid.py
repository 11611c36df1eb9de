"""The kernel distance: its sums by hand, its expectation, and torch-fidelity's value."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from torch_references import reference

from gankd_jax.metrics.kid import kernel_distance
from gankd_jax.utils.errors import UserError


def features(seed: int, n: int, f: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, f)).astype(np.float32) + 0.3 * seed


def test_three_features_a_side_by_hand() -> None:
    a, b = features(0, 3), features(1, 3)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / 6 + 1) ** 3

    pairs = [(i, j) for i, j in product(range(3), repeat=2) if i != j]
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i, j in pairs) / 6
    across = sum(kernel(x, y) for x in a for y in b) / 9
    mean, deviation = kernel_distance(a, b, subsets=2, subset_size=3)
    assert mean == pytest.approx(within - 2 * across, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)  # every subset is the whole set


@pytest.mark.parametrize("shift", [0, 1])
def test_it_is_torch_fidelitys_value_and_subsets(shift: int, parity: Any) -> None:
    torch = reference("torch")
    theirs = reference("torch_fidelity.metric_kid").kid_features_to_metric
    a, b = features(0, 150, 64), features(shift, 130, 64) + 0.1
    expected = theirs(
        torch.tensor(a), torch.tensor(b), kid_subsets=7, kid_subset_size=100, verbose=False
    )
    mean, deviation = kernel_distance(a, b, subsets=7, subset_size=100)
    pairs = zip((mean, deviation), expected.values(), strict=True)
    error = max(abs(ours / theirs - 1) for ours, theirs in pairs)
    parity.check("kernel distance and its deviation, torch-fidelity", error, bound=1e-3)


def test_sets_of_one_source_are_at_zero_on_average() -> None:
    everything = features(0, 4000)
    values = [
        kernel_distance(part[:50], part[50:], subsets=1, subset_size=50)[0]
        for part in np.split(everything, 40)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert kernel_distance(everything, everything + 1, subset_size=100)[0] > 10 * error


def test_sets_smaller_than_a_subset_are_the_users_mistake() -> None:
    with pytest.raises(UserError, match="sets of 4 and 9 images are smaller than subsets of 5"):
        kernel_distance(features(0, 4), features(0, 9), subset_size=5)
