"""The training loop: what it sends to the device when, and what it writes beside the training."""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.training import loop
from gankd_jax.training.loop import LoopIntervals, RunGroup, TeacherNetworks, train_group
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.run_logger import RunLogger
from gankd_jax.training.train_state import StepSpec
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log
from gankd_jax.utils.sharding import mesh_of_devices

RECIPE = Recipe(alpha=0.0, batch_size=4, steps=8, generator_lr=1e-3)
GENERATOR = DCGANGenerator(1, 16, 1, 4, conv_impl="matmul")
TEACHER = dataclasses.replace(GENERATOR, width=2)
INTERVALS = LoopIntervals(steps_per_call=2, log_every=2, grid_every=4, checkpoint_every=4)
SECONDS = 60  # to wait for another thread; no test takes them


def make_group(*, dispatches_ahead: bool, **rates: float) -> RunGroup:
    """Returns a group of students by name, each with its learning rate."""
    run_specs = {
        name: RunSpec(
            StepSpec(GENERATOR, None, dataclasses.replace(RECIPE, generator_lr=rate)), 0, 0
        )
        for name, rate in (rates or {"a": 1e-3}).items()
    }
    return RunGroup(
        title="students",
        run_specs=run_specs,
        teacher=TEACHER,
        images=np.zeros((4, 16, 16, 1), np.uint8),
        on_device=True,
        mesh=mesh_of_devices(jax.devices()[:1]),
        dispatches_ahead=dispatches_ahead,
    )


def load_teacher() -> TeacherNetworks:
    variables = TEACHER.init(jax.random.key(1), jnp.zeros((2, 4)), train=False)
    return TeacherNetworks(TEACHER, variables, None)


def make_grid(*_) -> np.ndarray:
    return np.zeros((8, 8, 1), np.uint8)


def train(
    group: RunGroup,
    folder: Path,
    make_grid: Callable = make_grid,
    intervals: LoopIntervals = INTERVALS,
) -> None:
    train_group(
        group,
        folder,
        intervals,
        load_teacher=load_teacher,
        load_warm_start=lambda name: None,
        make_grid=make_grid,
        open_logger=lambda name: RunLogger(folder / name),
    )


class Device:
    """Computes nothing; records which calls are sent to it, and whose metrics are fetched."""

    def __init__(self):
        self.events: list = []
        self.failing_run, self.failing_call = "", -1
        self.on_dispatch = lambda call: None

    def make_multi_step(self, run_specs, teacher, mesh, **options):
        """Stands for the function of this name; the states count the calls."""
        names, self.options = sorted(run_specs), options

        def multi_step(states, *inputs):
            call = int(states[names[0]].step)
            self.events.append(("dispatch", call, *names))
            self.on_dispatch(call)
            moved = {n: dataclasses.replace(states[n], step=jnp.int32(call + 1)) for n in names}
            return moved, {name: self.metrics(name, call) for name in names}

        return mock.Mock(jax.stages.Wrapped, side_effect=multi_step)

    def metrics(self, name: str, call: int) -> dict[str, jax.Array]:
        is_failing = (name, call) == (self.failing_run, self.failing_call)
        return {"call": jnp.float32(call), "loss": jnp.float32(np.nan if is_failing else 1)}

    def device_get(self, tree):
        """Stands for JAX's function."""
        calls = [int(leaf["call"]) for leaf in tree.values()] if isinstance(tree, dict) else []
        self.events.extend(("fetch", call) for call in calls[:1])
        return tree


@pytest.fixture
def device(monkeypatch) -> Device:
    fake = Device()
    monkeypatch.setattr(loop, "make_multi_step", fake.make_multi_step)
    monkeypatch.setattr(jax, "device_get", fake.device_get)
    return fake


@pytest.mark.parametrize("dispatches_ahead", [True, False])
def test_the_next_call_is_dispatched_before_metrics_are_fetched(tmp_path, device, dispatches_ahead):
    train(make_group(dispatches_ahead=dispatches_ahead), tmp_path)
    order = [event[:2] for event in device.events]
    in_turn = [(kind, call) for call in range(4) for kind in ("dispatch", "fetch")]
    ahead = [("dispatch", 0)]
    for call in range(1, 4):
        ahead += [("dispatch", call), ("fetch", call - 1)]
    assert order == ([*ahead, ("fetch", 3)] if dispatches_ahead else in_turn)
    assert device.options["donate"] != dispatches_ahead
    assert [line["step"] for line in read_log(tmp_path / "a")] == [2, 4, 6, 8]


