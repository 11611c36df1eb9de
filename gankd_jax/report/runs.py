"""Reads the files that a study leaves in its work directory."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from gankd_jax.report.wording import model_name
from gankd_jax.study.plan import run_name
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

Grid = UInt8[np.ndarray, "n h w c"]
Paths = UInt8[np.ndarray, "paths steps h w c"]
SIZES = ("parameters", "paper_parameters", "multiply_adds", "bytes_float32")


class Key(NamedTuple):
    """Which run of a study: unique, and known from the config before the run exists."""

    kind: str  # teacher, student, baseline
    recipe: str
    width: int
    seed: int

    @property
    def name(self) -> str:
        """The name that the run has or will have."""
        return run_name(*self)


@dataclass(frozen=True)
class Stored:
    """A run's weights in one precision: what they take in a file and how they score."""

    bytes: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Timed:
    """How fast an exported file draws on one CPU thread."""

    bytes: int
    milliseconds: float  # for one image
    images_per_second: float  # in batches of 64
    peak_mib: float  # memory
    spread: float  # the slowest of several turns, divided by the fastest


@dataclass(frozen=True)
class Nearest:
    """How near a set of images comes to the training images."""

    distances: Float[np.ndarray, " n"]  # of each image, in a network's features
    closest: Int[np.ndarray, " k"]  # the places of those that come nearest
    images: UInt8[np.ndarray, "k h w c"]  # what they come near to


@dataclass(frozen=True)
class Run:
    """One run, as far as it has come."""

    name: str
    key: Key
    parameters: int
    paper_parameters: int
    multiply_adds: int  # for one image
    bytes_float32: int
    log: tuple[dict[str, Any], ...]  # one record per logged step, steps rising
    scores: dict[str, float]  # {} before the evaluation, and of a failed run
    made: dict[str, Any]  # how the scores were made
    stored: dict[str, Stored]  # by precision; {} where that was not measured
    grid: Grid | None
    interpolation: Paths | None
    nearest: Nearest | None
    folded: Path | None  # its weights without batch norm
    failure: str  # why and where it failed; "" if it did not
    retried: tuple[str, ...] = ()  # likewise, of each time that it went on with other numbers

    @property
    def step(self) -> int:
        """The last step that was logged; 0 before the first."""
        return int(self.log[-1]["step"]) if self.log else 0


@dataclass(frozen=True)
class Study:
    """A study, as far as it has come."""

    config: dict[str, Any]
    plan: tuple[Key, ...]  # every run that the config asks for
    runs: tuple[Run, ...]  # those that were begun, in the plan's order
    teacher: Run | None  # the one that was chosen
    choice: dict[str, Any]  # teacher.json; {} before the choice
    real_scores: dict[str, float]  # of the real test set: the ceiling
    real_made: dict[str, Any]
    real_grid: Grid | None
    real_nearest: Nearest | None
    machine: str  # on which the latency was measured; "" before that
    timed: dict[tuple[int, str], Timed]  # by width and precision: all models of a width are alike

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.config["data"]["name"])

    def group(self, kind: str, recipe: str, width: int) -> tuple[Run, ...]:
        """Return the begun runs that differ by their seed only."""
        return tuple(run for run in self.runs if run.key[:3] == (kind, recipe, width))


