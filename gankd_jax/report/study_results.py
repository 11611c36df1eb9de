"""Reads the results of a study, finished or not, from its work directory."""

import contextlib
import datetime
import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int, UInt8

from gankd_jax.config.constants import COMMAND_FILE
from gankd_jax.report.formatting import model_name
from gankd_jax.study.plan import Run, plan_runs
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import LOG_FILE
from gankd_jax.utils.paths import expand_path

ImageArray = UInt8[np.ndarray, "n h w c"]
PathArray = UInt8[np.ndarray, "paths steps h w c"]
SIZE_FIELDS = ("parameters", "paper_parameters", "multiply_adds", "bytes_float32")


@dataclass(frozen=True)
class PrecisionResult:
    """A run's weights in one precision.

    Attributes:
        file_bytes: Size of the exported weights.
        scores: Scores of the generator with these weights, by metric key.
    """

    file_bytes: int
    scores: dict[str, float]


@dataclass(frozen=True)
class LatencyResult:
    """Speed of a generator, as a rule of an exported file on one CPU thread.

    Attributes:
        file_bytes: Size of the exported file; 0 where none was measured.
        milliseconds: Time for one image.
        images_per_second: Throughput in batches of 64.
        peak_mib: Peak memory; None where no file was measured.
        spread: The slowest of several repetitions divided by the fastest; 1 where not recorded.
    """

    file_bytes: int
    milliseconds: float
    images_per_second: float
    peak_mib: float | None
    spread: float


@dataclass(frozen=True)
class NearestImages:
    """Distances of generated images to their nearest training images.

    Attributes:
        distances: Of each image, in the features of a network.
        closest_indices: The images with the smallest distances.
        training_images: The training images nearest to those.
    """

    distances: Float[np.ndarray, " n"]
    closest_indices: Int[np.ndarray, " k"]
    training_images: UInt8[np.ndarray, "k h w c"]


