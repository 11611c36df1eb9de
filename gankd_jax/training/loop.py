"""The only training loop: it moves a group of runs to their last step, and can go on anywhere."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.training import crew
from gankd_jax.training.crew import Start
from gankd_jax.training.multi_run import (
    MultiStep,
    RunSpec,
    data_seeds,
    feature_critic,
    make_multi_step,
)
from gankd_jax.training.run_logger import NullRunLogger, RunLogger
from gankd_jax.training.train_state import (
    NetworkState,
    StepSpec,
    TeacherParams,
    TrainState,
    create_train_state,
    make_variables,
)
from gankd_jax.utils import file_lock, multihost, preemption
from gankd_jax.utils.progress import ProgressBar
from gankd_jax.utils.sharding import (
    batch_sharding,
    local_copy,
    make_sharded_array,
    put_tree,
    replicated,
)

SHOWN = ("critic_loss", "generator_loss", "pixel_error")


@dataclasses.dataclass(frozen=True)
class LoopIntervals:
    """In steps; all are multiples of `steps_per_call`."""

    steps_per_call: int
    log_every: int
    grid_every: int  # 0: never
    checkpoint_every: int


@dataclasses.dataclass(frozen=True)
class TeacherNetworks:
    """A frozen teacher, and the critic it was trained against (not known to followers)."""

    name: str
    generator: Generator
    variables: PyTree
    critic: NetworkState | None

    @property
    def drawer(self) -> TrainedGenerator:
        """What draws its images."""
        return TrainedGenerator(self.generator, self.variables)


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """What trains together: runs equal in kind, steps, batch sizes and critic steps."""

    title: str
    members: dict[str, RunSpec]
    teacher: TeacherNetworks | None
    images: UInt8[np.ndarray, "n s s c"]
    on_device: bool  # the images; otherwise batches are sent there
    mesh: Mesh  # the devices that share each batch

    @property
    def steps(self) -> int:
        """The last step."""
        return next(iter(self.members.values())).spec.recipe.steps


Picture = Callable[[RunSpec, TrainState], UInt8[np.ndarray, "h w c"]]


def train_group(
    group: RunGroup, workdir: Path, intervals: LoopIntervals, *, picture: Picture
) -> None:
    """Train every run of the group from its newest common checkpoint to its last step.

    Each run keeps its files in `workdir/NAME/`.  A run whose losses or gradients are not finite is
    dropped and says so in its `failed.json`; the others go on.

    Raises:
      UserError: another process trains one of the runs, or a checkpoint cannot be written.
      Stopped: a signal asked for it; every run has a checkpoint of the step that was reached.
    """
    with contextlib.ExitStack() as stack:
        for name in group.members:
            stack.enter_context(file_lock.hold_lock(workdir / file_lock.LOCKS_DIR / name, name))
        records = {n: stack.enter_context(RunLogger(workdir / n)) for n in group.members}
        step = _newest_common_step(records)
        if step == group.steps:
            return
        for record in records.values():
            record.begin(step)
        progress = ProgressBar(group.title, first=step, total=group.steps)
        stack.enter_context(contextlib.closing(progress))
        trainer = _begin(group, records, step, intervals=intervals)
        while trainer.step < group.steps and trainer.members:
            values = trainer.span()
            progress.update(trainer.step, values)
            _keep(trainer, records, group.steps, intervals=intervals, picture=picture)
            if trainer.signal:
                raise preemption.Preempted(trainer.signal)


def _begin(
    group: RunGroup, records: dict[str, RunLogger], step: int, *, intervals: LoopIntervals
) -> "_Trainer":
    """Every process with the states of `step`."""
    teacher = group.teacher
    # Programs of this group alone: `init` would keep one for every recipe of a study, 9 MB each.
    inits = {
        m.spec: jax.jit(functools.partial(create_train_state, m.spec))
        for m in group.members.values()
    }
    states = {n: _state(group, n, record, step=step, inits=inits) for n, record in records.items()}
    start = Start(step, states, _frozen(group))
    crew.call(group.members, start, teacher.name if teacher else None)
    crew.compare((group.members, intervals), group.images)
    return _Trainer(group, records, start, intervals=intervals)


def _frozen(group: RunGroup) -> TeacherParams | None:
    """What the group's students see of their teacher; its critic where one compares features."""
    teacher = group.teacher
    if not teacher:
        return None
    critic = teacher.critic if feature_critic(group.members) else None
    return TeacherParams(
        generator=teacher.variables,
        critic=make_variables(critic.params, critic.stats) if critic else None,
    )


def _state(
    group: RunGroup, name: str, record: RunLogger, *, step: int, inits: Mapping[StepSpec, Callable]
) -> TrainState:
    member, teacher = group.members[name], group.teacher
    recipe = member.spec.recipe
    state = inits[member.spec](
        member.seed,
        teacher.critic if teacher and recipe.critic == "teacher" else None,
        teacher.variables["params"] if teacher and recipe.warm_start else None,
    )
    return record.checkpoints.restore(step, state) if step else state


