"""A config's whole job: teacher, students, baselines, scores, report; each part by itself too."""

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import serialization
from jaxtyping import UInt8

from gankd_jax import evaluate, runs, sampling, workdir
from gankd_jax.data import datasets
from gankd_jax.errors import UserError
from gankd_jax.export.folded import rounded
from gankd_jax.interop import inception_weights
from gankd_jax.lab import Lab
from gankd_jax.metrics.features import Extractor, Summary
from gankd_jax.names import LOSSY, PRECISIONS
from gankd_jax.runs import Run
from gankd_jax.runtime import files, lock, mesh, stop
from gankd_jax.training import crew, loop
from gankd_jax.training.group import Member
from gankd_jax.training.state import Frozen, State, init

KINDS = ("teacher", "student", "baseline")  # in this order
WAIT = 10  # seconds between looks at a teacher in training elsewhere
DEVICE_BYTES = 4 * 2**30  # a data set of at most this size is put on the device


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
    if workdir.holds(folder, config) and all(_is_done(folder, config, run) for run in wanted):
        _tell(f"all {len(wanted)} runs are done")
        return
    lab = _begin(config, folder, wanted)
    kinds = {kind: [run for run in wanted if run.kind == kind] for kind in KINDS}
    train_runs(lab, kinds["teacher"])
    choose_teacher(lab)
    if kinds["student"]:
        _await_teacher(lab, patience)
    train_runs(lab, kinds["student"])
    train_runs(lab, kinds["baseline"])
    evaluate_runs(lab, wanted)


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
        _tell(f"waiting for {', '.join(names)}, to be trained elsewhere")
        time.sleep(WAIT)
        stop.check()
    assert lab.teacher  # refused where there is none


def train_one(config: ml_collections.ConfigDict, folder: Path, name: str) -> None:
    """Train one run of a study; a teacher that completes the candidates is chosen from."""
    run = runs.find(config, name)
    if workdir.holds(folder, config) and _has_given_up(folder, config, run):
        raise UserError(f"{name} has failed; {folder / name / 'failed.json'} says where and why")
    if run.kind == "student":
        Lab(config, folder).member(run)  # refuses one without a teacher
    lab = _begin(config, folder, [run])
    if workdir.is_trained(folder, config, run):
        _tell(f"{name} is trained already")
    train_runs(lab, [run])
    if run.kind == "teacher":
        choose_teacher(lab)


