"""A study's folder: whose it is, and which of its runs are done."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import ml_collections
from flax import traverse_util

from gankd_jax.config.schema import config_to_dict
from gankd_jax.models.cost import generator_cost
from gankd_jax.study import networks
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import MAX_TO_KEEP, is_intact
from gankd_jax.utils.errors import UserError

LAYERS_FILE = "layers.json"  # what the FID network says of a run, or of the real images

# Where a study lies, how fast it runs and how stubborn it is are no part of what it is; the FID
# network may score it later.
MUTABLE_FIELDS = (
    *("data.dir", "data.placement", "training.devices", "training.retries"),
    *("evaluation.layers", "evaluation.layer_samples"),
)


def matches_config(workdir: Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the folder holds this config's study; False where it is empty or absent.

    Raises:
      UserError: it holds the study of another config, or something else.
    """
    path = workdir / "config.json"
    # Looked at first: another process may be about to make it a study, the config before all else.
    other = workdir.exists() and not (
        workdir.is_dir() and not any(map(_is_other, workdir.iterdir()))
    )
    if not path.exists():
        if other:
            raise UserError(f"--workdir={workdir} has files but no study; name an empty folder")
        return False
    ours, theirs = (
        _flat(config_to_dict(config)),
        _flat(read_study_json(path, "name another folder")),
    )
    changed = [
        k for k in sorted(ours | theirs) if ours.get(k) != theirs.get(k) and k not in MUTABLE_FIELDS
    ]
    if changed:
        field = changed[0]
        raise UserError(
            f"--workdir={workdir} holds another config: config.{field} is {theirs.get(field)} there"
            f" and {ours.get(field)} here ({len(changed)} fields differ); name another folder"
        )
    return True


def _is_other(entry: Path) -> bool:
    """Whether a file is none that becomes the config in one move."""
    return not entry.name.startswith(".config.json.")


def require_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Find that the folder holds this config's study.

    Raises:
      UserError: it does not.
    """
    if not matches_config(workdir, config):
        raise UserError(f"--workdir={workdir} holds no study; `gankd study` begins one")


def create_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Make the folder this config's, or find that it is.

    Raises:
      UserError: it belongs to another config, holds something else, or cannot be written.
    """
    if matches_config(workdir, config):
        return
    try:
        atomic_io.write_json(workdir / "config.json", config_to_dict(config))
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error.strerror}") from error


def read_study_json(path: Path, advice: str) -> dict[str, Any]:
    """A JSON file of a study.

    Raises:
      UserError: it is damaged; with the advice.
    """
    try:
        found = atomic_io.read_json(path)
        if isinstance(found, dict):
            return found
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {advice}") from error
    raise UserError(f"{path} is damaged (no object); {advice}")


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return traverse_util.flatten_dict(config, sep=".")


def checkpoint_steps(workdir: Path, run: Run) -> list[int]:
    """The steps of which a run has a checkpoint, ascending."""
    folder = workdir / run.name / "checkpoints"
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())


def quarantine_damaged_checkpoints(workdir: Path, run: Run) -> list[Path]:
    """Rename a run's damaged checkpoints, so that the ones before them are used; the new names.

    Raises:
      UserError: no other is left; nothing is renamed then.
    """
    folder = workdir / run.name / "checkpoints"
    steps = checkpoint_steps(workdir, run)
    damaged = [step for step in steps if not is_intact(folder / str(step))]
    if damaged and damaged == steps:
        raise UserError(
            f"{folder / str(steps[-1])} is damaged and no other checkpoint is left;"
            f" move {folder.parent} away to train {run.name} anew"
        )
    return [(folder / str(k)).rename(_free(folder / f"{k}.damaged")) for k in damaged]


def _free(path: Path) -> Path:
    """A name that nothing has yet: this one, or with a number."""
    names = (path.with_name(f"{path.name}-{k}") for k in itertools.count(2))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def resumable_steps(workdir: Path, run: Run) -> list[int]:
    """The steps from which a run can go on: step 0 too, until newer ones have pushed it out."""
    saved = checkpoint_steps(workdir, run)
    return saved if len(saved) == MAX_TO_KEEP else [0, *saved]


def is_trained(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Whether a run has the checkpoint of its last step."""
    return config.recipes[run.recipe].steps in checkpoint_steps(workdir, run)


def has_failed(workdir: Path, run: Run) -> bool:
    """Whether a run was stopped by a value that is not finite."""
    return (workdir / run.name / "failed.json").exists()


def retry_count(workdir: Path, run: Run) -> int:
    """How often a run that had failed went on with other random numbers."""
    return len(list((workdir / run.name).glob("failed-*.json")))


def can_retry(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Whether a run has failed and is to go on all the same."""
    return has_failed(workdir, run) and retry_count(workdir, run) < config.training.retries


def start_retry(workdir: Path, run: Run) -> int:
    """Let a failed run go on; which retry that is. What it failed of is kept as failed-K.json."""
    folder, number = workdir / run.name, retry_count(workdir, run) + 1
    (folder / "failed.json").rename(folder / f"failed-{number}.json")
    return number


def is_scored(workdir: Path, run: Run) -> bool:
    """Whether a run's scores by the judges are written."""
    return (workdir / run.name / "scores.json").exists()


def has_layer_scores(folder: Path, config: ml_collections.ConfigDict) -> bool:
    """Whether what lies in `folder` has scores of all layers of the FID network that are asked for.

    Those of another number of images do not count.
    """
    asked, path = config.evaluation, folder / LAYERS_FILE
    if not asked.layers:
        return True
    if not path.exists():
        return False
    made = read_study_json(path, "delete it, and it is written again").get("made", {})
    enough = set(asked.layers) <= set(made.get("layers", ()))
    return enough and made.get("layer_samples") == asked.layer_samples


def has_failed_for_good(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Whether a run has failed for good."""
    return has_failed(workdir, run) and not can_retry(workdir, config, run)


def is_done(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> bool:
    """Whether nothing is left to do of a run."""
    scored = is_scored(workdir, run) and has_layer_scores(workdir / run.name, config)
    return scored or has_failed_for_good(workdir, config, run)


def require_trained(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> None:
    """Find that the folder holds this config's study, and the run trained.

    Raises:
      UserError: it does not.
    """
    require_workdir(workdir, config)
    if not is_trained(workdir, config, run):
        raise UserError(f"{run.name} is not trained; run `gankd train --run={run.name}` first")


def is_final(workdir: Path, run: Run) -> bool:
    """Whether a run stays as it is: it is scored, or its weights come from elsewhere."""
    return is_scored(workdir, run) or (workdir / run.name / "imported.json").exists()


def write_run_info(workdir: Path, config: ml_collections.ConfigDict, run: Run) -> None:
    """Write what a run is, for its report."""
    size = generator_cost(networks.build_generator(config, run.width))
    about = {"name": run.name, **dataclasses.asdict(run), **dataclasses.asdict(size)}
    atomic_io.write_json(workdir / run.name / "run.json", about)
