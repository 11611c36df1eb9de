"""What a step of a config's groups takes of each device here, by the compiler's own account."""

import jax
import ml_collections
from jax.sharding import Mesh

from gankd_jax.bench import programs
from gankd_jax.bench.account import collectives, lying_everywhere
from gankd_jax.bench.columns import columns
from gankd_jax.bench.programs import Program
from gankd_jax.utils import sharding

HEADER = ("group", "runs", "arguments", "of them images", "temporary", "together")
STEP = ("GFLOP a step", "all-reduced")


def memory(config: ml_collections.ConfigDict) -> str:
    """A table, one row per group, of each of the devices that share its batches.

    Nothing is trained, nor any array made.
    """
    devices = sharding.make_mesh(config.training.devices)
    found = programs.training(config, devices)
    rows = [(*HEADER, *STEP), *(_row(program, devices) for program in found)]
    kind = jax.devices()[0].device_kind
    return "\n".join(
        [f"{config.name}, each of {devices.size} {kind}, MB of 10^6 bytes", *columns(rows)]
    )


def _row(program: Program, devices: Mesh) -> tuple[str, ...]:
    arguments = lying_everywhere(devices, program.arguments)
    compiled = program.function.lower(*arguments).compile()
    found, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert found is not None  # on CPU, GPU and TPU there is one
    assert cost is not None
    assert text is not None
    # The states that come out lie where those that went in were.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes)
    sizes = (parts[0], program.images, parts[1], sum(parts) + results)
    exchanged = sum(size for _, size in collectives(text).values())
    return (
        *(program.title, str(program.runs), *(f"{size / 1e6:,.0f}" for size in sizes)),
        *(f"{cost['flops'] / 1e9:,.3f}", f"{exchanged / 1e6:,.3f}"),
    )
