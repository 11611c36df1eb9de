"""The Fréchet distance: closed forms, streamed moments, degenerate sets, reference packages."""

import functools
from typing import Any

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.metrics.fid import Moments, frechet_distance, frechet_from_moments
from gankd_jax.utils.errors import UserError


def random_features(seed: int, n: int, f: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)) @ rng.normal(size=(f, f)) + rng.normal(size=f)


def merge_batches(features: np.ndarray, batch_size: int) -> Moments:
    """Moments of all features, computed in batches and merged."""
    batches = [features[i : i + batch_size] for i in range(0, len(features), batch_size)]
    return functools.reduce(Moments.merge, map(Moments.of, batches))


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_merged_moments_equal_numpy_mean_and_covariance(offset: float) -> None:
    features = random_features(0, 101, 5)
    moments = merge_batches(features + offset, 13)
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean - offset, features.mean(0), atol=1e-8)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-6)


def test_float32_features_are_accumulated_in_float64() -> None:
    features = (random_features(1, 64, 3) + 1000).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(merge_batches(features, 7).covariance, expected, rtol=1e-9)


def test_distance_of_diagonal_gaussians_equals_the_closed_form() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    var_a, var_b = np.array([4.0, 0.25, 1.0]), np.array([1.0, 0.25, 9.0])
    expected = (1 + 0 + 9) + ((2 - 1) ** 2 + 0 + (1 - 3) ** 2)
    assert frechet_distance(mean_a, np.diag(var_a), mean_b, np.diag(var_b)) == pytest.approx(
        expected, rel=1e-12
    )


def test_distance_of_non_commuting_2d_covariances_equals_the_closed_form() -> None:
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    # The trace of the square root of a 2x2 matrix M is sqrt(tr M + 2 sqrt(det M)).
    trace_of_root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * trace_of_root
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected, rel=1e-12)


def test_distance_is_symmetric_and_adds_the_squared_mean_offset() -> None:
    a, b = Moments.of(random_features(2, 50, 6)), Moments.of(random_features(3, 60, 6))
    assert frechet_from_moments(a, b) == pytest.approx(frechet_from_moments(b, a), rel=1e-12)
    shifted = frechet_distance(a.mean + 10, a.covariance, a.mean, a.covariance)
    assert shifted == pytest.approx(600, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 20, 500])
def test_fid_of_equal_sets_is_zero(n: int) -> None:
    moments = Moments.of(100 * random_features(4, n, 128))
    assert 0 <= frechet_from_moments(moments, moments) < 1e-6


def test_distance_is_finite_for_zero_covariance() -> None:
    collapsed = Moments.of(np.ones((10, 4)))
    varied = Moments.of(np.vstack([np.eye(4), -np.eye(4)]))
    assert frechet_from_moments(collapsed, collapsed) == 0
    assert frechet_from_moments(collapsed, varied) == pytest.approx(4 + 8 / 7, rel=1e-12)


def test_fewer_samples_than_dimensions_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    small, large = (Moments.of(random_features(5, count, 5)) for count in (4, 5))
    for pair in ((small, large), (large, small), (small, small)):
        caplog.clear()
        frechet_from_moments(*pair)
        [message] = caplog.messages
        assert "4 samples for 5 dimensions" in message


def test_non_finite_moments_raise_user_error() -> None:
    identity = np.eye(2)
    with pytest.raises(UserError, match="finite"):
        frechet_distance(np.zeros(2), identity, np.zeros(2), identity * np.nan)
    with pytest.raises(UserError, match="finite"):
        frechet_distance(np.full(2, np.inf), identity, np.zeros(2), identity)


def random_statistics(seed: int) -> tuple[np.ndarray, np.ndarray]:
    features = random_features(seed, 300, 40).astype(np.float32)
    return features.mean(0, dtype=np.float64), np.cov(features.astype(np.float64), rowvar=False)


def test_distance_equals_torch_fidelity(parity: Any) -> None:
    reference_distance = import_reference("torch_fidelity.metric_fid").fid_statistics_to_metric
    a, b = random_statistics(6), random_statistics(7)
    statistics = [dict(zip(("mu", "sigma"), x, strict=True)) for x in (a, b)]
    expected = reference_distance(*statistics, verbose=False)["frechet_inception_distance"]
    error = abs(frechet_distance(*a, *b) / expected - 1)
    parity.check("Fréchet distance, torch-fidelity", error, bound=1e-6)


@pytest.mark.filterwarnings("ignore:.*disp.*:DeprecationWarning")  # pytorch-fid's use of sqrtm
def test_distance_equals_pytorch_fid(parity: Any) -> None:
    reference_distance = import_reference("pytorch_fid.fid_score").calculate_frechet_distance
    a, b = random_statistics(6), random_statistics(7)
    error = abs(frechet_distance(*a, *b) / reference_distance(*a, *b) - 1)
    parity.check("Fréchet distance, pytorch-fid", error, bound=1e-6)
