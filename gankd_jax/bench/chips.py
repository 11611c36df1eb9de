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


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The limits of an NVIDIA GPU, as XLA's compiler and a roofline need them."""

    title: str
    memory: int  # bytes
    bandwidth: float  # of the memory, bytes/s
    peak: float  # operations/s of TF32 products, to which JAX rounds float32 on a GPU
    capability: str  # NVIDIA's version of its instructions
    cores: int  # streaming multiprocessors
    lanes: int  # float32 units of a core
    clock_ghz: float  # the highest
    l2_bytes: int
    core_threads: int  # that a core holds at once
    core_shared: int  # bytes of shared memory of a core
    block_shared: int  # bytes of it that one block can have


# NVIDIA's data sheets (without sparsity) and the CUDA programming guide's table of capabilities.
_H100 = Gpu(
    title="NVIDIA H100 80GB HBM3",
    memory=80 * 2**30,
    bandwidth=3_352e9,
    peak=494.5e12,
    capability="9.0",
    cores=132,
    lanes=128,
    clock_ghz=1.98,
    l2_bytes=50 * 2**20,
    core_threads=2048,
    core_shared=228 * 2**10,
    block_shared=227 * 2**10,
)
GPUS = {
    "a100": Gpu(
        title="NVIDIA A100-SXM4-80GB",
        memory=80 * 2**30,
        bandwidth=2_039e9,
        peak=156e12,
        capability="8.0",
        cores=108,
        lanes=64,
        clock_ghz=1.41,
        l2_bytes=40 * 2**20,
        core_threads=2048,
        core_shared=164 * 2**10,
        block_shared=163 * 2**10,
    ),
    "h100": _H100,
    "h200": dataclasses.replace(_H100, title="NVIDIA H200", memory=141 * 2**30, bandwidth=4_800e9),
    "l4": Gpu(
        title="NVIDIA L4",
        memory=24 * 2**30,
        bandwidth=300e9,
        peak=60e12,
        capability="8.9",
        cores=58,
        lanes=128,
        clock_ghz=2.04,
        l2_bytes=48 * 2**20,
        core_threads=1536,
        core_shared=100 * 2**10,
        block_shared=99 * 2**10,
    ),
}
# Seconds from the start of one kernel to that of the next, where each is waiting for its turn; an
# assumption, from 1 in a CUDA graph to 4 microseconds without.
LAUNCH_SECONDS = 2e-6
# Most operations/s in products of float32 as JAX rounds it there: to bfloat16 on TPUs, to TF32 on
# GPUs.
PEAK_FLOPS = {name: chip.peak for name, chip in CHIPS.items()}
PEAK_FLOPS |= {name.upper(): gpu.peak for name, gpu in GPUS.items()}
