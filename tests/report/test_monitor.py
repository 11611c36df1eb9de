"""The state of a study, read from files that are written here, and of one that is finished."""

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
from gankd_jax.report.study_results import read_study_results
from gankd_jax.utils import file_lock
from gankd_jax.utils.errors import UserError

NOW = 1_000_000.0
RUN = "student-mse-d4-s1"  # of the unfinished study: at step 300 of 1,000


@pytest.fixture
def folder(tmp_path) -> Path:
    """One run failed, one trained, one half-way, one not begun, the others scored."""
    folder = fake_study.write_unfinished_study(tmp_path)
    (folder / "student-mse-d2-s1" / "checkpoints" / "1000").mkdir(parents=True)
    return folder


def seen(folder: Path, name: str) -> RunStatus:
    [found] = [run for run in read_status(folder, NOW) if run.name == name]
    return found


def write_lock(folder: Path, text: str, *, age: float) -> None:
    """A lock file of another machine, as a file system without locks shows it; the log's age."""
    path = folder / file_lock.LOCKS_DIR / RUN
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    for file in (path, folder / RUN / "log.jsonl"):
        if file.exists():
            os.utime(file, (NOW - age, NOW - age))


def test_what_has_ended_is_said(folder):
    failed = seen(folder, "baseline-d2-s0")
    assert (failed.state, failed.text) == (
        "failed",
        "at step 120: the critic's loss is not finite",
    )
    assert seen(folder, "student-mse-d2-s1").state == "trained"
    assert seen(folder, "baseline-d4-s1") == RunStatus("baseline-d4-s1", "waiting")
    teacher = seen(folder, "teacher-d32-s0")
    assert (teacher.state, teacher.text) == ("scored", "inception_score 8.00, fd_classifier 10.00")


def test_a_run_that_nobody_works_at_is_stopped(folder):
    found = seen(folder, RUN)
    assert (found.state, found.host) == ("stopped", "")
    assert found.text == "step 300 of 1,000"


def test_a_run_whose_lock_is_held_is_in_training(folder):
    lines = [{"step": 100, "seconds": 10.0}, {"step": 200, "seconds": 30.0, "pixel_error": 0.25}]
    log = folder / RUN / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(log, (NOW, NOW))
    with file_lock.hold_lock(folder / file_lock.LOCKS_DIR / RUN, RUN):
        found = seen(folder, RUN)
    # 100 steps in 20 seconds are 5 in one; 800 are left.
    assert found == RunStatus(
        RUN,
        "training",
        socket.gethostname(),
        "step 200 of 1,000, 5 steps/s, 3 min left, pixel_error 0.25",
    )
    assert seen(folder, RUN).state == "stopped"
    assert file_lock.lock_holder(folder / file_lock.LOCKS_DIR / RUN) == ""


@pytest.mark.parametrize(
    ("age", "state", "news"), [(100, "training", ""), (720, "silent", ", no news for 12 min")]
)
def test_a_lock_that_cannot_be_seen_is_judged_by_the_logs_age(folder, age, state, news):
    write_lock(folder, "process 7 on elsewhere", age=age)
    found = seen(folder, RUN)
    assert (found.state, found.host) == (state, "elsewhere")
    assert found.text.endswith(news)
    assert ("no news" in found.text) == bool(news)


def test_before_its_first_line_a_run_may_take_longer(folder):
    (folder / RUN / "log.jsonl").unlink()
    write_lock(folder, "process 7 on elsewhere", age=720)
    assert seen(folder, RUN) == RunStatus(RUN, "training", "elsewhere", "no line in its log yet")


def test_a_process_of_this_machine_that_was_killed_is_known(folder):
    write_lock(folder, f"process 7 on {socket.gethostname()}", age=1)
    found = seen(folder, RUN)
    assert found.state == "stopped"
    assert found.text == f"step 300 of 1,000, process 7 on {socket.gethostname()} has ended"


def test_the_screen_counts_states_and_hosts(folder):
    write_lock(folder, "process 7 on elsewhere", age=1)
    lines = render_screen("runs/x", read_status(folder, NOW)).splitlines()
    assert lines[0] == ("runs/x: 9 runs: 5 scored, 1 trained, 1 failed, 1 training, 1 waiting")
    assert lines[1] == "training on elsewhere: 1 of them"
    assert [line.split()[0] for line in lines[3:]] == [run.name for run in read_status(folder, NOW)]
    [line] = [line for line in lines if line.startswith(RUN)]
    assert line.split()[1:6] == ["training", "on", "elsewhere:", "step", "300"]


def test_a_small_screen_shows_what_moves(folder):
    write_lock(folder, "process 7 on elsewhere", age=1)
    found = read_status(folder, NOW)
    lines = render_screen("runs/x", found, (60, 9)).splitlines()
    assert len(lines) <= 9
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(RUN) for line in lines)
    assert any(line.split()[:3] == ["5", "runs", "scored"] for line in lines)
    assert render_screen("runs/x", found, (60, 5)).splitlines()[-1].startswith("4 more")


def test_a_finished_study_is_shown_once(command, finished):
    status, out, err = command("watch", "--once", f"--workdir={finished}")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].endswith(": 7 runs: 5 scored, 2 failed")
    assert out.count("inception_score") == 5


def test_it_goes_on_until_ctrl_c_and_writes_plain_text(folder):
    words = [sys.executable, "-m", "gankd_jax", "watch", f"--workdir={folder}"]
    # Tests begun in the background ignore Ctrl-C, which a process takes over from its parent.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(words, cwd=tiny.REPO, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith(f"{folder}: 9 runs: ")
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "\x1b" not in rest


DAMAGED = {
    "config.json": ("{", "[]", "{}"),
    f"{RUN}/failed.json": ("{", "[]", "{}", '{"step": 5}'),
    f"{RUN}/scores.json": ("{", '{"scores": []}', '{"scores": {"fid": "low"}}'),
}


@pytest.mark.parametrize(("name", "text"), [(k, text) for k in DAMAGED for text in DAMAGED[k]])
def test_a_damaged_file_is_named_as_by_the_report(folder, name, text):
    (folder / name).write_text(text)
    for look_at in (read_study_results, lambda place: monitor_study(place, once=True)):
        with pytest.raises(UserError, match=rf"{name} is damaged .*; delete it and run again"):
            look_at(folder)


@pytest.mark.parametrize("line", ['{"step": 5}', '{"step": "five", "seconds": 1}'])
def test_a_damaged_log_of_a_run_at_work_is_named(folder, line):
    (folder / RUN / "log.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"log.jsonl is damaged .*; delete it and run again"):
        monitor_study(folder, once=True)


def test_a_score_that_is_no_number_is_a_dash(folder):
    (folder / RUN / "scores.json").write_text('{"scores": {"inception_score": 2, "fid": null}}')
    assert seen(folder, RUN) == RunStatus(RUN, "scored", text="inception_score 2.00, fid -")


def test_a_folder_without_a_study_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        monitor_study(tmp_path, once=True)
