"""The Kernel Inception Distance: values by hand, its expectation, torch-fidelity's values."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.metrics.kid import kernel_distance
from gankd_jax.utils.errors import UserError


def random_features(seed: int, n: int, f: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, f)).astype(np.float32) + 0.3 * seed


def test_kid_of_three_features_equals_the_value_by_hand() -> None:
    a, b = random_features(0, 3), random_features(1, 3)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / 6 + 1) ** 3

    pairs = [(i, j) for i, j in product(range(3), repeat=2) if i != j]
    within = sum(kernel(x[i], x[j]) for x in (a, b) for i, j in pairs) / 6
    across = sum(kernel(x, y) for x in a for y in b) / 9
    mean, deviation = kernel_distance(a, b, subsets=2, subset_size=3)
    assert mean == pytest.approx(within - 2 * across, rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)  # every subset is the whole set


@pytest.mark.parametrize("shift", [0, 1])
def test_kid_and_subsets_equal_torch_fidelity(shift: int, parity: Any) -> None:
    torch = import_reference("torch")
    reference_kid = import_reference("torch_fidelity.metric_kid").kid_features_to_metric
    a, b = random_features(0, 150, 64), random_features(shift, 130, 64) + 0.1
    expected = reference_kid(
        torch.tensor(a), torch.tensor(b), kid_subsets=7, kid_subset_size=100, verbose=False
    )
    mean, deviation = kernel_distance(a, b, subsets=7, subset_size=100)
    pairs = zip((mean, deviation), expected.values(), strict=True)
    error = max(abs(value / reference_value - 1) for value, reference_value in pairs)
    parity.check("kernel distance and its deviation, torch-fidelity", error, bound=1e-3)


def test_mean_kid_of_sets_from_one_distribution_is_zero() -> None:
    features = random_features(0, 4000)
    values = [
        kernel_distance(subset[:50], subset[50:], subsets=1, subset_size=50)[0]
        for subset in np.split(features, 40)
    ]
    standard_error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * standard_error
    assert kernel_distance(features, features + 1, subset_size=100)[0] > 10 * standard_error


def test_sets_smaller_than_a_subset_raise_user_error() -> None:
    with pytest.raises(UserError, match="sets of 4 and 9 images are smaller than subsets of 5"):
        kernel_distance(random_features(0, 4), random_features(0, 9), subset_size=5)


@pytest.mark.parametrize(("subsets", "size"), [(100, 0), (100, 1), (0, 2), (-1, 2)])
def test_settings_without_a_pair_or_a_subset_raise_user_error(subsets: int, size: int) -> None:
    features = random_features(0, 4)
    with pytest.raises(UserError, match="needs subsets of 2 or more images, and 1 subset or more"):
        kernel_distance(features, features, subsets=subsets, subset_size=size)
