"""One device, eight, and two processes train the same runs; each layout resumes what another saved.

All runs are in float64, so that the order of sums shows in the last digits only.
"""

import re
import signal
import socket
from pathlib import Path

import pytest
import tiny
from in_float64 import assert_equal_runs, begin

from gankd_jax.study import plan, workdir

STEPS = 20
PENALTY = {"loss": "wgan_gp", "critic_norm": "none", "critic_steps": 3}
CHANGES: dict[str, object] = {
    "study__students": ("mse", "joint"),
    "recipes__joint__loss": "hinge",  # compiles faster than the penalty, which the teacher has
    "training__checkpoint_every": 5,
    "training__grid_every": 0,
    **{f"recipes__teacher__{name}": value for name, value in PENALTY.items()},
    **{f"recipes__{name}__steps": STEPS for name in ("teacher", "mse", "l1", "joint", "baseline")},
    **{f"recipes__{name}__batch_size": 16 for name in ("teacher", "mse", "joint", "baseline")},
}
NAMES = [run.name for run in plan.plan_runs(tiny.config(**CHANGES))]
# What Gloo says of each connection; its threads speak at once, a word here and a word there.
GLOO = re.compile(
    r"(\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :"
    r"|\d| )*"
)
STOP = 10  # the step of the baselines after which the second process gets a signal


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.shared(tmp_path_factory)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def words(folder: Path, devices: int) -> list[str]:
    flags = tiny.flags(**CHANGES, training__devices=devices)
    return ["study", *flags, f"--workdir={folder}"]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> dict[str, Path]:
    """The same study on one device, on eight, and by two processes of two devices each.

    A signal to the second of the two stops both among the baselines; one process, whose eight
    devices share each batch, goes on with that study.
    """
    base = tmp_path_factory.mktemp("trained")
    folders = {name: base / name for name in ("one", "eight", "two")}
    meeting = ["--processes=2", f"--coordinator=127.0.0.1:{free_port()}"]
    stopped = {"STOP_AT": f"2 baselines:{STOP}"}
    two = [
        begin(root, 2, *words(folders["two"], 0), *meeting, f"--process={k}", **environment)
        for k, environment in enumerate([{}, stopped])
    ]
    told = [process.communicate(timeout=500) for process in two]
    assert [process.returncode for process in two] == [128 + signal.SIGTERM] * 2, told
    for run in plan.baseline_runs(tiny.config(**CHANGES)):
        # The signal came after all had agreed to go on, and is heard after the next call.
        assert workdir.checkpoint_steps(folders["two"], run) == [STOP, STOP + 5]
    (base / "primary").write_text(told[0][1])
    (base / "other").write_text(told[1][0] + told[1][1])
    rest = [*words(folders["one"], 1), "+", *words(folders["eight"], 8)]
    rest += ["+", *words(folders["two"], 8), "+", *words(base / "three", 3)]
    one = begin(root, 8, *rest)
    _, errors = one.communicate(timeout=500)
    (base / "one.stderr").write_text(errors)
    assert one.returncode == 2, errors  # the last of its studies is refused
    return folders


@pytest.mark.parametrize("layout", ["eight", "two"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_trains_the_same_run(trained, name, layout):
    assert_equal_runs(trained[layout] / name, trained["one"] / name, STEPS)


def test_a_batch_that_the_devices_cannot_share_is_refused_before_any_work(trained):
    folder = trained["one"].parent
    told = (folder / "one.stderr").read_text().splitlines()
    assert told[-1] == (
        "gankd: config.recipes.teacher.batch_size is 16, which 3 devices cannot share evenly;"
        " config.training.devices says how many of each process do"
    )
    assert not (folder / "three").exists()


def test_only_process_0_logs(trained):
    folder = trained["one"].parent
    assert "4 students: step" in (folder / "primary").read_text()
    lines = (folder / "other").read_text().splitlines()
    assert [line for line in lines if not GLOO.fullmatch(line)] == [
        "stopping after this call; Ctrl-C stops at once"
    ]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.recipes.teacher.generator_lr=0.5", "has other images, flags or versions"),
        ("--config.data.dir=/dev/null/data", "cannot take part; it has written why"),
    ],
)
def test_a_process_that_differs_ends_both(root, tmp_path, flag, message):
    words = ["train", *tiny.flags(**CHANGES), f"--workdir={tmp_path / 'study'}"]
    words += ["--run=teacher-d4-s0", "--processes=2", f"--coordinator=127.0.0.1:{free_port()}"]
    two = [begin(root, 1, *words, "--process=0"), begin(root, 1, *words, flag, "--process=1")]
    errors = [process.communicate(timeout=300)[1] for process in two]
    assert [process.returncode for process in two] == [2, 2], errors
    assert f"gankd: process 1 {message}" in errors[0]
    assert not list(tmp_path.glob("study/*/checkpoints/*"))


def test_a_mistake_that_process_0_finds_ends_both(root, tmp_path):
    (tmp_path / "thesis.tex").touch()
    words = ["study", *tiny.flags(**CHANGES), f"--workdir={tmp_path}", "--processes=2"]
    words.append(f"--coordinator=127.0.0.1:{free_port()}")
    two = [begin(root, 1, *words, f"--process={k}") for k in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in two]
    assert [process.returncode for process in two] == [2, 2], errors
    assert "has files but no study (thesis.tex)" in errors[0]
    assert "gankd:" not in errors[1]