def read(workdir: Path) -> Study:
    """Read a study, finished or not.

    Raises:
      UserError: the folder is no work directory, or a file in it cannot be read.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} holds no study (no config.json); name the --workdir of one")
    config = read_object(workdir / "config.json")
    with reading(workdir / "config.json"):
        plan = planned(config)
    found = [_run(file.parent) for file in sorted(workdir.glob("*/run.json"))]
    place = {key: index for index, key in enumerate(plan)}
    found.sort(key=lambda run: place.get(run.key, len(plan)))
    choice = read_object(workdir / "teacher.json")
    latency = read_object(workdir / "latency.json")
    real = workdir / "reference"
    scores, layers = _scored(real)
    pictures = _pictures(real)
    return Study(
        config=config,
        plan=plan,
        runs=tuple(found),
        teacher=next((run for run in found if run.name == choice.get("run")), None),
        choice=choice,
        real_scores=floats(scores, real / "scores.json") | floats(layers, real / "layers.json"),
        real_made=_made(scores, layers),
        real_grid=pictures.get("grid"),
        real_nearest=_nearest(pictures),
        machine=latency.get("machine", ""),
        timed=_timed(latency, {run.name: run.key.width for run in found}),
    )


def planned(config: dict[str, Any]) -> tuple[Key, ...]:
    """Return every run that a config asks for: teachers, then students and baselines by width."""
    study = config["study"]
    small = [("student", name) for name in study["students"]]
    small += [("baseline", name) for name in study["baselines"]]
    teachers = [
        Key("teacher", "teacher", width, seed)
        for width in study["teacher_widths"]
        for seed in study["teacher_seeds"]
    ]
    return (
        *teachers,
        *(
            Key(kind, recipe, width, seed)
            for width in sorted(study["widths"])
            for kind, recipe in small
            for seed in study["seeds"]
        ),
    )


def progress(study: Study) -> list[str]:
    """Name every run without scores, with what is known about it, one line each."""
    begun = {run.key: run for run in study.runs}
    return [_progress(study, key, begun.get(key)) for key in study.plan if _open(begun.get(key))]


def _open(run: Run | None) -> bool:
    return run is None or not run.scores


def _progress(study: Study, key: Key, run: Run | None) -> str:
    if run is None:
        return f"{model_name(key.kind, key.recipe)} d={key.width} seed {key.seed}: not started"
    if run.failure:
        return f"{run.name}: failed {run.failure}"
    steps = study.config["recipes"][key.recipe]["steps"]
    if run.step >= steps:
        return f"{run.name}: trained, not evaluated yet"
    return f"{run.name}: at step {run.step:,} of {steps:,}"


def _run(folder: Path) -> Run:
    about = read_object(folder / "run.json")
    failed = failure(folder / "failed.json")
    scores, layers = ({}, {}) if failed else _scored(folder)
    folded = folder / "folded.npz"
    pictures = _pictures(folder)
    with reading(folder / "run.json"):
        recipe = "teacher" if about["kind"] == "teacher" else about["recipe"]
        key = Key(about["kind"], recipe, about["width"], about["seed"])
        sizes = {name: int(about[name]) for name in SIZES}
    return Run(
        name=folder.name,
        key=key,
        **sizes,
        log=_log(folder / "log.jsonl"),
        scores=floats(scores, folder / "scores.json") | floats(layers, folder / "layers.json"),
        made=_made(scores, layers),
        stored=_stored(scores, folder / "scores.json"),
        grid=pictures.get("grid"),
        interpolation=pictures.get("interpolation"),
        nearest=_nearest(pictures),
        folded=folded if folded.is_file() else None,
        failure=failed,
        retried=tuple(failure(path) for path in sorted(folder.glob("failed-*.json"))),
    )


def _scored(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the judges and what the FID network say of a run or of the real images.

    Only what the judges have scored counts as scored.
    """
    scores = read_object(folder / "scores.json")
    return scores, read_object(folder / "layers.json") if scores else {}


def _made(scores: dict[str, Any], layers: dict[str, Any]) -> dict[str, Any]:
    """How both were made."""
    made = layers.get("made")
    return scores.get("made", {}) | ({"FID network": made} if made else {})


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file that is not what a study writes.

    Raises:
      UserError: what is done within fails as on a damaged file.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        told = f"{type(error).__name__} {error}"
        raise UserError(f"{path} is damaged ({told}); delete it and run again") from error


def failure(path: Path) -> str:
    """Say where and why a run failed, out of its failed.json; "" where that is not there.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return ""
    failed = read_object(path)
    with reading(path):
        return f"at step {failed['step']:,}: {failed['reason']}"


def _timed(latency: dict[str, Any], widths: dict[str, int]) -> dict[tuple[int, str], Timed]:
    """What was measured of each width and precision; of a run that is gone it is left out."""
    numbers = ("milliseconds", "images_per_second", "peak_mib", "spread")
    return {
        (widths[run], precision): Timed(
            one["bytes"], *(float({"spread": 1, **one}[key]) for key in numbers)
        )
        for run, precisions in latency.get("runs", {}).items()
        if run in widths
        for precision, one in precisions.items()
    }


def _stored(file: dict[str, Any], path: Path) -> dict[str, Stored]:
    """What a score file has of each precision; the run's own scores are those of float32."""
    with reading(path):
        found = file.get("precisions", {})
        return {
            precision: Stored(one["bytes"], floats(file if precision == "float32" else one, path))
            for precision, one in found.items()
        }


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a study; {} where it is not there.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return {}
    with reading(path):
        return dict(atomic_io.read_json(path).items())


def floats(file: dict[str, Any], path: Path) -> dict[str, float]:
    """Return the scores as floats; a null stands for a score that was not a number.

    Raises:
      UserError: the file, which lies at `path`, is damaged.
    """
    with reading(path):
        scores = file.get("scores", {}).items()
        return {key: math.nan if value is None else float(value) for key, value in scores}


def _nearest(pictures: dict[str, np.ndarray]) -> Nearest | None:
    if "nearest" not in pictures:
        return None
    return Nearest(pictures["distances"], pictures["closest"], pictures["nearest"])


def _log(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a log; of steps that a resumed run logged twice, the later record counts."""
    records: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # a run that was killed leaves half a line
            continue
        with reading(path):
            records[record["step"]] = record
    return tuple(records[step] for step in sorted(records))


def _pictures(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "samples.npz"
    if not path.is_file():
        return {}
    with reading(path):
        return atomic_io.read_npz(path)
