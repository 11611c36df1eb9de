"""A config's whole job: teacher, students, baselines, scores, report; each part by itself too."""

import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from gankd_jax.data import registry
from gankd_jax.interop import inception_weights
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.evaluate import evaluate_inception_layers, evaluate_runs, select_teacher
from gankd_jax.study.plan import Run
from gankd_jax.study.train import train_runs
from gankd_jax.utils import file_lock, preemption, sharding
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.progress import log_info

KINDS = ("teacher", "student", "baseline")  # in this order
POLL_SECONDS = 10  # seconds between looks at a teacher in training elsewhere


def run_study(
    config: ml_collections.ConfigDict,
    folder: Path,
    share: tuple[int, int] = (1, 1),
    patience: int = 0,
) -> None:
    """Train, score and choose whatever is not done yet, of share k of n.

    Raises:
      UserError: the share has students, their teacher is not trained, and no process has been
        training it for `patience` seconds.
    """
    wanted = plan.shard_runs(config, *share)
    begun = workdir.matches_config(folder, config)
    if begun and all(workdir.is_done(folder, config, run) for run in wanted):
        log_info(f"all {len(wanted)} runs are done")
        return
    context = _begin(config, folder, wanted)
    kinds = {kind: [run for run in wanted if run.kind == kind] for kind in KINDS}
    train_runs(context, kinds["teacher"])
    select_teacher(context)
    if kinds["student"]:
        _await_teacher(context, patience)
    train_runs(context, kinds["student"])
    train_runs(context, kinds["baseline"])
    _evaluate(context, wanted)


def _evaluate(context: StudyContext, wanted: Sequence[Run]) -> None:
    """The judges first: they are fast, and the FID network is not."""
    evaluate_runs(context, wanted)
    evaluate_inception_layers(context, wanted)


def _await_teacher(context: StudyContext, patience: int) -> None:
    """Wait while other processes train the teacher's candidates, or may yet begin to."""
    names = [run.name for run in plan.teacher_runs(context.config)]
    seen = time.monotonic()
    while not (context.workdir / "teacher.json").exists():
        if any(file_lock.is_locked(context.workdir / file_lock.LOCKS_DIR / name) for name in names):
            seen = time.monotonic()
        else:
            select_teacher(context)
            if time.monotonic() - seen >= patience:
                break
        log_info(f"waiting for {', '.join(names)}, to be trained elsewhere")
        time.sleep(POLL_SECONDS)
        preemption.raise_if_requested()
    assert context.teacher  # refused where there is none


def train_run(config: ml_collections.ConfigDict, folder: Path, name: str) -> None:
    """Train one run of a study; a teacher that completes the candidates is chosen from."""
    run = plan.find_run(config, name)
    if workdir.matches_config(folder, config) and workdir.has_failed_for_good(folder, config, run):
        raise UserError(f"{name} has failed; {folder / name / 'failed.json'} says where and why")
    if run.kind == "student":
        StudyContext(config, folder).make_run_spec(run)  # refuses one without a teacher
    context = _begin(config, folder, [run])
    if workdir.is_trained(folder, config, run):
        log_info(f"{name} is trained already")
    train_runs(context, [run])
    if run.kind == "teacher":
        select_teacher(context)


def evaluate_study(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Score every run that is trained and not scored yet, and draw what its report lacks.

    Raises:
      UserError: the folder holds no study of this config, or `check` refuses it.
    """
    validate_study(config)
    workdir.require_workdir(folder, config)
    context = StudyContext(config, folder)
    _set_damaged_aside(folder, plan.plan_runs(config))
    select_teacher(context)
    _evaluate(context, plan.plan_runs(config))


def _begin(config: ml_collections.ConfigDict, folder: Path, wanted: Sequence[Run]) -> StudyContext:
    """The study in `folder`, which is made only if nothing speaks against training these runs.

    Raises:
      UserError: what does speak against it.
    """
    validate_study(config)
    workdir.matches_config(folder, config)
    context = StudyContext(config, folder)
    for run in wanted:
        _check_batches(context, run)
    workdir.create_workdir(folder, config)
    _set_damaged_aside(folder, wanted)
    return context


def validate_study(config: ml_collections.ConfigDict) -> None:
    """Refuse what the config's own checks cannot see.

    Raises:
      UserError: unknown data set, several teachers and nothing to choose by, or no weights of the
        FID network where its layers are asked for.
    """
    labelled = registry.get_dataset(config.data.name).classes is not None
    if len(plan.teacher_runs(config)) > 1 and not (labelled and config.data.validation):
        raise UserError(
            "config.study names several teachers, and they are compared by a classifier on"
            " validation images: the data set needs labels and data.validation above 0"
        )
    if config.evaluation.layers:
        inception_weights.load_weights(
            inception_weights.default_weights_path(), config.evaluation.layers
        )


def _check_batches(context: StudyContext, run: Run) -> None:
    """A batch holds no image twice, and each device has the same number of its images."""
    recipe, count = context.config.recipes[run.recipe], len(context.train_images.pixels)
    devices = sharding.make_mesh(context.config.training.devices).size
    field = f"config.recipes.{run.recipe}.batch_size is {recipe.batch_size}"
    if recipe.alpha > 0 and recipe.batch_size > count:
        raise UserError(f"{field}; {context.config.data.name} has {count} training images")
    if recipe.batch_size % devices:
        raise UserError(
            f"{field}, which {devices} devices cannot share evenly;"
            " config.training.devices says how many of each process do"
        )


def _set_damaged_aside(folder: Path, wanted: Sequence[Run]) -> None:
    for run in wanted:
        if file_lock.is_locked(folder / file_lock.LOCKS_DIR / run.name):
            continue  # its checkpoints come and go
        for path in workdir.quarantine_damaged_checkpoints(folder, run):
            log_info(f"a checkpoint was damaged and is not used: {path}")
