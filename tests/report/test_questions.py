"""Answers to the questions of a study: numbers by hand, and questions without an answer."""

import io
import json

import fake_study
import numpy as np
import pytest
from PIL import Image

from gankd_jax.report import questions
from gankd_jax.report.page import write_report
from gankd_jax.report.questions import answer_questions, draw_answers
from gankd_jax.report.study_results import load_study

FRACTIONS = {"precision_classifier": 0.5, "recall_classifier": 0.8, "coverage_classifier": 0.25}
LAYERS = {"fd_64": 0.5, "fd_192": 5.0, "fd_768": 0.1}


def add_scores(folder, runs, scores):
    for path in folder.glob(f"{runs}/scores.json"):
        content = json.loads(path.read_text())
        content["scores"] |= scores
        path.write_text(json.dumps(content))


def remove_scores(folder, runs, scores):
    for path in folder.glob(f"{runs}/scores.json"):
        content = json.loads(path.read_text())
        for key in scores:
            content["scores"].pop(key, None)
        path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """A study with one seed; students keep 50 %, 80 % and 25 % of three scores."""
    study_folder = fake_study.write_study(tmp_path, seeds=(0,))
    add_scores(
        study_folder,
        "student-*",
        FRACTIONS | {"pixel_error_between": 0.05, "pixel_error_seen": 0.032},
    )
    add_scores(study_folder, "teacher-*", dict.fromkeys(FRACTIONS, 1.0))
    return study_folder


def answer_texts(folder) -> dict[str, str]:
    return {answer.question: answer.text for answer in answer_questions(load_study(folder))}


def test_answers_by_hand(folder):
    texts = answer_texts(folder)
    assert list(texts) == [
        "Does the student copy the teacher's map?",
        "How small without a marked loss?",
        "Distilled or from scratch?",
        "What breaks at the limit?",
        "Which recipe stays sharp?",
        "Are training images repeated?",
    ]
    copies, small, ahead, breaks, sharp, memory = texts.values()
    # joint scores 0.05 more than mse and so is the best recipe.
    assert copies == (
        "At d=2 the joint student's mean square error is 0.0400 on fresh latents, 0.0500 between"
        " latents and 0.0320 on those of its last training steps; the ratio of"
        " fresh to trained latents is 1.25."
    )
    # The best student scores 6.55, the teacher 8.
    assert small == "By Inception Score, within 5 %: no student; within 1 %: no student."
    # joint 5.05, 6.05, 6.55; baselines 2, 5, 7: interpolated by logarithms between d=4 and d=8.
    advantage = 2 * 2 ** (np.log(5.05 / 5) / np.log(7 / 5))
    assert f"d=2: 5.05, one seed, {advantage:.2g}; d=4: 6.05, one seed, 1.5; d=8" in ahead
    assert breaks == (
        "At d=2 the joint student keeps these shares of the teacher's scores: precision 50%,"
        " recall 80%, coverage 25%, sharpness 56%; coverage goes first (by the study's own"
        " classifier)."
    )
    assert sharp == (
        "Variance of the Laplacian: teacher 3,600, real images 3,400; share of the"
        " teacher's at d=2: mse 56%, joint 56%."
    )
    # Distances of width d are spaced evenly from d to 2 d; real images count as d=32.
    assert memory.endswith(
        "images: teacher d=32 1.00, joint student d=2 0.06, joint student d=8 0.25."
    )


def test_smallest_width_is_named_with_its_size(folder):
    add_scores(folder, "student-joint-d4-s0", {"inception_score": 7.7})
    small = answer_texts(folder)["How small without a marked loss?"]
    assert small == (
        "By Inception Score, within 5 %: d=4 (joint: 1,600 parameters, 64:1, 6,400 bytes);"
        " within 1 %: no student."
    )


def test_layer_nearest_to_the_paper_distances_is_named(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), data="cifar10")
    add_scores(folder, "*", LAYERS)
    layers = answer_texts(folder)["Which layer is the paper's FID near?"]
    assert layers.index("64-wide layer 0.500") < layers.index("192-wide layer 5.00")
    # The paper's student of d=8, the widest here, has 9.57.
    assert layers.endswith(
        "nearest to the paper's best student of these widths, 9.57, is the 192-wide layer."
    )


