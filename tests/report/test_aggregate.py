"""Statistics over seeds, comparisons and ratios of scores, by hand or by scipy."""

import dataclasses
import math

import fake_study
import pytest
from scipy import stats

from gankd_jax.metrics.registry import get_metric
from gankd_jax.report.aggregate import (
    ScoreRow,
    SeedStats,
    compare_with_baselines,
    find_equally_fast_width,
    score_ratio,
    score_rows,
    score_series,
    sort_metrics,
    speed_up,
    welch_margin,
    width_advantage,
)
from gankd_jax.report.study_results import StudyResults, load_study

INCEPTION_SCORE = get_metric("inception_score")


def seed_stats(*values: float) -> SeedStats:
    return SeedStats(dict(enumerate(values)))


def find_row(study: StudyResults, key: str, recipe: str, width: int | None) -> ScoreRow:
    model = (key, recipe, width)
    [row] = [r for r in score_rows(study) if (r.metric.key, r.recipe, r.width) == model]
    return row


def test_mean_and_std_over_seeds_by_hand():
    assert seed_stats(1.0, 2.0, 6.0).mean == 3.0
    assert seed_stats(1.0, 2.0, 6.0).std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert seed_stats(5.0).std is None
    assert math.isnan(seed_stats().mean)


def test_margin_is_half_of_welchs_interval():
    a, b = [5.0, 5.4, 5.1], [4.0, 4.9, 4.2, 4.6]
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert welch_margin(seed_stats(*a), seed_stats(*b)) == pytest.approx(
        (interval.high - interval.low) / 2
    )


def test_margin_of_equal_spreads_by_hand():
    # t(0.975, 4) = 2.776, sd 0.1 in both, n = 3
    margin = welch_margin(seed_stats(1.0, 1.1, 1.2), seed_stats(3.0, 3.1, 3.2))
    assert margin == pytest.approx(2.776 * math.sqrt(2 * 0.01 / 3), rel=1e-3)


def test_margin_is_none_with_one_seed_and_zero_without_variance():
    assert welch_margin(seed_stats(1.0), seed_stats(1.0, 2.0)) is None
    assert welch_margin(seed_stats(1.0, 1.0), seed_stats(2.0, 2.0)) == 0.0


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
def test_verdict_needs_a_difference_beyond_the_margin(key, student, baseline, verdict):
    comparison = compare_with_baselines(
        get_metric(key), seed_stats(*student), {"baseline": seed_stats(*baseline)}
    )
    assert comparison.verdict == verdict


@pytest.mark.parametrize(("key", "strongest"), [("inception_score", "tuned"), ("fid", "plain")])
def test_students_are_compared_with_the_best_baseline(key, strongest):
    baselines = {"plain": seed_stats(3.0), "tuned": seed_stats(4.0), "broken": seed_stats(math.nan)}
    comparison = compare_with_baselines(
        get_metric(key), seed_stats(5.0), baselines | {"missing": seed_stats()}
    )
    assert comparison.baseline == strongest
    assert comparison.difference == 5.0 - baselines[strongest].mean


def test_comparison_is_none_unless_both_have_scores():
    fid, scored, unscored = get_metric("fid"), seed_stats(1.0), seed_stats()
    assert compare_with_baselines(fid, unscored, {"baseline": scored}) is None
    assert compare_with_baselines(fid, scored, {"baseline": unscored}) is None


def test_score_ratio_is_inverted_where_lower_is_better():
    assert score_ratio(get_metric("inception_score"), 4.0, 8.0) == 0.5
    assert score_ratio(get_metric("fd_classifier"), 40.0, 10.0) == 0.25
    assert score_ratio(get_metric("kid"), -0.001, 0.02) is None
    assert score_ratio(get_metric("fid"), math.nan, 10.0) is None


def test_unknown_metrics_come_last_and_deviations_are_left_out():
    keys = {"zeal", "precision_64", "sharpness", "inception_score", "inception_score_sd"}
    metrics = [metric.key for metric in sort_metrics(keys)]
    assert metrics == ["inception_score", "sharpness", "precision_64", "zeal"]


def test_layers_of_the_fid_network_follow_fid_widest_first():
    keys = {"fd_64", "kid", "fd_192", "fid", "pixel_error", "fd_classifier", "fd_768"}
    widest_first = ["fid", "fd_768", "fd_192", "fd_64"]
    metrics = [metric.key for metric in sort_metrics(keys)]
    assert metrics == [*widest_first, "fd_classifier", "kid", "pixel_error"]


