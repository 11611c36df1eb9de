"""The training loop: moves a group of runs to their last step, resuming from any checkpoint."""

import contextlib
import dataclasses
import functools
import math
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.interop.external_generator import FunctionGenerator
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.training.background_writer import BackgroundWriter
from gankd_jax.training.multi_run import (
    MultiStep,
    RunSpec,
    data_seeds,
    feature_networks,
    make_multi_step,
)
from gankd_jax.training.run_logger import RunLogger
from gankd_jax.training.teacher_prefetch import TeacherPrefetcher
from gankd_jax.training.train_state import (
    NetworkState,
    TeacherParams,
    TrainState,
    create_train_state,
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

SHOWN_METRICS = ("critic_loss", "generator_loss", "pixel_error")  # in the progress bar


@dataclasses.dataclass(frozen=True)
class LoopIntervals:
    """Intervals in steps; all are multiples of `steps_per_call`."""

    steps_per_call: int
    log_every: int
    grid_every: int  # 0: never
    checkpoint_every: int

    def with_longest_calls(self, *steps: int) -> "LoopIntervals":
        """Returns the same intervals with calls as long as they allow.

        A device that is not the host then waits least often for it.

        Args:
            steps: At which calls begin or end, such as the first and the last one.
        """
        longest = math.gcd(*steps, self.log_every, self.grid_every, self.checkpoint_every)
        return dataclasses.replace(self, steps_per_call=longest)


@dataclasses.dataclass(frozen=True)
class TeacherNetworks:
    """A trained teacher: its generator, the critic that it was trained against, if there is one.

    `feature_variables` are those of the networks in whose hidden layers its students are compared
    with it, by `Recipe.feature_network`.
    """

    generator: Generator
    variables: PyTree
    critic: NetworkState | None
    feature_variables: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)

    @property
    def trained_generator(self) -> TrainedGenerator:
        """The generator and its variables."""
        return TrainedGenerator(self.generator, self.variables)


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """Runs that train together: equal in kind, steps, batch size and critic steps."""

    title: str  # for the progress bar
    run_specs: dict[str, RunSpec]
    teacher: Generator | None  # of students
    images: UInt8[np.ndarray, "n s s c"]  # the training images
    on_device: bool  # the images; otherwise batches are sent there
    mesh: Mesh  # the devices that share each batch
    precision: str = "float32"  # of the layers, one of `TRAINING_PRECISIONS`
    # Whether a call is dispatched before the metrics of the one before it are fetched.  The device
    # then does not wait for the host, and holds the states of both calls.
    dispatches_ahead: bool = False

    @property
    def steps(self) -> int:
        """The last step."""
        return next(iter(self.run_specs.values())).spec.recipe.steps


MakeGrid = Callable[[RunSpec, TrainState], UInt8[np.ndarray, "h w c"]]
CallResult = tuple[dict[str, TrainState], PyTree]  # states and metrics by run
LoadTeacher = Callable[[], TeacherNetworks]
LoadWarmStart = Callable[[str], PyTree | None]
OpenLogger = Callable[[str], RunLogger]


