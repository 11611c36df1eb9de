"""The backend's own convolutions, whose gradients cuDNN's own operations compute on a GPU.

XLA's GPU compiler recognizes a gradient by the form in which JAX transposes a strided convolution,
and only of one network at a time.  So both gradients are written by `jax.linear_transpose`, and on
a GPU `vmap` over networks becomes one convolution after the other.  Left to themselves, a
transposed convolution would be computed on an image with zeros between its pixels (four times the
multiplications), a kernel's gradient by a convolution with a kernel as large as the image, and
several networks by a grouped convolution.  A TPU's compiler does better with those: three networks
take a fifth less of a single chip's cycles together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.sharding import get_abstract_mesh
from jaxtyping import Array, Float

from gankd_jax.models.conv import im2col
from gankd_jax.models.conv.vjp import Conv, ConvTranspose, Large, Small, tie_vjps

Kernel = Float[Array, "k k i o"]  # 4x4 at stride 2, 3x3 at stride 1
Product = Callable[[Array, Array], Array]
# A kernel's axes run from the small image's channels to the large one's: `o` reads, `i` writes.
LAYOUT = ("NHWC", "HWOI", "NHWC")


def _make_layers(stride: int) -> tuple[ConvTranspose, Conv]:
    """Returns the transposed convolution and the convolution of a kernel of `stride + 2` pixels."""
    size, padding = stride + 2, ((1, 1), (1, 1))

    def conv(large: Large, kernel: Kernel) -> Small:
        strides = (stride, stride)
        return lax.conv_general_dilated(large, kernel, strides, padding, dimension_numbers=LAYOUT)

    def conv_transpose(small: Small, kernel: Kernel) -> Large:
        b, h, w, _ = small.shape
        large = jax.ShapeDtypeStruct((b, stride * h, stride * w, kernel.shape[3]), small.dtype)
        (images,) = jax.linear_transpose(lambda images: conv(images, kernel), large)(small)
        return images

    def transpose_in_kernel(small: Small, large: Large) -> Kernel:
        kernel = jax.ShapeDtypeStruct((size, size, small.shape[3], large.shape[3]), small.dtype)
        (gradient,) = jax.linear_transpose(lambda kernel: conv(large, kernel), kernel)(small)
        return gradient

    def kernel_gradient(small: Small, large: Large) -> Kernel:
        if stride == 1 or min(small.shape[1:3]) > size:
            return transpose_in_kernel(small, large)
        # XLA takes the gradient of images as small as the kernel for a dilated convolution.
        return lax.platform_dependent(
            small, large, cuda=im2col.kernel_gradient_im2col, default=transpose_in_kernel
        )

    tied_transpose, tied_conv, _ = tie_vjps(
        _unroll_vmap(conv_transpose, reads_kernel=True),
        _unroll_vmap(conv, reads_kernel=True),
        _unroll_vmap(kernel_gradient, reads_kernel=False),
    )
    return tied_transpose, tied_conv


def _unroll_vmap(function: Product, *, reads_kernel: bool) -> Product:
    """Returns the function; `vmap` of it calls it for one network after the other where faster.

    That is on a GPU, and on devices that share each batch (`sharding.use_batch_mesh`).

    Args:
        function: Of two images, or of an image and a kernel.
        reads_kernel: Whether it is of an image and a kernel.
    """
    unrolled = custom_vmap(function)

    @unrolled.def_vmap
    def call_all(size: int, is_mapped: list[bool], *arrays: Array) -> tuple[Any, bool]:
        axes = [0 if mapped else None for mapped in is_mapped]
        in_turn, together = map_in_turn(unrolled, axes), jax.vmap(function, axes)
        if get_abstract_mesh().size > 1:
            # Devices share each batch.  XLA does not divide a grouped convolution, nor batches that
            # are joined before their own axis: each device would compute the whole batch.
            return in_turn(*arrays), True
        shares_kernel = reads_kernel and is_mapped == [True, False]
        on_gpu = join_batches(unrolled) if shares_kernel else in_turn
        return lax.platform_dependent(*arrays, cuda=on_gpu, default=together), True

    return unrolled


def join_batches(function: Product) -> Product:
    """Returns what `jax.vmap` does with a kernel of all batches, as one call of a larger batch.

    Args:
        function: Of a batch of images and a kernel.
    """

    def call_once(images: Array, kernel: Array) -> Array:
        joined = function(images.reshape(-1, *images.shape[2:]), kernel)
        return joined.reshape(*images.shape[:2], *joined.shape[1:])

    return call_once


def map_in_turn(function: Product, axes: Sequence[int | None]) -> Product:
    """Returns what `jax.vmap` does, as one call after the other.

    Args:
        function: Of two arrays.
        axes: Of either, 0 where it is mapped over its first axis and None where it is not.
    """

    def call_each(a: Array, b: Array) -> Array:
        count = len(b if axes[0] is None else a)
        rows = [
            [x if axis is None else x[k] for x, axis in zip((a, b), axes, strict=True)]
            for k in range(count)
        ]
        return jnp.stack([function(*row) for row in rows])

    return call_each


conv_transpose_stride2, conv_stride2 = _make_layers(2)
_, conv_stride1 = _make_layers(1)
