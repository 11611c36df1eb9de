"""The TPU compiler's account of a program, out of what it says and out of the program's text."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from gankd_jax.bench.programs import Program
from gankd_jax.utils.sharding import replicated

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Account:
    """Of a program on one chip: bytes, operations, seconds and cycles."""

    arguments: int
    outputs: int  # that do not lie where arguments lay
    temporary: int
    code: int
    peak: int  # arrays that are there at once
    operations: float  # of one step; a loop is counted once
    accessed: float  # bytes, likewise
    optimal: float  # seconds, likewise; nan: not known
    cycles: int  # of one step
    once: int  # cycles of the rest of a call
    collectives: dict[str, tuple[int, int]]  # by kind: how many, and the bytes of their results


def compile_on(mesh: Mesh, program: Program) -> Account | str:
    """Compile a program whose arguments lie whole on every chip of the mesh.

    Where the chip's memory is too small, the compiler's words.
    """
    lowered = program.function.lower(*lying_everywhere(mesh, program.arguments))
    try:
        return account(lowered.compile(), program.steps)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return f"does not fit: {str(error).splitlines()[0]}"


def account(compiled: jax.stages.Compiled, steps: int) -> Account:
    """What a program takes that was compiled for a TPU and makes so many steps in a call."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    assert memory is not None
    assert cost is not None
    assert text is not None
    step, once = _cycles(text, steps)
    return Account(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        operations=cost["flops"],
        accessed=cost["bytes accessed"],
        optimal=_optimal(cost["optimal_seconds"], text),
        cycles=step,
        once=once,
        collectives=collectives(text),
    )


def lying_everywhere(mesh: Mesh, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes, as arrays that lie whole on every device; what is no shape stays."""
    whole = replicated(mesh)

    def one(leaf: Any) -> Any:
        is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole) if is_shape else leaf

    return jax.tree.map(one, arguments)


def _optimal(seconds: float, text: str) -> float:
    """Without the -1 s that stands for each call whose cost XLA does not know.

    Those of the kind ConcatBitcast move nothing.
    """
    seconds += text.count('custom_call_target="ConcatBitcast"')
    return seconds if seconds >= 0 else math.nan


def _cycles(text: str, steps: int) -> tuple[int, int]:
    """The compiler's estimate for a step, which is a loop's body if there are many, and the rest.

    A loop within a step counts once: what it says does not hold how often it turns.
    """
    inside = outside = 0
    for is_entry, line in _instructions(text):
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line):
            inside += 0 if is_entry else int(cycles)
            outside += int(cycles) if is_entry else 0
    return (inside, outside) if steps > 1 else (inside + outside, 0)


def _instructions(text: str) -> Iterator[tuple[bool, str]]:
    """Every line of a program, and whether it is one of the entry computation."""
    is_entry = False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            is_entry = line.startswith("ENTRY ")
        yield is_entry, line


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """How many of each kind a program has, and the bytes of their results."""
    found: dict[str, tuple[int, int]] = {}
    for shapes, kind in re.findall(rf"= (\S.*?) ({KINDS})(?:-start)?\(", text):
        count, size = found.get(kind, (0, 0))
        found[kind] = count + 1, size + _bytes(shapes)
    return found


def _bytes(shapes: str) -> int:
    """Of arrays as HLO writes them, such as `(f32[4,8]{1,0}, s32[])`."""
    return sum(
        SIZES[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes)
    )