def train_group(
    group: RunGroup,
    workdir: Path,
    intervals: LoopIntervals,
    *,
    load_teacher: LoadTeacher | None,
    load_warm_start: LoadWarmStart,
    make_grid: MakeGrid,
    open_logger: OpenLogger,
) -> None:
    """Trains every run of the group from its newest common checkpoint to its last step.

    Every process of a study calls it; process 0 alone reads and writes `workdir/NAME/` of each run.
    A run whose losses or gradients become non-finite leaves the group and says so in its
    failed.json; the others continue.

    Args:
        group: The runs.
        workdir: The study's folder.
        intervals: When to log, to save and to make image grids.
        load_teacher: Loads the teacher of students; called in process 0 alone.
        load_warm_start: Loads the parameters of the generator that a run is pruned from, by the
            run's name; None for a run without a warm start.  Called in process 0 alone.
        make_grid: Makes the image grid of a run; called in process 0 alone.
        open_logger: Opens the logger of a run in `workdir`, by its name; called in process 0 alone.

    Raises:
        UserError: Another process trains one of the runs, a writer cannot be opened, or a
            checkpoint cannot be written.
        Preempted: A signal came; every run has a checkpoint of the step that was reached.
    """
    with contextlib.ExitStack() as stack:
        loggers: dict[str, RunLogger] = {}

        def open_loggers() -> int:
            for name in group.run_specs:
                lock = file_lock.hold_lock(workdir / file_lock.LOCKS_DIR / name, name)
                stack.enter_context(lock)
                loggers[name] = stack.enter_context(open_logger(name))
            return _newest_common_step(loggers)

        step = multihost.on_primary(open_loggers)
        if step == group.steps:
            return
        states, teacher_params = _initial_arrays(
            group, loggers, step, load_teacher=load_teacher, load_warm_start=load_warm_start
        )
        for logger in loggers.values():
            logger.resume_from(step)
        _require_equal_inputs(group, intervals)
        if group.dispatches_ahead:
            intervals = intervals.with_longest_calls(step, group.steps)
        progress = ProgressBar(group.title, first=step, total=group.steps)
        stack.enter_context(contextlib.closing(progress))
        trainer = _GroupTrainer(
            group, loggers, step, states=states, teacher_params=teacher_params, intervals=intervals
        )
        stack.callback(trainer.close)
        while trainer.step < group.steps and trainer.run_specs:
            metrics = trainer.train_until_log()
            progress.update(trainer.step, metrics)
            trainer.save_if_due(make_grid)
            if trainer.signal:
                break
        trainer.wait_for_writes()
        if trainer.signal:
            raise preemption.Preempted(trainer.signal)


def _newest_common_step(loggers: dict[str, RunLogger]) -> int:
    """Returns the newest step of which every run has a checkpoint; 0 if there is none."""
    steps = (set(logger.checkpoints.steps()) for logger in loggers.values())
    return max(set.intersection(*steps), default=0)


def _initial_arrays(
    group: RunGroup,
    loggers: Mapping[str, RunLogger],
    step: int,
    *,
    load_teacher: LoadTeacher | None,
    load_warm_start: LoadWarmStart,
) -> tuple[dict[str, TrainState], TeacherParams | None]:
    """Returns the states of `step` and the teacher's parameters, in every process."""
    teacher = load_teacher() if load_teacher and multihost.is_primary() else None
    specs = group.run_specs
    # Programs of this group alone: a cached `create_train_state` would keep one for every recipe of
    # a study, 9 MB each.
    inits = {
        spec.spec: jax.jit(functools.partial(create_train_state, spec.spec))
        for spec in specs.values()
    }
    shapes = {
        name: jax.eval_shape(functools.partial(create_train_state, spec.spec), spec.seed)
        for name, spec in specs.items()
    }

    def load_state(name: str) -> TrainState:
        if step:
            return loggers[name].checkpoints.restore(step, shapes[name])
        spec = specs[name]
        critic = teacher.critic if teacher and spec.spec.recipe.critic == "teacher" else None
        return inits[spec.spec](spec.seed, critic, load_warm_start(name))

    states = multihost.broadcast_tree(lambda: {name: load_state(name) for name in specs}, shapes)
    if group.teacher is None:
        return states, None
    params = multihost.broadcast_tree(lambda: _teacher_params(group, teacher))
    return states, TeacherParams(**params)


def _teacher_params(group: RunGroup, teacher: TeacherNetworks | None) -> dict[str, PyTree]:
    """Returns the variables of `TeacherParams`."""
    assert teacher is not None
    names = feature_networks(group.run_specs)
    return {
        "generator": teacher.variables,
        "features": {name: teacher.feature_variables[name] for name in names},
    }


def _require_equal_inputs(group: RunGroup, intervals: LoopIntervals) -> None:
    """Refuses processes with other flags, versions or images."""
    if not multihost.is_single_process():
        settings = zlib.crc32(repr((group.run_specs, intervals, group.precision)).encode())
        checksum = zlib.crc32(np.ascontiguousarray(group.images).data, settings)
        multihost.require_equal(checksum >> 1, "images, flags or versions")


