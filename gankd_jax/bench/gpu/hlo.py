"""Reads the kernels of a program that XLA compiled for a GPU from its text.

An instruction of the optimized module (a fusion, a call of a library, a copy) is about one kernel
that the GPU starts.  XLA's own account of operations and bytes does not exist for GPUs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from gankd_jax.bench.programs import shape_bytes

# Instructions that start nothing on the GPU.
FREE_OPCODES = frozenset(
    ["parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "copy-done"]
)
SLICING_OPCODES = frozenset(("dynamic-slice", "slice", "gather"))
CONV_KINDS = {"Forward": "forward", "BackwardInput": "input", "BackwardFilter": "filter"}
MAX_KERNEL_SIDE = 7  # of a network's convolution; an image's gradient has larger ones
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a module."""

    name: str
    shape: str  # as HLO writes it, such as `(f32[4,8]{1,0}, s32[])`
    opcode: str
    operands: tuple[str, ...]  # names of instructions of the same computation
    attributes: str
    is_root: bool


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the GPU starts at once.

    Attributes:
        times: How often in a call of the program.
        flops: Operations of its convolutions and matrix products, 2 for each multiply-add.
        bytes: Read and written, each array once.
        conv: For a convolution 'forward', or 'input' or 'filter' for cuDNN's gradients in either.
        fault: Why a convolution is slow: 'zeros', on an image with zeros between its pixels;
          'window', with a kernel as large as an image; 'groups', of several networks at once;
          'none of cuDNN's' without cuDNN.
    """

    times: int
    flops: int
    bytes: int
    conv: str = ""
    fault: str = ""


class Module:
    """The computations of an optimized module, by name."""

    def __init__(self, text: str):
        self.entry = ""
        self._computations: dict[str, dict[str, Instruction]] = {}
        for line in text.splitlines():
            if match := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
                instructions = self._computations.setdefault(match[2], {})
                self.entry = match[2] if match[1] else self.entry
            elif match := INSTRUCTION.match(line):
                instructions[match[1]] = _parse_instruction(match, line)

    def kernels(self) -> list[Kernel]:
        """Returns what a call starts, loops' bodies with the number of their turns."""
        return list(self._iterate_kernels(self.entry, 1))

    def _iterate_kernels(self, name: str, times: int) -> Iterator[Kernel]:
        computation = self._computations[name]
        for instruction in computation.values():
            if instruction.opcode == "while":
                turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
                (body,) = _called(instruction, "body")
                yield from self._iterate_kernels(body, times * int(turns[1] if turns else 1))
            elif instruction.opcode in ("call", "conditional"):
                for called in _called(instruction, "to_apply|branch_computations"):
                    yield from self._iterate_kernels(called, times)
            elif instruction.opcode not in FREE_OPCODES:
                yield self._make_kernel(instruction, computation, times)

    def _make_kernel(
        self, instruction: Instruction, computation: Mapping[str, Instruction], times: int
    ) -> Kernel:
        flops = _count_flops(instruction, computation)
        moved = shape_bytes(instruction.shape)
        if instruction.opcode == "fusion":
            (name,) = _called(instruction, "calls")
            fused = self._computations[name]
            flops = sum(_count_flops(inner, fused) for inner in fused.values())
            moved = _fusion_bytes(fused)
        elif instruction.opcode in SLICING_OPCODES:
            moved *= 2
        else:
            moved += sum(shape_bytes(computation[x].shape) for x in instruction.operands)
        conv = _conv_kind(instruction)
        fault = self._find_fault(instruction, computation) if conv else ""
        return Kernel(times, flops, moved, conv, fault)

    def _find_fault(self, instruction: Instruction, computation: Mapping[str, Instruction]) -> str:
        if instruction.opcode == "convolution":
            return "none of cuDNN's"
        sides = re.search(r"size=(\d+)x(\d+)", instruction.attributes)
        if "rhs_dilate" in instruction.attributes or (
            sides and max(int(sides[1]), int(sides[2])) > MAX_KERNEL_SIDE
        ):
            return "window"
        if any(self._has_interior_padding(computation, name) for name in instruction.operands):
            return "zeros"
        return "groups" if "feature_group_count" in instruction.attributes else ""

    def _has_interior_padding(self, computation: Mapping[str, Instruction], name: str) -> bool:
        """Returns whether an array is written with zeros between its numbers."""
        source = computation[name]
        if source.opcode in ("bitcast", "get-tuple-element"):
            return self._has_interior_padding(computation, source.operands[0])
        if source.opcode == "fusion":
            (fused,) = _called(source, "calls")
            return any(_pads_inside(inner) for inner in self._computations[fused].values())
        return _pads_inside(source)


