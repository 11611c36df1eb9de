"""A work directory that version 0.1.0 wrote is opened, read and continued."""

import json

import numpy as np
import pytest
import tiny

from gankd_jax.study import workdir
from gankd_jax.study.plan import Run
from gankd_jax.utils.checkpoint import Checkpoints

# ml_collections loads a config file so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
STUDENT = Run("student", "mse", 1, 0)
FIELDS = {
    "name": "digits-old",
    "study.teacher_widths": (2,),
    "study.widths": (1,),
    "study.seeds": (0,),
    "study.students": ("mse",),
    "recipes.teacher.steps": 40,
    "recipes.mse.steps": 40,
    "recipes.baseline.steps": 40,
    "training.steps_per_call": 20,
    "training.log_every": 20,
    "training.grid_every": 0,
    "training.checkpoint_every": 40,
    "evaluation.samples": 200,
    "evaluation.batch_size": 100,
}
FLAGS = [f"--config={tiny.DIGITS}", *(f"--config.{k}={v}" for k, v in FIELDS.items())]


def test_its_runs_are_done_and_nothing_changes(command, old_workdir):
    before = tiny.snapshot(old_workdir / STUDENT.name)
    status, _, errors = command("study", *FLAGS, f"--workdir={old_workdir}")
    assert status == 0, errors
    assert "all 3 runs are done" in errors
    assert tiny.snapshot(old_workdir / STUDENT.name) == before


def test_a_changed_field_is_refused_with_both_values(command, old_workdir):
    status, _, errors = command(
        "evaluate", *FLAGS, "--config.recipes.mse.ema=0.5", f"--workdir={old_workdir}"
    )
    assert status == 2
    assert "config.recipes.mse.ema is 0.0 there and 0.5 here" in errors


@pytest.mark.slow
def test_its_seeds_grow_and_its_runs_stay(command, old_workdir):
    runs = sorted(path.parent.name for path in old_workdir.glob("*-s0/scores.json"))
    before = {name: tiny.snapshot(old_workdir / name / "checkpoints") for name in runs}
    change = "--config.study.seeds=(0, 1)"
    status, _, errors = command("study", change, f"--workdir={old_workdir}")
    assert status == 0, errors
    assert workdir.read_config(old_workdir).study.seeds == (0, 1)
    assert {name: tiny.snapshot(old_workdir / name / "checkpoints") for name in runs} == before
    for name in ("student-mse-d1-s1", "baseline-d1-s1"):
        assert (old_workdir / name / "scores.json").is_file()
    assert command("study", f"--workdir={old_workdir}")[2].startswith("all 5 runs are done")


def test_its_report_has_the_same_scores(command, old_workdir):
    scores = json.loads((old_workdir / STUDENT.name / "scores.json").read_text())["scores"]
    status, out, _ = command("report", f"--workdir={old_workdir}")
    assert status == 0
    assert f"{scores['inception_score']:.2f}" in out
    rows = (old_workdir / "table.csv").read_text()
    assert repr(scores["fd_classifier"]) in rows


def test_its_checkpoints_are_restored_and_sampled(command, old_workdir, tmp_path):
    out = tmp_path / "grid.png"
    status, _, errors = command(
        "sample", *FLAGS, f"--workdir={old_workdir}", f"--run={STUDENT.name}", f"--out={out}"
    )
    assert status == 0, errors
    assert out.stat().st_size > 1000


@pytest.mark.slow
def test_an_unscored_run_is_scored_as_it_was(command, old_workdir):
    path = old_workdir / STUDENT.name / "scores.json"
    pixel_error = json.loads(path.read_text())["scores"]["pixel_error"]
    path.unlink()
    status, _, errors = command("study", *FLAGS, f"--workdir={old_workdir}")
    assert status == 0, errors
    assert json.loads(path.read_text())["scores"]["pixel_error"] == pytest.approx(pixel_error, 1e-4)


def test_a_removed_option_that_was_used_is_refused(command, old_workdir):
    path = old_workdir / "config.json"
    stored = json.loads(path.read_text())
    stored["recipes"]["mse"]["late_batch"] = 256
    path.write_text(json.dumps(stored))
    status, _, errors = command("evaluate", *FLAGS, f"--workdir={old_workdir}")
    assert status == 2
    assert "config.recipes.mse.late_batch is 256, and this option was removed" in errors


def test_its_config_reads_as_this_versions(old_workdir):
    config = workdir.read_config(old_workdir)
    assert config.recipes.mse.steps == 40
    assert "late_batch" not in config.recipes.mse


def test_its_arrays_are_readable_by_name(old_workdir):
    checkpoints = Checkpoints(old_workdir / STUDENT.name / "checkpoints")
    arrays = checkpoints.arrays(40)
    checkpoints.close()
    kernels = [value for value in arrays.values() if value.ndim == 4]
    assert len(kernels) >= 3
    assert all(np.isfinite(kernel).all() for kernel in kernels)
