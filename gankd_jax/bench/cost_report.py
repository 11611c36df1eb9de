"""`gankd describe`: what each width of a config and the whole study cost, as text tables."""

import dataclasses
from collections.abc import Iterable, Sequence

import ml_collections
from tabulate import tabulate

from gankd_jax.bench import chips
from gankd_jax.models.cost import GeneratorCost, generator_cost
from gankd_jax.models.family import Generator, family_of
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run
from gankd_jax.training import cost_model

WIDTH_HEADER = (
    *("family", "width", "paper's count", "parameters", "multiply-adds", "bytes"),
    *("ratio", "paper's"),
)
WIDTH_NOTES = (
    "multiply-adds: of one image; bytes: of the parameters in float32; paper's count: kernels"
    " and their biases\nfor one output channel, batch norm left out; ratio: the teacher's"
    " parameters over this width's."
)
GROUP_HEADER = (
    *("group", "runs", "steps", "GFLOP a step", "10^15 in all", "hours"),
    *("state MB", "gradient MB"),
)
GROUP_NOTES = (
    "state: weights and Adam's moments; gradient: what devices that share a batch add up in a step."
)
CHIP_HEADER = ("chip", "TFLOP/s", "hours")
SHARD_HEADER = ("shards", "10^15 in turn", "hours", "its runs")
SHARD_NOTES = (
    "10^15 in turn: operations of its runs and, for students of another shard's teacher, of that"
    " before;\nwithout the teacher's images, which each shard of students computes again."
)
SHARD_ALIGN = ("right", "right", "right", "left")
# The assumed share of a chip's peak.  The TPU compiler estimates twice as much for the paper's
# widest teacher and as much for its narrow students.
UTILIZATION = 0.25


@dataclasses.dataclass(frozen=True)
class GroupCost:
    """Runs that train together, and what a step of them all takes."""

    title: str
    runs: int
    steps: int
    flops: int  # of one step
    state_bytes: int
    gradient_bytes: int

    @property
    def total_flops(self) -> int:
        """Operations of all steps."""
        return self.steps * self.flops


def describe_costs(config: ml_collections.ConfigDict, rate: float = 1.0) -> str:
    """Formats the costs of a study by the cost model; nothing is compiled or run.

    Args:
        config: Of a study.
        rate: TFLOP/s that the machine sustains, > 0; the hours of each group follow from it.

    Returns:
        Four tables: a row for each family and width, with ratios to the widest teacher; a row for
        each group of runs that train together; a row for each kind of chip; a row for numbers of
        shards up to the most that help.
    """
    teacher = networks.build_generator(config, plan.widest_teacher(config))
    teacher_cost = generator_cost(teacher)
    rows = [_width_row(g, generator_cost(g), teacher_cost) for g in _width_generators(config)]
    size, channels = config.data.image_size, networks.image_channels(config)
    title = f"{config.name}: {size}x{size}x{channels}, teacher d={teacher.width}"
    widths_table = _format_table(WIDTH_HEADER, rows)
    groups = [_group_cost(config, g) for g in plan.group_runs(config, plan.plan_runs(config))]
    tables = [_describe_groups(groups, rate), "", _describe_shards(config, rate)]
    return "\n".join([title, widths_table, WIDTH_NOTES, "", *tables])


def _width_generators(config: ml_collections.ConfigDict) -> list[Generator]:
    """Returns a generator of each family and width, narrow ones first."""
    students = [Run("student", "", width, 0) for width in config.study.widths]
    runs = [*students, *plan.teacher_runs(config)]
    generators = dict.fromkeys(networks.build_generator(config, run) for run in runs)
    return sorted(generators, key=lambda generator: generator.width)


