"""The sentences that a study is summed up in, for every kind of study."""

import json

import fake_study
import pytest

from gankd_jax.report.formatting import TEXT_WIDTH
from gankd_jax.report.headline import build_headline, summarize_study
from gankd_jax.report.study_results import load_study
from gankd_jax.report.tables import build_main_table


def set_score(folder, run: str, key: str, value: float) -> None:
    path = folder / run / "scores.json"
    content = json.loads(path.read_text())
    content["scores"][key] = value
    path.write_text(json.dumps(content))


def test_the_lead_is_the_smallest_student_within_five_percent(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), students=("mse",))
    set_score(folder, "student-mse-d4-s0", "inception_score", 0.96 * 8)
    fake_study.add_latency(folder, widths=(2, 4, 8))
    lead, smallest, baselines, teacher = summarize_study(load_study(folder))
    # The teacher takes 3.2 ms, the student 0.4.
    assert lead == "64:1 smaller, 96% of the teacher's score, 8 times as fast (d=4, mse)."
    assert smallest == ("The smallest, 256:1 smaller, keeps 62% of the teacher's score (d=2, mse).")
    assert baselines == (
        "Baselines of the same size keep 62% (d=4, one seed, no claim) and 25% (d=2, one seed, no"
        " claim)."
    )
    assert teacher == (
        "Teacher: d=32, 102,400 parameters, mnist at 16x16; Inception Score 8.00, of real images"
        " 9.80."
    )
    latency = json.loads((folder / "latency.json").read_text())
    latency["runs"]["teacher-d32-s0"]["float32"]["milliseconds"] *= 15.4
    (folder / "latency.json").write_text(json.dumps(latency))
    assert "score, 123 times as fast (d=4" in summarize_study(load_study(folder))[0]


def test_seeds_allow_a_claim(study):
    text = " ".join(summarize_study(study))
    assert "keep 89% (d=8, baseline ahead) and 26% (d=2, student ahead)." in text
    assert all(len(line) <= TEXT_WIDTH for line in summarize_study(study))


def test_a_difference_within_the_interval_is_not_clear(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0, 1), widths=(4,), students=("mse",))
    for seed in (0, 1):
        set_score(folder, f"baseline-d4-s{seed}", "inception_score", 5.5 + seed)
    text = " ".join(summarize_study(load_study(folder)))
    assert "keep 75% (d=4, no clear difference)." in text


def test_a_distance_is_a_multiple_of_the_teachers(tmp_path):
    folder = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(8,), students=("mse",), scores=("fd_classifier",)
    )
    set_score(folder, "teacher-d32-s0", "fd_classifier", 10.0)
    lead, baselines, *_ = summarize_study(load_study(folder))
    assert lead == "16:1 smaller, 3 times the teacher's distance (d=8, mse)."
    assert baselines == (
        "Baselines of the same size have 2 times (d=8, one seed, no claim) the teacher's distance."
    )


def test_one_width_has_no_smaller_student(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), widths=(4,), students=("mse",))
    headline = build_headline(load_study(folder))
    assert headline.best is headline.smallest
    assert not any("smallest" in line for line in headline.lines)


@pytest.mark.parametrize("score", ["pixel_error", "sharpness"])
def test_a_study_without_a_ranking_score_says_how_small_its_student_is(tmp_path, score):
    folder = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(4,), students=("mse",), data="none", scores=(score,)
    )
    for run in ("baseline-d4-s0", "reference"):
        fake_study.remove_run(folder / run)
    lead, teacher, *_ = summarize_study(load_study(folder))
    assert lead.startswith("64:1 smaller, ")
    assert ("pixel error" in lead) == (score == "pixel_error")
    assert teacher.startswith("Teacher: d=32, 102,400 parameters, 16x16")


def test_without_a_score_of_the_teacher_the_least_pixel_error_leads(tmp_path):
    folder = fake_study.write_study(
        tmp_path, seeds=(0,), widths=(2, 4), students=("mse", "l1"), scores=("pixel_error",)
    )
    for run, error in (("mse-d2", 0.2), ("mse-d4", 0.05), ("l1-d2", 0.1), ("l1-d4", 0.4)):
        set_score(folder, f"student-{run}-s0", "pixel_error", error)
    headline = build_headline(load_study(folder))
    assert "pixel error to the teacher 0.05" in headline.lead
    assert (headline.smallest.recipe, headline.smallest.width) == ("l1", 2)
    table = build_main_table(load_study(folder))
    assert [[cell.text for cell in (row[0], *row[4:6])] for row in table.rows[1:]] == [
        ["4", "mse", "0.0500"],
        ["2", "l1", "0.100"],
    ]


def test_a_study_without_students_says_why(tmp_path):
    headline = build_headline(load_study(fake_study.write_study_without_teacher(tmp_path)))
    assert headline.lead == "Nothing is compressed yet: no teacher has been chosen yet."
    assert (headline.best, headline.smallest) == (None, None)
    assert headline.lines == ("Unfinished: 0 of 3 runs have scores, 0 failed.",)
