"""Whole studies: finished, stopped and resumed, sharded, and with runs that fail."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import kill_study
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from gankd_jax.config.schema import config_to_dict
from gankd_jax.evaluation import classifier, inference
from gankd_jax.metrics.fid import frechet_distance
from gankd_jax.study import evaluate, plan, runner, train, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training import loop
from gankd_jax.utils import atomic_io, file_lock
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log

RUN_NAMES = [
    "teacher-d4-s0",
    "student-mse-d1-s0",
    "student-mse-d1-s1",
    "student-l1-d1-s0",
    "student-l1-d1-s1",
    "baseline-d1-s0",
    "baseline-d1-s1",
]
FAILED = [name for name in RUN_NAMES if "-l1-" in name]
TRAINED = [name for name in RUN_NAMES if name not in FAILED]
CLOCK_FIELDS = ("seconds", "images_per_second")
REPORT_FILES = {"table.md", "table.csv", "report.html", "grid.png", "answers.md", "answers.png"}


@pytest.fixture
def data_dir(root) -> str:
    return str(tiny.prepare_data(root))


def load_last_arrays(config: ConfigDict, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Loads every array of a run's last checkpoint."""
    state = StudyContext(config, folder).restore_state(plan.find_run(config, name))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("precision", ["tf32", "auto"])
def test_tf32_is_refused_on_a_cpu_before_anything_is_written(tmp_path, precision):
    config = tiny.config(model__precision=precision)
    if precision == "auto":  # a study that a GPU began
        workdir.create_workdir(tmp_path, tiny.config(model__precision="tf32"))
    before = tiny.snapshot(tmp_path)
    with pytest.raises(UserError, match=r"precision is tf32 in .*, and this machine's device is a"):
        runner.run_study(config, tmp_path)
    assert tiny.snapshot(tmp_path) == before


# A finished study


def test_every_run_has_its_folder_and_files(finished):
    folders = {path.parent.name for path in finished.glob("*/run.json")}
    assert folders == set(RUN_NAMES)
    for name in TRAINED:
        file_names = {"run.json", "log.jsonl", "scores.json", "samples.npz"}
        file_names |= set() if name.startswith("baseline") else {"folded.npz"}
        names_in_folder = {path.name for path in (finished / name).iterdir()}
        assert names_in_folder == file_names | {"checkpoints", "grids", "tensorboard"}
        run = plan.find_run(tiny.config(), name)
        assert workdir.checkpoint_steps(finished, run) == [30, 40]
        grids = sorted(path.name for path in (finished / name / "grids").iterdir())
        assert grids == ["0000020.png", "0000040.png"]
    choice = atomic_io.read_json(finished / "teacher.json")
    assert choice == {"run": "teacher-d4-s0", "chosen_by": "the only candidate"}
    assert {path.name for path in finished.iterdir() if path.is_file()} == (
        {"config.json", "teacher.json", "command.txt"} | REPORT_FILES
    )


def test_study_prints_its_table_and_the_path_of_the_report(finished):
    printed = finished.with_suffix(".stdout").read_text().splitlines()
    assert printed[-1] == str(finished / "report.html")
    assert any(line.split()[:1] == ["1"] and "mse" in line.split() for line in printed)
    assert shlex.split(printed[-2])[:3] == ["gankd", "report", "--all"]
    table = (finished / "table.md").read_text()
    assert "Inception Score" in table
    assert "real images" in table
    page = (finished / "report.html").read_text()
    assert not re.search(r"<(?!a )[^>]*(src|href)=\"?(https?:)?//", page)  # needs no network
    command = (finished / "command.txt").read_text()
    assert shlex.split(command) == ["gankd", "study", *tiny.flags(), f"--workdir={finished}"]


def test_csv_has_the_means_of_the_score_files(finished):
    with (finished / "table.csv").open(newline="") as stream:
        table = {(r["score"], r["kind"], r["recipe"]): r for r in csv.DictReader(stream)}
    names = [f"baseline-d1-s{seed}" for seed in (0, 1)]
    run_scores = [atomic_io.read_json(finished / name / "scores.json")["scores"] for name in names]
    for score in ("inception_score", "fd_classifier", "sharpness"):
        row = table[score, "baseline", "baseline"]
        values = [scores[score] for scores in run_scores]
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["sd"]) == pytest.approx(np.std(values, ddof=1))
    assert table["fd_classifier", "student", "l1"]["seeds"] == "0"  # both failed


