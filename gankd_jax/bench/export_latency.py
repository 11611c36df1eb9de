"""Times a study's generators: `gankd bench --export` as files, `gankd distill` briefly."""

import dataclasses
import functools
import importlib.metadata
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from tabulate import tabulate

from gankd_jax.bench.measure import WORKERS, Worker
from gankd_jax.bench.worker import PROCESS_STATUS, median_seconds
from gankd_jax.config.constants import FASTER_FACTOR, LOSSY_PRECISIONS, PRECISIONS, STEADY_SPREAD
from gankd_jax.export.formats import export_generator, require_packages
from gankd_jax.interop.pair_table import PairTable
from gankd_jax.models import sampling
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.family import is_in_family
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import expand_path

logger = logging.getLogger(__name__)

HEADER = ("run", "weights", "bytes", "ms, one image", "images/s, batches of 64", "peak MiB")
LATENCY_FILE = "latency.json"  # in a work directory
BATCH_SIZE = 64
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class FileTiming:
    """A run's file in one precision, and what was measured of it.

    Attributes:
        run: Whose generator the file holds.
        parameters: Of the generator.
        precision: Of the weights in the file, one of `PRECISIONS`.
        bytes: Size of the file; 0 where none was exported.
        rounds: For each round 'milliseconds', 'images_per_second' and, of a file, 'peak_mib'.
    """

    run: Run
    parameters: int
    precision: str
    bytes: int
    rounds: list[dict[str, float]]

    def median(self, measure: str) -> float:
        """The median of a measure over the rounds."""
        return statistics.median(values[measure] for values in self.rounds)

    @property
    def spread(self) -> float:
        """The slowest round's time for one image, divided by the fastest's."""
        times = [values["milliseconds"] for values in self.rounds]
        return max(times) / min(times)


def time_exported_files(config: ml_collections.ConfigDict, folder: Path, *, rounds: int) -> str:
    """Times a study's exported ONNX files and writes `folder/latency.json`.

    These are the selected teacher and, of each student recipe and width, the lowest seed that is
    trained, in float32, float16 and int8.  Each round runs every file in a new process, on one CPU
    thread.

    Args:
        config: Of the study.
        folder: Its work directory.
        rounds: At least 1; medians over them are reported.

    Returns:
        The table and what follows from it in words.

    Raises:
        UserError: onnx or onnxruntime is missing, nothing is trained, an exported file does not
          give its model's images, this system does not tell a process's memory, or latency.json
          exists.
    """
    require_packages("onnx")
    path = folder / LATENCY_FILE
    if path.exists() and not atomic_io.read_json(path).get("brief"):
        raise UserError(f"{path} exists; remove it to measure again")
    workdir.require_workdir(folder, config)
    timings = _time_files(StudyContext(config, folder), PRECISIONS, rounds)
    base_mib = _measure_file(None)["peak_mib"]
    machine = _describe_machine(_onnxruntime_version())
    atomic_io.write_json(path, {"machine": machine, "runs": _timings_to_json(timings)})
    table = tabulate(
        map(_timing_row, timings), HEADER, tablefmt="plain", stralign="right", disable_numparse=True
    )
    return "\n".join([machine, "", table, "", *_describe_timings(timings, base_mib), str(path)])


