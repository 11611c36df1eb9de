"""The table of `gankd bench --compile-for=gpu:h100`: a study's programs on a GPU that is not here.

Nothing is run.  The CUDA build of JAX brings the compiler, which needs no GPU.
"""

import dataclasses
import functools
import importlib.util
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies
from jax.sharding import Mesh

from gankd_jax.bench import programs
from gankd_jax.bench.chips import GPUS, LAUNCH_SECONDS, Gpu
from gankd_jax.bench.compile_report import format_table
from gankd_jax.bench.gpu.hlo import Kernel, Module
from gankd_jax.bench.programs import Program, compile_each, replicate_shapes
from gankd_jax.models import conv
from gankd_jax.models.precision import resolve_precision
from gankd_jax.utils import sharding
from gankd_jax.utils.errors import UserError

HEADER = (
    *("program", "runs", "kernels", "launches", "once"),
    *("convolutions", "forward", "input", "filter"),
    *("not cuDNN's own", "GFLOP", "MB", "temporary"),
    *("launches ms", "memory ms", "products ms", "estimate ms", "of peak"),
)
NOTES = """\
By XLA's compiler for one such GPU, its choice of kernels by trial left out; nothing was run.
Per step of all runs: kernels that the GPU starts; launches by the host, for which JAX's compiler
joins kernels between two convolutions into a CUDA graph (with
XLA_FLAGS=--xla_gpu_enable_command_buffer=+CONVOLUTION a call of all its steps is a single graph);
how many kernels a call of many steps needs once; convolutions, and how many of them are cuDNN's
own: forward, gradients in the input and in the filter; the others by what makes them slow (zeros:
on an image with zeros between its pixels; window: with a kernel as large as an image; groups: of
several networks at once).
Operations of convolutions and products; bytes of 10^6 that the kernels read and write; temporary
arrays in MB.  The estimate adds up for each kernel what takes longest: its launch (2 microseconds),
its bytes at the memory's rate, or its operations at the rate of TF32 products.  It is a bound from
below, no measurement: small products stay far below that rate, and sampling and features, which
are in full float32, take up to eight times as long."""
MIN_GRAPH_KERNELS = 5  # XLA's xla_gpu_graph_min_graph_size
# cuDNN's version of launch/constraints.txt; the compiler asks no cuDNN.
TARGET_CONFIG = """\
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {core_shared} threads_per_core_limit: {core_threads}
  core_count: {cores} fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: {l2_bytes} clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory} shared_memory_per_block_optin: {block_shared}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  runtime_version: "13.0.0" driver_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 28 patch: 0 }}
device_description_str: "{title}"
"""


@dataclasses.dataclass(frozen=True)
class GpuStats:
    """What a compiled program takes of a GPU."""

    kernels: tuple[Kernel, ...]
    temporary_bytes: int


def describe_gpu_programs(config: ml_collections.ConfigDict, target: str) -> str:
    """Compiles every program of a study for a GPU and formats a table of what they take.

    Args:
        config: Of a study.
        target: Such as 'gpu:h100'.

    Returns:
        A title, a row for each program, and notes.

    Raises:
        UserError: The target is no GPU, or the compiler is not installed.
    """
    gpu = find_gpu(target)
    config = ml_collections.ConfigDict(config.to_dict())
    config.model.conv = conv.resolve_conv_impl(config.model.conv, "gpu")
    config.model.precision = resolve_precision(config.model.precision, "gpu")
    study_programs = list(_list_programs(config, make_mesh(gpu)))
    compile_nth = functools.partial(_compile_nth_program, config.to_dict(), target)
    results = compile_each(study_programs, compile_nth)
    rows = [_row(*pair, gpu) for pair in zip(study_programs, results, strict=True)]
    network = f"4x4 layers as {config.model.conv}, in {config.model.precision}"
    title = f"{config.name} on one {gpu.title}, {network}"
    return "\n".join([title, format_table(HEADER, rows), NOTES])


def find_gpu(target: str) -> Gpu:
    """Finds the GPU of a name such as 'gpu:h100', and whether there is a compiler for it.

    Args:
        target: The kind of GPU.

    Raises:
        UserError: The name is no GPU's, or the compiler is not installed.
    """
    kind = target.removeprefix("gpu:")
    if kind not in GPUS:
        raise UserError(f"--compile-for={target}: no GPU {kind}; there are {', '.join(GPUS)}")
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError("--compile-for needs the CUDA compiler: pip install 'gankd-jax[cuda]'")
    return GPUS[kind]


