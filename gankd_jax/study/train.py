"""Trains the runs of a study in groups, and again after they have failed."""

import dataclasses
import functools
import logging
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from jaxtyping import UInt8

from gankd_jax.interop import pair_table
from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.study import networks, plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training import loop
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.run_logger import RunLogger
from gankd_jax.training.train_state import TrainState
from gankd_jax.utils import multihost, sharding

logger = logging.getLogger(__name__)

PLACEMENTS = ("auto", "device", "host")  # of the training images
# "auto" puts a data set of at most this size on the device; a larger one is sent batch by batch.
MAX_DEVICE_BYTES = 4 * 2**30


def train_runs(context: StudyContext, runs: Sequence[Run], teacher: Run | None = None) -> None:
    """Trains the runs that are not trained, in as few compiled programs as possible.

    Every process of a study calls it.

    Args:
        context: The study.
        runs: Runs of one kind.
        teacher: The selected teacher of students.
    """
    for group in plan.group_runs(context.config, runs):
        by_name = {run.name: run for run in group}
        for names in multihost.on_primary(functools.partial(_resume_names, context, group)):
            _train_group(context, [by_name[name] for name in names], teacher)
        for run in group:
            while multihost.on_primary(functools.partial(_start_retry, context, run)):
                _train_group(context, [run], teacher)


def _resume_names(context: StudyContext, group: list[Run]) -> list[list[str]]:
    return [[run.name for run in runs] for runs in resume_groups(context, group)]


def _start_retry(context: StudyContext, run: Run) -> bool:
    """Marks a failed run as resumed, if the config allows another retry; returns whether it is."""
    if not workdir.can_retry(context.workdir, context.config, run):
        return False
    number, limit = workdir.start_retry(context.workdir, run), context.config.training.retries
    logger.info("%s resumes from its last checkpoint: retry %d of %d", run.name, number, limit)
    return True


def resume_groups(context: StudyContext, group: list[Run]) -> list[list[Run]]:
    """Splits a group into runs that resume together, from the same step.

    A group that was stopped may have runs one checkpoint apart, or one that has failed since.  They
    resume from the newest step that all have, finished and failed ones too, so that the program and
    its bits are those of a group that was never stopped.  Runs that share no step resume apart, and
    so does a run that failed and got another seed, since its group had ended.

    Args:
        context: The study.
        group: Runs that one program can train.

    Returns:
        The runs that are left to train, in groups.
    """
    retried = [run for run in group if workdir.retry_count(context.workdir, run)]
    others = [run for run in group if run not in retried]
    alone = [[run] for run in retried if not _has_ended(context, run)]
    return _group_by_step(context, others) + alone


def _group_by_step(context: StudyContext, group: list[Run]) -> list[list[Run]]:
    steps = {run: workdir.resumable_steps(context.workdir, run) for run in group}
    remaining = [run for run in group if not _has_ended(context, run)]
    if not remaining:
        return []
    common = set.intersection(*(set(steps[run]) for run in remaining))
    if common:
        # A scored run takes part only if it is to be trained again, its checkpoint being damaged.
        members = [r for r in group if r in remaining or not workdir.is_final(context.workdir, r)]
        return [[run for run in members if max(common) in steps[run]]]
    by_step: dict[int, list[Run]] = {}
    for run in remaining:
        by_step.setdefault(max(steps[run]), []).append(run)
    return list(by_step.values())


def _has_ended(context: StudyContext, run: Run) -> bool:
    trained = workdir.is_trained(context.workdir, context.config, run)
    return trained or workdir.has_failed(context.workdir, run)


def _train_group(context: StudyContext, group: list[Run], teacher: Run | None) -> None:
    config = context.config
    precision = multihost.on_primary(lambda: workdir.study_precision(context.workdir, config))
    retries = multihost.on_primary(lambda: _describe_runs(context, group, precision))
    run_specs = {
        run.name: networks.make_run_spec(config, run, teacher, retries=retries[run.name])
        for run in sorted(group, key=lambda run: run.name)
    }
    images = context.train_images.pixels
    if config.data.mirror:
        images = np.concatenate([images, images[:, :, ::-1]])
    loop.train_group(
        loop.RunGroup(
            title=plan.describe_part(config, group),
            run_specs=run_specs,
            teacher=_build_teacher(context, teacher) if teacher else None,
            images=images,
            on_device=fits_on_device(config.data.placement, images.nbytes),
            mesh=sharding.make_mesh(config.training.devices),
            precision=precision,
            dispatches_ahead=dispatches_ahead(),
        ),
        context.workdir,
        loop_intervals(config),
        load_teacher=functools.partial(_load_teacher, context) if teacher else None,
        load_warm_start=functools.partial(_load_warm_start, context),
        make_grid=functools.partial(_make_grid, context, teacher is not None),
        open_logger=functools.partial(_open_logger, context),
    )


def _load_teacher(context: StudyContext) -> loop.TeacherNetworks:
    if context.config.training.grid_every:
        context.teacher_grid()  # before the training, whose thread calls the teacher too
    return context.load_teacher()


def _load_warm_start(context: StudyContext, name: str) -> PyTree | None:
    """Returns the teacher's parameters if a run starts from its channels, else None."""
    config, run = context.config, plan.find_run(context.config, name)
    if run.kind != "student" or not config.recipes[run.recipe].warm_start:
        return None
    return context.load_teacher().variables["params"]


def _build_teacher(context: StudyContext, teacher: Run) -> Generator:
    given = context.load_given_teacher()
    if given:
        return pair_table.for_training(given.module)
    return networks.build_generator(context.config, teacher)


def _describe_runs(context: StudyContext, group: list[Run], precision: str) -> dict[str, int]:
    """Writes run.json of each run; returns how often each was retried."""
    for run in group:
        generator = networks.build_generator(context.config, run)
        workdir.write_run_info(context.workdir, run, generator, precision=precision)
    return {run.name: workdir.retry_count(context.workdir, run) for run in group}


def _open_logger(context: StudyContext, name: str) -> RunLogger:
    settings = context.writer_settings(plan.find_run(context.config, name))
    return RunLogger(context.workdir / name, settings)


def dispatches_ahead() -> bool:
    """Returns whether a call is dispatched here before the metrics of the last one are fetched.

    On a CPU the host is the device, and a second copy of the states outgrows its caches.
    """
    return jax.default_backend() != "cpu"


def loop_intervals(config: ml_collections.ConfigDict) -> loop.LoopIntervals:
    """Returns the intervals that `config.training` sets."""
    names = [field.name for field in dataclasses.fields(loop.LoopIntervals)]
    return loop.LoopIntervals(**{name: config.training[name] for name in names})


def fits_on_device(placement: str, image_bytes: int) -> bool:
    """Returns whether the training images are put on the device, and not sent batch by batch.

    Args:
        placement: One of `PLACEMENTS`.
        image_bytes: Of all training images, as uint8.
    """
    return placement == "device" or (placement == "auto" and image_bytes <= MAX_DEVICE_BYTES)


def _make_grid(
    context: StudyContext, has_teacher: bool, run_spec: RunSpec, state: TrainState
) -> UInt8[np.ndarray, "h w c"]:
    """Returns a generator's images of the fixed latents, right of its teacher's if it has one."""
    generator = context.bind_generator(run_spec, state)
    if not has_teacher:
        return sampling.sample_grid(*generator)
    rows = pair_table.take_rows(generator, context.load_teacher().trained_generator)
    return np.concatenate([context.teacher_grid(), sampling.sample_grid(*rows)], axis=1)
