"""A config's whole job: teacher, students, baselines, scores, report; each part by itself too."""

import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from gankd_jax import runs, workdir
from gankd_jax.data import datasets
from gankd_jax.errors import UserError
from gankd_jax.interop import inception_weights
from gankd_jax.lab import Lab
from gankd_jax.runs import Run
from gankd_jax.runtime import lock, mesh, stop
from gankd_jax.runtime.progress import tell
from gankd_jax.score_layers import score_layers
from gankd_jax.score_runs import choose_teacher, evaluate_runs
from gankd_jax.train_runs import train_runs

KINDS = ("teacher", "student", "baseline")  # in this order
BATCHES = ("batch_size", "late_batch")  # of a recipe
WAIT = 10  # seconds between looks at a teacher in training elsewhere


def study(
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
    wanted = runs.share(config, *share)
    begun = workdir.holds(folder, config)
    if begun and all(workdir.is_done(folder, config, run) for run in wanted):
        tell(f"all {len(wanted)} runs are done")
        return
    lab = _begin(config, folder, wanted)
    kinds = {kind: [run for run in wanted if run.kind == kind] for kind in KINDS}
    train_runs(lab, kinds["teacher"])
    choose_teacher(lab)
    if kinds["student"]:
        _await_teacher(lab, patience)
    train_runs(lab, kinds["student"])
    train_runs(lab, kinds["baseline"])
    _evaluate(lab, wanted)


def _evaluate(lab: Lab, wanted: Sequence[Run]) -> None:
    """The judges first: they are fast, and the FID network is not."""
    evaluate_runs(lab, wanted)
    score_layers(lab, wanted)


def _await_teacher(lab: Lab, patience: int) -> None:
    """Wait while other processes train the teacher's candidates, or may yet begin to."""
    names = [run.name for run in runs.teachers(lab.config)]
    seen = time.monotonic()
    while not (lab.folder / "teacher.json").exists():
        if any(lock.is_held(lab.folder / lock.LOCKS / name) for name in names):
            seen = time.monotonic()
        else:
            choose_teacher(lab)
            if time.monotonic() - seen >= patience:
                break
        tell(f"waiting for {', '.join(names)}, to be trained elsewhere")
        time.sleep(WAIT)
        stop.check()
    assert lab.teacher  # refused where there is none


def train_one(config: ml_collections.ConfigDict, folder: Path, name: str) -> None:
    """Train one run of a study; a teacher that completes the candidates is chosen from."""
    run = runs.find(config, name)
    if workdir.holds(folder, config) and workdir.has_given_up(folder, config, run):
        raise UserError(f"{name} has failed; {folder / name / 'failed.json'} says where and why")
    if run.kind == "student":
        Lab(config, folder).member(run)  # refuses one without a teacher
    lab = _begin(config, folder, [run])
    if workdir.is_trained(folder, config, run):
        tell(f"{name} is trained already")
    train_runs(lab, [run])
    if run.kind == "teacher":
        choose_teacher(lab)


def evaluate_study(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Score every run that is trained and not scored yet, and draw what its report lacks.

    Raises:
      UserError: the folder holds no study of this config, or `check` refuses it.
    """
    check(config)
    workdir.need(folder, config)
    lab = Lab(config, folder)
    _set_damaged_aside(folder, runs.plan(config))
    choose_teacher(lab)
    _evaluate(lab, runs.plan(config))


def _begin(config: ml_collections.ConfigDict, folder: Path, wanted: Sequence[Run]) -> Lab:
    """The study in `folder`, which is made only if nothing speaks against training these runs.

    Raises:
      UserError: what does speak against it.
    """
    check(config)
    workdir.holds(folder, config)
    lab = Lab(config, folder)
    for run in wanted:
        _check_batches(lab, run)
    workdir.claim(folder, config)
    _set_damaged_aside(folder, wanted)
    return lab


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse what the config's own checks cannot see.

    Raises:
      UserError: unknown data set, several teachers and nothing to choose by, or no weights of the
        FID network where its layers are asked for.
    """
    labelled = datasets.get(config.data.name).classes is not None
    if len(runs.teachers(config)) > 1 and not (labelled and config.data.validation):
        raise UserError(
            "config.study names several teachers, and they are compared by a classifier on"
            " validation images: the data set needs labels and data.validation above 0"
        )
    if config.evaluation.layers:
        inception_weights.load(inception_weights.default_path(), config.evaluation.layers)


def _check_batches(lab: Lab, run: Run) -> None:
    """A batch holds no image twice, and each device has the same number of its images."""
    recipe, count = lab.config.recipes[run.recipe], len(lab.train.pixels)
    devices = mesh.make(lab.config.training.devices).size
    for field in BATCHES:
        size, told = recipe[field], f"config.recipes.{run.recipe}.{field} is {recipe[field]}"
        if recipe.alpha > 0 and size > count:
            raise UserError(f"{told}; {lab.config.data.name} has {count} training images")
        if size % devices:
            raise UserError(
                f"{told}, which {devices} devices cannot share evenly;"
                " config.training.devices says how many of each process do"
            )


def _set_damaged_aside(folder: Path, wanted: Sequence[Run]) -> None:
    for run in wanted:
        if lock.is_held(folder / lock.LOCKS / run.name):
            continue  # its checkpoints come and go
        for path in workdir.set_damaged_aside(folder, run):
            tell(f"a checkpoint was damaged and is not used: {path}")
