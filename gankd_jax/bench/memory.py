"""The memory that a config's groups take on one device, by the compiler's own account."""

import jax
import ml_collections

from gankd_jax.bench import programs
from gankd_jax.bench.programs import Program

HEADER = ("group", "runs", "arguments", "of them images", "temporary", "together")


def memory(config: ml_collections.ConfigDict) -> str:
    """A table, one row per group: nothing is trained, nor any array made."""
    rows = [HEADER, *map(_row, programs.training(config))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = ("  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows)
    device = jax.devices()[0].device_kind
    return "\n".join([f"{config.name} on {device}, MB of 10^6 bytes", *lines])


def _row(program: Program) -> tuple[str, ...]:
    found = program.function.lower(*program.arguments).compile().memory_analysis()
    assert found is not None  # on CPU, GPU and TPU there is one
    # The states that come out lie where those that went in were.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes)
    sizes = (parts[0], program.images, parts[1], sum(parts) + results)
    return program.title, str(program.runs), *(f"{size / 1e6:,.0f}" for size in sizes)
