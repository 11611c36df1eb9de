"""Runs are equal on one device, on eight and in two processes, also if another layout resumes them.

All runs are in float64, so that the order of sums changes only the last digits.
"""

import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import tiny
from in_float64 import assert_equal_runs, start_process

from gankd_jax.study import plan, workdir

pytestmark = pytest.mark.slow

STEPS = 20
PENALTY = {"loss": "wgan_gp", "critic_norm": "none", "critic_steps": 3}
CHANGES: dict[str, object] = {
    "study__students": ("mse", "joint"),
    "recipes__joint__loss": "hinge",  # compiles faster than the teacher's gradient penalty
    "training__checkpoint_every": 5,
    "training__grid_every": 0,
    **{f"recipes__teacher__{name}": value for name, value in PENALTY.items()},
    **{f"recipes__{name}__steps": STEPS for name in ("teacher", "mse", "l1", "joint", "baseline")},
    **{f"recipes__{name}__batch_size": 16 for name in ("teacher", "mse", "joint", "baseline")},
}
NAMES = [run.name for run in plan.plan_runs(tiny.config(**CHANGES))]
# What Gloo prints for each connection; its threads interleave their output.
GLOO_OUTPUT = re.compile(
    r"(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :"
    r"|\d| )*"
)
STOP_STEP = 10  # of the baselines; the second process then gets a signal


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.session_dir(tmp_path_factory)


def find_free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def multihost_flags() -> list[str]:
    """Makes the flags that two processes share."""
    return ["--processes=2", f"--coordinator=127.0.0.1:{find_free_port()}"]


def wait_for_errors(processes: list[subprocess.Popen[str]], seconds: int = 300) -> list[str]:
    """Waits for processes that exit with 2; returns what each wrote to stderr."""
    errors = [process.communicate(timeout=seconds)[1] for process in processes]
    assert [process.returncode for process in processes] == [2] * len(processes), errors
    return errors


def study_arguments(folder: Path, devices: int) -> list[str]:
    flags = tiny.flags(**CHANGES, training__devices=devices)
    return ["study", *flags, f"--workdir={folder}"]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> dict[str, Path]:
    """The same study on one device, on eight, and in two processes of two devices each.

    A signal to the second of the two processes stops both while they train the baselines.  One
    process with eight devices then resumes that study.
    """
    base = tmp_path_factory.mktemp("trained")
    folders = {name: base / name for name in ("one", "eight", "two")}
    two_processes = [*study_arguments(folders["two"], 0), *multihost_flags()]
    stop_variables = {"STOP_AT": f"2 baselines:{STOP_STEP}"}
    processes = [
        start_process(root, 2, *two_processes, f"--process={k}", **variables)
        for k, variables in enumerate([{}, stop_variables])
    ]
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, outputs
    for run in plan.baseline_runs(tiny.config(**CHANGES)):
        # The processes had already agreed on the next call, and stop after it.
        assert workdir.checkpoint_steps(folders["two"], run) == [STOP_STEP, STOP_STEP + 5]
    (base / "process0.stderr").write_text(outputs[0][1])
    (base / "process1.output").write_text("".join(outputs[1]))
    arguments = [*study_arguments(folders["one"], 1), "+", *study_arguments(folders["eight"], 8)]
    arguments += ["+", *study_arguments(folders["two"], 8)]
    arguments += ["+", *study_arguments(base / "three", 3)]  # is refused
    (stderr_text,) = wait_for_errors([start_process(root, 8, *arguments)], seconds=500)
    (base / "eight.stderr").write_text(stderr_text)
    return folders


@pytest.mark.parametrize("layout", ["eight", "two"])
@pytest.mark.parametrize("name", NAMES)
def test_run_is_equal_on_every_layout(trained, name, layout):
    assert_equal_runs(trained[layout] / name, trained["one"] / name, STEPS)


def test_batch_that_devices_cannot_share_evenly_is_refused_before_training(trained):
    folder = trained["one"].parent
    lines = (folder / "eight.stderr").read_text().splitlines()
    assert lines[-1] == (
        "gankd: config.recipes.teacher.batch_size is 16, which 3 devices cannot share evenly;"
        " config.training.devices says how many of each process do"
    )
    assert not (folder / "three").exists()


def test_only_process_0_logs(trained):
    folder = trained["one"].parent
    assert "4 students (part 2 of 3): step" in (folder / "process0.stderr").read_text()
    lines = (folder / "process1.output").read_text().splitlines()
    assert [line for line in lines if not GLOO_OUTPUT.fullmatch(line)] == [
        "stopping after this call; Ctrl-C stops at once"
    ]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.recipes.teacher.generator_lr=0.5", "has other images, flags or versions"),
        ("--config.data.dir=/dev/null/data", "cannot take part; it has written why"),
    ],
)
def test_process_with_other_flags_or_data_ends_both(root, tmp_path, flag, message):
    arguments = ["train", *tiny.flags(**CHANGES), f"--workdir={tmp_path / 'study'}"]
    arguments += ["--run=teacher-d4-s0", *multihost_flags()]
    errors = wait_for_errors(
        [
            start_process(root, 1, *arguments, "--process=0"),
            start_process(root, 1, *arguments, flag, "--process=1"),
        ]
    )
    assert f"gankd: process 1 {message}" in errors[0]
    assert not list(tmp_path.glob("study/*/checkpoints/*"))


def test_error_on_process_0_ends_both(root, tmp_path):
    (tmp_path / "thesis.tex").touch()
    arguments = ["study", *tiny.flags(**CHANGES), f"--workdir={tmp_path}", *multihost_flags()]
    errors = wait_for_errors(
        [start_process(root, 1, *arguments, f"--process={k}") for k in range(2)]
    )
    assert "has files but no study (thesis.tex)" in errors[0]
    assert "gankd:" not in errors[1]
