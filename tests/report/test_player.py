"""Which students run in the page."""

import base64
import json

import fake_study
import numpy as np
import pytest

from gankd_jax.report import player
from gankd_jax.report.player import choose, packed
from gankd_jax.report.study_results import read_study_results


def score(folder, run: str, value: float) -> None:
    path = folder / run / "scores.json"
    file = json.loads(path.read_text())
    file["scores"]["inception_score"] = value
    path.write_text(json.dumps(file))


@pytest.fixture
def folder(tmp_path):
    return fake_study.write_study(tmp_path, seeds=(0,), students=("mse",))


def test_without_a_near_one_the_best_is_shown_first(folder):
    chosen = choose(read_study_results(folder))
    assert [run.width for run in chosen.runs] == [8, 2, 4]
    assert chosen.reason == (
        "No student is within 5 % of the teacher's Inception Score; shown first is the best (81%)."
    )


def test_the_smallest_within_five_percent_is_shown_first(folder):
    score(folder, "student-mse-d4-s0", 0.95 * 8)
    score(folder, "student-mse-d8-s0", 8.0)
    chosen = choose(read_study_results(folder))
    assert [run.width for run in chosen.runs] == [4, 2, 8]
    assert "smallest student within 5 % of the teacher's Inception Score (95%)" in chosen.reason
    score(folder, "student-mse-d4-s0", 0.949 * 8)
    assert choose(read_study_results(folder)).runs[0].width == 8


def test_students_that_would_make_the_page_large_are_left_out(folder, monkeypatch):
    monkeypatch.setattr(player, "CHARACTERS", 4 * 1600)  # room for d=4, which has 1,600
    assert [run.width for run in choose(read_study_results(folder)).runs] == [4]
    monkeypatch.setattr(player, "CHARACTERS", 10)
    assert "too large for a page" in choose(read_study_results(folder)).reason


def test_weights_that_were_not_kept_are_asked_for(folder):
    for path in folder.glob("*/folded.npz"):
        path.unlink()
    chosen = choose(read_study_results(folder))
    assert chosen.runs == ()
    assert "`gankd evaluate --config=... --workdir=...` keeps them" in chosen.reason


def test_without_a_score_to_compare_by_the_widest_is_shown_first(tmp_path):
    scores = ("sharpness",)
    students = ("mse_paper", "best")
    made = fake_study.write_study(
        tmp_path, seeds=(0,), students=students, data="celeb_a", scores=scores
    )
    chosen = choose(read_study_results(made))
    # The recipe that the answers speak of: the config's last.
    assert chosen.runs[0].name == "student-best-d8-s0"
    assert "widest best student: no score compares it" in chosen.reason


def test_weights_are_packed_in_twenty_four_bits():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(4, 4, 5, 3)) * [1e-3, 0, 1e3]).astype(np.float32)
    arrays = {"kernel0": kernel, "bias0": np.arange(3, dtype=np.float32)}
    [layer] = packed(arrays)
    raw = base64.b64decode(layer["kernel"])
    parts = [raw[k : k + 3] for k in range(0, len(raw), 3)]
    whole = np.array([int.from_bytes(part, "little", signed=True) for part in parts])
    step = np.frombuffer(base64.b64decode(layer["step"]), "<f4").astype(np.float64)
    off = np.abs(whole.reshape(kernel.shape) * step - kernel).max(axis=(0, 1, 2))
    assert (off <= np.abs(kernel).max(axis=(0, 1, 2)) / (2**23 - 1) * 0.6).all()
    assert base64.b64decode(layer["bias"]) == arrays["bias0"].tobytes()
    assert (layer["inputs"], layer["outputs"]) == (5, 3)