def _keep(
    trainer: "_Trainer",
    records: dict[str, RunLogger],
    last: int,
    *,
    intervals: LoopIntervals,
    picture: Picture,
) -> None:
    """A picture and a checkpoint of every run, if it is time; a signal asks for a checkpoint."""
    draws = _due(trainer.step, intervals.grid_every, last)
    saves = _due(trainer.step, intervals.checkpoint_every, last) or trainer.signal
    for name, member in trainer.members.items():
        if draws:
            records[name].picture(trainer.step, picture(member, trainer.state(name)))
    for name in trainer.members:
        if saves:
            records[name].save(trainer.step, trainer.state(name))


def follow(group: RunGroup, start: Start, intervals: LoopIntervals) -> None:
    """Take part in what the leader trains by `train`: as long as it goes on, and without files."""
    crew.compare((group.members, intervals), group.images)
    trainer = _Trainer(
        group, {n: NullRunLogger() for n in start.states}, start, intervals=intervals
    )
    while trainer.step < group.steps and trainer.members and not trainer.signal:
        trainer.span()


def _newest_common_step(records: dict[str, RunLogger]) -> int:
    """The newest step of which every run has a checkpoint; 0 where there is none."""
    common = set.intersection(*(set(record.checkpoints.steps()) for record in records.values()))
    return max(common, default=0)


def _due(step: int, interval: int, last: int) -> bool:
    return interval > 0 and (step % interval == 0 or step == last)


class _Trainer:
    """A group in training: its states, its step, and the compiled call that moves them."""

    def __init__(
        self,
        group: RunGroup,
        records: Mapping[str, RunLogger | NullRunLogger],
        start: Start,
        *,
        intervals: LoopIntervals,
    ):
        self.step = start.step
        self.members = dict(group.members)
        self.signal = 0  # that came to one of the processes
        self._group, self._records, self._intervals = group, records, intervals
        every = replicated(group.mesh)
        self._states = put_tree(start.states, every)
        self._frozen = put_tree(start.frozen, every)
        self._images = put_tree(group.images, every) if group.on_device else None
        self._chunk = self._compile()

    @property
    def _batch(self) -> int:
        """Images of a batch now."""
        return next(iter(self.members.values())).spec.recipe.batch_size

    def _compile(self) -> MultiStep:
        teacher = self._group.teacher
        return make_multi_step(
            self.members, teacher.generator if teacher else None, self._group.mesh
        )

    def span(self) -> dict[str, float]:
        """Train up to the next line of the log, or a signal, and write it; means over the runs."""
        every, began, first = self._intervals.log_every, time.monotonic(), self.step
        images = 0
        last = min(self._group.steps, first - first % every + every)
        while self.step < last and self.members and not (self.signal and self.step > first):
            images += self._intervals.steps_per_call * self._batch
            self._call()
        seconds = time.monotonic() - began
        means = [
            self._records[name].log(self.step, seconds=seconds, images=images)
            for name in self.members
        ]
        return {k: float(np.mean([m[k] for m in means if k in m])) for k in SHOWN if _in(k, means)}

    def _call(self) -> None:
        """One compiled call; runs that fail in it leave the group."""
        batches = self._batches()
        self._states, metrics = self._chunk(self._states, self._frozen, self._images, batches)
        self.step += self._intervals.steps_per_call
        values = jax.tree.map(float, jax.device_get(metrics))
        failed = [n for n, v in values.items() if not all(map(math.isfinite, v.values()))]
        for name in failed:
            self._records[name].fail(self.step, values[name])
            del self.members[name], self._states[name]
        for name in self.members:
            self._records[name].add(values[name])
        if failed and self.members:
            self._chunk = self._compile()
        self.signal = max(multihost.allgather_int(preemption.signal_received()))

    def _batches(self) -> jax.Array:
        """The next call's batches: places `[k, streams, critic_steps, b]`, or the images there."""
        recipe = next(iter(self.members.values())).spec.recipe
        reads = any(member.spec.critic is not None for member in self.members.values())
        places = [
            multi_step_indices(
                self.step,
                self._intervals.steps_per_call,
                critic_steps=recipe.critic_steps,
                count=len(self._group.images),
                batch_size=self._batch if reads else self._group.mesh.size,
                seed=stream,
            )
            for stream in data_seeds(self.members)
        ]
        batches = np.stack(places, axis=1).astype(np.int32)
        sharding, images = batch_sharding(self._group.mesh, 3), self._group.images
        if self._group.on_device:
            return make_sharded_array(batches.shape, sharding, batches.__getitem__)
        shape = (*batches.shape, *images.shape[1:])
        return make_sharded_array(shape, sharding, lambda part: images[batches[part[:4]]])

    def state(self, name: str) -> TrainState:
        """A run's state, on one device."""
        return local_copy(self._states[name])


def _in(name: str, means: list[dict[str, float]]) -> bool:
    return any(name in values for values in means)
