"""`gankd watch` on made-up work directories and on a finished study."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fake_study
import pytest
import tiny

from gankd_jax.report.monitor import RunStatus, monitor_study, read_status, render_screen
from gankd_jax.report.study_results import load_study
from gankd_jax.utils import file_lock
from gankd_jax.utils.errors import UserError

NOW = 1_000_000.0
RUN = "student-mse-d4-s1"  # of the unfinished study: at step 300 of 1,000


@pytest.fixture
def folder(tmp_path) -> Path:
    """One run failed, one trained, one half-way, one not started, the others scored."""
    folder = fake_study.write_unfinished_study(tmp_path)
    (folder / "student-mse-d2-s1" / "checkpoints" / "1000").mkdir(parents=True)
    return folder


def status_of(folder: Path, name: str) -> RunStatus:
    [status] = [run for run in read_status(folder, NOW) if run.name == name]
    return status


def write_lock(folder: Path, text: str, *, age: float) -> None:
    """Writes a lock file like that of another machine; sets the age of the log."""
    path = folder / file_lock.LOCKS_DIR / RUN
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    for file in (path, folder / RUN / "log.jsonl"):
        if file.exists():
            os.utime(file, (NOW - age, NOW - age))


def test_failed_trained_waiting_and_scored_runs_are_distinguished(folder):
    failed = status_of(folder, "baseline-d2-s0")
    assert (failed.state, failed.text) == (
        "failed",
        "at step 120: the critic's loss is not finite",
    )
    assert status_of(folder, "student-mse-d2-s1").state == "trained"
    assert status_of(folder, "baseline-d4-s1") == RunStatus("baseline-d4-s1", "waiting")
    teacher = status_of(folder, "teacher-d32-s0")
    assert (teacher.state, teacher.text) == ("scored", "inception_score 8.00, fd_classifier 10.00")


def test_unfinished_run_without_lock_is_stopped(folder):
    status = status_of(folder, RUN)
    assert (status.state, status.host) == ("stopped", "")
    assert status.text == "step 300 of 1,000"


def test_run_whose_lock_is_held_is_training(folder):
    lines = [{"step": 100, "seconds": 10.0}, {"step": 200, "seconds": 30.0, "pixel_error": 0.25}]
    log = folder / RUN / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(log, (NOW, NOW))
    with file_lock.hold_lock(folder / file_lock.LOCKS_DIR / RUN, RUN):
        status = status_of(folder, RUN)
    # 100 steps in 20 seconds are 5 in one; 800 are left.
    assert status == RunStatus(
        RUN,
        "training",
        socket.gethostname(),
        "step 200 of 1,000, 5 steps/s, 3 min left, pixel_error 0.25",
    )
    assert status_of(folder, RUN).state == "stopped"
    assert file_lock.lock_holder(folder / file_lock.LOCKS_DIR / RUN) == ""


@pytest.mark.parametrize(
    ("age", "state", "news"), [(100, "training", ""), (720, "silent", ", no news for 12 min")]
)
def test_run_with_invisible_lock_is_silent_once_its_log_is_old(folder, age, state, news):
    write_lock(folder, "process 7 on elsewhere", age=age)
    status = status_of(folder, RUN)
    assert (status.state, status.host) == (state, "elsewhere")
    assert status.text.endswith(news)
    assert ("no news" in status.text) == bool(news)


def test_run_may_take_longer_before_its_first_log_line(folder):
    (folder / RUN / "log.jsonl").unlink()
    write_lock(folder, "process 7 on elsewhere", age=720)
    assert status_of(folder, RUN) == RunStatus(
        RUN, "training", "elsewhere", "no line in its log yet"
    )


def test_run_of_a_killed_process_of_this_machine_is_stopped(folder):
    write_lock(folder, f"process 7 on {socket.gethostname()}", age=1)
    status = status_of(folder, RUN)
    assert status.state == "stopped"
    assert status.text == f"step 300 of 1,000, process 7 on {socket.gethostname()} has ended"


def test_screen_counts_states_and_hosts(folder):
    write_lock(folder, "process 7 on elsewhere", age=1)
    lines = render_screen("runs/x", read_status(folder, NOW)).splitlines()
    assert lines[0] == ("runs/x: 9 runs: 5 scored, 1 trained, 1 failed, 1 training, 1 waiting")
    assert lines[1] == "1 training on elsewhere"
    assert [line.split()[0] for line in lines[3:]] == [run.name for run in read_status(folder, NOW)]
    [line] = [line for line in lines if line.startswith(RUN)]
    assert line.split()[1:6] == ["training", "on", "elsewhere:", "step", "300"]


def test_small_screen_collapses_uneventful_states(folder):
    write_lock(folder, "process 7 on elsewhere", age=1)
    statuses = read_status(folder, NOW)
    lines = render_screen("runs/x", statuses, (60, 9)).splitlines()
    assert len(lines) <= 9
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(RUN) for line in lines)
    assert any(line.split()[:3] == ["5", "runs", "scored"] for line in lines)
    assert render_screen("runs/x", statuses, (60, 5)).splitlines()[-1].startswith("4 more")


@pytest.mark.slow
def test_finished_study_is_printed_once(command, finished):
    status, out, err = command("watch", "--once", f"--workdir={finished}")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].endswith(": 7 runs: 5 scored, 2 failed")
    assert out.count("inception_score") == 5


@pytest.mark.slow
def test_watch_runs_until_ctrl_c_and_writes_plain_text(folder):
    command = [sys.executable, "-m", "gankd_jax", "watch", f"--workdir={folder}"]
    # A process that is started in the background inherits that SIGINT is ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tiny.REPO, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    assert process.stdout is not None
    first_line = process.stdout.readline()
    assert first_line.startswith(f"{folder}: 9 runs: ")
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    remaining_output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\x1b" not in remaining_output


DAMAGED = {
    "config.json": ("{", "[]", "{}"),
    f"{RUN}/failed.json": ("{", "[]", "{}", '{"step": 5}'),
    f"{RUN}/scores.json": ("{", '{"scores": []}', '{"scores": {"fid": "low"}}'),
    "teacher-d32-s0/layers.json": ("{", '{"scores": {"fid": "low"}}'),
}


@pytest.mark.parametrize(("name", "text"), [(k, text) for k in DAMAGED for text in DAMAGED[k]])
def test_damaged_file_is_named_as_by_the_report(folder, name, text):
    (folder / name).write_text(text)
    for read in (load_study, lambda workdir: monitor_study(workdir, once=True)):
        with pytest.raises(UserError, match=rf"{name} is damaged .*; delete it and run again"):
            read(folder)


@pytest.mark.parametrize("line", ['{"step": 5}', '{"step": "five", "seconds": 1}'])
def test_damaged_log_of_an_unfinished_run_is_named(folder, line):
    (folder / RUN / "log.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"log.jsonl is damaged .*; delete it and run again"):
        monitor_study(folder, once=True)


def test_nan_score_is_a_dash(folder):
    (folder / RUN / "scores.json").write_text('{"scores": {"inception_score": 2, "fid": null}}')
    assert status_of(folder, RUN) == RunStatus(RUN, "scored", text="inception_score 2.00, fid -")


@pytest.mark.parametrize(
    ("scores", "layers", "text"),
    [
        ({"sharpness": 9, "pixel_error": 0.25}, {"fd_64": 3, "fid": 4}, "fid 4.00, fd_64 3.00"),
        ({"pixel_error": 0.25}, {"fd_192": 5}, "fd_192 5.00, pixel_error 0.250"),
        ({"pixel_error_seen": 0.5, "pixel_error": 0.25}, None, "pixel_error 0.250"),
        (
            {"fd_classifier": 6, "inception_score": 2},
            {"kid": 1},
            "inception_score 2.00, fd_classifier 6.00",
        ),
    ],
    ids=["no labels", "distilled, with layers", "distilled", "labels"],
)
def test_the_first_two_scores_of_both_files_are_shown(folder, scores, layers, text):
    (folder / RUN / "scores.json").write_text(json.dumps({"scores": scores}))
    if layers:
        (folder / RUN / "layers.json").write_text(json.dumps({"scores": layers}))
    assert status_of(folder, RUN) == RunStatus(RUN, "scored", text=text)


def test_folder_without_a_study_is_rejected(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        monitor_study(tmp_path, once=True)