def test_metrics_are_logged_at_each_interval(finished):
    for name in TRAINED:
        log = read_log(finished / name)
        assert [line["step"] for line in log] == [10, 20, 30, 40]
        assert all(line["images_per_second"] > 0 for line in log)
        assert np.all(np.diff([line["seconds"] for line in log]) > 0)
        metrics = {"generator_loss", "generator_gradient"}
        metrics |= {"pixel_error"} if name.startswith("student") else {"critic_loss"}
        assert metrics <= log[0].keys()
    stderr = finished.with_suffix(".stderr").read_text()
    title, metrics = r"2 baselines \(part 3 of 3\)", "critic_loss "
    assert re.search(rf"^{title}: step 40/40, .* steps/s, 0 s left, {metrics}", stderr, re.M)


def test_student_approaches_the_images_of_its_teacher(finished):
    log = read_log(finished / "student-mse-d1-s0")
    assert log[-1]["pixel_error"] < 0.5 * log[0]["pixel_error"]
    scores = atomic_io.read_json(finished / "student-mse-d1-s0" / "scores.json")["scores"]
    assert scores["pixel_error"] == pytest.approx(log[-1]["pixel_error"], rel=0.2)


def test_score_file_records_provenance(finished):
    path = classifier.pretrained_classifier_path("digits", "classifier", 16)
    network = classifier.build_classifier("classifier", 10, 16, 1)
    expected = classifier.read_classifier(path, "classifier", network)
    for name in TRAINED:
        file = atomic_io.read_json(finished / name / "scores.json")
        provenance, scores = file["made"], file["scores"]
        assert provenance["samples"] == 200
        assert provenance["latents_seed"] == 1_000_000
        assert re.fullmatch(
            r"digits-1\.0\.0-train-16px-pad1-n1438-[0-9a-f]{12}", provenance["reference"]
        )
        assert provenance["reference_samples"] == 1438
        assert provenance["classifier_accuracy"] == expected.accuracy
        assert provenance["weights"] == f"sha256:{expected.weights_sha256}"
        assert provenance["versions"]["jax"] == jax.__version__
        common_scores = {"inception_score", "inception_score_sd", "fd_classifier", "sharpness"}
        assert common_scores <= scores.keys()
        assert not any(score == "fid" or score.startswith("fid_") for score in scores)
        assert ("pixel_error" in scores) == name.startswith("student")
        assert all(np.isfinite(value) for value in scores.values())
        with np.load(finished / name / "samples.npz") as arrays:
            assert arrays["grid"].shape == (64, 16, 16, 1)
            assert arrays["interpolation"].shape == (4, 8, 16, 16, 1)
            assert arrays["nearest"].shape == (8, 16, 16, 1)
            assert (np.diff(arrays["distances"][arrays["closest"]]) >= 0).all()


def test_float16_and_int8_weights_are_scored_too(finished):
    # A generator of width 1 for 16 pixels has three 4x4 kernels and three bias vectors.
    weights, biases = 16 * (100 * 2 + 2 * 1 + 1 * 1), 2 + 1 + 1
    changes: dict[str, list[float]] = {"float16": [], "int8": []}
    for name in TRAINED:
        file = atomic_io.read_json(finished / name / "scores.json")
        precisions = file["precisions"]
        assert list(precisions) == ["float32", "float16", "int8"]
        assert precisions["float32"].keys() == {"bytes"}
        for precision in ("float16", "int8"):
            float32_only = {"pixel_error_seen", "pixel_error_between"}
            assert precisions[precision]["scores"].keys() == file["scores"].keys() - float32_only
        if "-d1-" in name:
            expected_bytes = [
                4 * (weights + biases),
                2 * weights + 4 * biases,
                weights + (4 + 4) * biases,
            ]
            assert [entry["bytes"] for entry in precisions.values()] == expected_bytes
        for precision in ("float16", "int8"):
            score = precisions[precision]["scores"]["fd_classifier"]
            changes[precision].append(abs(score / file["scores"]["fd_classifier"] - 1))
    assert 0 < max(changes["float16"]) < max(changes["int8"]) < 0.2