def time_students(
    config: ml_collections.ConfigDict, folder: Path, teacher: TrainedGenerator
) -> None:
    """Times a given teacher and its students for their report, and writes `folder/latency.json`.

    All are timed as ONNX files, or if one cannot be, all in JAX.  What `time_exported_files` has
    measured is left as it is.  Students of another family than their teacher's are not timed if one
    has its width: a report has one time for each width.

    Args:
        config: Of the study.
        folder: Its work directory.
        teacher: The teacher.
    """
    path = folder / LATENCY_FILE
    stored: dict[str, Any] = atomic_io.read_json(path) if path.exists() else {"brief": True}
    context = StudyContext(config, folder, teacher)
    runs = [run for run in select_runs(context) if not _is_table(context, run)]
    is_timed = {run.name for run in runs} <= stored.get("runs", {}).keys()
    families = {config.model[kind].family for kind in ("teacher", "student")}
    is_ambiguous = len(families) > 1 and teacher.module.width in config.study.widths
    if is_timed or is_ambiguous or not stored.get("brief"):
        return
    logger.info("timing %s", plan.describe_runs(runs))
    try:
        timings, runtime = _time_files(context, PRECISIONS[:1], rounds=1), _onnxruntime_version()
    except UserError:  # a package is missing, or a generator has no ONNX file
        timings = [_time_in_jax(context, run) for run in runs]
        runtime = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    times = {"machine": _describe_machine(runtime), "runs": _timings_to_json(timings)}
    atomic_io.write_json(path, times | {"brief": True})


def select_runs(context: StudyContext) -> list[Run]:
    """Returns the teacher, and of each student recipe and width the lowest trained seed."""
    students: dict[tuple[str, int], Run] = {}
    for run in sorted(plan.student_runs(context.config), key=lambda run: run.seed):
        if workdir.is_trained(context.workdir, context.config, run):
            students.setdefault((run.recipe, run.width), run)
    return [context.teacher, *(students[key] for key in sorted(students))]


def _time_files(context: StudyContext, precisions: Sequence[str], rounds: int) -> list[FileTiming]:
    """Exports the runs of `select_runs` and times every file once in each round."""
    if not PROCESS_STATUS.exists():
        raise UserError(f"a process's memory is read from {PROCESS_STATUS}, which is missing")
    with tempfile.TemporaryDirectory() as folder:
        files = dict(_export_files(context, Path(folder), precisions))
        for index in range(rounds):
            if rounds > 1:
                print(f"turn {index + 1} of {rounds}: {len(files)} files", file=sys.stderr)
            for file, timing in files.items():
                timing.rounds.append(_measure_file(file, context.config.model.latent))
    return list(files.values())


def _export_files(
    context: StudyContext, folder: Path, precisions: Sequence[str]
) -> Iterator[tuple[Path, FileTiming]]:
    """Writes the files of each run; a teacher that is an ONNX file is itself such a file.

    Raises:
        UserError: The teacher is a function.
    """
    require_packages("onnx")
    for run in select_runs(context):
        generator = context.load_generator(run)
        parameters = generator_cost(generator.module).parameters
        if _is_table(context, run):
            continue
        if not is_in_family(generator.module):
            source = expand_path(context.config.study.teacher)
            if source.suffix != ".onnx":
                raise UserError(f"the teacher {source} is a function, which has no file to time")
            yield source, FileTiming(run, parameters, PRECISIONS[0], 0, [])
            continue
        for precision in precisions:
            file = export_generator(generator, "onnx", precision, run_name=run.name).content
            path = folder / f"{run.name}-{precision}"
            path.write_bytes(file)
            yield path, FileTiming(run, parameters, precision, len(file), [])


def _is_table(context: StudyContext, run: Run) -> bool:
    """Returns whether a run is a teacher that is a table of pairs, which generates nothing."""
    teacher = context.load_given_teacher() if run.kind == "teacher" else None
    return teacher is not None and isinstance(teacher.module, PairTable)


def _time_in_jax(context: StudyContext, run: Run) -> FileTiming:
    """Times a generator in this process, by the program that samples it."""
    generator = context.load_generator(run)
    latents = sampling.sample_latents(0, BATCH_SIZE, generator.latent_dim)

    def seconds(count: int) -> float:
        part = latents[:count]
        sample = functools.partial(sampling.sample_images, *generator, part)
        return median_seconds(lambda: jax.block_until_ready(sample()))

    times = {
        "milliseconds": 1e3 * seconds(1),
        "images_per_second": BATCH_SIZE / seconds(BATCH_SIZE),
    }
    parameters = generator_cost(generator.module).parameters
    return FileTiming(run, parameters, PRECISIONS[0], 0, [times])


