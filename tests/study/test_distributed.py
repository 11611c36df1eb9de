"""One device, eight, and two processes train the same runs; what one layout saved another resumes.

All runs are in float64, so that the order of sums shows in the last digits only.
"""

import re
import signal
import socket
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from in_float64 import assert_equal_runs, begin

from gankd_jax.study import plan, workdir
from gankd_jax.training import crew
from gankd_jax.utils import multihost, preemption, sharding
from gankd_jax.utils.errors import UserError

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
    (base / "led").write_text(told[0][1])
    (base / "followed").write_text(told[1][0] + told[1][1])
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


def test_one_process_alone_speaks(trained):
    folder = trained["one"].parent
    assert "4 students: step" in (folder / "led").read_text()
    told = (folder / "followed").read_text().splitlines()
    kept = [line for line in told if not GLOO.fullmatch(line)]
    assert kept == ["stopping after this call; Ctrl-C stops at once"]


# Who the others are


@pytest.fixture
def joined(monkeypatch) -> list[dict]:
    """What `jax.distributed.initialize` is called with, in an environment without a cluster."""
    calls: list[dict] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for name in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
    ],
)
def test_a_process_that_nobody_speaks_of_others_to_stays_alone(joined, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    multihost.initialize(None, None, None)
    assert joined == []


@pytest.mark.parametrize(
    "environment", [{"SLURM_STEP_NUM_TASKS": "2"}, {"TPU_WORKER_HOSTNAMES": "t-0,t-1"}]
)
def test_a_cluster_is_found_unless_one_process_is_asked_for(joined, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    multihost.initialize(None, "1", None)
    assert joined == []
    multihost.initialize(None, None, None)
    (given,) = joined
    assert "coordinator_address" not in given  # JAX asks the cluster


def test_a_cluster_is_asked_for_by_name(joined):
    multihost.initialize(None, "auto", None)
    assert len(joined) == 1


def test_flags_say_who_the_others_are(joined):
    multihost.initialize("host:8476", "4", "3")
    (given,) = joined
    wanted = {"coordinator_address": "host:8476", "num_processes": 4, "process_id": 3}
    assert wanted.items() <= given.items()
    assert given["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((None, "2", "0"), "need --coordinator=HOST:PORT of process 0"),
        ((None, None, "0"), "need --coordinator=HOST:PORT of process 0"),
        (("h:1", None, "0"), "both are whole numbers"),
        (("h:1", "2", "x"), "both are whole numbers"),
        (("h:1", "2", "2"), "--process=2: processes are counted from 0 to 1"),
    ],
)
def test_flags_that_do_not_fit_are_refused(joined, flags, told):
    with pytest.raises(UserError, match=told):
        multihost.initialize(*flags)
    assert joined == []


def test_others_that_do_not_come_are_missed(joined, monkeypatch):
    def fails(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: 1/2 came\nand much more")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(UserError, match=r"are not found \(DEADLINE_EXCEEDED: 1/2 came\)$"):
        multihost.initialize("h:1", "2", "0")


def test_more_devices_than_there_are_cannot_be_had():
    with pytest.raises(UserError, match=r"devices is 9; JAX sees \d here"):
        sharding.make_mesh(9)
    assert sharding.make_mesh(0).size == len(jax.devices())


# What they tell each other


@pytest.mark.parametrize(("marks", "told"), [([7, 8], "has other images"), ([7, 0], "take part")])
def test_a_process_that_is_not_like_the_others_ends_all(monkeypatch, marks, told):
    monkeypatch.setattr(multihost, "allgather_int", lambda _: marks)
    with pytest.raises(UserError, match=f"process 1 .*{told}"):
        crew._need_equal(7)


def test_a_follower_hears_how_its_leader_ends(monkeypatch):
    """The codes of one side as the other reads them."""
    given: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(multihost, "allgather_int", lambda number, _: given.append(number))
        with multihost.primary_scope():
            pass
        for error in (UserError("x"), preemption.Preempted(15), KeyboardInterrupt(), OSError()):
            with pytest.raises(type(error)), multihost.primary_scope():
                raise error
    monkeypatch.setattr(multihost, "is_single_process", lambda: False)
    monkeypatch.setattr(multihost, "is_primary", lambda: False)
    monkeypatch.setattr(multihost.multihost, "get_barrier_sync_fn", lambda: lambda **_: None)
    ends = []
    for number in given:
        gathered = np.array([number, 0], np.int32)
        monkeypatch.setattr(
            multihost.multihost_utils, "process_allgather", lambda _, found=gathered: found
        )
        with pytest.raises(preemption.PrimaryEnded) as ended:
            multihost.allgather_int(0)
        ends.append(ended.value.status)
    assert ends == [0, 2, 128 + 15, 130, 1]