def test_real_test_images_score_better_than_every_generator(finished):
    real = atomic_io.read_json(finished / "reference" / "scores.json")
    assert real["made"]["samples"] == 200  # of 359: as many as each generator samples
    assert real["made"]["images"].startswith("digits-1.0.0-test-16px-pad1-n359-")
    for name in TRAINED:
        scores = atomic_io.read_json(finished / name / "scores.json")["scores"]
        assert scores["fd_classifier"] > real["scores"]["fd_classifier"]
        assert scores["inception_score"] < real["scores"]["inception_score"]


def test_failed_runs_are_recorded_and_the_others_finish(finished):
    for name in FAILED:
        failure = atomic_io.read_json(finished / name / "failed.json")
        assert failure["step"] == 5
        assert "generator_loss" in failure["reason"]
        assert not (finished / name / "scores.json").exists()
        assert workdir.checkpoint_steps(finished, plan.find_run(tiny.config(), name)) == []
        assert name in (finished / "report.html").read_text()
    assert "2 failed" in finished.with_suffix(".stdout").read_text()


def test_finished_study_is_not_run_again(root, finished, tmp_path):
    folder = tmp_path / "study"  # other tests read the finished study
    shutil.copytree(finished, folder)
    before = tiny.snapshot(folder)
    result = tiny.run_gankd(root, "study", *tiny.flags(), f"--workdir={folder}")
    assert (result.returncode, result.stderr) == (0, "all 7 runs are done\n")
    printed = finished.with_suffix(".stdout").read_text().splitlines()
    assert result.stdout.splitlines()[:-2] == printed[:-2]
    assert result.stdout.splitlines()[-1] == str(folder / "report.html")
    after = tiny.snapshot(folder)
    assert {name for name in after | before if after.get(name) != before.get(name)} <= REPORT_FILES
    for name in ("table.md", "table.csv"):
        assert after[name][1] == before[name][1]


def test_compiled_programs_are_cached_on_disk(root, finished):
    cached_names = {path.name for path in (root / "cache" / "gankd-jax" / "compiled").iterdir()}
    assert any(name.startswith("jit_multi_step-") for name in cached_names)


# Stopped and resumed


def interrupt_study(root: Path, folder: Path, trigger: Path, signal_number: int) -> int:
    """Starts the study, sends a signal once the path `trigger` exists, returns the exit status."""
    command = [sys.executable, "-m", "gankd_jax", "study", *tiny.flags(), f"--workdir={folder}"]
    start = time.monotonic()
    with (root / "stopped.stderr").open("w") as stream:
        process = subprocess.Popen(
            command, cwd=tiny.REPO, env=tiny.environment(root), stderr=stream
        )
        while not trigger.exists():
            assert process.poll() is None, (root / "stopped.stderr").read_text()
            assert time.monotonic() - start < 400
            time.sleep(0.005)
        process.send_signal(signal_number)
    return process.wait()


