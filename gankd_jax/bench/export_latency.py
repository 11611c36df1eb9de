"""`gankd bench --export`: times a study's exported generators, each on one CPU thread."""

import dataclasses
import importlib.metadata
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_collections
from tabulate import tabulate

from gankd_jax.bench.measure import WORKERS, Worker
from gankd_jax.config.constants import FASTER_FACTOR, LOSSY_PRECISIONS, PRECISIONS, STEADY_SPREAD
from gankd_jax.export.formats import export_generator, require_packages
from gankd_jax.models.cost import generator_cost
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

HEADER = ("run", "weights", "bytes", "ms, one image", "images/s, batches of 64", "peak MiB")
PROCESS_STATUS = Path("/proc/self/status")  # where a worker reads its memory
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class FileTiming:
    """A run's file in one precision, and what was measured of it.

    Attributes:
        run: Whose generator the file holds.
        parameters: Of the generator.
        precision: Of the weights in the file, one of `PRECISIONS`.
        bytes: Size of the file.
        rounds: For each round 'milliseconds', 'images_per_second' and 'peak_mib'.
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
    path = folder / "latency.json"
    if path.exists():
        raise UserError(f"{path} exists; remove it to measure again")
    if not PROCESS_STATUS.exists():
        raise UserError(f"--export reads a process's memory from {PROCESS_STATUS}; it is missing")
    workdir.require_workdir(folder, config)
    context = StudyContext(config, folder)
    with tempfile.TemporaryDirectory() as export_folder:
        files = dict(_export_files(context, Path(export_folder)))
        base_mib = _measure_file(None)["peak_mib"]
        for index in range(rounds):
            print(f"turn {index + 1} of {rounds}: {len(files)} files", file=sys.stderr, flush=True)
            for file, timing in files.items():
                timing.rounds.append(_measure_file(file))
    timings = list(files.values())
    machine = _describe_machine()
    atomic_io.write_json(path, {"machine": machine, "runs": _timings_to_json(timings)})
    table = tabulate(
        map(_timing_row, timings), HEADER, tablefmt="plain", stralign="right", disable_numparse=True
    )
    return "\n".join([machine, "", table, "", *_describe_timings(timings, base_mib), str(path)])


def select_runs(context: StudyContext) -> list[Run]:
    """Returns the teacher, and of each student recipe and width the lowest trained seed."""
    students: dict[tuple[str, int], Run] = {}
    for run in sorted(plan.student_runs(context.config), key=lambda run: run.seed):
        if workdir.is_trained(context.workdir, context.config, run):
            students.setdefault((run.recipe, run.width), run)
    return [context.teacher, *(students[key] for key in sorted(students))]


def _export_files(context: StudyContext, folder: Path) -> Iterator[tuple[Path, FileTiming]]:
    for run in select_runs(context):
        generator = context.load_generator(run)
        parameters = generator_cost(generator.module).parameters
        for precision in PRECISIONS:
            file = export_generator(generator, "onnx", precision, run_name=run.name).content
            path = folder / f"{run.name}-{precision}"
            path.write_bytes(file)
            yield path, FileTiming(run, parameters, precision, len(file), [])


def _measure_file(path: Path | None) -> dict[str, float]:
    """Measures a file in a new process; without one, that process's memory alone."""
    title = f"the process that times {path.name}" if path else "the process that times no file"
    with Worker(WORKERS["onnxruntime"], title, ONE_THREAD) as worker:
        return worker.measure({"file": str(path or "")})


def _describe_machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    version = importlib.metadata.version("onnxruntime")
    return f"{(names or ['unknown processor'])[0]}, one thread, onnxruntime {version}"


def _timings_to_json(timings: list[FileTiming]) -> dict[str, dict[str, dict[str, float | int]]]:
    runs: dict[str, dict[str, dict[str, float | int]]] = {}
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
        f"{timing.bytes:,}",
        f"{timing.median('milliseconds'):.3f} ({min(times):.3f} to {max(times):.3f})",
        f"{timing.median('images_per_second'):,.0f}",
        f"{timing.median('peak_mib'):.1f}",
    )


def _describe_timings(timings: list[FileTiming], base_mib: float) -> list[str]:
    """Says which files are not faster than larger ones, and how much memory is not the model's."""
    float32 = [timing for timing in timings if timing.precision == PRECISIONS[0]]
    lines = [line for timing in float32 for line in describe_slow_runs(timing, float32)]
    for precision in LOSSY_PRECISIONS:
        lossy = [timing for timing in timings if timing.precision == precision]
        pairs = zip(lossy, float32, strict=True)
        count = sum(_is_faster(a, b, "milliseconds") for a, b in pairs)
        lines.append(f"{precision} is faster than float32 in {count} of {len(float32)} models.")
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
