"""Tables of what a study's programs take, by the compiler: on the devices here, and on TPU slices.

Nothing is run.  A TPU slice need not be there: the wheel `libtpu` brings the compiler.
"""

import dataclasses
import functools
import importlib.util
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh
from tabulate import tabulate

from gankd_jax.bench import programs
from gankd_jax.bench.chips import CHIPS, Chip
from gankd_jax.bench.programs import CompiledStats, Program, compile_each, compile_program
from gankd_jax.models import conv
from gankd_jax.models.precision import resolve_precision
from gankd_jax.study import train
from gankd_jax.utils import sharding
from gankd_jax.utils.errors import UserError

MEMORY_HEADER = (
    *("group", "runs", "arguments", "of them images", "temporary", "together"),
    *("GFLOP a step", "all-reduced"),
)
TPU_HEADER = (
    *("program", "runs", "chips", "arguments", "outputs", "temporary", "code", "peak", "of HBM"),
    *("GFLOP", "GB", "optimal ms", "ms", "of peak", "ms once", "collectives"),
)
TPU_NOTES = """\
Per chip, by the compiler; nothing was run.
In MB of 10^6 bytes: arguments (the data set among them), outputs that do not reuse the memory of
arguments, temporary arrays, code, and the peak of arrays that exist at the same time.
Per step of all runs: operations, bytes read and written, the least time that these need (optimal),
the time by the compiler's count of cycles, and the operations in that time as a share of the chip's
peak.  A loop within a step, as over several critic steps, is counted once.
ms once: what a call of many steps needs once.
Collectives: their number in a step, and the MB of their results."""
HOST_CHIPS = 4  # a smaller slice is part of one host


@dataclasses.dataclass(frozen=True)
class TpuSlice:
    """TPU chips that work together."""

    name: str  # such as tpu:v5e:2x4
    chip: Chip
    devices: list[jax.Device]


def describe_memory(config: ml_collections.ConfigDict) -> str:
    """Formats a table of the memory that a step of each group takes on the devices here.

    Args:
        config: Of a study; `training.devices` of this machine's devices share its batches.

    Returns:
        A title and a row for each group of runs that train together.
    """
    mesh = sharding.make_mesh(config.training.devices)
    groups = programs.training_programs(config, mesh, dispatches_ahead=train.dispatches_ahead())
    rows = [_memory_row(program, mesh) for program in groups]
    kind = jax.devices()[0].device_kind
    title = f"{config.name}, each of {mesh.size} {kind}, MB of 10^6 bytes"
    return f"{title}\n{format_table(MEMORY_HEADER, rows)}"


def _memory_row(program: Program, mesh: Mesh) -> tuple[str, ...]:
    stats = compile_program(mesh, program)
    total = stats.argument_bytes + stats.temporary_bytes + stats.output_bytes
    sizes = (stats.argument_bytes, program.images, stats.temporary_bytes, total)
    reduced = sum(size for _, size in stats.collectives.values())
    return (
        *(program.title, str(program.runs), *(f"{size / 1e6:,.0f}" for size in sizes)),
        *(f"{stats.flops / 1e9:,.3f}", f"{reduced / 1e6:,.3f}"),
    )


def describe_tpu_programs(config: ml_collections.ConfigDict, target: str) -> str:
    """Compiles every program of a study for a TPU slice and formats a table of what they take.

    The training groups share each batch between all chips; evaluation runs on one chip.

    Args:
        config: Of a study.
        target: Such as 'tpu:v5e:2x4'.

    Returns:
        A title, a row for each program, and notes.

    Raises:
        UserError: The target is no slice, the compiler is not installed, or a batch cannot be
          shared evenly.
    """
    tpu_slice = find_slice(target)
    config = resolve_for_tpu(config)
    _check_batch_sizes(config, len(tpu_slice.devices))
    pairs = list(_list_programs(config, tpu_slice))
    compile_nth = functools.partial(_compile_nth_program, config.to_dict(), tpu_slice.name)
    results = compile_each([program for program, _ in pairs], compile_nth)
    rows = [
        _tpu_row(program, mesh.size, stats, tpu_slice.chip)
        for (program, mesh), stats in zip(pairs, results, strict=True)
    ]
    network = f"4x4 layers as {config.model.conv}, in {config.model.precision}"
    title = f"{config.name} on {target}, {network}"
    return "\n".join([title, format_table(TPU_HEADER, rows), TPU_NOTES])


