"""What each width of a config costs, and the whole study, as text tables."""

import dataclasses

import ml_collections

from gankd_jax.bench import chips, footprint, operations
from gankd_jax.bench.columns import columns
from gankd_jax.models.cost import GeneratorCost, generator_cost
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run

HEADER = ("width", "paper's count", "parameters", "multiply-adds", "bytes", "ratio", "paper's")

STUDY = (
    *("group", "runs", "steps", "GFLOP a step", "10^15 in all", "hours"),
    *("state MB", "gradient MB"),
)
# Of the chip's most in products of the numbers to which JAX rounds float32 there.  The TPU's
# compiler gives the paper's widest teacher twice as much and its narrow students as much.
SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class GroupCost:
    """Runs that train together, and what a step of them all takes."""

    title: str
    runs: int
    steps: int
    operations: int
    states: int  # bytes
    gradients: int  # bytes


def describe_costs(config: ml_collections.ConfigDict, rate: float = 1.0) -> str:
    """One row per width, teachers last; ratios are to the widest teacher, by both counts.

    Then one per group of runs that train together; hours at `rate` TFLOP/s, sustained.  Then one
    per kind of chip.
    """
    study = config.study
    widths = sorted({*study.widths, *study.teacher_widths})
    teacher = generator_cost(networks.build_generator(config, max(study.teacher_widths)))
    rows = [
        _row(width, generator_cost(networks.build_generator(config, width)), teacher)
        for width in widths
    ]
    size, channels = config.data.image_size, networks.image_channels(config)
    title = f"{config.name}: {size}x{size}x{channels}, teacher d={max(study.teacher_widths)}"
    notes = (
        "multiply-adds: of one image; bytes: of the parameters in float32; paper's count: kernels"
        " and their biases\nfor one output channel, batch norm left out; ratio: the teacher's"
        " parameters over this width's."
    )
    groups = [_group(config, group) for group in plan.group_runs(config, plan.plan_runs(config))]
    return "\n".join([title, *columns([HEADER, *rows]), notes, "", *_study(groups, rate)])


def _study(groups: list[GroupCost], rate: float) -> list[str]:
    total = sum(group.steps * group.operations for group in groups)
    return [
        *columns([STUDY, *(_group_row(group, rate) for group in groups)]),
        f"training in all: {total / (rate * 1e12) / 3600:,.1f} hours at {rate:g} TFLOP/s"
        " sustained; operations are counted the plain way.",
        "state: weights and Adam's moments; gradient: what devices that share a batch add up"
        " in a step.",
        "",
        f"Hours on one chip at {SHARE:.0%} of its peak, by calculation and not measured:",
        *columns([("chip", "TFLOP/s", "hours"), *_chip_rows(total)]),
    ]


def _chip_rows(total: int) -> list[tuple[str, ...]]:
    return [
        (name, f"{peak / 1e12:,.0f}", f"{total / (SHARE * peak) / 3600:,.2f}")
        for name, peak in chips.PEAKS.items()
    ]


def _group(config: ml_collections.ConfigDict, group: list[Run]) -> GroupCost:
    teacher = max(plan.teacher_runs(config), key=lambda run: run.width)
    members = {run.name: networks.make_run_spec(config, run, teacher) for run in group}
    drawn = networks.build_generator(config, teacher.width) if group[0].kind == "student" else None
    steps = config.recipes[group[0].recipe].steps
    return GroupCost(
        title=f"{group[0].kind}s",
        runs=len(group),
        steps=steps,
        operations=operations.group_step(members, drawn),
        states=footprint.states(members),
        gradients=footprint.gradients(members),
    )


def _group_row(group: GroupCost, rate: float) -> tuple[str, ...]:
    total = group.steps * group.operations
    return (
        *(group.title, str(group.runs), f"{group.steps:,}", f"{group.operations / 1e9:,.1f}"),
        *(f"{total / 1e15:,.1f}", f"{total / (rate * 1e12) / 3600:,.2f}"),
        *(f"{group.states / 1e6:,.1f}", f"{group.gradients / 1e6:,.1f}"),
    )


def _row(width: int, size: GeneratorCost, teacher: GeneratorCost) -> tuple[str, ...]:
    return (
        str(width),
        f"{size.paper_parameters:,}",
        f"{size.parameters:,}",
        f"{size.multiply_adds:,}",
        f"{size.bytes_float32:,}",
        f"{teacher.parameters / size.parameters:.0f}:1",
        f"{teacher.paper_parameters / size.paper_parameters:.0f}:1",
    )