@dataclass(frozen=True)
class RunResults(Run):
    """The results of one run, as far as it has come.

    Attributes:
        parameters: Trained numbers of the generator.
        paper_parameters: The same in the paper's count.
        multiply_adds: For one image.
        bytes_float32: Of the parameters in float32.
        log: One record per logged step, in order of steps.
        scores: By metric key; empty before the evaluation and for a failed run.
        provenance: How the scores were computed.
        precisions: By precision; empty where lower precisions were not evaluated.
        grid: Samples of fixed latents, equal for all runs.
        interpolation: Images along paths between latents.
        nearest: Nearest training images of the samples.
        folded_path: File with the weights after folding batch norm.
        failure: Why and at which step it failed; "" if it did not.
        earlier_failures: The same for every attempt before the last.
        class_shares: The part of its images in each class; empty without classes.
    """

    parameters: int
    paper_parameters: int
    multiply_adds: int
    bytes_float32: int
    log: tuple[dict[str, Any], ...]
    scores: dict[str, float]
    provenance: dict[str, Any]
    precisions: dict[str, PrecisionResult]
    grid: ImageArray | None
    interpolation: PathArray | None
    nearest: NearestImages | None
    folded_path: Path | None
    failure: str
    earlier_failures: tuple[str, ...] = ()
    class_shares: tuple[float, ...] = ()

    @property
    def step(self) -> int:
        """The last logged step; 0 before the first."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def weight_bytes(self) -> int:
        """Bytes of the exported float32 weights; before they are measured, of its parameters."""
        measured = self.precisions.get("float32")
        return measured.file_bytes if measured else self.bytes_float32


@dataclass(frozen=True, eq=False)  # compared and hashed by identity, so that rows are cached
class StudyResults:
    """The results of a study, as far as it has come.

    Attributes:
        config: The study's config.
        planned_runs: Every run of the config, in the order of the report.
        runs: The runs that have started, in the same order.
        teacher: The selected teacher.
        teacher_choice: Contents of teacher.json; empty before the selection.
        real_scores: Scores of the real test images, an upper bound for any generator.
        real_provenance: How they were computed.
        real_grid: Real test images.
        real_nearest: Nearest training images of real test images.
        latency_machine: The machine that latency was measured on; "" if it was not measured.
        latency: By width and precision, since all models of a width are equally fast.
        real_class_shares: The part of the real test images in each class; empty without classes.
        command: The command that trained it, or that goes on with it.
        date: The day of its newest result, such as "2026-01-31".
    """

    config: dict[str, Any]
    planned_runs: tuple[Run, ...]
    runs: tuple[RunResults, ...]
    teacher: RunResults | None
    teacher_choice: dict[str, Any]
    real_scores: dict[str, float]
    real_provenance: dict[str, Any]
    real_grid: ImageArray | None
    real_nearest: NearestImages | None
    latency_machine: str
    latency: dict[tuple[int, str], LatencyResult]
    real_class_shares: tuple[float, ...]
    command: str
    date: str

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.config["data"]["name"])

    def runs_of(self, kind: str, recipe: str, width: int) -> tuple[RunResults, ...]:
        """Returns the started runs of one model, which differ by their seed only.

        Args:
            kind: teacher, student or baseline.
            recipe: The recipe's name in the config.
            width: Of the generators.
        """
        model = (kind, recipe, width)
        return tuple(run for run in self.runs if (run.kind, run.recipe, run.width) == model)


def load_study(workdir: str | Path) -> StudyResults:
    """Loads the results of a study, finished or not.

    Args:
        workdir: The folder that `gankd study` was started with.

    Returns:
        Its config, runs and scores, as far as they are there.

    Raises:
        UserError: The folder is no work directory, or a file in it is damaged.

    Example:
        >>> import gankd_jax
        >>> study = gankd_jax.load_study("runs/digits")
        >>> study.teacher.kind
        'teacher'
        >>> students = [run for run in study.runs if run.kind == "student" and run.scores]
        >>> best = min(students, key=lambda run: run.scores["fd_classifier"])
        >>> (best.width, best.scores["fd_classifier"] > 0)
        (1, True)
    """
    workdir = expand_path(workdir)
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} holds no study (no config.json); name the --workdir of one")
    config = read_json_object(workdir / "config.json")
    with blame_file(workdir / "config.json"):
        planned = list_planned_runs(config)
    runs = [_read_run(path.parent) for path in workdir.glob("*/run.json")]
    position = {run.name: index for index, run in enumerate(planned)}
    runs.sort(key=lambda run: (position.get(run.name, len(planned)), run.name))
    choice = read_json_object(workdir / "teacher.json")
    latency = read_json_object(workdir / "latency.json")
    reference = workdir / "reference"
    results = read_results(reference)
    samples = _read_samples(reference)
    return StudyResults(
        config=config,
        planned_runs=planned,
        runs=tuple(runs),
        teacher=next((run for run in runs if run.name == choice.get("run")), None),
        teacher_choice=choice,
        real_scores=results.scores,
        real_provenance=results.provenance,
        real_grid=samples.get("grid"),
        real_nearest=_nearest_images(samples),
        latency_machine=latency.get("machine", ""),
        latency=_parse_latency(latency, {run.name: run.width for run in runs}),
        real_class_shares=results.class_shares,
        command=_read_command(workdir),
        date=_newest_date(workdir),
    )


def _read_command(workdir: Path) -> str:
    path = workdir / COMMAND_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    return f"gankd study --workdir={shlex.quote(workdir.name)}"


def _newest_date(workdir: Path) -> str:
    """Returns the day, in UTC, on which the newest score was written; of the config without any."""
    paths = [*workdir.glob("*/scores.json")] or [workdir / "config.json"]
    newest = max(path.stat().st_mtime for path in paths)
    return datetime.datetime.fromtimestamp(newest, datetime.UTC).date().isoformat()


def list_planned_runs(config: dict[str, Any]) -> tuple[Run, ...]:
    """Returns every run of a config in the order of the report.

    Args:
        config: A study's config, as read from JSON.

    Returns:
        The teachers, then students and baselines by width.
    """
    runs = plan_runs(ml_collections.ConfigDict(config))
    return tuple(sorted(runs, key=lambda run: 0 if run.kind == "teacher" else run.width))


def describe_unscored_runs(study: StudyResults) -> list[str]:
    """Returns a line on the state of every run without scores."""
    started = {run.name: run for run in study.runs}
    return [
        _describe_state(study, run, started.get(run.name))
        for run in study.planned_runs
        if run.name not in started or not started[run.name].scores
    ]


def _describe_state(study: StudyResults, planned: Run, run: RunResults | None) -> str:
    if run is None:
        name = model_name(planned.kind, planned.recipe)
        return f"{name} d={planned.width} seed {planned.seed}: not started"
    if run.failure:
        return f"{run.name}: failed {run.failure}"
    steps = study.config["recipes"][planned.recipe]["steps"]
    if run.step >= steps:
        return f"{run.name}: trained, not evaluated yet"
    return f"{run.name}: at step {run.step:,} of {steps:,}"


def _read_run(folder: Path) -> RunResults:
    info = read_json_object(folder / "run.json")
    failure = read_failure(folder / "failed.json")
    results = EvaluationResults() if failure else read_results(folder)
    folded_path = folder / "folded.npz"
    samples = _read_samples(folder)
    with blame_file(folder / "run.json"):
        recipe = "teacher" if info["kind"] == "teacher" else info["recipe"]
        width, seed = info["width"], info["seed"]
        sizes = {name: int(info[name]) for name in SIZE_FIELDS}
    return RunResults(
        kind=info["kind"],
        recipe=recipe,
        width=width,
        seed=seed,
        **sizes,
        log=_read_log(folder / LOG_FILE),
        scores=results.scores,
        provenance=results.provenance,
        precisions=results.precisions,
        grid=samples.get("grid"),
        interpolation=samples.get("interpolation"),
        nearest=_nearest_images(samples),
        folded_path=folded_path if folded_path.is_file() else None,
        failure=failure,
        earlier_failures=tuple(read_failure(path) for path in sorted(folder.glob("failed-*.json"))),
        class_shares=results.class_shares,
    )


@dataclass(frozen=True)
class EvaluationResults:
    """The contents of scores.json; the attributes are those of `RunResults`."""

    scores: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    precisions: dict[str, PrecisionResult] = field(default_factory=dict)
    class_shares: tuple[float, ...] = ()


def read_results(folder: Path) -> EvaluationResults:
    """Reads the scores of a run or of the real images.

    Scores by the FID network (layers.json) count only beside those of scores.json, without which a
    run is not evaluated.

    Args:
        folder: Of the run, or of the real images.

    Raises:
        UserError: A file is damaged.
    """
    path, layers_path = folder / "scores.json", folder / "layers.json"
    content = read_json_object(path)
    layers = read_json_object(layers_path) if content else {}
    provenance = content.get("made", {})
    if layers.get("made"):
        provenance = provenance | {"FID network": layers["made"]}
    scores = parse_scores(content, path) | parse_scores(layers, layers_path)
    with blame_file(path):
        # The scores of float32 weights are the run's own.
        precisions = {
            precision: PrecisionResult(
                entry["bytes"], parse_scores(content if precision == "float32" else entry, path)
            )
            for precision, entry in content.get("precisions", {}).items()
        }
        class_shares = tuple(map(float, content.get("class_shares", ())))
    return EvaluationResults(scores, provenance, precisions, class_shares)


@contextlib.contextmanager
def blame_file(path: Path) -> Iterator[None]:
    """Names a file in the error if parsing its contents fails.

    Args:
        path: The file.

    Raises:
        UserError: The body of the `with` statement raised an error that damaged contents cause.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__} {error}"
        raise UserError(f"{path} is damaged ({cause}); delete it and run again") from error


