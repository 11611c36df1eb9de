"""The 4x4 stride-2 layers, down and up, each in three forms of equal value.

One set of parameters serves every form: a kernel `(4, 4, in, out)` and a bias `(out,)`.

- `dilated`: the backend's own strided / transposed convolution (cuDNN, the TPU compiler).
- `phase`: a 2x2 stride-1 convolution, into four times the channels and interleaved (up), or on the
  image folded 2x2 into channels (down).
- `matmul`: matrix products.  In heavy layers 36 for 64 multiplications (`conv_fast`); else one, by
  taps or by windows, whichever moves less memory (`conv_light`).  On XLA's CPU backend it is the
  only form that stays fast inside a loop and in the kernel's gradient.

Padding is 1 on every side, as PyTorch's `Conv2d(4, 2, 1)` and `ConvTranspose2d(4, 2, 1)`:
down halves the side, up doubles it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv import im2col, winograd
from gankd_jax.models.conv.vjp import Conv, ConvTranspose

LAYOUT = ("NHWC", "HWIO", "NHWC")
CONV_IMPLS = ("dilated", "phase", "matmul")


def resolve_conv_impl(form: str, backend: str = "") -> str:
    """'auto' is matmul on CPU and dilated elsewhere; other names stand for themselves.

    `backend` is cpu, gpu or tpu; that of this process where it is not given.  For TPUs this is the
    compiler's word (configs/results/tpu/forms.md): the other forms read and write up to four times
    as many bytes, in gathered patches and moved axes, and take about twice as long.
    """
    if form != "auto":
        return form
    return "matmul" if (backend or jax.default_backend()) == "cpu" else "dilated"


def conv_transpose_stride2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"], form: str
) -> Float[Array, "b 2*h 2*w o"]:
    """Transposed convolution 4x4, stride 2, padding 1, without bias.

    `kernel[r, s]` takes an input pixel to the output pixel at offset `(r, s)`: PyTorch's weight
    `(in, out, 4, 4)` permuted by `(2, 3, 0, 1)`.
    """
    if form == "dilated":
        flipped = kernel[::-1, ::-1]
        return lax.conv_general_dilated(
            images, flipped, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=LAYOUT
        )
    if form == "matmul":
        return _ways(images.shape[1:3], kernel.shape[2:])[0](images, kernel)
    phases = _conv2x2(im2col.pad_border(images), _up_kernel(kernel))
    return _interleave(phases, kernel.shape[3])


def conv_stride2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"], form: str
) -> Float[Array, "b h//2 w//2 o"]:
    """Convolution 4x4, stride 2, padding 1, without bias (even h and w).

    `kernel` is PyTorch's weight `(out, in, 4, 4)` permuted by `(2, 3, 1, 0)`.
    """
    if form == "dilated":
        return lax.conv_general_dilated(
            images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
        )
    if form == "matmul":
        _, h, w, _ = images.shape
        inverse = kernel.swapaxes(2, 3)
        return _ways((h // 2, w // 2), inverse.shape[2:])[1](images, inverse)
    return _conv2x2(im2col.space_to_depth(images), im2col.space_to_depth_kernel(kernel))


def _conv2x2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "2 2 i o"]
) -> Float[Array, "b h-1 w-1 o"]:
    return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def _ways(side: tuple[int, ...], channels: tuple[int, ...]) -> tuple[ConvTranspose, Conv]:
    """The matrix products for a small image's side, and channels of the small and the large one."""
    if _is_heavy(side, channels):
        return winograd.conv_transpose, winograd.conv
    if _are_windows_less(side, channels):
        return im2col.conv_transpose_windows, im2col.conv_windows
    return im2col.conv_transpose_col2im, im2col.conv_im2col


def _is_heavy(side: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Where fewer multiplications outweigh more sums and a longer compilation.

    Measured on two cores with AVX-512; `side` is the small image's.
    """
    work = side[0] * side[1] * channels[0] * channels[1]
    return min(channels) >= 32 and work >= 2**17 and side[0] % 2 == side[1] % 2 == 0


def _are_windows_less(side: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Where windows are faster than taps: not of small images, which have many at their edges."""
    return min(side) >= 16 and channels[0] < 4 * channels[1]


def _up_kernel(kernel: Float[Array, "4 4 i o"]) -> Float[Array, "2 2 i 4*o"]:
    """The four phases of a transposed convolution, as one 2x2 kernel.

    Output row `2m + p` reads input rows `m - 1 + p` and `m + p`, at kernel rows `3 - p` and `1 - p`
    modulo 4: phase 0 by (3, 1), phase 1 by (2, 0).
    """
    i, o = kernel.shape[2:]
    # (phase, tap) of a kernel row: 3 -> (0, 0), 1 -> (0, 1), 2 -> (1, 0), 0 -> (1, 1)
    order = jnp.array([3, 1, 2, 0])
    split = kernel[order][:, order].reshape(2, 2, 2, 2, i, o)  # p, r, q, s, i, o
    return split.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, i, 4 * o)


def _interleave(phases: Float[Array, "b h1 w1 4*{o}"], o: int) -> Float[Array, "b h w {o}"]:
    """Window `(m + p, n + q)` of phase `(p, q)` becomes output pixel `(2m + p, 2n + q)`."""
    b, h, w, _ = phases.shape
    h, w = h - 1, w - 1
    parts = [
        phases[:, p : h + p, q : w + q, (2 * p + q) * o : (2 * p + q + 1) * o]
        for p in (0, 1)
        for q in (0, 1)
    ]
    stacked = jnp.stack(parts, axis=3).reshape(b, h, w, 2, 2, o)
    return stacked.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, o)
