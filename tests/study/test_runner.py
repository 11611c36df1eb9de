"""A whole study: finished, stopped and resumed, with a run that fails."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import kill_study
import numpy as np
import pytest
import tiny
from flax import traverse_util
from ml_collections import ConfigDict

from gankd_jax.config.schema import config_to_dict
from gankd_jax.evaluation import classifier, inference
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.study import evaluate, plan, runner, train, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training.train_step import normalize_images
from gankd_jax.utils import atomic_io, file_lock
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log

PLAN = [
    "teacher-d4-s0",
    "student-mse-d1-s0",
    "student-mse-d1-s1",
    "student-l1-d1-s0",
    "student-l1-d1-s1",
    "baseline-d1-s0",
    "baseline-d1-s1",
]
FAILED = [name for name in PLAN if "-l1-" in name]
TRAINED = [name for name in PLAN if name not in FAILED]
CLOCKED = ("seconds", "images_per_second")
REPORT = {"table.md", "table.csv", "report.html", "grid.png", "answers.md", "answers.png"}


@pytest.fixture
def data_dir(root) -> str:
    return str(tiny.data(root))


def weights(config: ConfigDict, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Every array of a run's last checkpoint."""
    state = StudyContext(config, folder).restore_state(plan.find_run(config, name))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


# A finished study


def test_every_run_has_its_folder_and_its_files(finished):
    folders = {path.parent.name for path in finished.glob("*/run.json")}
    assert folders == set(PLAN)
    for name in TRAINED:
        found = {path.name for path in (finished / name).iterdir()}
        files_ = {"run.json", "log.jsonl", "scores.json", "samples.npz"}
        files_ |= {"folded.npz"} if name.startswith("student") else set()
        assert found == files_ | {"checkpoints", "grids", "tensorboard"}
        run = plan.find_run(tiny.config(), name)
        assert workdir.checkpoint_steps(finished, run) == [30, 40]
        grids = sorted(path.name for path in (finished / name / "grids").iterdir())
        assert grids == ["0000020.png", "0000040.png"]
    choice = atomic_io.read_json(finished / "teacher.json")
    assert choice == {"run": "teacher-d4-s0", "chosen_by": "the only candidate"}
    assert {path.name for path in finished.iterdir() if path.is_file()} == (
        {"config.json", "teacher.json"} | REPORT
    )


def test_it_prints_its_table_and_where_the_report_is(finished):
    printed = finished.with_suffix(".stdout").read_text().splitlines()
    assert printed[-1] == str(finished / "report.html")
    assert any(line.split()[:3] == ["1", "mse", "student"] for line in printed)
    table = (finished / "table.md").read_text()
    assert "Inception Score" in table
    assert "real images" in table
    page = (finished / "report.html").read_text()
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)  # it opens without a network


def test_the_csv_has_the_means_of_the_score_files(finished):
    with (finished / "table.csv").open(newline="") as stream:
        table = {(r["score"], r["kind"], r["recipe"]): r for r in csv.DictReader(stream)}
    runs_ = [f"baseline-d1-s{seed}" for seed in (0, 1)]
    scored = [atomic_io.read_json(finished / name / "scores.json")["scores"] for name in runs_]
    for score in ("inception_score", "fd_classifier", "sharpness"):
        row = table[score, "baseline", "baseline"]
        values = [scores[score] for scores in scored]
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["sd"]) == pytest.approx(np.std(values, ddof=1))
    assert table["fd_classifier", "student", "l1"]["seeds"] == "0"  # both failed


def test_a_log_line_tells_of_each_interval(root, finished):
    for name in TRAINED:
        log = read_log(finished / name)
        assert [line["step"] for line in log] == [10, 20, 30, 40]
        assert all(line["images_per_second"] > 0 for line in log)
        assert np.all(np.diff([line["seconds"] for line in log]) > 0)
        kinds = {"generator_loss", "generator_gradient"}
        kinds |= {"pixel_error"} if name.startswith("student") else {"critic_loss"}
        assert kinds <= log[0].keys()
    told = finished.with_suffix(".stderr").read_text()
    assert re.search(r"^2 baselines: step 40/40, .* steps/s, 0 s left, critic_loss ", told, re.M)