def test_score_row_by_hand(study):
    # Seeds 5.0, 5.1, 5.2 against 2.0, 2.1, 2.2; the teacher has 8.0 and 100 * 32^2 parameters.
    row = find_row(study, "inception_score", "mse", 2)
    assert row.stats.mean == pytest.approx(5.1)
    assert row.stats.std == pytest.approx(0.1)
    assert row.size_ratio == 32**2 / 2**2
    assert row.score_ratio == pytest.approx(5.1 / 8)
    assert row.comparison.difference == pytest.approx(3.0)
    assert row.comparison.margin == pytest.approx(0.2267, abs=1e-4)
    assert row.comparison.verdict == "student ahead"


def test_rows_are_computed_once_for_each_study(study):
    rows = score_rows(study)
    assert score_rows(study) is rows
    other = dataclasses.replace(study, real_scores={})
    assert [row for row in rows if row.kind != "real"] == list(score_rows(other))
    assert score_rows(study) == rows  # as before


def test_speed_is_compared_with_the_float32_teacher(timed_study):
    # The teacher takes 3.2 ms in float32; width 2 takes 0.4 ms, and half of that in int8.
    assert speed_up(timed_study, 2) == 8
    assert speed_up(timed_study, 2, "int8") == 16
    assert speed_up(timed_study, 32) == 1
    assert speed_up(timed_study, 3) is speed_up(timed_study, None) is None
    assert speed_up(dataclasses.replace(timed_study, teacher=None), 2) is None


def test_teacher_and_real_images_have_rows(study):
    assert find_row(study, "inception_score", "teacher", 32).score_ratio == 1.0
    assert find_row(study, "inception_score", "real", None).stats.mean == 9.8
    assert find_row(study, "fd_classifier", "mse", 2).score_ratio == pytest.approx(10 / 101)


def test_verdict_may_differ_by_width_and_metric(study):
    assert find_row(study, "inception_score", "mse", 8).comparison.verdict == "baseline ahead"
    assert find_row(study, "fd_classifier", "mse", 8).comparison.verdict == "baseline ahead"
    assert find_row(study, "fd_classifier", "mse", 4).comparison.verdict == "within spread"


def test_pixel_error_has_rows_of_students_only(study):
    kinds = {r.kind for r in score_rows(study) if r.metric.key == "pixel_error"}
    assert kinds == {"student"}


@pytest.mark.parametrize(
    ("score", "expected", "text"),
    [
        (2.0, 1.0, "at most 1"),  # the narrowest is as good: it could be narrower still
        (2.0 * 2**0.5, 2**0.5, "1.4"),  # half-way between 2 at d=2 and 4 at d=4, by logarithms
        (4.0, 2.0, "2"),
        (6.0, 4.0, "4"),
        (6.5, 4.0, "above 4"),
    ],
)
def test_width_advantage_by_hand(score, expected, text):
    baselines = {2: 2.0, 4: 4.0, 8: 6.0}
    assert width_advantage(score, 2, baselines, "higher") == (text, pytest.approx(expected))
    falling = {width: 10 / value for width, value in baselines.items()}
    assert width_advantage(10 / score, 2, falling, "lower") == (text, pytest.approx(expected))


def test_equally_fast_width_is_found_within_five_percent(timed_study):
    widths = [find_equally_fast_width(timed_study, d, "float32") for d in (2, 4, 8, 32)]
    assert widths == [4, None, None, None]
    assert find_equally_fast_width(timed_study, 2, "float16") is None  # not measured
    assert find_equally_fast_width(timed_study, 3, "float32") is None


def test_series_against_bytes_are_by_precision(timed_study):
    by_bytes = {
        (line.recipe, line.precision): line
        for line in score_series(timed_study, INCEPTION_SCORE, "bytes")
    }
    assert len(by_bytes) == 3 * 3  # teacher, mse, baseline
    smallest = by_bytes["mse", "int8"].points
    assert [(point.width, point.x) for point in smallest] == [(2, 400), (4, 1600), (8, 6400)]
    assert smallest[0].stats.mean == pytest.approx(0.9 * 5.05)
    assert len(score_series(timed_study, INCEPTION_SCORE, "parameters")) == 3


def test_series_against_latency_use_the_latency_of_the_width(timed_study):
    series = score_series(timed_study, INCEPTION_SCORE, "milliseconds")
    by_recipe = {line.recipe: line for line in series}
    assert by_recipe.keys() == {"teacher", "mse", "baseline"}
    points = by_recipe["baseline"].points
    assert [point.x for point in points] == [0.4, 0.4, 0.8]
    assert [len(point.stats.values) for point in points] == [2, 2, 2]


def test_parameters_count_as_four_bytes_unless_measured(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0, 1), students=("mse",))
    fake_study.drop_precisions(tmp_path)
    study = load_study(tmp_path)
    assert score_series(study, INCEPTION_SCORE, "milliseconds") == []
    [mse] = [line for line in score_series(study, INCEPTION_SCORE, "bytes") if line.recipe == "mse"]
    assert [point.x for point in mse.points] == [1600, 6400, 25600]
