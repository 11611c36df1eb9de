"""The backend's own convolutions, whose gradients cuDNN's own operations compute on a GPU.

XLA's GPU compiler recognizes a gradient by the form in which JAX transposes a strided convolution,
and only of one network at a time.  So both gradients are written by `jax.linear_transpose`, and
`vmap` over networks with kernels of their own becomes one convolution after the other.  Left to
themselves, a transposed convolution would be computed on an image with zeros between its pixels
(four times the multiplications), a kernel's gradient by a convolution with a kernel as large as the
image, and several networks by a grouped convolution.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from gankd_jax.models.conv import im2col
from gankd_jax.models.conv.vjp import Conv, ConvTranspose, Large, Small, tie_vjps

Kernel = Float[Array, "k k i o"]  # 4x4 at stride 2, 3x3 at stride 1

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

    functions = (conv_transpose, conv, kernel_gradient)
    tied_transpose, tied_conv, _ = tie_vjps(*map(_unroll_vmap, functions))
    return tied_transpose, tied_conv


def _unroll_vmap(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """Returns the function; `vmap` of it calls it for one network after the other."""
    unrolled = custom_vmap(function)

    @unrolled.def_vmap
    def call_each(size: int, is_mapped: list[bool], *arrays: Array) -> tuple[Any, bool]:
        rows = [
            unrolled(*(a[k] if mapped else a for a, mapped in zip(arrays, is_mapped, strict=True)))
            for k in range(size)
        ]
        return jnp.stack(rows), True

    return unrolled


conv_transpose_stride2, conv_stride2 = _make_layers(2)
_, conv_stride1 = _make_layers(1)