def find_slice(target: str) -> TpuSlice:
    """Finds the TPU slice of a name such as 'tpu:v5e:2x4' in the TPU compiler.

    Args:
        target: The kind of chip and the shape of the slice.

    Raises:
        UserError: The name is no slice's, or the compiler is not installed.
    """
    match = re.fullmatch(r"tpu:(\w+):(\d+(?:x\d+){1,2})", target)
    if not match:
        raise UserError(
            f"--compile-for={target} is no slice, such as tpu:v5e:2x4, or GPU: gpu:h100"
        )
    kind, shape = match.groups()
    if kind not in CHIPS:
        raise UserError(f"--compile-for={target}: no chip {kind}; there are {', '.join(CHIPS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--compile-for needs the TPU compiler: pip install 'gankd-jax[tpu]'")
    return TpuSlice(target, CHIPS[kind], _slice_devices(target, kind, shape))


def _slice_devices(target: str, kind: str, shape: str) -> list[jax.Device]:
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken
    # libtpu warns where it does not know the machine's name and kind.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{kind}-{HOST_CHIPS}")
    sides = [*map(int, shape.split("x")), 1][:3]
    options = {} if math.prod(sides) >= HOST_CHIPS else {"chips_per_host_bounds": sides}
    try:
        topology = topologies.get_topology_desc(
            f"{kind}:{shape}", "tpu", chip_config_name=CHIPS[kind].layout, **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--compile-for={target} is no slice: {reason}") from error
    return topology.devices


def resolve_for_tpu(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config with the 4x4 layers and the precision that it selects on a TPU."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.conv = conv.resolve_conv_impl(config.model.conv, "tpu")
    config.model.precision = resolve_precision(config.model.precision, "tpu")
    return config


def _check_batch_sizes(config: ml_collections.ConfigDict, chips: int) -> None:
    study = config.study
    for name in ("teacher", *study.students, *study.baselines):
        batch_size = config.recipes[name].batch_size
        if batch_size % chips:
            raise UserError(
                f"{chips} chips cannot share config.recipes.{name}.batch_size={batch_size} evenly"
            )


def _list_programs(
    config: ml_collections.ConfigDict, tpu_slice: TpuSlice
) -> Iterator[tuple[Program, Mesh]]:
    """Yields a study's programs, each with the chips that it runs on."""
    whole = sharding.mesh_of_devices(tpu_slice.devices)
    single = sharding.mesh_of_devices(tpu_slice.devices[:1])
    groups = programs.training_programs(config, whole, dispatches_ahead=True)
    yield from ((program, whole) for program in groups)
    yield from ((program, single) for program in programs.evaluation_programs(config))


def _compile_nth_program(fields: dict[str, Any], target: str, index: int) -> CompiledStats:
    pairs = _list_programs(ml_collections.ConfigDict(fields), find_slice(target))
    program, mesh = next(itertools.islice(pairs, index, None))
    return compile_program(mesh, program)


def _tpu_row(
    program: Program, chips: int, stats: CompiledStats | str, chip: Chip
) -> tuple[str, ...]:
    first = (program.title, str(program.runs or ""), str(chips))
    if isinstance(stats, str):
        return (*first, *[""] * (len(TPU_HEADER) - len(first) - 1), stats)
    sizes = (
        *(stats.argument_bytes, stats.output_bytes, stats.temporary_bytes),
        *(stats.code_bytes, stats.peak_bytes),
    )
    seconds, optimal = stats.step_cycles / chip.clock, stats.optimal_seconds
    used = [f"{n} {kind} {size / 1e6:,.1f}" for kind, (n, size) in stats.collectives.items()]
    return (
        *first,
        *(f"{size / 1e6:,.0f}" for size in sizes),
        f"{stats.peak_bytes / chip.memory:.1%}",
        f"{stats.flops / 1e9:,.1f}",
        f"{stats.bytes_accessed / 1e9:,.2f}",
        "" if math.isnan(optimal) else f"{optimal * 1e3:,.3f}",
        f"{seconds * 1e3:,.3f}",
        f"{stats.flops / seconds / chip.peak:.0%}",
        f"{stats.call_cycles / chip.clock * 1e3:,.3f}",
        ", ".join(used) or "none",
    )


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a plain table, its columns to the right."""
    return tabulate(rows, header, tablefmt="plain", stralign="right", disable_numparse=True)