def test_a_student_learns_its_teacher_s_images(finished):
    log = read_log(finished / "student-mse-d1-s0")
    assert log[-1]["pixel_error"] < 0.5 * log[0]["pixel_error"]
    scores = atomic_io.read_json(finished / "student-mse-d1-s0" / "scores.json")["scores"]
    assert scores["pixel_error"] == pytest.approx(log[-1]["pixel_error"], rel=0.2)


def test_a_score_file_says_how_it_was_made(root, finished):
    (cached,) = (tiny.data(root) / "gankd_cache").glob("classifier-*.npz")
    stored = atomic_io.read_npz(cached)
    accuracy = float(stored.pop("accuracy"))
    weights_hash = classifier._hash_params(traverse_util.unflatten_dict(stored, sep="/"))
    for name in TRAINED:
        file = atomic_io.read_json(finished / name / "scores.json")
        made, scores = file["made"], file["scores"]
        assert made["samples"] == 200
        assert made["latents_seed"] == 1_000_000
        assert re.fullmatch(r"digits-1\.0\.0-train-16px-pad1-n1438-[0-9a-f]{12}", made["reference"])
        assert made["reference_samples"] == 1438
        assert made["classifier_accuracy"] == accuracy
        assert made["weights"] == f"sha256:{weights_hash}"
        assert made["versions"]["jax"] == jax.__version__
        wanted = {"inception_score", "inception_score_sd", "fd_classifier", "sharpness"}
        assert wanted <= scores.keys()
        assert not any(score == "fid" or score.startswith("fid_") for score in scores)
        assert ("pixel_error" in scores) == name.startswith("student")
        assert all(np.isfinite(value) for value in scores.values())
        with np.load(finished / name / "samples.npz") as arrays:
            assert arrays["grid"].shape == (64, 16, 16, 1)
            assert arrays["interpolation"].shape == (4, 8, 16, 16, 1)
            assert arrays["nearest"].shape == (8, 16, 16, 1)
            assert (np.diff(arrays["distances"][arrays["closest"]]) >= 0).all()


def test_weights_in_fewer_bytes_are_scored_too(finished):
    # Width 1 at 16 pixels: kernels of 16 (100 * 2 + 2 * 1 + 1 * 1) numbers, 2 + 1 + 1 biases.
    numbers, biases = 16 * (100 * 2 + 2 * 1 + 1 * 1), 2 + 1 + 1
    for name in TRAINED:
        file = atomic_io.read_json(finished / name / "scores.json")
        found = file["precisions"]
        assert list(found) == ["float32", "float16", "int8"]
        assert found["float32"].keys() == {"bytes"}
        for precision in ("float16", "int8"):
            elsewhere = {"pixel_error_seen", "pixel_error_between"}  # of float32 alone
            assert found[precision]["scores"].keys() == file["scores"].keys() - elsewhere
        if "-d1-" in name:
            sizes = [4 * (numbers + biases), 2 * numbers + 4 * biases, numbers + (4 + 4) * biases]
            assert [each["bytes"] for each in found.values()] == sizes
        changes = [
            abs(found[p]["scores"]["fd_classifier"] / file["scores"]["fd_classifier"] - 1)
            for p in ("float16", "int8")
        ]
        assert 0 < changes[0] < changes[1] < 0.2


def test_the_real_test_images_are_the_ceiling(finished):
    real = atomic_io.read_json(finished / "reference" / "scores.json")
    assert real["made"]["samples"] == 200  # as many as a generator draws, of 359
    assert real["made"]["images"].startswith("digits-1.0.0-test-16px-pad1-n359-")
    for name in TRAINED:
        scores = atomic_io.read_json(finished / name / "scores.json")["scores"]
        assert scores["fd_classifier"] > real["scores"]["fd_classifier"]
        assert scores["inception_score"] < real["scores"]["inception_score"]


def test_a_run_that_fails_says_so_and_the_others_go_on(finished):
    for name in FAILED:
        failed = atomic_io.read_json(finished / name / "failed.json")
        assert failed["step"] == 5
        assert "generator_loss" in failed["reason"]
        assert not (finished / name / "scores.json").exists()
        assert workdir.checkpoint_steps(finished, plan.find_run(tiny.config(), name)) == []
        assert name in (finished / "report.html").read_text()
    assert "2 failed" in finished.with_suffix(".stdout").read_text()