def _measure_file(path: Path | None, latent_dim: int = 0) -> dict[str, float]:
    """Measures a file in a new process; without one, that process's memory alone."""
    title = f"the process that times {path.name}" if path else "the process that times no file"
    with Worker(WORKERS["onnxruntime"], title, ONE_THREAD) as worker:
        return worker.measure({"file": str(path or ""), "latent_dim": latent_dim})


def _onnxruntime_version() -> str:
    return f"one thread, onnxruntime {importlib.metadata.version('onnxruntime')}"


def _describe_machine(runtime: str) -> str:
    """Returns the processor's name, and what ran on it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or ['unknown processor'])[0]}, {runtime}"


def _timings_to_json(timings: list[FileTiming]) -> dict[str, dict[str, dict[str, Any]]]:
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for timing in timings:
        runs.setdefault(timing.run.name, {})[timing.precision] = {
            "bytes": timing.bytes,
            **{measure: timing.median(measure) for measure in timing.rounds[0]},
            "spread": timing.spread,
        }
    return runs


def _timing_row(timing: FileTiming) -> tuple[str, ...]:
    times = [values["milliseconds"] for values in timing.rounds]
    return (
        timing.run.name,
        timing.precision,
        f"{timing.bytes:,}" if timing.bytes else "-",
        f"{timing.median('milliseconds'):.3f} ({min(times):.3f} to {max(times):.3f})",
        f"{timing.median('images_per_second'):,.0f}",
        f"{timing.median('peak_mib'):.1f}",
    )


def _describe_timings(timings: list[FileTiming], base_mib: float) -> list[str]:
    """Says which files are not faster than larger ones, and how much memory is not the model's."""
    float32 = [timing for timing in timings if timing.precision == PRECISIONS[0]]
    lines = [line for timing in float32 for line in describe_slow_runs(timing, float32)]
    by_run = {timing.run: timing for timing in float32}
    for precision in LOSSY_PRECISIONS:
        lossy = [timing for timing in timings if timing.precision == precision]
        count = sum(_is_faster(timing, by_run[timing.run], "milliseconds") for timing in lossy)
        lines.append(f"{precision} is faster than float32 in {count} of {len(lossy)} models.")
    lines += describe_disturbance(timings)
    return [*lines, f"Python and onnxruntime alone hold {base_mib:.1f} MiB of the peak."]


def describe_disturbance(timings: list[FileTiming]) -> list[str]:
    """Returns a line if the rounds differ so much that something else ran on the machine."""
    spreads = [timing.spread for timing in timings if timing.spread > STEADY_SPREAD]
    if not spreads:
        return []
    return [
        f"The turns of {len(spreads)} of {len(timings)} files differ by up to {max(spreads):.1f}"
        " times: something else ran on this machine; measure again when it is idle."
    ]


def describe_slow_runs(timing: FileTiming, others: list[FileTiming]) -> list[str]:
    """Names larger models that are as fast as a run, within `FASTER_FACTOR`.

    Args:
        timing: Of the run.
        others: Of the same precision; those of the run's recipe and the teacher are compared.

    Returns:
        A line for each way of use, one image or batches, in which there are such models.
    """
    recipes = (timing.run.recipe, "teacher")
    larger = [
        rival
        for rival in others
        if rival.parameters > timing.parameters and rival.run.recipe in recipes
    ]
    uses = {"milliseconds": "one image at a time", "images_per_second": "in batches"}
    lines = []
    for measure, use in uses.items():
        rivals = [rival for rival in larger if not _is_faster(timing, rival, measure)]
        if rivals:
            names = ", ".join(f"{rival.run.name} ({rival.parameters:,})" for rival in rivals)
            lines.append(
                f"{timing.run.name} ({timing.parameters:,} parameters) is not faster {use} than"
                f" {names}."
            )
    return lines


def _is_faster(a: FileTiming, b: FileTiming, measure: str) -> bool:
    if measure == "images_per_second":
        return a.median(measure) > FASTER_FACTOR * b.median(measure)
    return b.median(measure) > FASTER_FACTOR * a.median(measure)
