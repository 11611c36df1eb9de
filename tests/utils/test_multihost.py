"""How processes meet, share values and end together."""

import jax
import numpy as np
import pytest

from gankd_jax.utils import multihost, preemption, sharding
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.preemption import PeerEnded


@pytest.fixture
def initialized(monkeypatch) -> list[dict]:
    """Records the calls of `jax.distributed.initialize`, in an environment without a cluster."""
    calls: list[dict] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
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
def test_without_flags_or_a_cluster_a_process_is_alone(initialized, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    multihost.initialize(None, None, None)
    assert initialized == []


@pytest.mark.parametrize(
    "environment", [{"SLURM_STEP_NUM_TASKS": "2"}, {"TPU_WORKER_HOSTNAMES": "t-0,t-1"}]
)
def test_a_cluster_is_joined_unless_one_process_is_requested(initialized, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    multihost.initialize(None, "1", None)
    assert initialized == []
    multihost.initialize(None, None, None)
    (arguments,) = initialized
    assert "coordinator_address" not in arguments  # JAX asks the cluster


def test_auto_asks_the_cluster(initialized):
    multihost.initialize(None, "auto", None)
    assert len(initialized) == 1


def test_flags_name_the_other_processes(initialized):
    multihost.initialize("host:8476", "4", "3")
    (arguments,) = initialized
    expected = {"coordinator_address": "host:8476", "num_processes": 4, "process_id": 3}
    assert expected.items() <= arguments.items()
    assert arguments["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((None, "2", "0"), "need --coordinator=HOST:PORT of process 0"),
        ((None, None, "0"), "need --coordinator=HOST:PORT of process 0"),
        (("h:1", None, "0"), "both are whole numbers"),
        (("h:1", "2", "x"), "both are whole numbers"),
        (("h:1", "2", "2"), "--process=2: processes are counted from 0 to 1"),
    ],
)
def test_contradicting_flags_are_refused(initialized, flags, message):
    with pytest.raises(UserError, match=message):
        multihost.initialize(*flags)
    assert initialized == []


def test_processes_that_do_not_come_are_an_error(initialized, monkeypatch):
    def fails(**_):
        raise RuntimeError("DEADLINE_EXCEEDED: 1/2 came\nand much more")

    monkeypatch.setattr(jax.distributed, "initialize", fails)
    with pytest.raises(UserError, match=r"are not found \(DEADLINE_EXCEEDED: 1/2 came\)$"):
        multihost.initialize("h:1", "2", "0")


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"devices is 9; JAX sees \d here"):
        sharding.make_mesh(9)
    assert sharding.make_mesh(0).size == len(jax.devices())


@pytest.mark.parametrize(
    ("is_primary", "message"), [(True, "process 1 has other flags"), (False, "")]
)
def test_unequal_checksums_end_every_process(monkeypatch, is_primary, message):
    monkeypatch.setattr(multihost, "allgather_int", lambda _: [7, 8])
    monkeypatch.setattr(multihost, "is_primary", lambda: is_primary)
    with pytest.raises(PeerEnded) as ended:
        multihost.require_equal(7, "flags")
    assert ended.value.status == 2
    assert ended.value.message.startswith(message)


def test_equal_checksums_pass(monkeypatch):
    monkeypatch.setattr(multihost, "allgather_int", lambda _: [7, 7])
    multihost.require_equal(7, "flags")


def test_a_single_process_calls_and_returns():
    assert multihost.on_primary(lambda: {"a": (1, 2)}) == {"a": (1, 2)}
    assert multihost.broadcast_tree(lambda: "tree", "template") == "tree"
    assert multihost.allgather_int(3) == [3]
    with pytest.raises(UserError, match="x"), multihost.ends_all_processes():
        raise UserError("x")


@pytest.fixture
def two_processes(monkeypatch):
    """Pretends that there are two processes, of which this one is number 1."""
    monkeypatch.setattr(multihost, "is_single_process", lambda: False)
    monkeypatch.setattr(multihost, "is_primary", lambda: False)
    monkeypatch.setattr(multihost.multihost, "get_barrier_sync_fn", lambda: lambda **_: None)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("x"), 2),
        (preemption.Preempted(15), 128 + 15),
        (KeyboardInterrupt(), 130),
        (OSError(), 1),
    ],
)
def test_a_process_hears_the_exit_status_of_one_that_failed(
    monkeypatch, two_processes, error, status
):
    """The number that one side sends, as the other reads it."""
    sent: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(multihost, "allgather_int", lambda number, _: sent.append(number))
        with pytest.raises(type(error)), multihost.ends_all_processes():
            raise error
    gathered = np.array([*sent, 0], np.int32)
    monkeypatch.setattr(multihost.multihost_utils, "process_allgather", lambda _: gathered)
    with pytest.raises(PeerEnded) as ended:
        multihost.allgather_int(0)
    assert ended.value.status == status


def test_process_0_says_which_process_has_failed(monkeypatch, two_processes):
    monkeypatch.setattr(multihost, "is_primary", lambda: True)
    gathered = np.array([0, multihost.ENDING - 2], np.int32)
    monkeypatch.setattr(multihost.multihost_utils, "process_allgather", lambda _: gathered)
    with pytest.raises(PeerEnded) as ended:
        multihost.allgather_int(0)
    assert (ended.value.status, ended.value.message) == (
        2,
        "process 1 cannot take part; it has written why",
    )


def test_a_process_that_heard_of_an_end_does_not_announce_its_own(monkeypatch, two_processes):
    monkeypatch.setattr(multihost, "allgather_int", lambda *_: pytest.fail("announced"))
    with pytest.raises(PeerEnded), multihost.ends_all_processes():
        raise PeerEnded(2)


def test_the_tree_of_process_0_reaches_the_others(monkeypatch, two_processes):
    """What process 0 sends, as process 1 restores it."""
    tree = {"a": {"b": np.arange(3.0, dtype=np.float32)}, "none": None}
    sent: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(multihost, "is_primary", lambda: True)
        patch.setattr(multihost, "broadcast_bytes", sent.append)
        assert multihost.broadcast_tree(lambda: tree) is tree
    monkeypatch.setattr(multihost, "broadcast_bytes", lambda _: sent[0])
    restored = multihost.broadcast_tree(lambda: pytest.fail("called"), jax.eval_shape(lambda: tree))
    np.testing.assert_array_equal(restored["a"]["b"], tree["a"]["b"])
    assert restored["none"] is None
