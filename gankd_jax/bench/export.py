"""What `gankd bench --export` does: teacher and students as files, each timed on one CPU thread."""

import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_collections

from gankd_jax.bench.columns import columns
from gankd_jax.export.formats import export_generator, require_packages
from gankd_jax.models.cost import generator_cost
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io
from gankd_jax.utils.constants import FASTER_FACTOR, LOSSY_PRECISIONS, PRECISIONS, STEADY_SPREAD
from gankd_jax.utils.errors import UserError

HEADER = ("", "weights", "bytes", "ms, one image", "images/s, batches of 64", "peak MiB")
MEMORY = Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Timed:
    """A run's file in one precision, and what was measured of it, a value for each round."""

    run: Run
    parameters: int
    precision: str
    bytes: int
    rounds: list[dict[str, float]]

    def median(self, name: str) -> float:
        """The median over the rounds."""
        return statistics.median(found[name] for found in self.rounds)

    @property
    def spread(self) -> float:
        """The slowest round's time for one image, divided by the fastest's."""
        times = [one["milliseconds"] for one in self.rounds]
        return max(times) / min(times)


def bench_export(config: ml_collections.ConfigDict, folder: Path, *, rounds: int) -> str:
    """Time the exported files of a study; writes `folder/latency.json`, returns the table.

    The chosen teacher and of each student's recipe and width the lowest seed that is trained, in
    float32, float16 and int8, by onnxruntime on one CPU thread: the median over `rounds` turns of
    the median time for one image and for batches of 64, and the most memory that its process held.

    Raises:
      UserError: onnx or onnxruntime is missing, nothing is trained, a file does not draw what its
        model draws, this system does not tell a process's memory, or latency.json exists.
    """
    require_packages("onnx")
    path = folder / "latency.json"
    if path.exists():
        raise UserError(f"{path} exists; remove it to measure again")
    if not MEMORY.exists():
        raise UserError(f"--export reads a process's memory from {MEMORY}, which is not there")
    workdir.require_workdir(folder, config)
    lab = StudyContext(config, folder)
    with tempfile.TemporaryDirectory() as place:
        made = {Path(place, f"{t.run.name}-{t.precision}"): t for t in _made(lab, Path(place))}
        empty = _measure()["peak_mib"]
        for turn in range(rounds):
            print(f"turn {turn + 1} of {rounds}: {len(made)} files", file=sys.stderr, flush=True)
            for file, timed in made.items():
                timed.rounds.append(_measure(file))
    found = list(made.values())
    atomic_io.write_json(path, {"machine": _machine(), "runs": _results(found)})
    return "\n".join([_machine(), "", *_table(found), "", *_words(found, empty), str(path)])


def chosen(lab: StudyContext) -> list[Run]:
    """The teacher, and of each student's recipe and width the lowest seed that is trained."""
    found: dict[tuple[str, int], Run] = {}
    for run in sorted(plan.student_runs(lab.config), key=lambda run: run.seed):
        if workdir.is_trained(lab.folder, lab.config, run):
            found.setdefault((run.recipe, run.width), run)
    return [lab.teacher, *(found[key] for key in sorted(found))]


def _made(lab: StudyContext, place: Path) -> Iterator[Timed]:
    """Each file of each run, written into `place` under its name."""
    for run in chosen(lab):
        drawer = lab.drawer(run)
        size = generator_cost(drawer.module).parameters
        for precision in PRECISIONS:
            file = export_generator(drawer, "onnx", precision, what=run.name).file
            (place / f"{run.name}-{precision}").write_bytes(file)
            yield Timed(run, size, precision, len(file), [])


def _measure(*file: Path) -> dict[str, float]:
    """What the process that runs one file says; of none, its memory."""
    command = [sys.executable, "-m", "gankd_jax.bench.export_side", *map(str, file)]
    one = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        timed = f"the process that times {file[0].name}" if file else "the process without a file"
        raise UserError(f"{timed} ended (status {done.returncode}); what it said stands above")
    return json.loads(done.stdout)


def _machine() -> str:
    """The processor's name, and what ran the files."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    version = importlib.metadata.version("onnxruntime")
    return f"{(names or ['unknown processor'])[0]}, one thread, onnxruntime {version}"


def _results(found: list[Timed]) -> dict[str, dict[str, dict[str, float | int]]]:
    results: dict[str, dict[str, dict[str, float | int]]] = {}
    for timed in found:
        results.setdefault(timed.run.name, {})[timed.precision] = {
            "bytes": timed.bytes,
            **{name: timed.median(name) for name in timed.rounds[0]},
            "spread": timed.spread,
        }
    return results


def _table(found: list[Timed]) -> list[str]:
    return columns([HEADER, *map(_row, found)])


def _row(timed: Timed) -> tuple[str, ...]:
    times = [one["milliseconds"] for one in timed.rounds]
    return (
        timed.run.name,
        timed.precision,
        f"{timed.bytes:,}",
        f"{timed.median('milliseconds'):.3f} ({min(times):.3f} to {max(times):.3f})",
        f"{timed.median('images_per_second'):,.0f}",
        f"{timed.median('peak_mib'):.1f}",
    )


def _words(found: list[Timed], empty: float) -> list[str]:
    """Who has fewer parameters and is not faster; what fewer bytes change; the memory's floor."""
    whole = [timed for timed in found if timed.precision == PRECISIONS[0]]
    lines = [line for timed in whole for line in not_faster(timed, whole)]
    for precision in LOSSY_PRECISIONS:
        others = [timed for timed in found if timed.precision == precision]
        pairs = zip(others, whole, strict=True)
        count = sum(_is_faster(a, b, "milliseconds") for a, b in pairs)
        lines.append(f"{precision} is faster than float32 in {count} of {len(whole)} models.")
    lines += disturbed(found)
    return [*lines, f"Python and onnxruntime alone hold {empty:.1f} MiB of the peak."]


def disturbed(found: list[Timed]) -> list[str]:
    """A line where the turns say that something else ran."""
    busy = [timed.spread for timed in found if timed.spread > STEADY_SPREAD]
    if not busy:
        return []
    return [
        f"The turns of {len(busy)} of {len(found)} files differ by up to {max(busy):.1f} times:"
        " something else ran on this machine; measure again when it is idle."
    ]


def not_faster(timed: Timed, others: list[Timed]) -> list[str]:
    """A line for each way of use in which larger models are as fast, within `AS_FAST`.

    They are those of its recipe, and the teacher.
    """
    larger = [
        other
        for other in others
        if other.parameters > timed.parameters and other.run.recipe in (timed.run.recipe, "teacher")
    ]
    lines = []
    for name, use in (("milliseconds", "one image at a time"), ("images_per_second", "in batches")):
        rivals = [other for other in larger if not _is_faster(timed, other, name)]
        if rivals:
            listed = ", ".join(f"{o.run.name} ({o.parameters:,})" for o in rivals)
            lines.append(
                f"{timed.run.name} ({timed.parameters:,} parameters) is not faster {use} than"
                f" {listed}."
            )
    return lines


def _is_faster(a: Timed, b: Timed, name: str) -> bool:
    if name == "images_per_second":
        return a.median(name) > FASTER_FACTOR * b.median(name)
    return b.median(name) > FASTER_FACTOR * a.median(name)
