"""A work directory read by the report, finished, unfinished or damaged."""

import json
import math

import fake_study
import pytest

from gankd_jax.metrics.registry import get_metric
from gankd_jax.report.aggregate import score_series
from gankd_jax.report.page.image_grids import describe_size
from gankd_jax.report.study_results import describe_unscored_runs, load_study
from gankd_jax.report.tables import build_main_table
from gankd_jax.utils.errors import UserError

INCEPTION_SCORE = get_metric("inception_score")


def test_finished_study_is_read_completely(tmp_path):
    study = load_study(
        fake_study.write_study(tmp_path, seeds=(0, 1), widths=(4, 2), students=("mse",))
    )
    assert study.teacher is not None
    assert study.teacher.name == "teacher-d32-s0"
    assert [run.name for run in study.runs] == [run.name for run in study.planned_runs]
    assert [run.width for run in study.planned_runs] == [32, 2, 2, 2, 2, 4, 4, 4, 4]
    assert describe_unscored_runs(study) == []
    student = study.runs_of("student", "mse", 4)[1]
    assert student.scores["inception_score"] == 6.1
    assert student.step == 1000
    assert student.grid is not None
    assert student.grid.shape == (64, 16, 16, 1)
    assert study.real_scores["inception_score"] == 9.8


def test_runs_without_scores_are_described(unfinished_study):
    assert describe_unscored_runs(unfinished_study) == [
        "student-mse-d2-s1: trained, not evaluated yet",
        "baseline-d2-s0: failed at step 120: the critic's loss is not finite",
        "student-mse-d4-s1: at step 300 of 1,000",
        "baseline d=4 seed 1: not started",
    ]


def test_bytes_of_weights_are_those_of_an_exported_file_once_it_is_measured(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    path = tmp_path / "student-mse-d2-s0" / "scores.json"
    content = json.loads(path.read_text())
    content["precisions"]["float32"]["bytes"] = 1234
    path.write_text(json.dumps(content))
    study = load_study(tmp_path)
    [student] = study.runs_of("student", "mse", 2)
    assert student.weight_bytes == 1234
    [series] = [s for s in score_series(study, INCEPTION_SCORE, "bytes") if is_student(s)]
    assert [point.x for point in series.points] == [1234]
    assert [row[3].value for row in build_main_table(study).rows] == [4 * 100 * 32**2, 1234]
    assert describe_size(study, student) == "400 parameters, 256:1, 1 kB"
    fake_study.drop_precisions(tmp_path)
    [student] = load_study(tmp_path).runs_of("student", "mse", 2)
    assert student.weight_bytes == 4 * 400


def is_student(series):
    return (series.kind, series.precision) == ("student", "float32")


def test_failed_run_has_no_scores(unfinished_study):
    assert unfinished_study.runs_of("baseline", "baseline", 2)[0].scores == {}


def test_step_logged_twice_counts_as_logged_last(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    log = tmp_path / "student-mse-d2-s0" / "log.jsonl"
    log.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 2, "a": 3}\n{"step": 3')
    assert load_study(tmp_path).runs[1].log == ({"step": 1, "a": 1}, {"step": 2, "a": 3})


def test_null_score_is_nan(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    (tmp_path / "student-mse-d2-s0" / "scores.json").write_text('{"scores": {"kid": null}}')
    assert math.isnan(load_study(tmp_path).runs[1].scores["kid"])


def test_folder_without_config_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        load_study(tmp_path)


def test_damaged_file_is_named_in_the_error(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    (tmp_path / "teacher.json").write_text('{"run": ')
    with pytest.raises(UserError, match=r"teacher\.json is damaged"):
        load_study(tmp_path)


def test_latency_of_a_removed_run_is_left_out(tmp_path):
    fake_study.write_study(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.add_latency(tmp_path, widths=(2, 4))
    assert {width for width, _ in load_study(tmp_path).latency} == {2, 32}
