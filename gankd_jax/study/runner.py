"""Runs a study: trains teachers, students and baselines, and scores them.

Every process of a study executes these functions.  Whatever reads or writes the work directory goes
through `multihost.on_primary`.
"""

import functools
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np
from jaxtyping import UInt8

from gankd_jax.config.dataset import config_dataset, evaluation_split
from gankd_jax.evaluation.inception import available_maps
from gankd_jax.interop import inception_weights
from gankd_jax.interop.pair_table import PairTable
from gankd_jax.models import sampling
from gankd_jax.models.classifiers import MAX_SIZE, SIDE_MULTIPLE, accepts_image_size
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import networks, plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.evaluate import evaluate_inception_layers, evaluate_runs, select_teacher
from gankd_jax.study.plan import Run
from gankd_jax.study.train import train_runs
from gankd_jax.utils import atomic_io, file_lock, metric_writer, multihost, preemption, sharding
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

POLL_SECONDS = 10  # between looks at a teacher that another process trains
# By which a given teacher is known again; rounding on another device changes them by less than 1.
TEACHER_IMAGES_FILE, TEACHER_IMAGES, TEACHER_SEED = "images.npz", 4, 5_000_000
MAX_TEACHER_DIFFERENCE = 2.0  # of pixel values in 0..255, on average


def run_study(
    config: ml_collections.ConfigDict,
    folder: Path,
    shard: tuple[int, int] = (1, 1),
    wait_seconds: int = 0,
    teacher_object: TrainedGenerator | None = None,
) -> None:
    """Trains and scores every run that is not done yet.

    Args:
        config: The study's config.
        folder: The work directory.
        shard: `(k, n)`: take shard k of n of the runs, k from 1.
        wait_seconds: How long to wait for another shard to begin with the teacher.
        teacher_object: The teacher that `config.study.teacher` names, where it is no file.

    Raises:
        UserError: The shard has students, their teacher is not trained, and no process has been
            training it for `wait_seconds`.
    """
    runs = _select_shard(config, *shard)
    if multihost.on_primary(lambda: _are_done(config, folder, runs)):
        if teacher_object is not None:
            multihost.on_primary(lambda: _require_same_teacher(config, folder, teacher_object))
        logger.info("all %d runs are done", len(runs))
        return
    context = _open_study(StudyContext(config, folder, teacher_object), runs)
    teachers, students, baselines = (
        [run for run in runs if run.kind == kind] for kind in ("teacher", "student", "baseline")
    )
    train_runs(context, teachers)
    multihost.on_primary(lambda: select_teacher(context))
    if students:
        teacher = multihost.on_primary(lambda: _wait_for_teacher(context, wait_seconds))
        train_runs(context, students, plan.find_run(config, teacher))
    train_runs(context, baselines)
    multihost.on_primary(lambda: _evaluate(context, runs))


def _select_shard(config: ml_collections.ConfigDict, k: int, n: int) -> list[Run]:
    """Returns the runs of shard `k` of `n`, and logs what every shard does."""
    shards = plan.shard_runs(config, n, functools.partial(networks.run_flops, config))
    for number, runs in enumerate(shards, start=1):
        if n > 1:
            mark = " (this one)" if number == k else ""
            logger.info("shard %d/%d%s: %s", number, n, mark, plan.describe_runs(runs))
    return shards[k - 1]


def train_run(config: ml_collections.ConfigDict, folder: Path, name: str) -> None:
    """Trains one run of a study; the last teacher to be trained also selects the teacher.

    Args:
        config: The study's config.
        folder: The work directory.
        name: The run's name, such as `student-mse-d4-s0`.

    Raises:
        UserError: There is no such run, it has failed before or fails now, or it is a student
            without a teacher.
    """
    run = plan.find_run(config, name)
    multihost.on_primary(lambda: _require_trainable(config, folder, run))
    context = _open_study(StudyContext(config, folder), [run])
    if multihost.on_primary(lambda: workdir.is_trained(folder, config, run)):
        logger.info("%s is already trained", name)
    teacher = None
    if run.kind == "student":
        teacher = plan.find_run(config, multihost.on_primary(lambda: context.teacher.name))
    train_runs(context, [run], teacher)
    multihost.on_primary(lambda: _require_not_failed(config, folder, run))
    if run.kind == "teacher":
        multihost.on_primary(lambda: select_teacher(context))


