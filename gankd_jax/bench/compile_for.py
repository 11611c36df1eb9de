"""What a config's programs take on TPU chips, by the TPU's own compiler; nothing is run."""

import itertools
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import ml_collections
from jax.sharding import Mesh

from gankd_jax.bench import chips, programs
from gankd_jax.bench.account import Account, compile_on
from gankd_jax.bench.chips import Chip
from gankd_jax.bench.columns import columns
from gankd_jax.bench.programs import Program
from gankd_jax.models import conv
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.sharding import mesh_of_devices

HEADER = (
    *("program", "runs", "chips", "arguments", "outputs", "temporary", "code", "peak", "of HBM"),
    *("GFLOP", "GB", "optimal ms", "ms", "of rate", "ms once", "collectives"),
)
NOTES = """\
Of each chip, by the compiler; nothing was run.  MB of 10^6 bytes: the arguments (the data set among
them), outputs that do not lie where arguments lay, temporary arrays, the program, and the peak of
arrays.  Of one step of all runs: operations, bytes read and written, the least time that these need
(optimal), the time by the compiler's count of cycles, and the operations as a share of the chip's
rate in that time.  Beside it what a call of many steps needs once.  A loop within a step, as over
several critic steps, is counted once.  Collectives: their number, and MB of results, in a step."""
CRASHED = "the compiler crashed"


def compile_for(config: ml_collections.ConfigDict, target: str) -> str:
    """A table with a row for each program of the study, compiled for chips such as `tpu:v5e:2x4`.

    The training groups share each batch between all chips; evaluation runs on one.

    Raises:
      UserError: the slice is none, its compiler is not installed, or a batch is indivisible.
    """
    where = chips.parse(target)
    config = aimed(config)
    _check_batches(config, len(where.devices))
    rows = [HEADER, *(_cells(*found, where.chip) for found in _compiled(config, where))]
    title = f"{config.name} on {target}, its 4x4 layers in the form {config.model.conv}"
    return "\n".join([title, *columns(rows), NOTES])


def aimed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the form of the 4x4 layers that TPUs take."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.conv = conv.resolve_conv_impl(config.model.conv, "tpu")
    return config


def parts(config: ml_collections.ConfigDict, where: chips.Slice) -> Iterator[tuple[Program, Mesh]]:
    """The study's programs, each with the chips that it runs on."""
    everywhere, one = mesh_of_devices(where.devices), mesh_of_devices(where.devices[:1])
    yield from ((program, everywhere) for program in programs.training(config, everywhere))
    yield from ((program, one) for program in programs.evaluation(config))


def _check_batches(config: ml_collections.ConfigDict, count: int) -> None:
    study = config.study
    for name in ("teacher", *study.students, *study.baselines):
        batch = config.recipes[name].batch_size
        if batch % count:
            raise UserError(
                f"{count} chips cannot share config.recipes.{name}.batch_size={batch} evenly"
            )


def _compiled(
    config: ml_collections.ConfigDict, where: chips.Slice
) -> Iterator[tuple[Program, int, Account | str]]:
    """Each program, on how many chips, and what it takes there, or why that is not known.

    The compiler works in a process of its own: where it finds a mistake in itself it ends that.
    """
    context = multiprocessing.get_context("spawn")
    for k, (program, mesh) in enumerate(parts(config, where)):
        began = time.monotonic()
        with ProcessPoolExecutor(1, context) as pool:
            try:
                found = pool.submit(_account, config.to_dict(), where.name, k).result()
            except BrokenProcessPool:
                found = CRASHED
        seconds = time.monotonic() - began
        print(f"compiled: {program.title}, {seconds:.0f} s", file=sys.stderr, flush=True)
        yield program, mesh.size, found


def _account(fields: dict[str, Any], target: str, k: int) -> Account | str:
    """Compile the study's program `k`."""
    found = parts(ml_collections.ConfigDict(fields), chips.parse(target))
    program, mesh = next(itertools.islice(found, k, None))
    return compile_on(mesh, program)


def _cells(program: Program, count: int, found: Account | str, chip: Chip) -> tuple[str, ...]:
    begin = (program.title, str(program.runs or ""), str(count))
    if isinstance(found, str):
        return (*begin, *[""] * (len(HEADER) - len(begin) - 1), found)
    sizes = (found.arguments, found.outputs, found.temporary, found.code, found.peak)
    seconds = found.cycles / chip.clock
    used = [f"{n} {kind} {size / 1e6:,.1f}" for kind, (n, size) in found.collectives.items()]
    return (
        *begin,
        *(f"{size / 1e6:,.0f}" for size in sizes),
        f"{found.peak / chip.memory:.1%}",
        f"{found.operations / 1e9:,.1f}",
        f"{found.accessed / 1e9:,.2f}",
        "" if math.isnan(found.optimal) else f"{found.optimal * 1e3:,.3f}",
        f"{seconds * 1e3:,.3f}",
        f"{found.operations / seconds / chip.peak:.0%}",
        f"{found.once / chip.clock * 1e3:,.3f}",
        ", ".join(used) or "none",
    )
