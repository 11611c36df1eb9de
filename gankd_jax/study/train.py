"""What trains: a study's runs as groups that go on together, and again where they have failed."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np
from flax import serialization
from jaxtyping import UInt8

from gankd_jax.models import sampling
from gankd_jax.study import networks, plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training import crew, loop
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import TeacherParams, TrainState, create_train_state
from gankd_jax.utils import sharding
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.progress import log_info

PLACEMENTS = ("auto", "device", "host")  # of the training images
DEVICE_BYTES = 4 * 2**30  # a data set of at most this size is put on the device


def train_runs(context: StudyContext, wanted: Sequence[Run]) -> None:
    """Train those of the runs that are not trained, in as few compiled programs as there can be."""
    for group in plan.group_runs(context.config, list(wanted)):
        for cohort in resume_groups(context, group):
            _train_group(context, cohort)
        for run in group:
            _retry(context, run)


def _retry(context: StudyContext, run: Run) -> None:
    """Go on with a run that has failed, as often as the config asks for."""
    most = context.config.training.retries
    while workdir.can_retry(context.workdir, context.config, run):
        number = workdir.start_retry(context.workdir, run)
        log_info(f"{run.name} goes on from its last checkpoint: retry {number} of {most}")
        _train_group(context, [run])


def resume_groups(context: StudyContext, group: list[Run]) -> list[list[Run]]:
    """Which runs of a group go on together, from the same step.

    A group that was stopped may have runs one checkpoint apart, or one that failed since; they go
    on from the newest step that all have, the finished and the failed ones too, so that the program
    and its bits are those of a group never stopped.  Runs that share no step go on apart, and so
    does one that failed and goes on with other random numbers: its group had ended.
    """
    alone = [run for run in group if workdir.retry_count(context.workdir, run)]
    group = [run for run in group if run not in alone]
    return _together(context, group) + [[run] for run in alone if not _has_ended(context, run)]


def _together(context: StudyContext, group: list[Run]) -> list[list[Run]]:
    kept = {run: workdir.resumable_steps(context.workdir, run) for run in group}
    left = [run for run in group if not _has_ended(context, run)]
    if not left:
        return []
    common = set.intersection(*(set(kept[run]) for run in left))
    if common:
        # One that is scored goes on too where its last checkpoint was damaged.
        free = [run for run in group if run in left or not workdir.is_final(context.workdir, run)]
        return [[run for run in free if max(common) in kept[run]]]
    newest: dict[int, list[Run]] = {}
    for run in left:
        newest.setdefault(max(kept[run]), []).append(run)
    return list(newest.values())


def _has_ended(context: StudyContext, run: Run) -> bool:
    trained = workdir.is_trained(context.workdir, context.config, run)
    return trained or workdir.has_failed(context.workdir, run)


def _train_group(context: StudyContext, group: list[Run]) -> None:
    config = context.config
    members = {
        run.name: context.make_run_spec(run) for run in sorted(group, key=lambda run: run.name)
    }
    for run in group:
        workdir.write_run_info(context.workdir, config, run)
    student = group[0].kind == "student"
    made = _group(
        context, members, context.load_teacher() if student else None, title=_title(group)
    )
    loop.train_group(
        made,
        context.workdir,
        _intervals(config),
        picture=functools.partial(_picture, context, student),
    )


def _group(
    context: StudyContext,
    members: dict[str, RunSpec],
    teacher: loop.TeacherNetworks | None,
    *,
    title: str,
) -> loop.RunGroup:
    return loop.RunGroup(
        title=title,
        members=members,
        teacher=teacher,
        images=context.train_images.pixels,
        on_device=_on_device(context.config.data.placement, context.train_images.pixels),
        mesh=sharding.make_mesh(context.config.training.devices),
    )


def _intervals(config: ml_collections.ConfigDict) -> loop.LoopIntervals:
    names = [field.name for field in dataclasses.fields(loop.LoopIntervals)]
    return loop.LoopIntervals(**{name: config.training[name] for name in names})


def follow(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Take part in all that the leading process trains; nothing is read or written in `folder`.

    Raises:
      Ended: the leader has.
    """
    context = StudyContext(config, folder)
    while True:
        order = crew.join()
        try:
            group, start = _followed(context, order)
        except UserError as error:
            log_info(f"gankd: {error}")
            crew.refuse()
        loop.follow(group, start, _intervals(config))


def _followed(context: StudyContext, order: crew.Order) -> tuple[loop.RunGroup, crew.Start]:
    config = context.config
    teacher = plan.find_run(config, order.teacher) if order.teacher else None
    found = [plan.find_run(config, name) for name in order.seeds]
    members = {
        run.name: dataclasses.replace(
            networks.make_run_spec(config, run, teacher), seed=seed, stream=stream
        )
        for run, (seed, stream) in zip(found, order.seeds.values(), strict=True)
    }
    taught, frozen = None, None
    if teacher and order.frozen:
        frozen = TeacherParams(**order.frozen)
        drawer = networks.build_generator(config, teacher.width)
        taught = loop.TeacherNetworks(teacher.name, drawer, frozen.generator, None)
    likes = {
        n: jax.eval_shape(functools.partial(create_train_state, m.spec), m.seed)
        for n, m in members.items()
    }
    start = crew.Start(order.step, serialization.from_state_dict(likes, order.states), frozen)
    return _group(context, members, taught, title=_title(found)), start


def _title(group: list[Run]) -> str:
    return group[0].name if len(group) == 1 else f"{len(group)} {group[0].kind}s"


def _on_device(placement: str, images: UInt8[np.ndarray, "n s s c"]) -> bool:
    return placement == "device" or (placement == "auto" and images.nbytes <= DEVICE_BYTES)


def _picture(
    context: StudyContext, beside_teacher: bool, member: RunSpec, state: TrainState
) -> UInt8[np.ndarray, "h w c"]:
    """A generator's images of the fixed latents; a student's at the right of its teacher's."""
    shown = [context.bind_generator(member, state)]
    if beside_teacher:
        shown.insert(0, context.load_teacher().drawer)
    return np.concatenate([sampling.sample_grid(*drawer) for drawer in shown], axis=1)
