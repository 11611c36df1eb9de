"""A study's work directory: whose config it holds, and how far each run has come.

A field of the config may change as long as nothing in the work directory depends on its value;
config.json is then written anew.  `_find_dependent` says what depends on which field.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from gankd_jax.config import schema
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.family import FAMILIES, Generator
from gankd_jax.models.precision import resolve_precision
from gankd_jax.study import plan
from gankd_jax.study.plan import Run
from gankd_jax.training import losses
from gankd_jax.training.train_state import OPTIMIZERS
from gankd_jax.utils import atomic_io, file_lock
from gankd_jax.utils.checkpoint import MAX_TO_KEEP, is_intact
from gankd_jax.utils.errors import UserError

CONFIG_FILE = "config.json"
# Names that systems and schedulers leave in a folder: hidden files, the lost+found of a new volume,
# SLURM's logs, a thumbnail cache.
STRAY_FILES = r"\..*|lost\+found|slurm-.*\.(out|err)|Thumbs\.db"
LAYERS_FILE = "layers.json"  # scores by the FID network, of a run or of the real images

# Fields that may differ at any time and are not written anew: where the data lies, how fast a study
# runs, how often it retries, where it logs, and what the FID network scores later.
MUTABLE_FIELDS = (
    *("data.dir", "data.placement", "training.devices", "training.retries", "training.writers"),
    *("evaluation.layers", "evaluation.layer_samples"),
)
# Fields that list what runs a study has: the kinds of run, and the attribute with the listed value.
PLAN_FIELDS = {
    "study.teacher_widths": (("teacher",), "width"),
    "study.teacher_seeds": (("teacher",), "seed"),
    "study.widths": (("student", "baseline"), "width"),
    "study.seeds": (("student", "baseline"), "seed"),
    "study.students": (("student",), "recipe"),
    "study.baselines": (("baseline",), "recipe"),
}

# Registries that a config file can add to, by the last part of the name of the field they serve.
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "distance": losses.DISTANCES,
    "features": losses.FEATURE_DISTANCES,
    "loss": losses.GENERATOR_LOSSES,
    "optimizer": OPTIMIZERS,
    "family": FAMILIES,
}


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """Reads the config of a study, possibly one that another version of the program began.

    Raises:
        UserError: There is no study, its config is damaged, or it uses an option that was removed
            or a name that its config file registers and that this process does not know.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{workdir} holds no study (no {CONFIG_FILE}); name the --workdir of one")
    config = schema.config_from_dict(read_study_json(path, "name another folder"), str(path))
    for field, value in schema.flatten_config(config.to_dict()).items():
        registry = REGISTRIES.get(field.rpartition(".")[2])
        if registry is not None and value not in registry and value != "none":
            raise UserError(
                f"{path}: config.{field} is {value!r}, which is not registered; the study's config"
                " file registers it: name it by --config=FILE, or import it in Python"
            )
    return config


def matches_config(workdir: Path, config: ml_collections.ConfigDict) -> bool:
    """Returns whether a folder holds this config's study; False if it is empty or absent.

    A field that the stored config lacks has its default there.  Fields and recipes that the config
    lacks are ignored with a warning.

    Args:
        workdir: The work directory.
        config: A valid config.

    Raises:
        UserError: A field has another value there on which a run or a score depends, or the folder
            holds something else.
    """
    # Listed before the config is looked for: another process may be about to write it first of all.
    foreign = _foreign_file(workdir)
    if not (workdir / CONFIG_FILE).exists():
        if foreign:
            raise UserError(
                f"--workdir={workdir} has files but no study ({foreign}); name an empty folder"
            )
        return False
    stored = read_config(workdir)
    changed = _changed_fields(stored, config, source=str(workdir / CONFIG_FILE))
    for field, (stored_value, value) in changed.items():
        dependent = _find_dependent(workdir, stored, field, value)
        if dependent:
            raise UserError(
                f"--workdir={workdir} holds another config: config.{field} is {stored_value} there"
                f" and {value} here ({len(changed)} fields differ), and {dependent}; name another"
                " folder"
            )
    return True


def _find_dependent(
    workdir: Path, stored: ml_collections.ConfigDict, field: str, value: Any
) -> str:
    """Returns what depends on the stored value of a field; "" if `value` can take its place."""
    for run in plan.plan_runs(stored):
        if has_begun(workdir, run) and _run_depends(workdir, stored, run, field, value):
            return f"{run.name} has begun with it"
    is_selected = (workdir / "teacher.json").exists()
    if is_selected and PLAN_FIELDS.get(field, ((), ""))[0] == ("teacher",):
        return "the teacher is selected already"
    is_compared = is_selected and len(plan.teacher_runs(stored)) > 1
    is_of_scores = field.startswith("evaluation.") or field in ("data.pad", "data.validation")
    if is_of_scores and (is_compared or any(workdir.glob("*/scores.json"))):
        return "scores were computed with it"
    return ""