def _describe_groups(groups: list[GroupCost], rate: float) -> str:
    total = sum(group.total_flops for group in groups)
    chip_rows = [
        (name, f"{peak / 1e12:,.0f}", _format_hours(total, UTILIZATION * peak))
        for name, peak in chips.PEAK_FLOPS.items()
    ]
    return "\n".join(
        [
            _format_table(GROUP_HEADER, [_group_row(group, rate) for group in groups]),
            f"training in all: {total / (rate * 1e12) / 3600:,.1f} hours at {rate:g} TFLOP/s"
            " sustained; operations are counted as the layers are defined.",
            GROUP_NOTES,
            "",
            f"Hours on one chip at {UTILIZATION:.0%} of its peak, calculated and not measured:",
            _format_table(CHIP_HEADER, chip_rows),
        ]
    )


def _describe_shards(config: ml_collections.ConfigDict, rate: float) -> str:
    """Returns a row for 1, 2, 4, ... shards, and for the fewest that end as soon as any number."""
    costs = {run: networks.run_flops(config, run) for run in plan.plan_runs(config)}
    ends = {n: _last_shard(config, n, costs)[0] for n in range(1, len(costs) + 1)}
    count = min(n for n, end in ends.items() if end == min(ends.values()))
    rows = []
    for n in sorted({count} | {2**k for k in range(count.bit_length())}):
        end, runs = _last_shard(config, n, costs)
        hours = _format_hours(end, rate * 1e12)
        rows.append((str(n), f"{end / 1e15:,.2f}", hours, plan.describe_runs(runs)))
    return "\n".join(
        [
            f"Up to {count} shards help (`gankd study --shard=1/{count}`). The last ends after:",
            tabulate(rows, SHARD_HEADER, "plain", disable_numparse=True, colalign=SHARD_ALIGN),
            SHARD_NOTES,
        ]
    )


def _last_shard(
    config: ml_collections.ConfigDict, n: int, costs: dict[Run, int]
) -> tuple[int, list[Run]]:
    """Returns the operations until the last of `n` shards ends, and the runs of that shard."""
    teacher = max(costs[run] for run in plan.teacher_runs(config))
    ends = []
    for runs in plan.shard_runs(config, n, costs.__getitem__):
        kinds = {run.kind for run in runs}
        waits = "student" in kinds and "teacher" not in kinds
        ends.append((sum(costs[run] for run in runs) + waits * teacher, runs))
    return max(ends, key=lambda end: end[0])


def _group_cost(config: ml_collections.ConfigDict, group: list[Run]) -> GroupCost:
    teacher = plan.widest_teacher(config)
    specs = {run.name: networks.make_run_spec(config, run, teacher) for run in group}
    is_student = group[0].kind == "student"
    generator = networks.build_generator(config, teacher) if is_student else None
    return GroupCost(
        title=f"{group[0].kind}s",
        runs=len(group),
        steps=config.recipes[group[0].recipe].steps,
        flops=cost_model.group_step_flops(specs, generator),
        state_bytes=cost_model.state_bytes(specs),
        gradient_bytes=cost_model.gradient_bytes(specs),
    )


def _group_row(group: GroupCost, rate: float) -> tuple[str, ...]:
    return (
        *(group.title, str(group.runs), f"{group.steps:,}", f"{group.flops / 1e9:,.1f}"),
        *(f"{group.total_flops / 1e15:,.1f}", _format_hours(group.total_flops, rate * 1e12)),
        *(f"{group.state_bytes / 1e6:,.1f}", f"{group.gradient_bytes / 1e6:,.1f}"),
    )


def _format_hours(flops: int, flops_per_second: float) -> str:
    return f"{flops / flops_per_second / 3600:,.2f}"


def _width_row(
    generator: Generator, cost: GeneratorCost, teacher: GeneratorCost
) -> tuple[str, ...]:
    return (
        family_of(generator).name,
        str(generator.width),
        f"{cost.paper_parameters:,}",
        f"{cost.parameters:,}",
        f"{cost.multiply_adds:,}",
        f"{cost.bytes_float32:,}",
        f"{teacher.parameters / cost.parameters:.0f}:1",
        f"{teacher.paper_parameters / cost.paper_parameters:.0f}:1",
    )


def _format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return tabulate(rows, header, tablefmt="plain", stralign="right", disable_numparse=True)
