"""Which points a score's curves have: against parameters, bytes and latency."""

import statistics
from dataclasses import dataclass

from gankd_jax.report.runs import Run, Study
from gankd_jax.report.scores import Summary
from gankd_jax.utils.constants import PRECISIONS

# What a score is drawn against.
AXES = {
    "parameters": "parameters of the generator",
    "bytes": "bytes of its weights",
    "milliseconds": "milliseconds for one image, one CPU thread",
}


@dataclass(frozen=True)
class Point:
    """The runs of a model at a width that differ by their seed."""

    width: int
    x: float
    summary: Summary


@dataclass(frozen=True)
class Line:
    """A model over the widths, its weights in one precision."""

    kind: str
    recipe: str
    precision: str
    points: tuple[Point, ...]  # narrow before wide


@dataclass(frozen=True)
class _Seed:
    """One run on a line."""

    width: int
    seed: int
    x: float
    score: float


def lines(study: Study, key: str, axis: str) -> list[Line]:
    """Return a score's lines: the chosen teacher's single point, then students and baselines."""
    teacher = [study.teacher] if study.teacher else []
    runs = [*teacher, *(run for run in study.runs if run.key.kind != "teacher")]
    found: dict[tuple[str, str, str], list[_Seed]] = {}
    for run in runs:
        for precision in PRECISIONS:
            x, score = _place(study, run, precision, axis=axis), _scores(run, precision).get(key)
            if x is not None and score is not None:
                seed = _Seed(run.key.width, run.key.seed, x, score)
                found.setdefault((run.key.kind, run.key.recipe, precision), []).append(seed)
    return [Line(*model, _points(seeds)) for model, seeds in found.items()]


def _points(seeds: list[_Seed]) -> tuple[Point, ...]:
    points = []
    for width in sorted({seed.width for seed in seeds}):
        those = [seed for seed in seeds if seed.width == width]
        place = statistics.fmean(seed.x for seed in those)
        points.append(Point(width, place, Summary({seed.seed: seed.score for seed in those})))
    return tuple(points)


def _scores(run: Run, precision: str) -> dict[str, float]:
    if precision == "float32":
        return run.scores
    return run.stored[precision].scores if precision in run.stored else {}


def _place(study: Study, run: Run, precision: str, *, axis: str) -> float | None:
    """Where a run stands on an axis; a precision changes its bytes alone, as files are unpacked."""
    if axis == "bytes":
        stored = run.stored.get(precision)
        return float(stored.bytes if stored else run.bytes_float32)
    if precision != "float32":
        return None
    if axis == "parameters":
        return float(run.parameters)
    timed = study.timed.get((run.key.width, precision))
    return timed.milliseconds if timed else None
