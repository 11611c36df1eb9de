"""The Fréchet distance: closed forms, streaming, and degenerate sets."""

from typing import Any

import numpy as np
import pytest
from absl import logging
from torch_references import reference

from gankd_jax.metrics.fid import Moments, frechet_distance, frechet_from_moments


def sample(seed: int, n: int, f: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, f)) @ rng.normal(size=(f, f)) + rng.normal(size=f)


def streamed(features: np.ndarray, batch: int) -> Moments:
    parts = [Moments.of(features[i : i + batch]) for i in range(0, len(features), batch)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_streamed_moments_are_numpys(offset: float) -> None:
    features = sample(0, 101, 5)
    moments = streamed(features + offset, 13)
    assert moments.count == 101
    np.testing.assert_allclose(moments.mean - offset, features.mean(0), atol=1e-8)
    np.testing.assert_allclose(moments.covariance, np.cov(features, rowvar=False), rtol=1e-6)


def test_float32_features_are_summed_in_float64() -> None:
    features = (sample(1, 64, 3) + 1000).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(streamed(features, 7).covariance, expected, rtol=1e-9)


def test_diagonal_gaussians_give_the_closed_form() -> None:
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    var_a, var_b = np.array([4.0, 0.25, 1.0]), np.array([1.0, 0.25, 9.0])
    by_hand = (1 + 0 + 9) + ((2 - 1) ** 2 + 0 + (1 - 3) ** 2)
    assert frechet_distance(mean_a, np.diag(var_a), mean_b, np.diag(var_b)) == pytest.approx(
        by_hand, rel=1e-12
    )


def test_gaussians_that_do_not_commute_give_the_closed_form_in_two_dimensions() -> None:
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    # The square root of a 2x2 matrix M has the trace sqrt(tr M + 2 sqrt(det M)).
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected, rel=1e-12)


def test_the_distance_is_symmetric_and_grows_with_the_offset() -> None:
    a, b = Moments.of(sample(2, 50, 6)), Moments.of(sample(3, 60, 6))
    assert frechet_from_moments(a, b) == pytest.approx(frechet_from_moments(b, a), rel=1e-12)
    far = frechet_distance(a.mean + 10, a.covariance, a.mean, a.covariance)
    assert far == pytest.approx(600, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 20, 500])
def test_a_set_is_at_distance_zero_from_itself(n: int) -> None:
    moments = Moments.of(100 * sample(4, n, 128))
    assert 0 <= frechet_from_moments(moments, moments) < 1e-6


def test_collapsed_sets_give_a_finite_distance() -> None:
    collapsed = Moments.of(np.ones((10, 4)))
    spread = Moments.of(np.vstack([np.eye(4), -np.eye(4)]))
    assert frechet_from_moments(collapsed, collapsed) == 0
    assert frechet_from_moments(collapsed, spread) == pytest.approx(4 + 8 / 7, rel=1e-12)


def test_fewer_samples_than_dimensions_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    frechet_from_moments(Moments.of(sample(5, 4, 5)), Moments.of(sample(5, 5, 5)))
    assert len(said) == 1
    assert "4 samples for 5 dimensions" in said[0]


def test_values_that_are_not_finite_are_refused() -> None:
    good = np.eye(2)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.zeros(2), good, np.zeros(2), good * np.nan)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.full(2, np.inf), good, np.zeros(2), good)


def gaussian_statistics(seed: int) -> tuple[np.ndarray, np.ndarray]:
    features = sample(seed, 300, 40).astype(np.float32)
    return features.mean(0, dtype=np.float64), np.cov(features.astype(np.float64), rowvar=False)


def test_it_is_torch_fidelitys(parity: Any) -> None:
    theirs = reference("torch_fidelity.metric_fid").fid_statistics_to_metric
    a, b = gaussian_statistics(6), gaussian_statistics(7)
    named = [dict(zip(("mu", "sigma"), x, strict=True)) for x in (a, b)]
    expected = theirs(*named, verbose=False)["frechet_inception_distance"]
    error = abs(frechet_distance(*a, *b) / expected - 1)
    parity.check("Fréchet distance, torch-fidelity", error, bound=1e-6)


@pytest.mark.filterwarnings("ignore:.*disp.*:DeprecationWarning")  # pytorch-fid's use of sqrtm
def test_it_is_pytorch_fids(parity: Any) -> None:
    theirs = reference("pytorch_fid.fid_score").calculate_frechet_distance
    a, b = gaussian_statistics(6), gaussian_statistics(7)
    error = abs(frechet_distance(*a, *b) / theirs(*a, *b) - 1)
    parity.check("Fréchet distance, pytorch-fid", error, bound=1e-6)