def evaluate_study(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Scores every run that is trained and not scored yet, and generates missing report images.

    Args:
        config: The study's config.
        folder: The work directory.

    Raises:
        UserError: The folder holds no study of this config, or `validate_study` refuses it.
    """
    multihost.on_primary(lambda: validate_study(config))
    context = StudyContext(config, folder)
    runs = plan.plan_runs(config)

    def evaluate() -> None:
        workdir.require_workdir(folder, config)
        workdir.create_workdir(folder, config)  # writes fields that have changed
        _quarantine_damaged_checkpoints(folder, runs)
        select_teacher(context)
        _evaluate(context, runs)

    multihost.on_primary(evaluate)


def _are_done(config: ml_collections.ConfigDict, folder: Path, runs: Sequence[Run]) -> bool:
    if not workdir.matches_config(folder, config):
        return False
    if not all(workdir.is_done(folder, config, run) for run in runs):
        return False
    workdir.create_workdir(folder, config)  # writes fields that have changed
    return True


def _evaluate(context: StudyContext, runs: Sequence[Run]) -> None:
    """Scores by the classifiers first: they are fast, and the FID network is not."""
    evaluate_runs(context, runs)
    evaluate_inception_layers(context, runs)


def _wait_for_teacher(context: StudyContext, seconds: int) -> str:
    """Waits while other processes train the candidates, or may yet begin to.

    Args:
        context: The study.
        seconds: How long nobody may be training one of them.

    Returns:
        The name of the selected teacher.

    Raises:
        UserError: None was selected in time.
    """
    names = [run.name for run in plan.teacher_runs(context.config)]
    locks = [context.workdir / file_lock.LOCKS_DIR / name for name in names]
    last_seen, is_told = time.monotonic(), False
    while not (context.workdir / "teacher.json").exists():
        if any(map(file_lock.is_locked, locks)):
            last_seen = time.monotonic()
        else:
            select_teacher(context)
            if context.has_no_teacher_left or time.monotonic() - last_seen >= seconds:
                break
        if not is_told:
            logger.info("waiting for another process to train %s", ", ".join(names))
            is_told = True
        time.sleep(POLL_SECONDS)
        preemption.raise_if_requested()
    return context.teacher.name  # refuses if there is none


def _require_trainable(config: ml_collections.ConfigDict, folder: Path, run: Run) -> None:
    """Refuses a run that has failed for good, or a student without a teacher."""
    if workdir.matches_config(folder, config):
        _require_not_failed(config, folder, run)
    if run.kind == "student":
        _ = StudyContext(config, folder).teacher


def _require_not_failed(config: ml_collections.ConfigDict, folder: Path, run: Run) -> None:
    if workdir.has_failed_for_good(folder, config, run):
        path = folder / run.name / "failed.json"
        raise UserError(f"{run.name} has failed; {path} says where and why")


def _open_study(context: StudyContext, runs: Sequence[Run]) -> StudyContext:
    """Opens the work directory; creates it only if nothing prevents training these runs.

    Raises:
        UserError: Something does.
    """
    config, folder = context.config, context.workdir
    # Process 0 alone scores, so that the others need no weights of the FID network.
    multihost.on_primary(lambda: validate_study(config))
    multihost.on_primary(lambda: workdir.matches_config(folder, config))
    multihost.on_primary(lambda: _check_precision(config, folder))
    for run in runs:
        _check_batch_size(context, run)
    given_teacher = context.load_given_teacher()

    def create() -> None:
        if given_teacher is not None:
            _require_same_teacher(config, folder, given_teacher)
        workdir.create_workdir(folder, config)
        if given_teacher is not None:
            [teacher] = plan.teacher_runs(config)
            workdir.write_run_info(folder, teacher, given_teacher.module)
            _write_teacher_images(folder / teacher.name, given_teacher)
        _quarantine_damaged_checkpoints(folder, runs)
        remaining = [run for run in runs if not workdir.is_trained(folder, config, run)]
        if remaining:
            # Behind the checks, so that a mistake is one line; before the first compilation.
            logger.info("%s in %s: training %s", config.name, folder, plan.describe_runs(remaining))

    multihost.on_primary(create)
    return context


def _require_same_teacher(
    config: ml_collections.ConfigDict, folder: Path, teacher: TrainedGenerator
) -> None:
    """Refuses a given teacher whose images are not those of the one that the study began with.

    A name does not tell teachers apart: a function may have changed, a file been replaced.

    Raises:
        UserError: It makes other images.
    """
    [run] = plan.teacher_runs(config)
    path = folder / run.name / TEACHER_IMAGES_FILE
    if not path.exists():
        return
    images = atomic_io.read_own_npz(path)["images"].astype(np.float32)
    difference = np.abs(images - _sample_teacher(teacher)).mean()
    if difference > MAX_TEACHER_DIFFERENCE:
        raise UserError(
            f"{folder} has students of another teacher, whose images differ by"
            f" {difference:.0f} of 255 on average; name another work directory"
        )


def _write_teacher_images(folder: Path, teacher: TrainedGenerator) -> None:
    path = folder / TEACHER_IMAGES_FILE
    if not path.exists():
        atomic_io.write_npz(path, images=_sample_teacher(teacher))


def _sample_teacher(teacher: TrainedGenerator) -> UInt8[np.ndarray, "n s s c"]:
    return sampling.to_uint8(teacher.sample(seed=TEACHER_SEED, n=TEACHER_IMAGES))


def validate_study(config: ml_collections.ConfigDict) -> None:
    """Refuses what the config's own checks cannot see.

    Raises:
        UserError: The data set is unknown or has no images to score against, several teachers
            cannot be compared, the classifiers do not take images of that size, a network that
            scores or compares images has no labels or no weights, or a writer's package is missing.
    """
    metric_writer.require_writers(config.training.writers)
    has_data = config.data.name != "none"
    has_labels = has_data and config_dataset(config).classes is not None
    names = networks.feature_network_names(config)
    if "classifier" in names and not has_labels:
        owner = config.data.name if has_data else "a study without data"
        raise UserError(
            f"a recipe's feature_network is classifier, and {owner} has no labels to train one on;"
            " set it to critic or inception"
        )
    if "inception" in names:
        available_maps()
    if not has_data:
        return
    size = config.data.image_size
    if has_labels and not accepts_image_size(size):
        raise UserError(
            f"config.data.image_size is {size}, and the classifiers that score images of"
            f" {config.data.name} need a multiple of {SIDE_MULTIPLE} up to {MAX_SIZE}, or a"
            f" multiple of {MAX_SIZE}"
        )
    evaluation_split(config)  # refuses a data set without one
    has_validation = config.data.validation or "validation" in config_dataset(config).counts
    if len(plan.teacher_runs(config)) > 1 and not (has_labels and has_validation):
        raise UserError(
            "config.study names several teachers, and they are compared by a classifier on"
            " validation images: the data set needs labels, and a validation split or"
            " data.validation above 0"
        )
    if not (has_labels or config.evaluation.layers):
        logger.warning(
            "%s has no labels, so no classifier scores its images: Fréchet distance, KID, precision"
            " and recall are missing until `gankd weights fetch` has fetched the FID network and"
            " `gankd evaluate` runs with --config.evaluation.layers=\"('768',)\"",
            config.data.name,
        )
    if config.evaluation.layers:
        inception_weights.load_weights(
            inception_weights.default_weights_path(), config.evaluation.layers
        )


def _check_precision(config: ml_collections.ConfigDict, folder: Path) -> None:
    """No device but a GPU computes in TF32."""
    backend = jax.default_backend()
    if workdir.study_precision(folder, config) == "tf32" and backend != "gpu":
        raise UserError(
            f"config.model.precision is tf32 in {folder}, and this machine's device is a {backend}:"
            " train on a GPU, or with float32 in another --workdir"
        )


def _check_batch_size(context: StudyContext, run: Run) -> None:
    """A batch must not repeat an image, and every device gets the same number of its images."""
    recipe, count = context.config.recipes[run.recipe], len(context.train_images.pixels)
    devices = sharding.make_mesh(context.config.training.devices).size
    field = f"config.recipes.{run.recipe}.batch_size is {recipe.batch_size}"
    uses_data = recipe.alpha > 0 and context.has_data
    if uses_data and recipe.batch_size > count:
        raise UserError(f"{field}; {context.config.data.name} has {count} training images")
    teacher = context.load_given_teacher() if run.kind == "student" else None
    table = teacher.module if teacher else None
    if isinstance(table, PairTable) and recipe.batch_size > table.train_count:
        pairs = f"{table.train_count} pairs to train on, beside {table.test_count} to score on"
        raise UserError(f"{field}; {context.config.study.teacher} has {pairs}")
    if recipe.batch_size % devices:
        raise UserError(
            f"{field}, which {devices} devices cannot share evenly;"
            " config.training.devices says how many of each process do"
        )


def _quarantine_damaged_checkpoints(folder: Path, runs: Sequence[Run]) -> None:
    for run in runs:
        if file_lock.is_locked(folder / file_lock.LOCKS_DIR / run.name):
            continue  # its checkpoints are being written
        for path in workdir.quarantine_damaged_checkpoints(folder, run):
            logger.info("a checkpoint was damaged and is not used: %s", path)