def test_a_second_call_finds_everything_done(root, finished, tmp_path):
    folder = tmp_path / "study"  # the finished one is others' too
    shutil.copytree(finished, folder)
    before = tiny.snapshot(folder)
    done = tiny.gankd(root, "study", *tiny.flags(), f"--workdir={folder}")
    assert (done.returncode, done.stderr) == (0, "all 7 runs are done\n")
    printed = finished.with_suffix(".stdout").read_text().splitlines()
    assert done.stdout.splitlines() == [*printed[:-1], str(folder / "report.html")]
    after = tiny.snapshot(folder)
    assert {name for name in after | before if after.get(name) != before.get(name)} <= REPORT
    for name in ("table.md", "table.csv"):
        assert after[name][1] == before[name][1]


def test_what_was_compiled_is_kept_for_the_next_start(root, finished):
    kept = {path.name for path in (root / "cache" / "gankd-jax" / "compiled").iterdir()}
    assert any(name.startswith("jit_multi_step-") for name in kept)  # a call of many steps


# Stopped and resumed


def interrupt(root: Path, folder: Path, sign: Path, number: int) -> int:
    """Begin the study and send it a signal as soon as it has made `sign`; its exit status."""
    command = [sys.executable, "-m", "gankd_jax", "study", *tiny.flags(), f"--workdir={folder}"]
    began = time.monotonic()
    with (root / "stopped.stderr").open("w") as stream:
        process = subprocess.Popen(
            command, cwd=tiny.REPO, env=tiny.environment(root), stderr=stream
        )
        while not sign.exists():
            assert process.poll() is None, (root / "stopped.stderr").read_text()
            assert time.monotonic() - began < 400
            time.sleep(0.005)
        process.send_signal(number)
    return process.wait()