@pytest.mark.parametrize(("dispatches_ahead", "calls"), [(True, 2), (False, 4)])
def test_calls_of_a_device_that_is_not_the_host_are_as_long_as_the_intervals_allow(
    tmp_path, device, dispatches_ahead, calls
):
    intervals = LoopIntervals(steps_per_call=2, log_every=4, grid_every=0, checkpoint_every=8)
    train(make_group(dispatches_ahead=dispatches_ahead), tmp_path, intervals=intervals)
    assert [event[0] for event in device.events].count("dispatch") == calls
    assert [line["step"] for line in read_log(tmp_path / "a")] == [4, 8]


@pytest.mark.parametrize(("first", "last"), [(0, 60), (0, 50), (10, 60), (30, 70)])
def test_calls_end_where_the_log_the_checkpoints_and_the_last_step_are_due(first, last):
    """From any first step; 60, 20 and 10 are the multiples of steps_per_call here."""
    intervals = LoopIntervals(10, log_every=20, grid_every=0, checkpoint_every=60)
    call = intervals.with_longest_calls(first, last).steps_per_call
    ends = range(first + call, last + 1, call)
    due = {k for k in range(first + 1, last + 1) if k % 20 == 0 or k == last}
    assert due <= set(ends)
    assert call % 10 == 0


@pytest.mark.parametrize("dispatches_ahead", [True, False])
@pytest.mark.parametrize("file", ["grid", "checkpoint"])
def test_writing_a_file_holds_up_no_call(tmp_path, device, monkeypatch, dispatches_ahead, file):
    """The first files, after two calls, are not written before the third call is dispatched."""
    is_dispatched, save = threading.Event(), Checkpoints.save
    device.on_dispatch = lambda call: is_dispatched.set() if call == 2 else None

    def make_grid_late(*_) -> np.ndarray:
        assert file != "grid" or is_dispatched.wait(SECONDS)
        return make_grid()

    def save_late(self, step, state):
        assert file != "checkpoint" or is_dispatched.wait(SECONDS)
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save_late)
    train(make_group(dispatches_ahead=dispatches_ahead), tmp_path, make_grid_late)
    assert {path.name for path in (tmp_path / "a" / "grids").iterdir()} == {
        "0000004.png",
        "0000008.png",
    }
    checkpoints = Checkpoints(tmp_path / "a" / "checkpoints")
    assert checkpoints.steps() == [4, 8]
    assert [int(checkpoints.arrays(step)[".step"]) for step in (4, 8)] == [2, 4]  # calls
    checkpoints.close()


@pytest.mark.parametrize("failing_step", [4, 8])
def test_a_checkpoint_that_cannot_be_written_ends_the_training(
    tmp_path, device, monkeypatch, failing_step
):
    save = Checkpoints.save

    def save_on_a_small_disk(self, step, state):
        if step == failing_step:
            raise OSError(28, "No space left on device")
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save_on_a_small_disk)
    kept = "none" if failing_step == 4 else "4"
    with pytest.raises(UserError, match=rf"step {failing_step} of .*No space.* is kept: {kept}$"):
        train(make_group(dispatches_ahead=False), tmp_path)


def test_a_call_that_was_dispatched_with_a_failed_run_is_made_again_without_it(tmp_path, device):
    device.failing_run, device.failing_call = "b", 2
    train(make_group(dispatches_ahead=True, a=1e-3, b=1e-3), tmp_path)
    dispatches = [event[1:] for event in device.events if event[0] == "dispatch"]
    assert dispatches == [*((call, "a", "b") for call in range(4)), (3, "a")]
    failure = atomic_io.read_json(tmp_path / "b" / "failed.json")
    assert failure["step"] == 6
    assert failure["reason"].endswith("last checkpoint before: 4")
    assert [line["step"] for line in read_log(tmp_path / "a")] == [2, 4, 6, 8]


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
def test_dispatching_ahead_changes_no_bit(tmp_path):
    """Of a run whose neighbour fails in the first call."""
    for name, dispatches_ahead in (("ahead", True), ("in_turn", False)):
        group = make_group(dispatches_ahead=dispatches_ahead, a=1e-3, b=1e38)
        train(group, tmp_path / name)
        assert (tmp_path / name / "b" / "failed.json").exists()
    for step in (4, 8):
        ahead, in_turn = (
            Checkpoints(tmp_path / name / "a" / "checkpoints").arrays(step)
            for name in ("ahead", "in_turn")
        )
        assert tiny.differences(ahead, in_turn) == []