def _run_depends(
    workdir: Path, stored: ml_collections.ConfigDict, run: Run, field: str, value: Any
) -> bool:
    """Returns whether a run that has begun would be another, or missing, with a new value."""
    if field in PLAN_FIELDS:
        kinds, attribute = PLAN_FIELDS[field]
        return run.kind in kinds and getattr(run, attribute) not in value
    if field.startswith("recipes."):
        return field.split(".")[1] == run.recipe
    if field in ("data.pad", "data.validation", "data.mirror"):
        is_imported = (workdir / run.name / "imported.json").exists()
        return stored.recipes[run.recipe].alpha > 0 and not is_imported
    if field == "study.teacher":
        return run.kind != "baseline"
    if field == "evaluation.statistics":  # of batch norm, in the teacher's images
        return run.kind == "student"
    if field.startswith("model.teacher."):
        return run.kind == "teacher"
    if field.startswith("model.student."):
        return run.kind != "teacher"
    return field != "name" and not field.startswith("evaluation.")


def _changed_fields(
    stored: ml_collections.ConfigDict, config: ml_collections.ConfigDict, *, source: str
) -> dict[str, tuple[Any, Any]]:
    """Returns the values there and here of every field that differs and is not mutable.

    The precision `auto` is the one there.
    """
    missing = tuple(f"recipes.{name}" for name in stored.recipes if name not in config.recipes)
    schema.warn_about_ignored_fields(source, missing)
    stored_fields = schema.flatten_config(schema.config_to_dict(stored))
    return {
        name: (stored_fields[name], value)
        for name, value in sorted(schema.flatten_config(schema.config_to_dict(config)).items())
        if name in stored_fields and name not in MUTABLE_FIELDS and stored_fields[name] != value
        if (name, value) != ("model.precision", "auto")
    }


def _foreign_file(workdir: Path) -> str:
    """Returns the name of a file that speaks against a new study in the folder; "" for none.

    Hidden files do not: they are the system's, or a config that `atomic_io` has not moved to its
    place yet.
    """
    if not workdir.is_dir():
        return workdir.name if workdir.exists() else ""
    names = (entry.name for entry in sorted(workdir.iterdir()))
    foreign = (name for name in names if not re.fullmatch(STRAY_FILES, name))
    return next(foreign, "")


def require_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a folder that does not hold this config's study.

    Raises:
        UserError: It holds none, or another one.
    """
    if not matches_config(workdir, config):
        raise UserError(f"--workdir={workdir} holds no study; `gankd study` begins one")


def create_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes the config into an empty or absent folder, or over one that it may replace.

    In place of the precision `auto` it writes the one that the study then has for good.

    Args:
        workdir: The work directory.
        config: A valid config.  Nothing is written if it is there already.

    Raises:
        UserError: The folder holds another study or something else, or cannot be written.
    """
    path = workdir / CONFIG_FILE
    stored = read_config(workdir) if matches_config(workdir, config) else None
    if stored is not None and not _changed_fields(stored, config, source=str(path)):
        return
    fields = schema.config_to_dict(config)
    fields["model"]["precision"] = study_precision(workdir, config)
    try:
        atomic_io.write_json(path, fields)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error


def study_precision(workdir: Path, config: ml_collections.ConfigDict) -> str:
    """Returns the precision of a study's training: for `auto`, the stored one if there is one.

    Args:
        workdir: The work directory.
        config: A config that `matches_config` accepts.
    """
    precision = config.model.precision
    if precision == "auto" and (workdir / CONFIG_FILE).exists():
        precision = read_config(workdir).model.precision
    return resolve_precision(precision)


def read_study_json(path: Path, advice: str) -> dict[str, Any]:
    """Reads a JSON file of a study.

    Args:
        path: The file.
        advice: What to do if it is damaged, for the message.

    Raises:
        UserError: It is damaged.
    """
    try:
        content = atomic_io.read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (no object); {advice}")
    return content


def checkpoint_steps(workdir: Path, run: Run) -> list[int]:
    """Returns the steps of which a run has a checkpoint, ascending."""
    folder = workdir / run.name / "checkpoints"
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())


def quarantine_damaged_checkpoints(workdir: Path, run: Run) -> list[Path]:
    """Renames a run's damaged checkpoints, so that training resumes from the ones before them.

    Args:
        workdir: The work directory.
        run: The run; no process may be training it.

    Returns:
        The new paths, `STEP.damaged`.

    Raises:
        UserError: All of them are damaged; nothing is renamed then.
    """
    folder = workdir / run.name / "checkpoints"
    steps = checkpoint_steps(workdir, run)
    damaged = [step for step in steps if not is_intact(folder / str(step))]
    if damaged and damaged == steps:
        raise UserError(
            f"{folder / str(steps[-1])} is damaged and no other checkpoint is left;"
            f" move {folder.parent} away to train {run.name} from the beginning"
        )
    return [(folder / str(k)).rename(_unused_path(folder / f"{k}.damaged")) for k in damaged]