def finish(root: Path, folder: Path, finished: Path) -> None:
    """Start the study again: what it then holds is what one that never stopped holds."""
    config = tiny.config()
    done = tiny.gankd(root, "study", *tiny.flags(), f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    for name in TRAINED:
        theirs = weights(config, finished, name)
        assert len(theirs) > 10
        assert tiny.differences(weights(config, folder, name), theirs) == []
        for file in ("scores.json", "run.json"):
            assert (folder / name / file).read_bytes() == (finished / name / file).read_bytes()
    for name in FAILED:
        failed = "failed.json"
        assert (folder / name / failed).read_bytes() == (finished / name / failed).read_bytes()


def test_asked_to_stop_it_saves_where_it_is_and_goes_on_from_there(root, finished, tmp_path):
    folder = tmp_path / "study"
    asked = ((signal.SIGTERM, "teacher-d4-s0"), (signal.SIGINT, "student-mse-d1-s0"))
    for number, name in asked:
        sign = folder / name / "checkpoints" / "10"
        assert interrupt(root, folder, sign, number) == 128 + number
        assert (root / "stopped.stderr").read_text().endswith("resumes from here\n")
        saved = workdir.checkpoint_steps(folder, plan.find_run(tiny.config(), name))
        assert 10 <= saved[-1] < 40  # where it was, before the last step
        assert saved[-1] == read_log(folder / name)[-1]["step"]
    finish(root, folder, finished)


def test_shards_in_any_order_twice_and_with_a_hole_make_the_study_of_one_machine(
    root, finished, tmp_path
):
    folder = tmp_path / "study"

    def shard(share: str) -> subprocess.CompletedProcess[str]:
        return tiny.gankd(root, "study", *tiny.flags(), f"--workdir={folder}", f"--shard={share}")

    assert shard("3/3").returncode == 0  # the baselines need no teacher
    refused = shard("2/3")
    assert refused.returncode == 2
    assert "a student needs a teacher, and none is trained" in refused.stderr
    assert shard("1/3").returncode == 0
    again = shard("3/3")
    assert (again.returncode, again.stderr) == (0, "all 2 runs are done\n")
    # Nobody takes share 2: whoever starts the whole study fills the hole.
    filled = shard("1/1")
    assert filled.returncode == 0, filled.stderr
    assert "baseline" not in filled.stderr
    # The same seeds gave the same bits, in programs begun anew.
    assert kill_study.differences(tiny.config(), folder, finished) == []


def test_a_share_waits_for_a_teacher_that_is_not_begun_yet(tmp_path, monkeypatch):
    lab, naps = StudyContext(tiny.config(), tmp_path), []
    choice = {"run": "teacher-d4-s0"}

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            atomic_io.write_json(tmp_path / "teacher.json", choice)

    monkeypatch.setattr(runner.time, "sleep", nap)
    runner._wait_for_teacher(lab, 60)
    assert naps == [runner.POLL_SECONDS] * 3
    (tmp_path / "teacher.json").unlink()
    with pytest.raises(UserError, match="none is trained: run teacher-d4-s0 first"):
        runner._wait_for_teacher(StudyContext(tiny.config(), tmp_path), 0)


def test_checkpoints_of_a_run_in_training_are_not_judged(finished, tmp_path):
    folder, run = tmp_path / "study", plan.find_run(tiny.config(), "teacher-d4-s0")
    shutil.copytree(finished, folder)
    damage(folder / run.name / "checkpoints" / "40")
    with file_lock.hold_lock(folder / file_lock.LOCKS_DIR / run.name, "it"):
        runner._quarantine_damaged_checkpoints(folder, [run])
        assert workdir.checkpoint_steps(folder, run) == [30, 40]
    runner._quarantine_damaged_checkpoints(folder, [run])
    assert workdir.checkpoint_steps(folder, run) == [30]


def test_a_run_in_training_is_not_begun_by_another_process(root, tmp_path):
    with file_lock.hold_lock(tmp_path / "study" / file_lock.LOCKS_DIR / "teacher-d4-s0", "it"):
        (tmp_path / "study" / "config.json").write_text(json.dumps(config_to_dict(tiny.config())))
        done = tiny.gankd(root, "study", *tiny.flags(), f"--workdir={tmp_path / 'study'}")
    assert done.returncode == 2
    assert re.search(rf"gankd: teacher-d4-s0 is locked by process {os.getpid()} on ", done.stderr)
    assert not (tmp_path / "study" / "teacher-d4-s0" / "checkpoints").exists()


def damage(checkpoint: Path) -> None:
    """Cut the end off the largest file."""
    files_ = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files_, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(root, finished, tmp_path):
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    damage(folder / name / "checkpoints" / "40")
    (folder / name / "scores.json").unlink()
    with pytest.raises(UserError, match=r"40 is damaged; `gankd train --run=teacher-d4-s0`"):
        StudyContext(tiny.config(), folder).restore_state(plan.find_run(tiny.config(), name))
    finish(root, folder, finished)
    assert (folder / name / "checkpoints" / "40.damaged").is_dir()


def test_a_scored_run_with_a_damaged_checkpoint_is_trained_to_its_end_again(
    root, finished, tmp_path
):
    """As the error says that names the damage; its scores stay."""
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    before = weights(tiny.config(), folder, name)
    damage(folder / name / "checkpoints" / "40")
    done = tiny.gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={name}")
    assert done.returncode == 0, done.stderr
    after = weights(tiny.config(), folder, name)
    assert all((after[key] == before[key]).all() for key in before)


def test_where_every_checkpoint_is_damaged_nothing_is_touched(root, finished, tmp_path):
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    for step in ("30", "40"):
        damage(folder / name / "checkpoints" / step)
    before = tiny.snapshot(folder)
    done = tiny.gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={name}")
    assert done.returncode == 2
    assert re.fullmatch(r"gankd: .*40 is damaged and no other .* from the beginning\n", done.stderr)
    assert tiny.snapshot(folder) == before


def losses(line: dict) -> dict:
    return {key: value for key, value in line.items() if key not in CLOCKED}


def pair(data_dir: str) -> ConfigDict:
    """Two baselines of 20 steps that are one program, in which each has other bits than alone."""
    return tiny.config(
        data__dir=data_dir,
        study__students=(),
        recipes__baseline__steps=20,
        recipes__baseline__critic_width=1,
        training__grid_every=0,
    )


@pytest.fixture(scope="module")
def never_stopped(root, tmp_path_factory) -> Path:
    """The two baselines, trained without a stop."""
    folder, config = tmp_path_factory.mktemp("pair"), pair(str(tiny.data(root)))
    train.train_runs(StudyContext(config, folder), plan.baseline_runs(config))
    return folder


@pytest.mark.parametrize(
    "missing",
    [
        {"baseline-d1-s1": ["20"]},
        {"baseline-d1-s0": ["20"], "baseline-d1-s1": ["10", "20"]},
    ],
    ids=["in its last save", "in its first save"],
)
def test_stopped_between_two_runs_saves_both_end_with_the_same_bits(
    never_stopped, data_dir, tmp_path, missing
):
    config, folder = pair(data_dir), tmp_path / "study"
    shutil.copytree(never_stopped, folder)
    for name, steps in missing.items():
        for step in steps:
            shutil.rmtree(folder / name / "checkpoints" / step)
    train.train_runs(StudyContext(config, folder), plan.baseline_runs(config))
    for run in plan.baseline_runs(config):
        ours, theirs = (weights(config, where, run.name) for where in (folder, never_stopped))
        assert tiny.differences(ours, theirs) == []
        assert [line["step"] for line in read_log(folder / run.name)] == [10, 20]


# Which runs go on together


def cohorts(folder: Path, saved: dict[str, list[int]], *marks: str) -> list[list[str]]:
    """The cohorts in a folder of empty checkpoints and of marks such as NAME/failed.json."""
    config = tiny.config(study__seeds=(0, 1, 2))
    for name, steps in saved.items():
        for step in steps:
            (folder / name / "checkpoints" / str(step)).mkdir(parents=True)
    for mark in marks:
        (folder / mark).parent.mkdir(exist_ok=True)
        (folder / mark).touch()
    found = train.resume_groups(StudyContext(config, folder), plan.baseline_runs(config))
    return [[run.name.removeprefix("baseline-d1-") for run in cohort] for cohort in found]


A, B, C = (f"baseline-d1-s{seed}" for seed in range(3))
TOGETHER = [["s0", "s1", "s2"]]


@pytest.mark.parametrize(
    ("saved", "marks", "expected"),
    [
        ({}, [], TOGETHER),
        ({A: [10, 20], B: [10, 20], C: [10, 20]}, [], TOGETHER),
        ({A: [20, 30], B: [10, 20], C: [10, 20]}, [], TOGETHER),
        ({A: [10], B: [10]}, [], TOGETHER),  # C was about to save its first
        ({A: [30, 40], B: [30, 40], C: [20, 30]}, [], TOGETHER),  # C lacks its last
        ({A: [30, 40], B: [30, 40], C: [30, 40]}, [], []),
        ({A: [30, 40], B: [10, 20], C: [10, 20]}, [], [["s1", "s2"]]),
        ({A: [20, 30], B: [10]}, [], [["s0"], ["s1"], ["s2"]]),
        ({B: [10, 20], C: [10, 20]}, [f"{A}/failed.json"], [["s1", "s2"]]),
        # A failed after the step from which the others go on, so it was of their program there.
        ({A: [10, 20], B: [10, 20], C: [10, 20]}, [f"{A}/failed.json"], TOGETHER),
        ({A: [10, 20], B: [20, 30], C: [20, 30]}, [f"{A}/failed.json"], [["s1", "s2"]]),
        ({}, [f"{A}/failed.json", f"{B}/failed.json", f"{C}/failed.json"], []),
        # What is scored or comes from elsewhere is not trained again.
        ({A: [30, 40], B: [20, 30], C: [20, 30]}, [f"{A}/scores.json"], [["s1", "s2"]]),
        ({A: [40]}, [f"{A}/imported.json"], [["s1", "s2"]]),
    ],
)
def test_runs_go_on_together_from_a_step_that_all_have(tmp_path, saved, marks, expected):
    assert cohorts(tmp_path, saved, *marks) == expected


# The choice of the teacher


@pytest.fixture
def candidates(tmp_path, monkeypatch, data_dir) -> StudyContext:
    """Three candidates, of which the distances are given."""
    config = tiny.config(data__dir=data_dir, data__validation=400, study__teacher_widths=(4, 8, 16))
    distances = {"teacher-d4-s0": 5.0, "teacher-d8-s0": 3.0, "teacher-d16-s0": 4.0}
    monkeypatch.setattr(evaluate, "_validation_distance", lambda _, run: distances[run.name])
    return StudyContext(config, tmp_path)


def end(lab: StudyContext, *widths: int, fail: bool = False) -> None:
    for width in widths:
        folder = lab.workdir / f"teacher-d{width}-s0"
        (folder / "checkpoints" / ("10" if fail else "40")).mkdir(parents=True)
        if fail:
            (folder / "failed.json").touch()


def test_the_nearest_to_the_validation_images_teaches(candidates):
    end(candidates, 4, 8, 16)
    evaluate.select_teacher(candidates)
    choice = atomic_io.read_json(candidates.workdir / "teacher.json")
    assert choice["run"] == "teacher-d8-s0"
    assert choice["chosen_by"] == "fd_classifier on validation"
    assert choice["candidates"] == {"teacher-d4-s0": 5.0, "teacher-d8-s0": 3.0, "teacher-d16-s0": 4}
    assert candidates.teacher == Run("teacher", "teacher", 8, 0)


def test_a_failed_candidate_does_not_teach(candidates):
    end(candidates, 4, 16)
    end(candidates, 8, fail=True)
    evaluate.select_teacher(candidates)
    assert atomic_io.read_json(candidates.workdir / "teacher.json")["run"] == "teacher-d16-s0"


def test_nobody_is_chosen_before_all_have_ended_nor_twice(candidates):
    end(candidates, 4, 8)
    evaluate.select_teacher(candidates)
    assert not (candidates.workdir / "teacher.json").exists()
    with pytest.raises(UserError, match="a student needs a teacher, and none is trained"):
        _ = candidates.teacher
    end(candidates, 16)
    atomic_io.write_json(candidates.workdir / "teacher.json", {"run": "teacher-d4-s0"})
    evaluate.select_teacher(candidates)
    assert atomic_io.read_json(candidates.workdir / "teacher.json") == {"run": "teacher-d4-s0"}


def test_it_is_told_if_every_candidate_failed(candidates):
    end(candidates, 4, 8, 16, fail=True)
    evaluate.select_teacher(candidates)  # baselines do without
    assert not (candidates.workdir / "teacher.json").exists()
    with pytest.raises(UserError, match=r"every teacher failed; see .*failed.json"):
        _ = candidates.teacher


def test_a_teacher_in_training_elsewhere_is_waited_for_without_being_asked(candidates, monkeypatch):
    """Only one that nobody trains is waited for no longer than `patience`."""
    slept = []

    def sleep(_: float) -> None:
        slept.append(1)
        atomic_io.write_json(candidates.workdir / "teacher.json", {"run": "teacher-d4-s0"})

    monkeypatch.setattr(runner.time, "sleep", sleep)
    with file_lock.hold_lock(
        candidates.workdir / file_lock.LOCKS_DIR / "teacher-d8-s0", "the teacher"
    ):
        runner._wait_for_teacher(candidates, 0)
    assert slept == [1]
    (candidates.workdir / "teacher.json").unlink()
    again = StudyContext(candidates.config, candidates.workdir)
    with pytest.raises(UserError, match="a student needs a teacher, and none is trained"):
        runner._wait_for_teacher(again, 0)
    assert slept == [1]


def test_candidates_are_compared_with_the_images_held_out(
    finished, data_dir, tmp_path, monkeypatch
):
    own = shutil.copytree(data_dir, tmp_path / "data")
    config = tiny.config(data__dir=str(own), data__validation=400)
    lab = StudyContext(config, finished)

    def untrained(network, images, title):
        return network.init(jax.random.key(0), normalize_images(jnp.asarray(images.pixels[:1])))[
            "params"
        ]

    monkeypatch.setattr(classifier, "_train", untrained)
    teacher = plan.find_run(config, "teacher-d4-s0")
    found = evaluate._validation_distance(lab, teacher)
    latents = {"count": 200, "batch_size": 80}
    drawn = np.concatenate(
        list(inference.sample_batches(lab.load_generator(teacher), 1_000_001, **latents))
    )
    held_out = np.asarray(lab.load_split("validation").pixels)
    assert (len(held_out), len(lab.train_images.pixels)) == (400, 1038)
    eval_classifier = lab.load_or_train_classifiers()[0]
    fake, real = (np.asarray(eval_classifier(x)[1], np.float64) for x in (drawn, held_out))
    moments = (fake.mean(0), np.cov(fake.T), real.mean(0), np.cov(real.T))
    assert found == pytest.approx(frechet_distance(*moments), rel=1e-4)


def test_the_stored_config_is_the_one_that_was_given(finished):
    stored = json.loads((finished / "config.json").read_text())
    assert stored["study"]["seeds"] == [0, 1]
    assert stored["recipes"]["l1"]["generator_lr"] == 1e38
