"""What each width of a config costs, and the whole study, as text tables."""

import ml_collections

from gankd_jax import runs
from gankd_jax.bench import operations
from gankd_jax.models.cost import Cost, cost
from gankd_jax.runs import Run

HEADER = ("width", "paper's count", "parameters", "multiply-adds", "bytes", "ratio", "paper's")


STUDY = ("group", "runs", "steps", "GFLOP a step", "10^15 in all", "hours")


def describe(config: ml_collections.ConfigDict, rate: float = 1.0) -> str:
    """One row per width, teachers last; ratios are to the widest teacher, by both counts.

    Then one per group of runs that train together; hours at `rate` TFLOP/s, sustained.
    """
    study = config.study
    widths = sorted({*study.widths, *study.teacher_widths})
    teacher = cost(runs.generator(config, max(study.teacher_widths)))
    rows = [_row(width, cost(runs.generator(config, width)), teacher) for width in widths]
    lines = _lines([HEADER, *rows])
    size, channels = config.data.image_size, runs.channels(config)
    title = f"{config.name}: {size}x{size}x{channels}, teacher d={max(study.teacher_widths)}"
    notes = (
        "multiply-adds: of one image; bytes: of the parameters in float32; paper's count: kernels"
        " and their biases\nfor one output channel, batch norm left out; ratio: the teacher's"
        " parameters over this width's."
    )
    groups = [_group(config, group) for group in runs.groups(config, runs.plan(config))]
    cost_of = [
        "",
        *_lines([STUDY, *(_group_row(*group, rate) for group in groups)]),
        f"training in all: {sum(_hours(*group[2:], rate) for group in groups):,.1f} hours"
        f" at {rate:g} TFLOP/s sustained; operations are counted the plain way",
    ]
    return "\n".join([title, *lines, notes, *cost_of])


def _lines(table: list[tuple[str, ...]]) -> list[str]:
    columns = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    return ["  ".join(cell.rjust(n) for cell, n in zip(row, columns, strict=True)) for row in table]


def _group(config: ml_collections.ConfigDict, group: list[Run]) -> tuple[str, int, int, int]:
    """A group's title, its runs, their steps, and the operations of one step of all."""
    teacher = max(runs.teachers(config), key=lambda run: run.width)
    members = {run.name: runs.member(config, run, teacher) for run in group}
    drawn = runs.generator(config, teacher.width) if group[0].kind == "student" else None
    steps = config.recipes[group[0].recipe].steps
    return f"{group[0].kind}s", len(group), steps, operations.group_step(members, drawn)


def _group_row(title: str, count: int, steps: int, each: int, rate: float) -> tuple[str, ...]:
    hours = _hours(steps, each, rate)
    every = f"{steps * each / 1e15:,.1f}"
    return title, str(count), f"{steps:,}", f"{each / 1e9:,.1f}", every, f"{hours:,.2f}"


def _hours(steps: int, each: int, rate: float) -> float:
    return steps * each / (rate * 1e12) / 3600


def _row(width: int, size: Cost, teacher: Cost) -> tuple[str, ...]:
    return (
        str(width),
        f"{size.paper_parameters:,}",
        f"{size.parameters:,}",
        f"{size.multiply_adds:,}",
        f"{size.bytes_float32:,}",
        f"{teacher.parameters / size.parameters:.0f}:1",
        f"{teacher.paper_parameters / size.paper_parameters:.0f}:1",
    )
