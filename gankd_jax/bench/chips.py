"""Chips by name and what they can, and slices of TPUs that need not be there to be compiled for."""

import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from gankd_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can at most."""

    memory: int  # bytes
    bandwidth: float  # of the memory, bytes/s
    peak: float  # operations/s of products of bfloat16, to which JAX rounds float32 there
    clock: float  # cycles/s: the peak over 4 units a core of 128x128 multiply-adds
    layout: str  # libtpu's name for its cores: megacore where two work as one device


# https://cloud.google.com/tpu/docs/v4, /v5e and /v5p, "key chip specifications".
CHIPS = {
    "v4": Chip(32 * 2**30, 1_200e9, 275e12, 1.05e9, "megacore"),
    "v5e": Chip(16 * 2**30, 819e9, 197e12, 1.50e9, "default"),
    "v5p": Chip(95 * 2**30, 2_765e9, 459e12, 1.75e9, "megacore"),
}
# Operations/s at most, in products of float32 as JAX rounds it there: to bfloat16 on TPUs, to TF32
# on GPUs (NVIDIA's data sheets of the A100 and the H200 SXM, without sparsity).
PEAKS = {name: chip.peak for name, chip in CHIPS.items()} | {"A100": 156e12, "H200": 494.5e12}
HOST = 4  # chips; a smaller slice is part of one


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that work together."""

    name: str
    chip: Chip
    devices: list[jax.Device]


def parse(target: str) -> Slice:
    """The slice that `tpu:v5e:2x4` names, by the TPU compiler that the wheel `libtpu` brings.

    Raises:
      UserError: the name is none, or the wheel is not installed.
    """
    found = re.fullmatch(r"tpu:(\w+):(\d+(?:x\d+){1,2})", target)
    if not found:
        raise UserError(f"--compile-for={target} is no slice, such as tpu:v5e:2x4 or tpu:v5p:2x2x1")
    kind, shape = found.groups()
    if kind not in CHIPS:
        raise UserError(f"--compile-for={target}: no chip {kind}; there are {', '.join(CHIPS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--compile-for needs the TPU compiler: pip install 'gankd-jax[tpu]'")
    return Slice(target, CHIPS[kind], _devices(target, kind, shape))


def _devices(target: str, kind: str, shape: str) -> list[jax.Device]:
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken
    # libtpu complains where the machine's name and kind are unknown.
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{kind}-{HOST}")
    sides = [*map(int, shape.split("x")), 1][:3]
    options = {} if math.prod(sides) >= HOST else {"chips_per_host_bounds": sides}
    try:
        found = topologies.get_topology_desc(
            f"{kind}:{shape}", "tpu", chip_config_name=CHIPS[kind].layout, **options
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--compile-for={target} is no slice: {reason}") from error
    return found.devices