def test_layer_question_is_skipped_where_the_paper_has_no_fid(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,))
    add_scores(folder, "*", LAYERS)
    assert "Which layer is the paper's FID near?" not in answer_texts(folder)


def test_failure_mode_uses_one_network_at_a_common_width(folder):
    """The FID network has scored the teacher and some of the students."""
    add_scores(folder, "teacher-*", {"precision_768": 1.0, "recall_768": 1.0, "coverage_768": 1.0})
    add_scores(folder, "student-joint-d4-*", {"precision_768": 0.1, "recall_768": 0.1})
    breaks = answer_texts(folder)["What breaks at the limit?"]
    assert "At d=2" in breaks
    assert "precision 50%" in breaks
    remove_scores(folder, "*", FRACTIONS)
    breaks = answer_texts(folder)["What breaks at the limit?"]
    # At d=4 they are sharp by 2,500 of the teacher's 3,600.
    assert breaks.startswith(
        "At d=4 the joint student keeps these shares of the teacher's scores: precision 10%,"
        " recall 10%, sharpness 69%;"
    )
    assert breaks.endswith("(by the FID network's layer 768).")


def test_best_recipe_gains_nothing_from_a_missing_narrow_run(folder):
    """joint is 0.05 behind where both have scores, and ahead on average of what it has."""
    for width in (4, 8):
        score = {4: 6.0, 8: 6.5}[width] - 0.05
        add_scores(folder, f"student-joint-d{width}-s0", {"inception_score": score})
    (folder / "student-joint-d2-s0" / "scores.json").unlink()
    assert "of the mse student" in answer_texts(folder)["Distilled or from scratch?"]


def test_widest_layer_is_the_main_metric_without_a_classifier(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), scores=("sharpness",), data="celeb_a")
    for runs, factor in (("teacher-*", 1), ("student-mse-*", 2), ("student-joint-*", 1.03)):
        add_scores(folder, runs, {key: factor * value for key, value in LAYERS.items()})
    texts = answer_texts(folder)
    assert texts["How small without a marked loss?"] == (
        "By Fréchet distance, 768-wide layer, within 5 %: d=2 (joint: 400 parameters, 256:1,"
        " 1,600 bytes); within 1 %: no student."
    )


def test_questions_without_scores_are_skipped(tmp_path):
    folder = fake_study.write_study(tmp_path, seeds=(0,), scores=("sharpness",))
    assert list(answer_texts(folder)) == [
        "Which recipe stays sharp?",
        "Are training images repeated?",
    ]
    add_scores(folder, "teacher-*", {"sharpness": 0.0})  # its images are flat
    assert list(answer_texts(folder)) == ["Are training images repeated?"]
    assert answer_texts(fake_study.write_study_without_teacher(tmp_path / "none")) == {}


@pytest.mark.slow
def test_students_are_not_compared_with_an_unscored_teacher(folder):
    """A shard of a study may lack the teacher's scores."""
    (folder / "teacher-d32-s0" / "scores.json").unlink()
    add_scores(folder, "student-*", LAYERS)
    assert list(answer_texts(folder)) == [
        "Does the student copy the teacher's map?",
        "Are training images repeated?",
    ]
    write_report(folder)


@pytest.mark.slow
def test_report_has_a_panel_for_each_answer(folder):
    write_report(folder)
    answers = answer_questions(load_study(folder))
    text = (folder / "answers.md").read_text()
    assert text.startswith("# made-up: questions and answers\n")
    for number, answer in enumerate(answers, 1):
        assert f"**{number}. {answer.question}** {answer.text}" in text
    image = Image.open(io.BytesIO((folder / "answers.png").read_bytes()))
    inches = (3 * questions.PANEL_INCHES[0], 2 * questions.PANEL_INCHES[1])
    assert image.size == tuple(round(questions.PIXELS_PER_INCH * side) for side in inches)
    assert draw_answers(answers) == (folder / "answers.png").read_bytes()
    single = Image.open(io.BytesIO(draw_answers(answers[:1])))
    assert single.height == image.height // 2