class _GroupTrainer:
    """A group in training: its states, its step, and the compiled call that moves them."""

    def __init__(
        self,
        group: RunGroup,
        loggers: Mapping[str, RunLogger],
        step: int,
        *,
        states: dict[str, TrainState],
        teacher_params: TeacherParams | None,
        intervals: LoopIntervals,
    ):
        self.step = step
        self.run_specs = dict(group.run_specs)
        self.signal = 0  # that came to one of the processes; 0: none
        self._group, self._loggers, self._intervals = group, loggers, intervals
        self._prefetcher: TeacherPrefetcher | None = None
        self._writer = BackgroundWriter()
        self._next_call: CallResult | None = None  # of the call from this step, if it is dispatched
        self._fetch_time = 0.0
        everywhere = replicated(group.mesh)
        self._states = put_tree(states, everywhere)
        self._teacher_params = put_tree(teacher_params, everywhere)
        self._images = put_tree(group.images, everywhere) if group.on_device else None
        self._multi_step = self._compile()

    def close(self) -> None:
        """Ends the threads, after files that are being written."""
        self._writer.close()
        self._close_prefetcher()

    def _close_prefetcher(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()

    @property
    def _batch_size(self) -> int:
        return next(iter(self.run_specs.values())).spec.recipe.batch_size

    def _compile(self) -> MultiStep:
        self._close_prefetcher()
        self._prefetcher = self._make_prefetcher()
        group = self._group
        return make_multi_step(
            self.run_specs,
            group.teacher,
            group.mesh,
            precision=group.precision,
            donate=not group.dispatches_ahead,
        )

    def _make_prefetcher(self) -> TeacherPrefetcher | None:
        """Returns the source of images of a teacher outside of JAX; None for any other."""
        teacher = self._group.teacher
        if not (isinstance(teacher, FunctionGenerator) and teacher.on_host):
            return None
        return TeacherPrefetcher(
            teacher.generate_on_host,
            next(iter(self.run_specs.values())).spec.recipe,
            latent_dim=teacher.latent_dim,
            seeds=data_seeds(self.run_specs),
            steps_per_call=self._intervals.steps_per_call,
        )

    def train_until_log(self) -> dict[str, float]:
        """Trains up to the next line of the log, or to a signal, and writes the line.

        Returns:
            The metrics to show, as means over the runs; nothing in processes other than 0.
        """
        interval, first = self._intervals.log_every, self.step
        start_time = self._fetch_time if self._next_call else time.monotonic()
        last = min(self._group.steps, first - first % interval + interval)
        images = 0
        while self.step < last and self.run_specs and not (self.signal and self.step > first):
            images += self._intervals.steps_per_call * self._batch_size
            self._call()
        seconds = time.monotonic() - start_time
        return multihost.on_primary(lambda: self._write_metrics(seconds, images))

    def _write_metrics(self, seconds: float, images: int) -> dict[str, float]:
        metrics = [
            self._loggers[name].write_metrics(self.step, seconds=seconds, images=images)
            for name in self.run_specs
        ]
        values = {name: [m[name] for m in metrics if name in m] for name in SHOWN_METRICS}
        return {name: float(np.mean(numbers)) for name, numbers in values.items() if numbers}

    def _call(self) -> None:
        """Makes one compiled call; runs that fail in it leave the group."""
        self._states, metrics = self._next_call or self._dispatch(self._states, self.step)
        self._next_call = None
        self.step += self._intervals.steps_per_call
        if self._group.dispatches_ahead and self.step < self._group.steps and not self.signal:
            self._next_call = self._dispatch(self._states, self.step)
        values = jax.tree.map(float, jax.device_get(metrics))
        self._fetch_time = time.monotonic()
        failed = [n for n, v in values.items() if not all(map(math.isfinite, v.values()))]
        if failed:
            self._remove_failed({name: values.pop(name) for name in failed})
        for name, logger in self._loggers.items():
            if name in values:
                logger.add_metrics(values[name])
        self._writer.raise_if_failed()
        self.signal = max(multihost.allgather_int(preemption.signal_received()))

    def _dispatch(self, states: dict[str, TrainState], step: int) -> CallResult:
        """Sends a call from that step to the device and does not wait for it."""
        return self._multi_step(
            states,
            self._teacher_params,
            self._images,
            self._make_batches(step),
            self._make_teacher_images(step),
        )

    def _remove_failed(self, metrics: Mapping[str, dict[str, float]]) -> None:
        """Goes on without the runs that failed in the last call.

        A call that was dispatched with them is made again, so that the others have the bits that
        they have without it.

        Args:
            metrics: Of the failed runs in that call.
        """
        self._next_call = None
        self._writer.wait()  # a failed run names its last checkpoint
        for name, values in metrics.items():
            del self.run_specs[name], self._states[name]
            if name in self._loggers:
                self._loggers[name].mark_failed(self.step, values)
        if self.run_specs:
            self._multi_step = self._compile()

    def _make_batches(self, step: int) -> jax.Array:
        """Returns the batches of the call from that step.

        They are indices `[k, data_seeds, critic_steps, b]`, or the images at these indices.
        """
        recipe = next(iter(self.run_specs.values())).spec.recipe
        needs_images = any(
            run_spec.spec.critic is not None and run_spec.spec.recipe.real_source == "data"
            for run_spec in self.run_specs.values()
        )
        indices = [
            multi_step_indices(
                step,
                self._intervals.steps_per_call,
                critic_steps=recipe.critic_steps,
                count=len(self._group.images),
                # Without a critic of real images none is read; the devices need one each.
                batch_size=self._batch_size if needs_images else self._group.mesh.size,
                seed=seed,
            )
            for seed in data_seeds(self.run_specs)
        ]
        batches = np.stack(indices, axis=1).astype(np.int32)
        sharding, images = batch_sharding(self._group.mesh, 3), self._group.images
        if self._group.on_device:
            return make_sharded_array(batches.shape, sharding, batches.__getitem__)
        shape = (*batches.shape, *images.shape[1:])
        return make_sharded_array(shape, sharding, lambda part: images[batches[part[:4]]])

    def _make_teacher_images(self, step: int) -> jax.Array | None:
        """Returns the images `[k, data_seeds, b, s, s, c]` of a teacher outside of JAX."""
        if self._prefetcher is None:
            return None
        images = self._prefetcher.images(step)
        return make_sharded_array(
            images.shape, batch_sharding(self._group.mesh, 2), images.__getitem__
        )

    def save_if_due(self, make_grid: MakeGrid) -> None:
        """Has the image grids and checkpoints written that are due; after a signal checkpoints."""
        grids = self._is_due(self._intervals.grid_every)
        saves = self._is_due(self._intervals.checkpoint_every) or bool(self.signal)
        if grids or saves:
            multihost.on_primary(lambda: self._save(make_grid, grids=grids, saves=saves))

    def _save(self, make_grid: MakeGrid, *, grids: bool, saves: bool) -> None:
        states = {name: local_copy(self._states[name]) for name in self.run_specs}
        if self._group.dispatches_ahead:
            jax.tree.map(lambda leaf: leaf.copy_to_host_async(), states)
        else:  # the next call takes the memory of the states
            states = jax.tree.map(np.array, states)
        loggers, run_specs, step = self._loggers, dict(self.run_specs), self.step
        for name in states:
            loggers[name].writer.flush()  # a run that resumes from here has its curves up to here

        def write() -> None:
            if grids:
                for name, state in states.items():
                    loggers[name].write_grid(step, make_grid(run_specs[name], state))
            if saves:
                for name, state in states.items():
                    loggers[name].save_checkpoint(step, state)

        self._writer.submit(write)

    def wait_for_writes(self) -> None:
        """Waits until every image grid and checkpoint is written.

        Raises:
            UserError: One cannot be written.
        """
        multihost.on_primary(self._writer.wait)

    def _is_due(self, interval: int) -> bool:
        return interval > 0 and (self.step % interval == 0 or self.step == self._group.steps)
