"""`gankd describe`: what each width of a config and the whole study cost, as text tables."""

import dataclasses
from collections.abc import Iterable, Sequence

import ml_collections
from tabulate import tabulate

from gankd_jax.bench import cost_model
from gankd_jax.models.cost import GeneratorCost, generator_cost
from gankd_jax.models.family import Generator, family_of
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run

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
        Three tables: a row for each family and width, with ratios to the widest teacher; a row for
        each group of runs that train together; a row for each kind of chip.
    """
    teacher = networks.build_generator(config, plan.widest_teacher(config))
    teacher_cost = generator_cost(teacher)
    rows = [_width_row(g, generator_cost(g), teacher_cost) for g in _width_generators(config)]
    size, channels = config.data.image_size, networks.image_channels(config)
    title = f"{config.name}: {size}x{size}x{channels}, teacher d={teacher.width}"
    widths_table = _format_table(WIDTH_HEADER, rows)
    groups = [_group_cost(config, g) for g in plan.group_runs(config, plan.plan_runs(config))]
    return "\n".join([title, widths_table, WIDTH_NOTES, "", _describe_groups(groups, rate)])


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
        for name, peak in cost_model.PEAK_FLOPS.items()
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
