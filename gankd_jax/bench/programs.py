"""The compiled programs of a config's study, from shapes alone, and what the compiler says of them.

No array of a program is made, and nothing is run.
"""

import dataclasses
import math
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gankd_jax.config.dataset import config_dataset
from gankd_jax.models import sampling
from gankd_jax.models.family import FeatureNetwork, Generator, PyTree
from gankd_jax.models.inception import INPUT_SIZE, LOGIT_LAYERS, FidInception, preprocess_images
from gankd_jax.models.precision import resolve_precision
from gankd_jax.study import networks, plan, train
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import (
    RunSpec,
    data_seeds,
    feature_networks,
    make_multi_step,
)
from gankd_jax.training.train_state import TeacherParams, create_train_state
from gankd_jax.utils.sharding import batch_sharding, replicated

FEATURE_LAYERS = ("2048", LOGIT_LAYERS[0])  # of FID and of the Inception Score
FEATURE_BATCH = 32  # images in one pass of the FID network
COMPILER_CRASHED = "the compiler crashed"
Stats = TypeVar("Stats")
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
# Bytes of a number, by HLO's names of types.
TYPE_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
TYPE_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "token": 0}


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and the shapes that it takes."""

    title: str
    runs: int  # trained by it
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    images: int = 0  # bytes of the data set among the arguments; 0 if it stays on the host
    steps: int = 1  # in one call


@dataclasses.dataclass(frozen=True)
class CompiledStats:
    """What a compiled program takes of one device."""

    argument_bytes: int
    output_bytes: int  # of outputs that do not reuse the memory of arguments
    temporary_bytes: int
    code_bytes: int
    peak_bytes: int  # of arrays that exist at the same time
    flops: float  # of one step; a loop is counted once
    bytes_accessed: float  # of one step, likewise
    optimal_seconds: float  # of one step, likewise; nan where it is not known
    step_cycles: int  # of one step; 0 where the compiler does not estimate them, as on a CPU
    call_cycles: int  # of the rest of a call
    collectives: dict[str, tuple[int, int]]  # by kind: how many, and the bytes of their results


def training_programs(
    config: ml_collections.ConfigDict,
    mesh: Mesh | None = None,
    *,
    dispatches_ahead: bool = False,
) -> Iterator[Program]:
    """Yields each group's call of many training steps.

    Args:
        config: Of a study.
        mesh: Devices that share every batch; None for a single device.
        dispatches_ahead: Whether calls are as long as the intervals allow and keep the states that
            they are given, as on a GPU or TPU; see `RunGroup.dispatches_ahead`.
    """
    for group in plan.group_runs(config, plan.plan_runs(config)):
        yield _group_program(config, group, mesh, dispatches_ahead=dispatches_ahead)


def evaluation_programs(config: ml_collections.ConfigDict) -> Iterator[Program]:
    """Yields what scoring runs: sampling from the widest teacher, and the FID network."""
    generator = networks.build_generator(config, plan.widest_teacher(config))
    count = config.evaluation.batch_size
    latents = jax.ShapeDtypeStruct((count, generator.latent_dim), np.float32)
    arguments = (generator, _variable_shapes(generator), latents)
    yield Program(f"sample {count} images", 0, sampling.sample_images, arguments)
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((FEATURE_BATCH, size, size, 3), np.uint8)
    inception = (_inception_shapes(), images)
    yield Program(f"features of {FEATURE_BATCH}", 0, jax.jit(_inception_features), inception)


def _group_program(
    config: ml_collections.ConfigDict,
    group: list[Run],
    mesh: Mesh | None,
    *,
    dispatches_ahead: bool,
) -> Program:
    teacher = plan.widest_teacher(config)
    has_teacher = group[0].kind == "student"
    specs = {
        run.name: networks.make_run_spec(config, run, teacher if has_teacher else None)
        for run in group
    }
    generator = networks.build_generator(config, teacher) if has_teacher else None
    intervals = train.loop_intervals(config)
    if dispatches_ahead:
        intervals = intervals.with_longest_calls(config.recipes[group[0].recipe].steps)
    images, batches = _data_shapes(config, specs, mesh, steps=intervals.steps_per_call)
    states = {
        name: jax.eval_shape(lambda s=spec: create_train_state(s.spec, s.seed))
        for name, spec in specs.items()
    }
    teacher_params = _teacher_shapes(specs, generator) if generator else None
    return Program(
        title=f"{group[0].kind}s",
        runs=len(group),
        function=make_multi_step(
            specs,
            generator,
            mesh,
            precision=resolve_precision(config.model.precision),
            donate=not dispatches_ahead,
        ),
        arguments=(states, teacher_params, images, batches),
        images=0 if images is None else images.size,
        steps=intervals.steps_per_call,
    )


def _data_shapes(
    config: ml_collections.ConfigDict,
    specs: dict[str, RunSpec],
    mesh: Mesh | None,
    *,
    steps: int,
) -> tuple[jax.ShapeDtypeStruct | None, jax.ShapeDtypeStruct]:
    """Returns the shapes of the data set on the device, if it is there, and of a call's batches.

    Batches are indices into the data set, or the images themselves, which the mesh shares.
    """
    recipe = next(iter(specs.values())).spec.recipe
    size, count = config.data.image_size, config_dataset(config).counts["train"]
    image = (size, size, networks.image_channels(config))
    stored = ((count - config.data.validation) * (1 + config.data.mirror), *image)
    sharding = mesh and batch_sharding(mesh, 3)
    batches = (steps, len(data_seeds(specs)), recipe.critic_steps, recipe.batch_size)
    if train.fits_on_device(config.data.placement, math.prod(stored)):
        indices = jax.ShapeDtypeStruct(batches, np.int32, sharding=sharding)
        return jax.ShapeDtypeStruct(stored, np.uint8), indices
    return None, jax.ShapeDtypeStruct((*batches, *image), np.uint8, sharding=sharding)


def _variable_shapes(generator: Generator) -> PyTree:
    blank = jnp.zeros((2, generator.latent_dim))
    return jax.eval_shape(lambda: generator.init(jax.random.key(0), blank, train=False))


def _teacher_shapes(specs: dict[str, RunSpec], generator: Generator) -> TeacherParams:
    size = generator.image_size
    blank = jnp.zeros((2, size, size, generator.channels))

    def shapes(network: FeatureNetwork) -> PyTree:
        return jax.eval_shape(lambda: network.init(jax.random.key(0), blank, train=False))

    features = {name: shapes(network) for name, network in feature_networks(specs).items()}
    return TeacherParams(generator=_variable_shapes(generator), features=features)


def _inception_shapes() -> PyTree:
    image = jax.ShapeDtypeStruct((1, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    return jax.eval_shape(FidInception(FEATURE_LAYERS).init, jax.random.key(0), image)


def _inception_features(variables: PyTree, images: jax.Array) -> PyTree:
    return FidInception(FEATURE_LAYERS).apply(variables, preprocess_images(images))


def compile_each(
    programs: Sequence[Program], compile_nth: Callable[[int], Stats]
) -> Iterator[Stats | str]:
    """Compiles programs, each in a process of its own.

    A compiler ends its process where it finds a mistake in itself.

    Args:
        programs: To compile, in order.
        compile_nth: Compiles the program of an index; can be pickled, and so can what it returns.

    Yields:
        What it returns, or why there is nothing: the program does not fit the device, or the
        compiler failed or crashed.
    """
    context = multiprocessing.get_context("spawn")
    for index, program in enumerate(programs):
        started = time.monotonic()
        with ProcessPoolExecutor(1, context) as pool:
            try:
                yield pool.submit(_try_to_compile, compile_nth, index).result()
            except BrokenProcessPool:
                yield COMPILER_CRASHED
        seconds = time.monotonic() - started
        print(f"compiled: {program.title}, {seconds:.0f} s", file=sys.stderr, flush=True)


def _try_to_compile(compile_nth: Callable[[int], Stats], index: int) -> Stats | str:
    try:
        return compile_nth(index)
    except jax.errors.JaxRuntimeError as error:
        is_full = "RESOURCE_EXHAUSTED" in str(error)
        reason = "does not fit" if is_full else "the compiler failed"
        return f"{reason}: {str(error).splitlines()[0]:.200}"


def compile_program(mesh: Mesh, program: Program) -> CompiledStats:
    """Compiles a program; arguments without a sharding are replicated over a mesh.

    Args:
        mesh: Its devices need not be there.
        program: As `training_programs` or `evaluation_programs` yield it.

    Returns:
        What it takes of each device.

    Raises:
        jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED where a device's memory is too small.
    """
    compiled = program.function.lower(*replicate_shapes(mesh, program.arguments)).compile()
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None  # on CPU, GPU and TPU there is one
    assert cost is not None
    assert text is not None
    step_cycles, call_cycles = _count_cycles(text, program.steps)
    return CompiledStats(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        optimal_seconds=_correct_optimal_seconds(cost.get("optimal_seconds", math.nan), text),
        step_cycles=step_cycles,
        call_cycles=call_cycles,
        collectives=_count_collectives(text),
    )


def replicate_shapes(mesh: Mesh, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replicates every shape among the arguments over a mesh, where it has no sharding."""
    sharding = replicated(mesh)

    def replicate(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct) or leaf.sharding:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(replicate, arguments)


