import dataclasses
import re

import fake_study
import pytest
from matplotlib.figure import Figure

from gankd_jax.report.page.plots import (
    MAIN_CHARTS,
    _scale_to_values,
    average_log,
    draw_class_chart,
    draw_score_charts,
    group_close_widths,
)
from gankd_jax.report.study_results import load_study


def test_long_training_curves_are_averaged_to_100_points():
    log = [{"step": step, "generator_loss": 2.0 * step} for step in range(1, 1001)]
    without_value = {"step": 1001, "generator_loss": None}
    steps, values = average_log([*log, without_value], "generator_loss")
    assert len(steps) == 100
    assert steps[0] == 5.5
    assert values == [2 * step for step in steps]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, [[1], [2], [4]]),
        ({1: 1.0, 2: 1.04, 4: 1.08, 8: 2.0}, [[1, 2, 4], [8]]),
        ({1: 1.06, 2: 1.0, 4: 3.0}, [[1, 2], [4]]),  # the smaller one is the slower one
        ({}, []),
    ],
)
def test_close_widths_share_a_label(positions, expected):
    assert group_close_widths(positions, 0.05 + 0.01) == expected


def test_four_charts_are_shown_at_first(timed_study):
    charts = draw_score_charts(timed_study)
    described = [chart.description for chart in charts.main]
    assert len(described) == MAIN_CHARTS == 4
    assert described[0] == "Inception Score against parameters of the generator"
    assert described[1].startswith("Inception Score against milliseconds")
    assert described[2].startswith("Fréchet distance")
    assert not any("latents of the training" in chart.description for chart in charts.further)
    # Every vertical axis has a name, which the title has too.
    assert all(chart.svg.count("Inception Score") == 2 for chart in charts.main[:2])
    # The best recipe's weights in three precisions, of three widths each.
    [by_bytes] = [
        c for c in charts.further if c.description == "Inception Score against bytes of its weights"
    ]
    assert "baseline" not in by_bytes.svg


def test_one_width_has_no_chart(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), widths=(4,), students=("mse",))
    assert draw_score_charts(load_study(folder)) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.01], (1.005 - 0.15 * 1.01, 1.005 + 0.15 * 1.01)),  # noise stays small
        ([1.0, 2.0], None),
        ([0.0, 0.0], None),
    ],
)
def test_a_narrow_range_of_values_is_widened(values, expected):
    axes = Figure().add_subplot()
    axes.plot(values)
    before = axes.get_ylim()
    _scale_to_values(axes, values)
    assert axes.get_ylim() == pytest.approx(expected or before)


def test_class_chart_shows_real_images_teacher_student_and_baseline(study):
    assert draw_class_chart(study) is None  # nothing is stored in an older study
    shares = (0.25, 0.75)
    runs = tuple(dataclasses.replace(run, class_shares=shares) for run in study.runs)
    teacher = dataclasses.replace(study.teacher, class_shares=shares)
    counted = dataclasses.replace(study, runs=runs, teacher=teacher, real_class_shares=shares)
    svg = draw_class_chart(counted).svg
    labels = ("real images", "teacher", "joint student d=8", "baseline d=8")
    assert all(re.search(f">{label}<", svg) for label in labels)