def _parse_instruction(match: re.Match[str], line: str) -> Instruction:
    name, shape, opcode, rest = match.groups()
    arguments, _, attributes = rest.partition(")")
    operands = tuple(re.findall(r"%([\w.-]+)", arguments))
    return Instruction(name, shape, opcode, operands, attributes, "ROOT %" in line)


def _called(instruction: Instruction, keys: str) -> list[str]:
    """Returns the computations that an instruction names under any of the keys."""
    words = re.findall(rf"(?:{keys})=(\{{[^}}]*\}}|%[\w.-]+)", instruction.attributes)
    return [name for word in words for name in re.findall(r"%([\w.-]+)", word)]


def _array_sides(shape: str) -> list[list[int]]:
    """Returns the sides of the arrays of a shape."""
    return [
        [int(side) for side in sides.split(",") if side]
        for _, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    ]


def _fusion_bytes(fused: Mapping[str, Instruction]) -> int:
    """Counts what a fusion reads and writes: of arrays that it slices or updates, that part."""
    read = sum(_read_bytes(fused, x) for x in fused.values() if x.opcode == "parameter")
    (root,) = (x for x in fused.values() if x.is_root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return read + sum(_written_bytes(fused, result) for result in results)


def _read_bytes(fused: Mapping[str, Instruction], source: Instruction) -> int:
    users = [x for x in fused.values() if source.name in x.operands]
    total = 0
    for user in users:
        if user.opcode == "bitcast":
            total += _read_bytes(fused, user)
        elif user.opcode in SLICING_OPCODES and user.operands[0] == source.name:
            total += shape_bytes(user.shape)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != source.name:
            return shape_bytes(source.shape)
    return min(total, shape_bytes(source.shape))


def _written_bytes(fused: Mapping[str, Instruction], result: Instruction) -> int:
    if result.opcode == "bitcast":
        return _written_bytes(fused, fused[result.operands[0]])
    if result.opcode == "dynamic-update-slice":
        return shape_bytes(fused[result.operands[1]].shape)
    return shape_bytes(result.shape)


def _count_flops(instruction: Instruction, computation: Mapping[str, Instruction]) -> int:
    if _conv_kind(instruction):
        return _conv_flops(instruction, computation)
    contracted = re.search(
        r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([\d,"]+)', instruction.attributes
    )
    if not contracted:
        return 0
    lhs = _array_sides(computation[instruction.operands[0]].shape)[0]
    inner = math.prod(lhs[int(axis)] for axis in re.findall(r"\d+", contracted[1]))
    return 2 * math.prod(_array_sides(instruction.shape)[0]) * inner


def _conv_kind(instruction: Instruction) -> str:
    if instruction.opcode == "convolution":
        return "forward"
    match = re.search(r'custom_call_target="__cudnn\$conv(\w+)"', instruction.attributes)
    return CONV_KINDS.get(match[1], "forward") if match else ""


def _conv_flops(instruction: Instruction, computation: Mapping[str, Instruction]) -> int:
    """Counts a kernel's multiply-adds for every pixel of the small image, twice."""
    result = _array_sides(instruction.shape)[0]
    first, second = (_array_sides(computation[x].shape)[0] for x in instruction.operands[:2])
    small, kernel = {
        "forward": (result, second),
        "input": (first, second),
        "filter": (second, result),
    }[_conv_kind(instruction)]
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.attributes)
    assert labels is not None
    outputs = kernel[labels[1].index("o")]
    return 2 * math.prod(small) * math.prod(kernel) // outputs


def _pads_inside(instruction: Instruction) -> bool:
    """Returns whether it is a pad that lays zeros between numbers, as in `padding=0_0_1x2_2_1`."""
    return instruction.opcode == "pad" and bool(
        re.search(r"padding=\S*?-?\d+_-?\d+_[1-9]", instruction.attributes)
    )
