import math

import fake_study
import pytest

from gankd_jax.report.runs import Key, progress, read
from gankd_jax.utils.errors import UserError


def test_a_finished_study_is_read_whole(tmp_path):
    study = read(fake_study.make(tmp_path, seeds=(0, 1), widths=(4, 2), students=("mse",)))
    assert study.teacher is not None
    assert study.teacher.key == Key("teacher", "teacher", 32, 0)
    assert [run.key for run in study.runs] == list(study.plan)
    assert [key.width for key in study.plan] == [32, 2, 2, 2, 2, 4, 4, 4, 4]
    assert progress(study) == []
    student = study.group("student", "mse", 4)[1]
    assert student.scores["inception_score"] == 6.1
    assert student.step == 1000
    assert student.grid is not None
    assert student.grid.shape == (64, 16, 16, 1)
    assert study.real_scores["inception_score"] == 9.8


def test_what_is_missing_is_said_run_by_run(tmp_path):
    study = read(fake_study.unfinished(tmp_path))
    assert progress(study) == [
        "student-mse-d2-s1: trained, not evaluated yet",
        "baseline-d2-s0: failed at step 120: the critic's loss is not finite",
        "student-mse-d4-s1: at step 300 of 1,000",
        "baseline d=4 seed 1: not started",
    ]


def test_a_failed_run_has_no_scores(tmp_path):
    study = read(fake_study.unfinished(tmp_path))
    assert study.group("baseline", "baseline", 2)[0].scores == {}


def test_steps_logged_twice_count_once_and_later(tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    log = tmp_path / "student-mse-d2-s0" / "log.jsonl"
    log.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 2, "a": 3}\n{"step": 3')
    assert read(tmp_path).runs[1].log == ({"step": 1, "a": 1}, {"step": 2, "a": 3})


def test_a_null_score_is_not_a_number(tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    (tmp_path / "student-mse-d2-s0" / "scores.json").write_text('{"scores": {"kid": null}}')
    assert math.isnan(read(tmp_path).runs[1].scores["kid"])


def test_a_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        read(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    (tmp_path / "teacher.json").write_text('{"run": ')
    with pytest.raises(UserError, match=r"teacher\.json is damaged"):
        read(tmp_path)
