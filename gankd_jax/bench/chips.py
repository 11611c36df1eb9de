"""The limits of accelerators, from their data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """The limits of a TPU chip, from its data sheet."""

    memory: int  # bytes
    bandwidth: float  # of the memory, bytes/s
    peak: float  # operations/s of bfloat16 products, to which JAX rounds float32 on a TPU
    clock: float  # cycles/s: the peak over 4 units per core of 128x128 multiply-adds
    layout: str  # libtpu's name for its cores: 'megacore' where two work as one device


# https://cloud.google.com/tpu/docs/v4, /v5e and /v5p, "key chip specifications".
CHIPS = {
    "v4": Chip(32 * 2**30, 1_200e9, 275e12, 1.05e9, "megacore"),
    "v5e": Chip(16 * 2**30, 819e9, 197e12, 1.50e9, "default"),
    "v5p": Chip(95 * 2**30, 2_765e9, 459e12, 1.75e9, "megacore"),
}
# Most operations/s in products of float32 as JAX rounds it there: to bfloat16 on TPUs, to TF32 on
# GPUs (NVIDIA's data sheets of the A100 and the H200 SXM, without sparsity).
PEAK_FLOPS = {name: chip.peak for name, chip in CHIPS.items()} | {"A100": 156e12, "H200": 494.5e12}