def _correct_optimal_seconds(seconds: float, text: str) -> float:
    """Removes the -1 s with which XLA marks each custom call whose cost it does not know.

    Calls named ConcatBitcast move nothing and cost nothing; where others are left the total is not
    known.
    """
    seconds += text.count('custom_call_target="ConcatBitcast"')
    return seconds if seconds >= 0 else math.nan


def _count_cycles(text: str, steps: int) -> tuple[int, int]:
    """Adds up the compiler's estimates of cycles.

    A loop within a step is counted once, because the text does not tell how often it turns.

    Returns:
        Those of a step, which is the body of a loop where there are several, and those of the rest.
    """
    loop_cycles = entry_cycles = 0
    for is_entry, line in _iterate_instructions(text):
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            loop_cycles += 0 if is_entry else int(cycles)
            entry_cycles += int(cycles) if is_entry else 0
    return (loop_cycles, entry_cycles) if steps > 1 else (loop_cycles + entry_cycles, 0)


def _iterate_instructions(text: str) -> Iterator[tuple[bool, str]]:
    """Yields every line of an HLO module, and whether it is one of the entry computation."""
    is_entry = False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            is_entry = line.startswith("ENTRY ")
        yield is_entry, line


def _count_collectives(text: str) -> dict[str, tuple[int, int]]:
    collectives: dict[str, tuple[int, int]] = {}
    for shapes, kind in re.findall(rf"= (\S.*?) ({COLLECTIVES})(?:-start)?\(", text):
        count, size = collectives.get(kind, (0, 0))
        collectives[kind] = count + 1, size + shape_bytes(shapes)
    return collectives


def shape_bytes(shapes: str) -> int:
    """Returns the bytes of arrays as HLO writes them, such as `(f32[4,8]{1,0}, s32[])`."""
    return sum(
        TYPE_BYTES[dtype] * math.prod(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes)
    )
