import math

import pytest
from scipy import stats

from gankd_jax.report.scores import Summary, compare, describe, margin, ordered, share


def summary(*values: float) -> Summary:
    return Summary(dict(enumerate(values)))


def test_mean_and_spread_by_hand():
    assert summary(1.0, 2.0, 6.0).mean == 3.0
    assert summary(1.0, 2.0, 6.0).sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert summary(5.0).sd is None
    assert math.isnan(summary().mean)


def test_margin_is_welchs_interval():
    a, b = [5.0, 5.4, 5.1], [4.0, 4.9, 4.2, 4.6]
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert margin(summary(*a), summary(*b)) == pytest.approx((interval.high - interval.low) / 2)


def test_margin_of_equal_spreads_by_hand():
    # t(0.975, 4) = 2.776, sd 0.1 in both, n = 3
    found = margin(summary(1.0, 1.1, 1.2), summary(3.0, 3.1, 3.2))
    assert found == pytest.approx(2.776 * math.sqrt(2 * 0.01 / 3), rel=1e-3)


def test_margin_needs_two_seeds_and_is_zero_without_spread():
    assert margin(summary(1.0), summary(1.0, 2.0)) is None
    assert margin(summary(1.0, 1.0), summary(2.0, 2.0)) == 0.0


@pytest.mark.parametrize(
    ("key", "student", "baseline", "verdict"),
    [
        ("inception_score", (5.0, 5.1), (2.0, 2.1), "student ahead"),
        ("inception_score", (2.0, 2.1), (5.0, 5.1), "baseline ahead"),
        ("fd_classifier", (2.0, 2.1), (5.0, 5.1), "student ahead"),
        ("fd_classifier", (5.0, 5.1), (2.0, 2.1), "baseline ahead"),
        ("fid", (2.0, 3.0), (2.5, 3.5), "within spread"),
        ("sharpness", (5.0, 5.1), (2.0, 2.1), "student higher"),
        ("sharpness", (2.0, 2.1), (5.0, 5.1), "student lower"),
        ("fid", (2.0,), (5.0, 5.1), "one seed"),
        ("fid", (math.nan, 2.0), (5.0, 5.1), "not finite"),
    ],
)
def test_verdicts(key, student, baseline, verdict):
    found = compare(describe(key), summary(*student), {"baseline": summary(*baseline)})
    assert found.verdict == verdict


@pytest.mark.parametrize(("key", "strongest"), [("inception_score", "tuned"), ("fid", "plain")])
def test_the_strongest_baseline_is_compared(key, strongest):
    baselines = {"plain": summary(3.0), "tuned": summary(4.0), "broken": summary(math.nan)}
    found = compare(describe(key), summary(5.0), baselines | {"missing": summary()})
    assert found.baseline == strongest
    assert found.difference == 5.0 - baselines[strongest].mean


def test_nothing_is_compared_without_both_sides():
    assert compare(describe("fid"), summary(), {"baseline": summary(1.0)}) is None
    assert compare(describe("fid"), summary(1.0), {"baseline": summary()}) is None


def test_share_is_of_the_better_side():
    assert share(describe("inception_score"), 4.0, 8.0) == 0.5
    assert share(describe("fd_classifier"), 40.0, 10.0) == 0.25
    assert share(describe("kid"), -0.001, 0.02) is None
    assert share(describe("fid"), math.nan, 10.0) is None


def test_unknown_scores_are_kept_last_and_without_a_better_side():
    keys = {"zeal", "precision_64", "sharpness", "inception_score", "inception_score_sd"}
    assert ordered(keys) == ["inception_score", "sharpness", "precision_64", "zeal"]
    assert describe("zeal").title == "zeal"
    assert describe("fd_64").title == "Fréchet distance, 64-wide layer (lower is better)"


def test_layers_of_the_fid_network_stand_beside_fid_the_widest_first():
    keys = {"fd_64", "kid", "fd_192", "fid", "pixel_error", "fd_classifier", "fd_768"}
    widest_first = ["fid", "fd_768", "fd_192", "fd_64"]
    assert ordered(keys) == [*widest_first, "fd_classifier", "kid", "pixel_error"]