def read_failure(path: Path) -> str:
    """Returns why and at which step a run failed, from its failed.json; "" if it is absent.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return ""
    content = read_json_object(path)
    with blame_file(path):
        return f"at step {content['step']:,}: {content['reason']}"


def _parse_latency(
    content: dict[str, Any], widths: dict[str, int]
) -> dict[tuple[int, str], LatencyResult]:
    """Returns the measurements by width and precision, without those of removed runs."""
    return {
        (widths[name], precision): LatencyResult(
            entry["bytes"],
            float(entry["milliseconds"]),
            float(entry["images_per_second"]),
            float(entry["peak_mib"]) if "peak_mib" in entry else None,
            float(entry.get("spread", 1)),
        )
        for name, precisions in content.get("runs", {}).items()
        if name in widths
        for precision, entry in precisions.items()
    }


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a work directory; an absent one reads as {}.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return {}
    with blame_file(path):
        return dict(atomic_io.read_json(path).items())


def parse_scores(content: dict[str, Any], path: Path) -> dict[str, float]:
    """Returns the scores of a file as floats; null stands for NaN.

    Args:
        content: The contents of the file.
        path: The file, for the error message.

    Raises:
        UserError: The contents are damaged.
    """
    with blame_file(path):
        scores = content.get("scores", {}).items()
        return {key: math.nan if value is None else float(value) for key, value in scores}


def _nearest_images(samples: dict[str, np.ndarray]) -> NearestImages | None:
    if "nearest" not in samples:
        return None
    return NearestImages(samples["distances"], samples["closest"], samples["nearest"])


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Reads a log; a step that a resumed run logged twice counts as logged last."""
    records: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # a killed run leaves half a line
            continue
        with blame_file(path):
            records[record["step"]] = record
    return tuple(records[step] for step in sorted(records))


def _read_samples(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "samples.npz"
    if not path.is_file():
        return {}
    with blame_file(path):
        return atomic_io.read_npz(path)
