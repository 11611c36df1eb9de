"""The table of programs compiled for a GPU that is not here.

The compiler comes with the CUDA build of JAX (the extra `cuda`, 3.6 GB), which no test installs:
where it is, it compiles layers and a tiny study.
"""

import collections
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.bench import programs
from gankd_jax.bench.chips import GPUS, LAUNCH_SECONDS
from gankd_jax.bench.gpu import gpu_report
from gankd_jax.bench.gpu.hlo import Kernel
from gankd_jax.models import conv
from gankd_jax.utils.errors import UserError

needs_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="the CUDA build of JAX is not installed",
)
BATCH, WIDTHS = 4, (2, 64)
LAYERS = {"up": conv.conv_transpose_stride2, "down": conv.conv_stride2, "same": conv.conv_stride1}


def test_unknown_gpus_are_refused_and_without_the_compiler_the_error_names_the_extra(monkeypatch):
    with pytest.raises(UserError, match="no GPU h99; there are a100, h100, h200, l4"):
        gpu_report.find_gpu("gpu:h99")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gankd-jax\[cuda\]'"):
        gpu_report.find_gpu("gpu:h100")


def test_a_row_adds_up_the_kernels_of_a_step():
    gpu = GPUS["h100"]
    program = tiny_program(steps=10)
    small = Kernel(times=10, flops=10**6, bytes=10**3, conv="forward", fault="zeros")
    moving = Kernel(times=20, flops=0, bytes=10**9)
    heavy = Kernel(times=10, flops=10**12, bytes=10**6, conv="filter")
    stats = gpu_report.GpuStats((small, moving, heavy, Kernel(1, 5, 5)), temporary_bytes=3 * 10**6)
    row = dict(zip(gpu_report.HEADER, gpu_report._row(program, stats, gpu), strict=True))
    assert (row["kernels"], row["once"], row["convolutions"]) == ("4", "1", "2")
    assert (row["forward"], row["filter"], row["not cuDNN's own"]) == ("0", "1", "1 zeros")
    seconds = LAUNCH_SECONDS + 2 * 10**9 / gpu.bandwidth + 10**12 / gpu.peak
    assert float(row["estimate ms"]) == pytest.approx(1e3 * seconds, abs=5e-4)
    assert row["of peak"] == f"{(10**12 + 10**6) / seconds / gpu.peak:.0%}"
    assert gpu_report._row(program, "does not fit", gpu)[-1] == "does not fit"


def test_kernels_between_convolutions_are_launched_as_a_graph_if_there_are_five():
    small, conv_kernel = Kernel(1, 0, 0), Kernel(1, 0, 0, "forward")
    step = [*[small] * 5, conv_kernel, conv_kernel, *[small] * 4, conv_kernel, *[small] * 9]
    assert gpu_report.count_launches(step) == 1 + 2 + 4 + 1 + 1
    assert gpu_report.count_launches([*[small] * 6, *[Kernel(3, 0, 0)] * 2]) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("RESOURCE_EXHAUSTED: 3 GB\nof 2", "does not fit: RESOURCE_EXHAUSTED: 3 GB"),
        ("INTERNAL: no tile\nsizes", "the compiler failed: INTERNAL: no tile"),
    ],
)
def test_a_program_that_does_not_compile_is_told_in_its_row(message, reason):
    def compile_nth(_):
        raise jax.errors.JaxRuntimeError(message)

    assert programs._try_to_compile(compile_nth, 0) == reason


def tiny_program(steps):
    return programs.Program("students", 1, jax.jit(lambda x: x), (), steps=steps)


def layer_gradients(name, *, order):
    """Returns a layer's value and gradients, or (order 2) those of its squared slope."""

    def loss(images, kernel):
        return jnp.sum(jnp.sin(LAYERS[name](images, kernel, "dilated")))

    def squared_slope(images, kernel):
        return jnp.sum(jnp.square(jax.grad(loss)(images, kernel)))

    return jax.value_and_grad(loss if order == 1 else squared_slope, (0, 1))


def layer_shapes(name, side, width):
    """Returns the shapes of a batch of images and of the kernel from 2 width channels to width."""
    size = 3 if name == "same" else 4
    return (BATCH, side, side, 2 * width), (size, size, 2 * width, width)


@needs_cuda
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_every_convolution_and_gradient_is_one_of_cudnns_own(name, seeds):
    mesh = gpu_report.make_mesh(GPUS["h100"])
    shapes = [layer_shapes(name, side, width) for side in (8, 32) for width in WIDTHS]

    @jax.jit
    def gradients_of_all(inputs):
        return [jax.vmap(layer_gradients(name, order=1))(*arrays) for arrays in inputs]

    inputs = [
        [jax.ShapeDtypeStruct((seeds, *shape), np.float32) for shape in pair] for pair in shapes
    ]
    counts = count_convolutions(gpu_report.compile_for_gpu(mesh, gradients_of_all, inputs))
    small_images = name == "down"  # whose gradients in the kernel are products
    layers = seeds * len(shapes)
    assert counts == {
        "forward": layers,
        "input": layers,
        "filter": layers - small_images * seeds * len(WIDTHS),
    }


@needs_cuda
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_slopes_penalty_are_cudnns_own(name):
    mesh = gpu_report.make_mesh(GPUS["h100"])
    function = jax.jit(layer_gradients(name, order=2))
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in layer_shapes(name, 32, 16)]
    counts = count_convolutions(gpu_report.compile_for_gpu(mesh, function, *shapes))
    assert set(counts) == {"forward", "input", "filter"}


def count_convolutions(stats) -> dict[str, int]:
    """Counts by kind; a convolution that is not cuDNN's own by its fault."""
    return collections.Counter(k.fault or k.conv for k in stats.kernels if k.conv)


@needs_cuda
@pytest.mark.slow
def test_a_study_is_compiled_for_a_gpu():
    config = tiny.config()
    text = gpu_report.describe_gpu_programs(config, "gpu:l4")
    rows = [line.split() for line in text.splitlines()[2:5]]
    assert [row[:2] for row in rows] == [["teachers", "1"], ["students", "4"], ["baselines", "2"]]
    for row in rows:
        kernels, _, convolutions, forward, inputs, filters, *others = row[2:]
        assert int(kernels) > int(convolutions) == int(forward) + int(inputs) + int(filters)
        assert others[0] == "none"