def resume_and_compare(root: Path, folder: Path, finished: Path) -> None:
    """Resumes the study; then its files equal those of the study that never stopped."""
    config = tiny.config()
    result = tiny.run_gankd(root, "study", *tiny.flags(), f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    for name in TRAINED:
        expected = load_last_arrays(config, finished, name)
        assert len(expected) > 10
        assert tiny.differences(load_last_arrays(config, folder, name), expected) == []
        for file in ("scores.json", "run.json"):
            assert (folder / name / file).read_bytes() == (finished / name / file).read_bytes()
    for name in FAILED:
        file = f"{name}/failed.json"
        assert (folder / file).read_bytes() == (finished / file).read_bytes()


def test_signal_saves_a_checkpoint_from_which_the_study_resumes(root, finished, tmp_path):
    folder = tmp_path / "study"
    signals = ((signal.SIGTERM, "teacher-d4-s0"), (signal.SIGINT, "student-mse-d1-s0"))
    for signal_number, name in signals:
        trigger = folder / name / "checkpoints" / "10"
        exit_status = interrupt_study(root, folder, trigger, signal_number)
        assert exit_status == 128 + signal_number
        assert (root / "stopped.stderr").read_text().endswith("resumes from here\n")
        saved_steps = workdir.checkpoint_steps(folder, plan.find_run(tiny.config(), name))
        assert 10 <= saved_steps[-1] < 40
        assert saved_steps[-1] == read_log(folder / name)[-1]["step"]
    resume_and_compare(root, folder, finished)


def test_shards_in_any_order_with_one_missing_equal_the_whole_study(root, finished, tmp_path):
    folder = tmp_path / "study"

    def run_shard(shard: str) -> subprocess.CompletedProcess[str]:
        return tiny.run_gankd(
            root, "study", *tiny.flags(), f"--workdir={folder}", f"--shard={shard}"
        )

    assert run_shard("3/3").returncode == 0  # the baselines need no teacher
    rejected = run_shard("2/3")
    assert rejected.returncode == 2
    assert "a student needs a teacher, and none is trained" in rejected.stderr
    assert run_shard("1/3").returncode == 0
    second_call = run_shard("3/3")
    assert second_call.returncode == 0
    assert second_call.stderr.splitlines() == [
        "shard 1/3: teacher-d4-s0",
        "shard 2/3: 4 runs, student-mse-d1-s0 to student-l1-d1-s1",
        "shard 3/3 (this one): baseline-d1-s0, baseline-d1-s1",
        "all 2 runs are done",
    ]
    # Shard 2 never ran; the whole study trains its runs.
    whole = run_shard("1/1")
    assert whole.returncode == 0, whole.stderr
    assert "baseline" not in whole.stderr
    # The same seeds give the same bits in other processes.
    assert kill_study.compare_studies(tiny.config(), folder, finished) == []


def test_a_shard_logs_what_every_shard_does(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(runner, "_are_done", lambda *_: True)
    caplog.set_level("INFO", logger="gankd_jax")
    runner.run_study(tiny.config(), tmp_path, (2, 8))
    lines = caplog.messages
    assert lines[0] == "shard 1/8: teacher-d4-s0"
    assert lines[1] == "shard 2/8 (this one): student-mse-d1-s0"
    assert lines[7:] == ["shard 8/8: no run", "all 1 runs are done"]


def test_shard_waits_for_a_teacher_that_has_not_started(tmp_path, monkeypatch):
    context, sleep_seconds = StudyContext(tiny.config(), tmp_path), []
    choice = {"run": "teacher-d4-s0"}

    def sleep(seconds: float) -> None:
        sleep_seconds.append(seconds)
        if len(sleep_seconds) == 3:
            atomic_io.write_json(tmp_path / "teacher.json", choice)

    monkeypatch.setattr(runner.time, "sleep", sleep)
    runner._wait_for_teacher(context, 60)
    assert sleep_seconds == [runner.POLL_SECONDS] * 3
    (tmp_path / "teacher.json").unlink()
    with pytest.raises(UserError, match="none is trained: run teacher-d4-s0 first"):
        runner._wait_for_teacher(StudyContext(tiny.config(), tmp_path), 0)


def test_checkpoints_of_a_locked_run_are_not_checked(finished, tmp_path):
    folder, run = tmp_path / "study", plan.find_run(tiny.config(), "teacher-d4-s0")
    shutil.copytree(finished, folder)
    truncate_checkpoint(folder / run.name / "checkpoints" / "40")
    with file_lock.hold_lock(folder / file_lock.LOCKS_DIR / run.name, "the run"):
        runner._quarantine_damaged_checkpoints(folder, [run])
        assert workdir.checkpoint_steps(folder, run) == [30, 40]
    runner._quarantine_damaged_checkpoints(folder, [run])
    assert workdir.checkpoint_steps(folder, run) == [30]


@pytest.mark.slow
def test_locked_run_is_not_started_by_another_process(root, tmp_path):
    with file_lock.hold_lock(tmp_path / "study" / file_lock.LOCKS_DIR / "teacher-d4-s0", "the run"):
        (tmp_path / "study" / "config.json").write_text(json.dumps(config_to_dict(tiny.config())))
        result = tiny.run_gankd(root, "study", *tiny.flags(), f"--workdir={tmp_path / 'study'}")
    assert result.returncode == 2
    assert re.search(rf"gankd: teacher-d4-s0 is locked by process {os.getpid()} on ", result.stderr)
    assert not (tmp_path / "study" / "teacher-d4-s0" / "checkpoints").exists()


def truncate_checkpoint(checkpoint: Path) -> None:
    """Cuts the last byte off the largest file."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])


def test_damaged_checkpoint_is_renamed_and_the_previous_one_used(root, finished, tmp_path):
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    truncate_checkpoint(folder / name / "checkpoints" / "40")
    (folder / name / "scores.json").unlink()
    with pytest.raises(UserError, match=r"40 is damaged; `gankd train --run=teacher-d4-s0`"):
        StudyContext(tiny.config(), folder).restore_state(plan.find_run(tiny.config(), name))
    resume_and_compare(root, folder, finished)
    assert (folder / name / "checkpoints" / "40.damaged").is_dir()


def test_scored_run_with_a_damaged_checkpoint_is_trained_again(root, finished, tmp_path):
    """The error about the damaged checkpoint suggests this command."""
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    before = load_last_arrays(tiny.config(), folder, name)
    truncate_checkpoint(folder / name / "checkpoints" / "40")
    result = tiny.run_gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={name}")
    assert result.returncode == 0, result.stderr
    after = load_last_arrays(tiny.config(), folder, name)
    assert all((after[key] == before[key]).all() for key in before)


def test_run_without_an_intact_checkpoint_is_left_unchanged(root, finished, tmp_path):
    folder, name = tmp_path / "study", "teacher-d4-s0"
    shutil.copytree(finished, folder)
    for step in ("30", "40"):
        truncate_checkpoint(folder / name / "checkpoints" / step)
    before = tiny.snapshot(folder)
    result = tiny.run_gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={name}")
    assert result.returncode == 2
    assert re.fullmatch(
        r"gankd: .*40 is damaged and no other .* from the beginning\n", result.stderr
    )
    assert tiny.snapshot(folder) == before


def two_baselines_config(data_dir: str) -> ConfigDict:
    """Two baselines of 20 steps in one group; a run trained alone would have other bits."""
    return tiny.config(
        data__dir=data_dir,
        study__students=(),
        recipes__baseline__steps=20,
        recipes__baseline__critic_width=1,
        training__grid_every=0,
    )


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory) -> Path:
    """The work directory of the two baselines, trained without a stop."""
    folder, config = (
        tmp_path_factory.mktemp("baselines"),
        two_baselines_config(str(tiny.prepare_data(root))),
    )
    train.train_runs(StudyContext(config, folder), plan.baseline_runs(config))
    return folder


def test_mirror_images_are_trained_on_too(data_dir, tmp_path, monkeypatch):
    groups: list[loop.RunGroup] = []
    monkeypatch.setattr(loop, "train_group", lambda group, *_, **__: groups.append(group))
    config = tiny.config(data__dir=data_dir, data__mirror=True)
    context = StudyContext(config, tmp_path)
    train._train_group(context, plan.baseline_runs(config), None)
    originals, mirrored = np.split(groups[0].images, 2)
    np.testing.assert_array_equal(originals, context.train_images.pixels)
    assert [np.fliplr(image).tolist() for image in originals[:50]] == mirrored[:50].tolist()


@pytest.mark.parametrize(
    "missing",
    [
        {"baseline-d1-s1": ["20"]},
        {"baseline-d1-s0": ["20"], "baseline-d1-s1": ["10", "20"]},
    ],
    ids=["in the last save", "in the first save"],
)
def test_group_stopped_between_the_saves_of_its_runs_resumes_exactly(
    uninterrupted, data_dir, tmp_path, missing
):
    config, folder = two_baselines_config(data_dir), tmp_path / "study"
    shutil.copytree(uninterrupted, folder)
    for name, steps in missing.items():
        for step in steps:
            shutil.rmtree(folder / name / "checkpoints" / step)
    train.train_runs(StudyContext(config, folder), plan.baseline_runs(config))
    for run in plan.baseline_runs(config):
        arrays = load_last_arrays(config, folder, run.name)
        expected = load_last_arrays(config, uninterrupted, run.name)
        assert tiny.differences(arrays, expected) == []
        assert [line["step"] for line in read_log(folder / run.name)] == [10, 20]


# Which runs resume as one group


def group_baselines(
    folder: Path, saved_steps: dict[str, list[int]], marker_files: list[str]
) -> list[list[str]]:
    """Groups baselines that have these (empty) checkpoints and markers such as NAME/failed.json."""
    config = tiny.config(study__seeds=(0, 1, 2))
    for name, steps in saved_steps.items():
        for step in steps:
            (folder / name / "checkpoints" / str(step)).mkdir(parents=True)
    for marker in marker_files:
        (folder / marker).parent.mkdir(exist_ok=True)
        (folder / marker).touch()
    groups = train.resume_groups(StudyContext(config, folder), plan.baseline_runs(config))
    return [[run.name.removeprefix("baseline-d1-") for run in group] for group in groups]


A, B, C = (f"baseline-d1-s{seed}" for seed in range(3))
ONE_GROUP = [["s0", "s1", "s2"]]


@pytest.mark.parametrize(
    ("saved_steps", "marker_files", "expected"),
    [
        ({}, [], ONE_GROUP),
        ({A: [10, 20], B: [10, 20], C: [10, 20]}, [], ONE_GROUP),
        ({A: [20, 30], B: [10, 20], C: [10, 20]}, [], ONE_GROUP),
        ({A: [10], B: [10]}, [], ONE_GROUP),  # C lacks its first checkpoint
        ({A: [30, 40], B: [30, 40], C: [20, 30]}, [], ONE_GROUP),  # C lacks its last checkpoint
        ({A: [30, 40], B: [30, 40], C: [30, 40]}, [], []),
        ({A: [30, 40], B: [10, 20], C: [10, 20]}, [], [["s1", "s2"]]),
        ({A: [20, 30], B: [10]}, [], [["s0"], ["s1"], ["s2"]]),
        ({B: [10, 20], C: [10, 20]}, [f"{A}/failed.json"], [["s1", "s2"]]),
        # A failed after the step where the others resume: it was still in their group there.
        ({A: [10, 20], B: [10, 20], C: [10, 20]}, [f"{A}/failed.json"], ONE_GROUP),
        ({A: [10, 20], B: [20, 30], C: [20, 30]}, [f"{A}/failed.json"], [["s1", "s2"]]),
        ({}, [f"{A}/failed.json", f"{B}/failed.json", f"{C}/failed.json"], []),
        # Scored and imported runs are not trained again.
        ({A: [30, 40], B: [20, 30], C: [20, 30]}, [f"{A}/scores.json"], [["s1", "s2"]]),
        ({A: [40]}, [f"{A}/imported.json"], [["s1", "s2"]]),
    ],
)
def test_runs_that_share_a_saved_step_resume_as_one_group(
    tmp_path, saved_steps, marker_files, expected
):
    assert group_baselines(tmp_path, saved_steps, marker_files) == expected


# Selection of the teacher


@pytest.fixture
def candidates(tmp_path, monkeypatch, data_dir) -> StudyContext:
    """A study of three teacher candidates with fixed validation distances."""
    config = tiny.config(data__dir=data_dir, data__validation=400, study__teacher_widths=(4, 8, 16))
    distances = {"teacher-d4-s0": 5.0, "teacher-d8-s0": 3.0, "teacher-d16-s0": 4.0}
    monkeypatch.setattr(evaluate, "_validation_distance", lambda _, run: distances[run.name])
    return StudyContext(config, tmp_path)


def end_runs(context: StudyContext, *widths: int, fail: bool = False) -> None:
    """Marks teachers of these widths as trained, or as failed."""
    for width in widths:
        folder = context.workdir / f"teacher-d{width}-s0"
        (folder / "checkpoints" / ("10" if fail else "40")).mkdir(parents=True)
        if fail:
            (folder / "failed.json").touch()


def test_candidate_nearest_to_the_validation_images_is_selected(candidates):
    end_runs(candidates, 4, 8, 16)
    evaluate.select_teacher(candidates)
    choice = atomic_io.read_json(candidates.workdir / "teacher.json")
    assert choice["run"] == "teacher-d8-s0"
    assert choice["chosen_by"] == "fd_classifier on validation"
    assert choice["candidates"] == {"teacher-d4-s0": 5.0, "teacher-d8-s0": 3.0, "teacher-d16-s0": 4}
    assert candidates.teacher == Run("teacher", "teacher", 8, 0)


def test_failed_candidate_is_not_selected(candidates):
    end_runs(candidates, 4, 16)
    end_runs(candidates, 8, fail=True)
    evaluate.select_teacher(candidates)
    assert atomic_io.read_json(candidates.workdir / "teacher.json")["run"] == "teacher-d16-s0"


def test_teacher_is_selected_once_all_candidates_have_ended(candidates):
    end_runs(candidates, 4, 8)
    evaluate.select_teacher(candidates)
    assert not (candidates.workdir / "teacher.json").exists()
    with pytest.raises(UserError, match="a student needs a teacher, and none is trained"):
        _ = candidates.teacher
    end_runs(candidates, 16)
    atomic_io.write_json(candidates.workdir / "teacher.json", {"run": "teacher-d4-s0"})
    evaluate.select_teacher(candidates)
    assert atomic_io.read_json(candidates.workdir / "teacher.json") == {"run": "teacher-d4-s0"}


def test_error_if_every_candidate_failed(candidates):
    end_runs(candidates, 4, 8, 16, fail=True)
    evaluate.select_teacher(candidates)  # no error yet: baselines need no teacher
    assert not (candidates.workdir / "teacher.json").exists()
    with pytest.raises(UserError, match=r"every teacher failed; see .*failed.json"):
        _ = candidates.teacher
    with pytest.raises(UserError, match="every teacher failed"):  # although it might wait an hour
        runner._wait_for_teacher(candidates, 3_600)


def test_teacher_in_training_elsewhere_is_waited_for(candidates, monkeypatch):
    """`wait_seconds` limits the wait only while no process trains a candidate."""
    sleep_seconds = []

    def sleep(seconds: float) -> None:
        sleep_seconds.append(seconds)
        atomic_io.write_json(candidates.workdir / "teacher.json", {"run": "teacher-d4-s0"})

    monkeypatch.setattr(runner.time, "sleep", sleep)
    with file_lock.hold_lock(
        candidates.workdir / file_lock.LOCKS_DIR / "teacher-d8-s0", "the teacher"
    ):
        runner._wait_for_teacher(candidates, 0)
    assert sleep_seconds == [runner.POLL_SECONDS]
    (candidates.workdir / "teacher.json").unlink()
    new_context = StudyContext(candidates.config, candidates.workdir)
    with pytest.raises(UserError, match="a student needs a teacher, and none is trained"):
        runner._wait_for_teacher(new_context, 0)
    assert sleep_seconds == [runner.POLL_SECONDS]


def test_candidates_are_compared_on_the_validation_images(finished, data_dir, tmp_path):
    own_data = shutil.copytree(data_dir, tmp_path / "data")
    config = tiny.config(data__dir=str(own_data), data__validation=400)
    context = StudyContext(config, finished)

    teacher = plan.find_run(config, "teacher-d4-s0")
    distance = evaluate._validation_distance(context, teacher)
    generator = context.load_generator(teacher)
    batches = inference.sample_batches(generator, 1_000_001, count=200, batch_size=80)
    samples = np.concatenate(list(batches))
    validation_images = np.asarray(context.load_split("validation").pixels)
    assert (len(validation_images), len(context.train_images.pixels)) == (400, 1038)
    eval_classifier = context.load_or_train_classifiers()[0]
    fake, real = (
        np.asarray(eval_classifier(x)[1], np.float64) for x in (samples, validation_images)
    )
    moments = (fake.mean(0), np.cov(fake.T), real.mean(0), np.cov(real.T))
    assert distance == pytest.approx(frechet_distance(*moments), rel=1e-4)


def test_work_directory_stores_the_config_of_the_flags(finished):
    stored = json.loads((finished / "config.json").read_text())
    assert stored["study"]["seeds"] == [0, 1]
    assert stored["recipes"]["l1"]["generator_lr"] == 1e38
