import base64
import json

import fake_study
import numpy as np
import pytest

from gankd_jax.models.family import FoldedLayer
from gankd_jax.models.folding import quantize
from gankd_jax.report.page import browser_demo
from gankd_jax.report.page.browser_demo import (
    build_browser_demo,
    choose_demo_students,
    pack_layers,
)
from gankd_jax.report.study_results import load_study


def set_inception_score(folder, run: str, value: float) -> None:
    path = folder / run / "scores.json"
    content = json.loads(path.read_text())
    content["scores"]["inception_score"] = value
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    return fake_study.write_study(tmp_path, seeds=(0,), students=("mse",))


def test_best_student_is_first_if_none_is_within_five_percent(folder):
    students = choose_demo_students(load_study(folder))
    assert [run.width for run in students.runs] == [8, 2, 4]
    assert students.reason == (
        "No student is within 5 % of the teacher's Inception Score; shown first is the best (81%)."
    )


def test_smallest_student_within_five_percent_is_first(folder):
    set_inception_score(folder, "student-mse-d4-s0", 0.95 * 8)
    set_inception_score(folder, "student-mse-d8-s0", 8.0)
    students = choose_demo_students(load_study(folder))
    assert [run.width for run in students.runs] == [4, 2, 8]
    assert "smallest student within 5 % of the teacher's Inception Score (95%)" in students.reason
    set_inception_score(folder, "student-mse-d4-s0", 0.949 * 8)
    assert choose_demo_students(load_study(folder)).runs[0].width == 8


def test_students_with_too_many_weights_are_left_out(folder, monkeypatch):
    monkeypatch.setattr(browser_demo, "MAX_WEIGHT_CHARS", 4 * 1600)  # room for d=4, which has 1,600
    assert [run.width for run in choose_demo_students(load_study(folder)).runs] == [4]
    monkeypatch.setattr(browser_demo, "MAX_WEIGHT_CHARS", 10)
    assert "too large for a page" in choose_demo_students(load_study(folder)).reason


def test_the_best_students_of_every_width_come_before_other_recipes(tmp_path, monkeypatch):
    monkeypatch.setattr(browser_demo, "MAX_STUDENTS", 4)
    folder = fake_study.write_study(tmp_path, seeds=(0,))
    runs = choose_demo_students(load_study(folder)).runs
    assert [run.name for run in runs] == [
        *("student-joint-d8-s0", "student-joint-d2-s0", "student-joint-d4-s0"),
        "student-mse-d2-s0",
    ]


def test_missing_weights_are_explained(folder):
    for path in folder.glob("*/folded.npz"):
        path.unlink()
    students = choose_demo_students(load_study(folder))
    assert students.runs == ()
    assert "`gankd evaluate --workdir=...` keeps them" in students.reason


def test_students_of_a_family_that_no_page_knows_are_explained(folder):
    for path in folder.glob("*/folded.npz"):
        np.savez(path, latents=np.zeros((64, 3), np.float32))
    students = choose_demo_students(load_study(folder))
    assert students.runs == ()
    assert "its layers do not simply follow one another" in students.reason


def test_widest_student_is_first_without_a_ranking_metric(tmp_path):
    scores = ("sharpness",)
    recipes = ("mse_paper", "best")
    workdir = fake_study.write_study(
        tmp_path, seeds=(0,), students=recipes, data="celeb_a", scores=scores
    )
    students = choose_demo_students(load_study(workdir))
    # The last recipe of the config, as in answers.md.
    assert students.runs[0].name == "student-best-d8-s0"
    assert "widest best student: no score compares it" in students.reason


def test_weights_are_packed_in_24_bits():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(4, 4, 5, 3)) * [1e-3, 0, 1e3]).astype(np.float32)
    arrays = {"kernel0": kernel, "bias0": np.arange(3, dtype=np.float32)}
    [layer] = pack_layers(arrays, 3)
    raw = base64.b64decode(layer["kernel"])
    triples = [raw[k : k + 3] for k in range(0, len(raw), 3)]
    levels = np.array([int.from_bytes(triple, "little", signed=True) for triple in triples])
    scale = np.frombuffer(base64.b64decode(layer["scale"]), "<f4").astype(np.float64)
    error = np.abs(levels.reshape(kernel.shape) * scale - kernel).max(axis=(0, 1, 2))
    assert (error <= np.abs(kernel).max(axis=(0, 1, 2)) / (2**23 - 1) * 0.6).all()
    assert base64.b64decode(layer["bias"]) == arrays["bias0"].tobytes()
    assert (layer["inputs"], layer["outputs"]) == (5, 3)


def test_teacher_weights_are_those_of_int8():
    kernel = np.random.default_rng(0).normal(size=(4, 4, 5, 3)).astype(np.float32)
    [layer] = pack_layers({"kernel0": kernel, "bias0": np.zeros(3, np.float32)}, 1)
    stored = quantize(FoldedLayer(kernel, np.ones(3, np.float32), np.zeros(3)), "int8")
    assert base64.b64decode(layer["kernel"]) == stored.kernel.tobytes()
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(layer["scale"]), "<f4"), stored.scale
    )


def test_a_student_has_its_size_below_its_name(folder):
    [first, *_] = build_browser_demo(load_study(folder)).data["students"]
    assert first["size"] == "6,400 parameters, 16:1"
    info = json.loads((folder / "teacher-d32-s0" / "run.json").read_text())
    info["parameters"] = 0  # of a function, which nobody can count
    (folder / "teacher-d32-s0" / "run.json").write_text(json.dumps(info))
    [first, *_] = build_browser_demo(load_study(folder)).data["students"]
    assert first["size"] == "6,400 parameters"


def test_teacher_runs_in_the_page_if_its_weights_are_there_and_fit(folder, monkeypatch):
    demo = build_browser_demo(load_study(folder))
    assert len(demo.data["teacherLayers"]) == 3
    assert "So does the teacher" in demo.teacher_note
    monkeypatch.setattr(browser_demo, "MAX_TEACHER_CHARS", 1000)
    demo = build_browser_demo(load_study(folder))
    assert demo.data["teacherLayers"] is None
    assert "too large for a page (102 kB as int8)" in demo.teacher_note
    (folder / "teacher-d32-s0" / "folded.npz").unlink()
    demo = build_browser_demo(load_study(folder))
    assert demo.data["teacherLayers"] is None
    assert "`gankd evaluate --workdir=...` keeps them" in demo.teacher_note
