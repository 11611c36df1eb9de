"""What each model costs in bytes and time, in every precision that was measured; and as a table."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from gankd_jax.report.cells import Cell, Table, whole
from gankd_jax.report.rows import groups, score_keys
from gankd_jax.report.runs import Run, Stored, Study
from gankd_jax.report.scores import Summary, describe, is_main
from gankd_jax.report.wording import model_name, number, ratio, size, spread

AS_FAST = 1.05  # times: a model that is faster by no more is not called faster
MEASURE = "`gankd bench --export --config=... --workdir=...` measures it"


@dataclass(frozen=True)
class Cost:
    """A model in one precision: means over its seeds; None where nothing is measured."""

    kind: str
    recipe: str
    width: int
    precision: str
    bytes: float
    milliseconds: float | None
    images_per_second: float | None
    peak_mib: float | None
    scores: dict[str, Summary]


def costs(study: Study) -> list[Cost]:
    """Return the costs of the chosen teacher and of every student and baseline, widths rising."""
    models = [study.group(*group) for group in groups(study)]
    models = [(study.teacher,) if study.teacher else (), *models]
    return [cost for runs in models for cost in _costs(runs)]


def _costs(runs: tuple[Run, ...]) -> Iterator[Cost]:
    for precision in dict.fromkeys(name for run in runs for name in run.stored):
        seeds = {run.key.seed: run.stored[precision] for run in runs if precision in run.stored}
        stored = list(seeds.values())
        keys = dict.fromkeys(key for one in stored for key in one.scores)
        yield Cost(
            *runs[0].key[:3],
            precision,
            bytes=statistics.fmean(one.bytes for one in stored),
            milliseconds=_mean(stored, "milliseconds"),
            images_per_second=_mean(stored, "images_per_second"),
            peak_mib=_mean(stored, "peak_mib"),
            scores={key: _summary(seeds, key) for key in keys},
        )


def _mean(stored: list[Stored], field: str) -> float | None:
    values = [value for one in stored if (value := getattr(one, field)) is not None]
    return statistics.fmean(values) if values else None


def _summary(seeds: dict[int, Stored], key: str) -> Summary:
    return Summary({seed: one.scores[key] for seed, one in seeds.items() if key in one.scores})


def not_faster(cost: Cost, found: list[Cost]) -> str:
    """Name the model that is larger and yet as fast: the next wider one, or the teacher; or ''.

    Both run in the same precision; as fast is within `AS_FAST`.
    """
    alike = [other for other in found if other.precision == cost.precision and other.milliseconds]
    wider = [
        other
        for other in alike
        if other.width > cost.width and (other.kind, other.recipe) == (cost.kind, cost.recipe)
    ]
    teachers = [other for other in alike if other.kind == "teacher"]
    rivals = sorted(wider, key=lambda other: other.width)[:1] or teachers
    rivals = [other for other in rivals if other is not cost]
    if not rivals or cost.milliseconds is None or rivals[0].milliseconds is None:
        return ""
    if rivals[0].milliseconds > AS_FAST * cost.milliseconds:
        return ""
    return "the teacher" if rivals[0].kind == "teacher" else f"d={rivals[0].width}"


def cost_tables(study: Study) -> list[Table]:
    """Return bytes and times of each model, once a second precision or a time is measured."""
    found = costs(study)
    timed = any(cost.milliseconds for cost in found)
    if not timed and all(cost.precision == "float32" for cost in found):
        return []
    keys = [key for key in score_keys(study) if is_main(key) and describe(key).better][:2]
    header = ["d", "model", "weights", "bytes", "ratio"]
    header += ["ms", "images/s", "MiB", "not faster than"] if timed else []
    header += [describe(key).label for key in keys]
    lines = tuple(
        (
            *_size_cells(cost, found),
            *(_time_cells(cost, found) if timed else []),
            *(_score_cell(cost, key) for key in keys),
        )
        for cost in found
    )
    return [Table("Bytes and time", _note(study, timed), tuple(header), lines, narrow=len(header))]


def _note(study: Study, timed: bool) -> str:
    note = "ratio: the bytes of the teacher's float32 weights to these."
    if not timed:
        return f"{note} Latency is not measured yet: {MEASURE}."
    return (
        f"{note} ms: for one image; images/s: in batches of 64; MiB: the most memory; all on one "
        f"CPU thread of {study.machine}. not faster than: the next wider model, or the teacher, is "
        "as fast, within 5 %."
    )


def _size_cells(cost: Cost, found: list[Cost]) -> tuple[Cell, ...]:
    name = "teacher" if cost.kind == "teacher" else model_name(cost.kind, cost.recipe)
    whole_teacher = [o.bytes for o in found if (o.kind, o.precision) == ("teacher", "float32")]
    times = whole_teacher[0] / cost.bytes if whole_teacher else None
    return (
        whole(cost.width),
        Cell(name),
        Cell(cost.precision),
        Cell(size(round(cost.bytes)), cost.bytes),
        Cell(ratio(times), times),
    )


def _time_cells(cost: Cost, found: list[Cost]) -> tuple[Cell, ...]:
    values = (cost.milliseconds, cost.images_per_second, cost.peak_mib)
    return (*map(_number, values), Cell(not_faster(cost, found)))


def _number(value: float | None) -> Cell:
    return Cell("-" if value is None else number(value), value)


def _score_cell(cost: Cost, key: str) -> Cell:
    summary = cost.scores.get(key)
    if summary is None or not summary.values:
        return Cell("-")
    return Cell(spread(summary.mean, summary.sd), summary.mean)