def make_mesh(gpu: Gpu) -> Mesh:
    """Returns a mesh of one such GPU, which need not be there."""
    major, minor = gpu.capability.split(".")
    fields = dataclasses.asdict(gpu) | {"major": major, "minor": minor}
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=TARGET_CONFIG.format(**fields), topology="1x1x1"
    )
    return sharding.mesh_of_devices(topology.devices)


def compile_for_gpu(mesh: Mesh, function: jax.stages.Wrapped, *arguments: Any) -> GpuStats:
    """Compiles a jitted function for a GPU.

    Args:
        mesh: As `make_mesh` returns it.
        function: Of `jax.jit`.
        *arguments: Their shapes.
    """
    options: dict[str, str | bool] = {"xla_gpu_autotune_level": "0"}  # no GPU to try kernels on
    compiled = function.lower(*replicate_shapes(mesh, arguments)).compile(options)
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    return GpuStats(tuple(Module(text).kernels()), memory.temp_size_in_bytes)


def _list_programs(config: ml_collections.ConfigDict, mesh: Mesh) -> Iterator[Program]:
    yield from programs.training_programs(config, mesh, dispatches_ahead=True)
    yield from programs.evaluation_programs(config)


def _compile_nth_program(fields: dict[str, Any], target: str, index: int) -> GpuStats:
    # What was compiled for a GPU that is not here cannot be read from the cache.
    jax.config.update("jax_enable_compilation_cache", False)
    mesh = make_mesh(find_gpu(target))
    listed = _list_programs(ml_collections.ConfigDict(fields), mesh)
    program = next(itertools.islice(listed, index, None))
    return compile_for_gpu(mesh, program.function, *program.arguments)


def estimate_seconds(kernel: Kernel, gpu: Gpu) -> float:
    """Returns the least time of a kernel: of its launch, its bytes or its operations."""
    return max(LAUNCH_SECONDS, kernel.bytes / gpu.bandwidth, kernel.flops / gpu.peak)


def _row(program: Program, stats: GpuStats | str, gpu: Gpu) -> tuple[str, ...]:
    first = (program.title, str(program.runs or ""))
    if isinstance(stats, str):
        return (*first, *[""] * (len(HEADER) - len(first) - 1), stats)
    # A call's loop runs once for each step; whatever runs less often is needed once.
    step = [kernel for kernel in stats.kernels if kernel.times >= program.steps]
    step = [dataclasses.replace(k, times=k.times // program.steps) for k in step]
    once = sum(kernel.times for kernel in stats.kernels if kernel.times < program.steps)
    count = sum(kernel.times for kernel in step)
    flops = sum(kernel.times * kernel.flops for kernel in step)
    moved = sum(kernel.times * kernel.bytes for kernel in step)
    seconds = sum(kernel.times * estimate_seconds(kernel, gpu) for kernel in step)
    milliseconds = (count * LAUNCH_SECONDS, moved / gpu.bandwidth, flops / gpu.peak, seconds)
    return (
        *(*first, str(count), str(count_launches(step)), str(once)),
        *_count_convolutions(step),
        *(f"{flops / 1e9:,.1f}", f"{moved / 1e6:,.0f}", f"{stats.temporary_bytes / 1e6:,.0f}"),
        *(f"{1e3 * value:,.3f}" for value in milliseconds),
        f"{flops / seconds / gpu.peak:.0%}",
    )


def count_launches(kernels: Iterable[Kernel]) -> int:
    """Counts what the host starts: each convolution, and kernels between them as one graph.

    Args:
        kernels: In their order; those of a loop have their number of turns.
    """
    launches = 0
    for (is_conv, times), part in itertools.groupby(kernels, lambda k: (bool(k.conv), k.times)):
        count = len(list(part))
        launches += times * (1 if not is_conv and count >= MIN_GRAPH_KERNELS else count)
    return launches


def _count_convolutions(kernels: list[Kernel]) -> tuple[str, ...]:
    """Returns their number, how many of each kind are cuDNN's own, and the others' faults."""
    convolutions = [kernel for kernel in kernels if kernel.conv]
    faults: dict[str, int] = {}
    own = dict.fromkeys(("forward", "input", "filter"), 0)
    for kernel in convolutions:
        counts, key = (faults, kernel.fault) if kernel.fault else (own, kernel.conv)
        counts[key] = counts.get(key, 0) + kernel.times
    others = ", ".join(f"{count} {fault}" for fault, count in faults.items())
    return (
        str(sum(kernel.times for kernel in convolutions)),
        *(str(count) for count in own.values()),
        others or "none",
    )