def evaluate_study(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Score every run that is trained and not scored yet."""
    _need_study(config, folder)
    lab = Lab(config, folder)
    _set_damaged_aside(folder, runs.plan(config))
    choose_teacher(lab)
    evaluate_runs(lab, runs.plan(config))


def _begin(config: ml_collections.ConfigDict, folder: Path, wanted: Sequence[Run]) -> Lab:
    """The study in `folder`, which is made only if nothing speaks against training these runs.

    Raises:
      UserError: what does speak against it.
    """
    check(config)
    workdir.holds(folder, config)
    lab = Lab(config, folder)
    for run in wanted:
        _check_batch(lab, run)
        _check_devices(config, run)
    workdir.claim(folder, config)
    _set_damaged_aside(folder, wanted)
    return lab


def _set_damaged_aside(folder: Path, wanted: Sequence[Run]) -> None:
    for run in wanted:
        if lock.is_held(folder / lock.LOCKS / run.name):
            continue  # its checkpoints come and go
        for path in workdir.set_damaged_aside(folder, run):
            _tell(f"a checkpoint was damaged and is not used: {path}")


def _check_batch(lab: Lab, run: Run) -> None:
    """A batch holds no image twice."""
    recipe, count = lab.config.recipes[run.recipe], len(lab.train.pixels)
    if recipe.alpha > 0 and recipe.batch_size > count:
        raise UserError(
            f"config.recipes.{run.recipe}.batch_size is {recipe.batch_size};"
            f" {lab.config.data.name} has {count} training images"
        )


def _check_devices(config: ml_collections.ConfigDict, run: Run) -> None:
    """Each device has the same number of a batch's images."""
    size, count = config.recipes[run.recipe].batch_size, mesh.make(config.training.devices).size
    if size % count:
        raise UserError(
            f"config.recipes.{run.recipe}.batch_size is {size}, which {count} devices cannot share"
            " evenly; config.training.devices says how many of each process do"
        )


def _need_study(config: ml_collections.ConfigDict, folder: Path) -> None:
    if not workdir.holds(folder, config):
        raise UserError(f"--workdir={folder} holds no study; `gankd study` begins one")


def _is_done(folder: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    return workdir.is_scored(folder, run) or _has_given_up(folder, config, run)


def _has_given_up(folder: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    return workdir.has_failed(folder, run) and not workdir.may_retry(folder, config, run)


def train_runs(lab: Lab, wanted: Sequence[Run]) -> None:
    """Train those of the runs that are not trained, in as few compiled programs as there can be."""
    for group in runs.groups(lab.config, list(wanted)):
        for cohort in cohorts(lab, group):
            _train_group(lab, cohort)
        for run in group:
            _retry(lab, run)


def _retry(lab: Lab, run: Run) -> None:
    """Go on with a run that has failed, as often as the config asks for."""
    most = lab.config.training.retries
    while workdir.may_retry(lab.folder, lab.config, run):
        number = workdir.retry(lab.folder, run)
        _tell(f"{run.name} goes on from its last checkpoint: retry {number} of {most}")
        _train_group(lab, [run])


def cohorts(lab: Lab, group: list[Run]) -> list[list[Run]]:
    """Which runs of a group go on together, from the same step.

    A group that was stopped may have runs one checkpoint apart, or one that failed since; they go
    on from the newest step that all have, the finished and the failed ones too, so that the program
    and its bits are those of a group never stopped.  Runs that share no step go on apart, and so
    does one that failed and goes on with other random numbers: its group had ended.
    """
    alone = [run for run in group if workdir.retries(lab.folder, run)]
    group = [run for run in group if run not in alone]
    return _together(lab, group) + [[run] for run in alone if not _has_ended(lab, run)]


def _together(lab: Lab, group: list[Run]) -> list[list[Run]]:
    kept = {run: workdir.kept_steps(lab.folder, run) for run in group}
    left = [run for run in group if not _has_ended(lab, run)]
    if not left:
        return []
    common = set.intersection(*(set(kept[run]) for run in left))
    if common:
        free = [run for run in group if not workdir.is_settled(lab.folder, run)]
        return [[run for run in free if max(common) in kept[run]]]
    newest: dict[int, list[Run]] = {}
    for run in left:
        newest.setdefault(max(kept[run]), []).append(run)
    return list(newest.values())


def _has_ended(lab: Lab, run: Run) -> bool:
    trained = workdir.is_trained(lab.folder, lab.config, run)
    return trained or workdir.has_failed(lab.folder, run)


def _train_group(lab: Lab, group: list[Run]) -> None:
    config = lab.config
    members = {run.name: lab.member(run) for run in sorted(group, key=lambda run: run.name)}
    for run in group:
        workdir.describe_run(lab.folder, config, run)
    student = group[0].kind == "student"
    made = _group(lab, members, lab.drawn_teacher if student else None, title=_title(group))
    loop.train(
        made, lab.folder, _intervals(config), picture=functools.partial(_picture, lab, student)
    )


def _group(
    lab: Lab, members: dict[str, Member], teacher: loop.Teacher | None, *, title: str
) -> loop.Group:
    return loop.Group(
        title=title,
        members=members,
        teacher=teacher,
        images=lab.train.pixels,
        on_device=_on_device(lab.config.data.placement, lab.train.pixels),
        mesh=mesh.make(lab.config.training.devices),
    )


def _intervals(config: ml_collections.ConfigDict) -> loop.Intervals:
    names = [field.name for field in dataclasses.fields(loop.Intervals)]
    return loop.Intervals(**{name: config.training[name] for name in names})


def follow(config: ml_collections.ConfigDict, folder: Path) -> None:
    """Take part in all that the leading process trains; nothing is read or written in `folder`.

    Raises:
      Ended: the leader has.
    """
    lab = Lab(config, folder)
    while True:
        order = crew.join()
        try:
            group, start = _followed(lab, order)
        except UserError as error:
            _tell(f"gankd: {error}")
            crew.refuse()
        loop.follow(group, start, _intervals(config))


def _followed(lab: Lab, order: crew.Order) -> tuple[loop.Group, crew.Start]:
    config = lab.config
    teacher = runs.find(config, order.teacher) if order.teacher else None
    found = [runs.find(config, name) for name in order.seeds]
    members = {
        run.name: dataclasses.replace(runs.member(config, run, teacher), seed=seed, stream=stream)
        for run, (seed, stream) in zip(found, order.seeds.values(), strict=True)
    }
    taught, frozen = None, None
    if teacher and order.frozen:
        frozen = Frozen(**order.frozen)
        drawer = runs.generator(config, teacher.width)
        taught = loop.Teacher(teacher.name, drawer, frozen.generator, None)
    likes = {n: jax.eval_shape(functools.partial(init, m.spec), m.seed) for n, m in members.items()}
    start = crew.Start(order.step, serialization.from_state_dict(likes, order.states), frozen)
    return _group(lab, members, taught, title=_title(found)), start


def _title(group: list[Run]) -> str:
    return group[0].name if len(group) == 1 else f"{len(group)} {group[0].kind}s"


def _on_device(placement: str, images: UInt8[np.ndarray, "n s s c"]) -> bool:
    return placement == "device" or (placement == "auto" and images.nbytes <= DEVICE_BYTES)


def _picture(
    lab: Lab, beside_teacher: bool, member: Member, state: State
) -> UInt8[np.ndarray, "h w c"]:
    """A generator's images of the fixed latents; a student's at the right of its teacher's."""
    shown = [lab.draws(member, state)]
    if beside_teacher:
        shown.insert(0, (lab.drawn_teacher.generator, lab.drawn_teacher.variables))
    return np.concatenate([_grid(drawer) for drawer in shown], axis=1)


def _grid(drawer: evaluate.Drawer) -> UInt8[np.ndarray, "h w c"]:
    generator, variables = drawer
    latents = sampling.grid_latents(generator.latent)
    images = sampling.to_uint8(sampling.draw(generator, variables, latents))
    return sampling.tile(images, sampling.GRID_SIDE)


def choose_teacher(lab: Lab) -> None:
    """Name the candidate whose images lie nearest to the validation images; once, then kept.

    Raises:
      UserError: every candidate has failed.
    """
    path = lab.folder / "teacher.json"
    candidates = runs.teachers(lab.config)
    finished = [r for r in candidates if workdir.is_trained(lab.folder, lab.config, r)]
    failed = [r for r in candidates if _has_given_up(lab.folder, lab.config, r)]
    if path.exists() or len(finished) + len(failed) < len(candidates):
        return
    if not finished:
        raise UserError(f"every teacher failed; see {lab.folder / failed[0].name / 'failed.json'}")
    if len(candidates) == 1:
        files.write_json(path, {"run": finished[0].name, "chosen_by": "the only candidate"})
        return
    distances = {run.name: _validation_distance(lab, run) for run in finished}
    best = min(distances, key=distances.__getitem__)
    chosen = {"run": best, "chosen_by": "fd_classifier on validation", "candidates": distances}
    files.write_json(path, chosen)


def _validation_distance(lab: Lab, run: Run) -> float:
    """fd_classifier between a teacher's images, on latents of their own, and validation images."""
    seed, real = lab.config.evaluation.seed + 1, lab.summaries(lab.split("validation"))
    return _scores(lab, lab.drawer(run), seed, references=real[:1])["fd_classifier"]


def _scores(
    lab: Lab, drawer: evaluate.Drawer, seed: int, *, references: list[tuple[Extractor, Summary]]
) -> dict[str, float]:
    sizes = _sizes(lab)
    batches = functools.partial(evaluate.drawn, drawer, seed, **sizes)
    return evaluate.scores(batches, references, count=sizes["count"])


def _sizes(lab: Lab) -> dict[str, int]:
    evaluation = lab.config.evaluation
    return {"count": evaluation.samples, "batch_size": evaluation.batch_size}


def evaluate_runs(lab: Lab, wanted: Sequence[Run]) -> None:
    """Score those of the runs that are trained and not scored."""
    _evaluate_real(lab)
    for run in wanted:
        stop.check()
        trained = workdir.is_trained(lab.folder, lab.config, run)
        if trained and not workdir.is_scored(lab.folder, run):
            _tell(f"scoring {run.name}")
            _evaluate_run(lab, run)


def _evaluate_real(lab: Lab) -> None:
    """The test set's own scores: the ceiling."""
    folder = lab.folder / "reference"
    if (folder / "scores.json").exists():
        return
    test = lab.split("test")
    size, count = lab.config.evaluation.batch_size, len(test.pixels)
    batches = functools.partial(evaluate.in_batches, test.pixels, size)
    values = evaluate.scores(batches, lab.references, count=count)
    grid = np.asarray(test.pixels[: sampling.GRID_SIDE**2])
    files.write_arrays(folder / "samples.npz", grid=grid, **lab.nearest(grid))
    made = _made(lab, count) | {"images": test.key}
    files.write_json(folder / "scores.json", {"scores": values, "made": made})


def _evaluate_run(lab: Lab, run: Run) -> None:
    folder, drawer = lab.folder / run.name, lab.drawer(run)
    stored = {precision: rounded(*drawer, precision) for precision in PRECISIONS}
    values, *lossy = values_of(lab, run, [drawer, *(stored[p][:2] for p in LOSSY)])
    precisions: dict[str, dict[str, Any]] = {p: {"bytes": stored[p][2]} for p in PRECISIONS}
    for precision, scores in zip(LOSSY, lossy, strict=True):
        precisions[precision]["scores"] = scores
    _keep_pictures(lab, run, drawer)
    made = _made(lab, lab.config.evaluation.samples)
    made["latents_seed"] = lab.config.evaluation.seed
    # Last, since it marks the run as scored.
    written = {"scores": values, "made": made, "precisions": precisions}
    files.write_json(folder / "scores.json", written)


def _keep_pictures(lab: Lab, run: Run, drawer: evaluate.Drawer) -> None:
    """What the report shows of a run; of a student also the weights that draw in the page."""
    folder, pictures = lab.folder / run.name, evaluate.samples(drawer)
    files.write_arrays(folder / "samples.npz", **pictures, **lab.nearest(pictures["grid"]))
    if run.kind == "student":
        files.write_arrays(folder / "folded.npz", **evaluate.folded(drawer))


def values_of(lab: Lab, run: Run, drawers: list[evaluate.Drawer]) -> list[dict[str, float]]:
    """The report's scores of a run's generator in each of its forms, on the same latents."""
    seed = lab.config.evaluation.seed
    values = [_scores(lab, drawer, seed, references=lab.references) for drawer in drawers]
    if run.kind == "student":
        teacher = (lab.drawn_teacher.generator, lab.drawn_teacher.variables)
        errors = evaluate.pixel_errors(drawers, teacher, seed, **_sizes(lab))
        values = [v | {"pixel_error": e} for v, e in zip(values, errors, strict=True)]
    return values


def _made(lab: Lab, count: int) -> dict[str, object]:
    """How a score was made."""
    made: dict[str, object] = {"samples": count, "versions": evaluate.versions()}
    if lab.references:
        made["reference"] = lab.train.key
        made["reference_samples"] = len(lab.train.pixels)
        made["networks"] = {x.name: x.about for x in lab.extractors}
    for judge in lab.judges:
        end = "" if judge.kind == "classifier" else f"_{judge.kind}"
        made[f"weights{end}"] = f"sha256:{judge.weights}"
        made[f"{judge.kind}_accuracy"] = judge.accuracy
    return made


def sample(config: ml_collections.ConfigDict, folder: Path, name: str, *, out: Path) -> None:
    """Write the picture of a trained run's images of the fixed latents.

    Raises:
      UserError: no such run, it is not trained yet, or `out` exists.
    """
    run = runs.find(config, name)
    _need_study(config, folder)
    if not workdir.is_trained(folder, config, run):
        raise UserError(f"{name} is not trained; run `gankd train --run={name}` first")
    if out.exists():
        raise UserError(f"--out={out} exists; name another file or remove it")
    picture = _grid(Lab(config, folder).drawer(run))
    try:
        files.write_png(out, picture)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error


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


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
