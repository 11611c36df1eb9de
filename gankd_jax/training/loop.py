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

from gankd_jax.data.batches import chunk_indices
from gankd_jax.models.dcgan import Generator
from gankd_jax.runtime import distributed, lock, stop
from gankd_jax.runtime.mesh import along, build, everywhere, local, put
from gankd_jax.runtime.progress import Progress
from gankd_jax.runtime.record import NoRecord, Record
from gankd_jax.training import crew
from gankd_jax.training.crew import Start
from gankd_jax.training.group import (
    Chunk,
    Member,
    at_step,
    frozen_critic,
    make_chunk,
    streams_of,
)
from gankd_jax.training.state import Frozen, Network, Spec, State, Tree, init, variables

SHOWN = ("critic_loss", "generator_loss", "pixel_error")


@dataclasses.dataclass(frozen=True)
class Intervals:
    """In steps; all are multiples of `steps_per_call`."""

    steps_per_call: int
    log_every: int
    grid_every: int  # 0: never
    checkpoint_every: int


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen teacher, and the critic it was trained against (not known to followers)."""

    name: str
    generator: Generator
    variables: Tree
    critic: Network | None

    @property
    def drawer(self) -> tuple[Generator, Tree]:
        """What draws its images."""
        return self.generator, self.variables


@dataclasses.dataclass(frozen=True)
class Group:
    """What trains together: runs equal in kind, steps, batch sizes and critic steps."""

    title: str
    members: dict[str, Member]
    teacher: Teacher | None
    images: UInt8[np.ndarray, "n s s c"]
    on_device: bool  # the images; otherwise batches are sent there
    mesh: Mesh  # the devices that share each batch

    @property
    def steps(self) -> int:
        """The last step."""
        return next(iter(self.members.values())).spec.recipe.steps


Picture = Callable[[Member, State], UInt8[np.ndarray, "h w c"]]


def train(group: Group, workdir: Path, intervals: Intervals, *, picture: Picture) -> None:
    """Train every run of the group from its newest common checkpoint to its last step.

    Each run keeps its files in `workdir/NAME/`.  A run whose losses or gradients are not finite is
    dropped and says so in its `failed.json`; the others go on.

    Raises:
      UserError: another process trains one of the runs, or a checkpoint cannot be written.
      Stopped: a signal asked for it; every run has a checkpoint of the step that was reached.
    """
    with contextlib.ExitStack() as stack:
        for name in group.members:
            stack.enter_context(lock.hold(workdir / lock.LOCKS / name, name))
        records = {n: stack.enter_context(Record(workdir / n)) for n in group.members}
        step = _newest_common_step(records)
        if step == group.steps:
            return
        for record in records.values():
            record.begin(step)
        progress = Progress(group.title, first=step, total=group.steps)
        stack.enter_context(contextlib.closing(progress))
        trainer = _begin(group, records, step, intervals=intervals)
        while trainer.step < group.steps and trainer.members:
            values = trainer.span()
            progress.update(trainer.step, values)
            _keep(trainer, records, group.steps, intervals=intervals, picture=picture)
            if trainer.signal:
                raise stop.Stopped(trainer.signal)


def _begin(
    group: Group, records: dict[str, Record], step: int, *, intervals: Intervals
) -> "_Trainer":
    """Every process with the states of `step`."""
    teacher = group.teacher
    # Programs of this group alone: `init` would keep one for every recipe of a study, 9 MB each.
    inits = {m.spec: jax.jit(functools.partial(init, m.spec)) for m in group.members.values()}
    states = {n: _state(group, n, record, step=step, inits=inits) for n, record in records.items()}
    start = Start(step, states, _frozen(group))
    crew.call(group.members, start, teacher.name if teacher else None)
    crew.compare((group.members, intervals), group.images)
    return _Trainer(group, records, start, intervals=intervals)


def _frozen(group: Group) -> Frozen | None:
    """What the group's students see of their teacher; its critic where one compares features."""
    teacher = group.teacher
    if not teacher:
        return None
    critic = teacher.critic if frozen_critic(group.members) else None
    return Frozen(
        generator=teacher.variables,
        critic=variables(critic.params, critic.stats) if critic else None,
    )


def _state(
    group: Group, name: str, record: Record, *, step: int, inits: Mapping[Spec, Callable]
) -> State:
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
    records: dict[str, Record],
    last: int,
    *,
    intervals: Intervals,
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


def follow(group: Group, start: Start, intervals: Intervals) -> None:
    """Take part in what the leader trains by `train`: as long as it goes on, and without files."""
    crew.compare((group.members, intervals), group.images)
    trainer = _Trainer(group, {n: NoRecord() for n in start.states}, start, intervals=intervals)
    while trainer.step < group.steps and trainer.members and not trainer.signal:
        trainer.span()


def _newest_common_step(records: dict[str, Record]) -> int:
    """The newest step of which every run has a checkpoint; 0 where there is none."""
    common = set.intersection(*(set(record.checkpoints.steps()) for record in records.values()))
    return max(common, default=0)


def _due(step: int, interval: int, last: int) -> bool:
    return interval > 0 and (step % interval == 0 or step == last)


class _Trainer:
    """A group in training: its states, its step, and the compiled call that moves them."""

    def __init__(
        self,
        group: Group,
        records: Mapping[str, Record | NoRecord],
        start: Start,
        *,
        intervals: Intervals,
    ):
        self.step = start.step
        self.members = dict(group.members)
        self.signal = 0  # that came to one of the processes
        self._group, self._records, self._intervals = group, records, intervals
        every = everywhere(group.mesh)
        self._states = put(start.states, every)
        self._frozen = put(start.frozen, every)
        self._images = put(group.images, every) if group.on_device else None
        self._chunk, self._compiled_for = self._compile(), self._batch

    @property
    def _batch(self) -> int:
        """Images of a batch now."""
        return next(iter(self.members.values())).spec.recipe.batch_at(self.step)

    def _compile(self) -> Chunk:
        teacher = self._group.teacher
        members = at_step(self.members, self.step)
        return make_chunk(members, teacher.generator if teacher else None, self._group.mesh)

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
        if self._batch != self._compiled_for:
            self._chunk, self._compiled_for = self._compile(), self._batch
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
            self._chunk, self._compiled_for = self._compile(), self._batch
        self.signal = max(distributed.exchange(stop.requested()))

    def _batches(self) -> jax.Array:
        """The next call's batches: places `[k, streams, critic_steps, b]`, or the images there."""
        recipe = next(iter(self.members.values())).spec.recipe
        reads = any(member.spec.critic is not None for member in self.members.values())
        places = [
            chunk_indices(
                self.step,
                self._intervals.steps_per_call,
                critic_steps=recipe.critic_steps,
                count=len(self._group.images),
                batch_size=self._batch if reads else self._group.mesh.size,
                seed=stream,
            )
            for stream in streams_of(self.members)
        ]
        batches = np.stack(places, axis=1).astype(np.int32)
        sharding, images = along(self._group.mesh, 3), self._group.images
        if self._group.on_device:
            return build(batches.shape, sharding, batches.__getitem__)
        shape = (*batches.shape, *images.shape[1:])
        return build(shape, sharding, lambda part: images[batches[part[:4]]])

    def state(self, name: str) -> State:
        """A run's state, on one device."""
        return local(self._states[name])


def _in(name: str, means: list[dict[str, float]]) -> bool:
    return any(name in values for values in means)
