"""Every metric gives finite scores or one clear error, whatever features it gets."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from gankd_jax.metrics.fid import Moments, frechet_distance, frechet_from_moments
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.inputs import check_features, check_scores, check_values
from gankd_jax.metrics.kid import kernel_distance, kernel_sums_within_b
from gankd_jax.metrics.prdc import neighbour_radii, prdc_scores
from gankd_jax.utils.errors import UserError

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "frechet_distance": lambda a, b: frechet_from_moments(Moments.of(a), Moments.of(b)),
    "kernel_distance": lambda a, b: kernel_distance(a, b, subset_size=min(len(a), len(b))),
    "kernel_sums": lambda a, b: kernel_sums_within_b(len(a), b, subset_size=min(len(a), len(b))),
    "prdc": lambda a, b: list(prdc_scores(a, b).values()),
    "inception_score": lambda a, _: inception_score(a, splits=2),
}
SHAPES = st.tuples(st.integers(0, 9), st.integers(0, 3))
FLOATS = st.one_of(
    st.floats(-3, 3, width=16),
    st.floats(width=32),  # NaN, infinity and the whole range of float32
    st.sampled_from([0.0, 1e19, -1e30, 1e-25, float(np.float32(1e-45))]),
)


@st.composite
def feature_sets(draw) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features, of one width and type."""
    (n, f), m = draw(SHAPES), draw(st.integers(0, 9))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    values = FLOATS if dtype == np.float32 else st.one_of(FLOATS, st.floats())
    a, b = (
        draw(hypothesis_numpy.arrays(dtype, (count, f), elements=values, fill=st.nothing()))
        for count in (n, m)
    )
    return a, b


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=60)
@given(sets=feature_sets())
def test_a_metric_is_finite_or_raises_one_line(name, sets):
    try:
        scores = METRICS[name](*sets)
    except UserError as error:
        assert str(error).count("\n") == 0  # noqa: PT017 - the error is one of two right ends
    else:
        assert np.isfinite(scores).all()
        assert all(np.isfinite(features).all() for features in (sets[0], *sets[1:])) or (
            name in ("inception_score", "kernel_sums")  # which look at one of the sets
        )


def random_sets(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(50, 8)).astype(np.float32) for _ in "ab")
    return a.astype(dtype), b.astype(dtype)


@settings(deadline=None, max_examples=40)
@given(exponent=st.integers(-110, 120))
def test_neighbour_scores_are_equal_at_every_scale(exponent):
    a, b = random_sets()
    scaled = (np.ldexp(a, exponent), np.ldexp(b, exponent))  # rounds nothing
    assert prdc_scores(*scaled) == prdc_scores(a, b)
    assert prdc_scores(*scaled, real_radii=neighbour_radii(scaled[1])) == prdc_scores(a, b)


@pytest.mark.parametrize("scale", [1e19, 1e20, 1e30, 1e-25, 1e-30])
def test_float32_features_score_as_those_in_float64(scale):
    a, b = (features * np.float32(scale) for features in random_sets())
    scores = prdc_scores(a, b)
    assert scores == prdc_scores(*random_sets(np.float64))
    assert 0 < scores["precision"] < 1


def test_features_of_very_different_sizes_are_told_apart():
    a, b = random_sets()
    outlier = np.full((1, 8), 1e30, np.float32)
    scores, expected = prdc_scores(np.vstack([a, outlier]), b), prdc_scores(a, b)
    assert scores["coverage"] == expected["coverage"]
    assert scores["precision"] == pytest.approx(expected["precision"] * 50 / 51)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", METRICS)
def test_features_that_are_not_finite_are_refused(name, value):
    features, real = random_sets()
    features[3, 2] = value
    with pytest.raises(UserError, match="holds values that are not finite"):
        METRICS[name](features, features if name == "kernel_sums" else real)


def test_types_sizes_and_widths_are_checked_with_the_metric_named():
    with pytest.raises(UserError, match="KID: a set of features holds complex128, not real"):
        check_features("KID", np.ones((3, 2), complex))
    with pytest.raises(UserError, match=r"KID: a set of features holds values above 1e\+50"):
        check_features("KID", np.full((3, 2), -1e60))
    with pytest.raises(UserError, match="KID: 3 images in a set; 6 or more are needed"):
        check_features("KID", np.ones((9, 2)), np.ones((3, 2)), least=6)
    for other_set in (np.ones((3, 4)), np.ones(3), np.ones((3, 0))):
        with pytest.raises(UserError, match="KID: features of shape"):
            check_features("KID", np.ones((3, 2)), other_set)
    check_features("KID", np.ones((3, 2), np.float16), np.ones((5, 2), np.uint8), least=3)
    check_values("nothing", np.zeros(0))


def test_a_score_that_is_not_finite_is_named():
    assert check_scores({"fid": 0.0, "kid": -1.0}) == {"fid": 0.0, "kid": -1.0}
    with pytest.raises(UserError, match="the score kid is nan"):
        check_scores({"fid": 0.0, "kid": np.nan})


@pytest.mark.parametrize("a_negative", [-1e-2, -1.0])
def test_covariances_with_negative_eigenvalues_are_refused(a_negative):
    covariance, mean = np.diag([1.0, 1.0, a_negative]), np.zeros(3)
    with pytest.raises(UserError, match="the covariance has a negative eigenvalue"):
        frechet_distance(mean, np.eye(3), mean, covariance)


def test_a_negative_distance_beyond_rounding_is_refused():
    mean, covariance = np.zeros(2), np.diag([1.0, -4e-4])  # passes as rounding by itself
    assert frechet_distance(mean, covariance, mean, np.eye(2)) > 0
    with pytest.raises(UserError, match=r"the Fréchet distance is -0\.0008"):
        frechet_distance(mean, covariance, mean, covariance)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e90])
def test_low_rank_and_float32_covariances_of_any_scale_are_accepted(scale):
    features = np.random.default_rng(0).normal(size=(6, 30))
    covariance, mean = scale * np.cov(features, rowvar=False), np.zeros(30)
    assert frechet_distance(mean, covariance, mean, covariance) <= 1e-9 * scale
    rounded = np.cov(features, rowvar=False).astype(np.float32)
    assert frechet_distance(mean, rounded, mean, rounded) < 1e-4
    assert frechet_distance(mean, 0 * covariance, mean, 0 * covariance) == 0


def test_an_asymmetric_covariance_is_refused():
    covariance = np.array([[1.0, 99.0], [0.2, 1.0]])
    with pytest.raises(UserError, match="the covariance is not symmetric"):
        frechet_distance(np.zeros(2), covariance, np.zeros(2), np.eye(2))