def _unused_path(path: Path) -> Path:
    """Returns the path, or the first of `path-2`, `path-3`, ... that does not exist."""
    numbered = (path.with_name(f"{path.name}-{k}") for k in itertools.count(2))
    return next(p for p in itertools.chain([path], numbered) if not p.exists())


def resumable_steps(workdir: Path, run: Run) -> list[int]:
    """Returns the steps that a run can resume from.

    Step 0 counts until newer checkpoints have replaced older ones: a run with fewer than
    `MAX_TO_KEEP` checkpoints may belong to a group that stopped before the others saved.

    Args:
        workdir: The work directory.
        run: A run, begun or not.
    """
    steps = checkpoint_steps(workdir, run)
    return steps if len(steps) == MAX_TO_KEEP else [0, *steps]


def is_trained(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Returns whether a run has the checkpoint of its last step, or is a teacher that was given."""
    if run.kind == "teacher" and config.study.teacher:
        return True
    return config.recipes[run.recipe].steps in checkpoint_steps(workdir, run)


def has_begun(workdir: Path, run: Run) -> bool:
    """Returns whether a run is being trained, or something of its training or scores is stored."""
    is_stored = bool(checkpoint_steps(workdir, run)) or has_failed(workdir, run)
    is_training = file_lock.is_locked(workdir / file_lock.LOCKS_DIR / run.name)
    return is_stored or is_training or is_scored(workdir, run)


def has_failed(workdir: Path, run: Run) -> bool:
    """Returns whether a run was stopped by a non-finite value."""
    return (workdir / run.name / "failed.json").exists()


def retry_count(workdir: Path, run: Run) -> int:
    """Returns how often a failed run was resumed with other random numbers."""
    return len(list((workdir / run.name).glob("failed-*.json")))


def can_retry(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Returns whether a run has failed and the config allows another retry."""
    return has_failed(workdir, run) and retry_count(workdir, run) < config.training.retries


def start_retry(workdir: Path, run: Run) -> int:
    """Marks a failed run as resumed; its failed.json becomes failed-N.json.

    Args:
        workdir: The work directory.
        run: A run that has failed.

    Returns:
        N, the number of the retry, from 1.
    """
    folder, number = workdir / run.name, retry_count(workdir, run) + 1
    (folder / "failed.json").rename(folder / f"failed-{number}.json")
    return number


def is_scored(workdir: Path, run: Run) -> bool:
    """Returns whether the evaluation networks' scores of a run are written."""
    return (workdir / run.name / "scores.json").exists()


def has_layer_scores(folder: Path, config: ml_collections.ConfigDict) -> bool:
    """Returns whether a folder has the scores of all requested layers of the FID network.

    Args:
        folder: Of a run, or of the real images.
        config: Its `evaluation.layers` are requested; scores of another `layer_samples` do not
            count.
    """
    evaluation, path = config.evaluation, folder / LAYERS_FILE
    if not evaluation.layers:
        return True
    if not path.exists():
        return False
    provenance = read_study_json(path, "delete it, and it is written again").get("made", {})
    has_layers = set(evaluation.layers) <= set(provenance.get("layers", ()))
    return has_layers and provenance.get("layer_samples") == evaluation.layer_samples


def has_failed_for_good(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Returns whether a run has failed and has no retry left."""
    return has_failed(workdir, run) and not can_retry(workdir, config, run)


def is_done(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Returns whether a run is trained and scored, or has failed for good."""
    is_complete = is_scored(workdir, run) and has_layer_scores(workdir / run.name, config)
    return is_complete or has_failed_for_good(workdir, config, run)


def require_trained(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> None:
    """Refuses a run that is not trained.

    Raises:
        UserError: The folder does not hold this config's study, or the run is not trained.
    """
    require_workdir(workdir, config)
    if not is_trained(workdir, config, run):
        raise UserError(f"{run.name} is not trained; run `gankd train --run={run.name}` first")


def is_final(workdir: Path, run: Run) -> bool:
    """Returns whether a run's weights must not change: it is scored, or they were imported."""
    return is_scored(workdir, run) or (workdir / run.name / "imported.json").exists()


def write_run_info(
    workdir: Path, run: Run, generator: Generator, *, precision: str | None = None
) -> None:
    """Writes run.json: the run's name, recipe, width and seed, and the size of its generator.

    Args:
        workdir: The work directory.
        run: The run.
        generator: Its generator.
        precision: In which its layers are trained; None for weights that come from elsewhere.
    """
    size = dataclasses.asdict(generator_cost(generator))
    info = {"name": run.name, **dataclasses.asdict(run), **size}
    info |= {"precision": precision} if precision else {}
    atomic_io.write_json(workdir / run.name / "run.json", info)
