"""Convolutions in implementations of equal value: 4x4 at stride 2, also transposed, and 3x3.

All implementations share one set of parameters: a kernel `(4, 4, in, out)` and a bias `(out,)`.

Those of 4x4 have three:

- `dilated`: the backend's own strided and transposed convolution (`strided`; cuDNN, the TPU
  compiler).
- `phase`: a 2x2 convolution at stride 1.  Transposed: into four times the channels, one set for
  each phase of the output's rows and columns, which are then interleaved.  Not transposed: on an
  image whose 2x2 blocks of pixels are folded into channels.
- `matmul`: matrix products, the fastest on XLA's CPU backend inside a compiled loop and for the
  kernel's gradient.  Heavy layers take 36 multiplications in place of 64 (`winograd`), light ones
  a single product (`im2col`), by whichever of its two layouts moves less memory.

Padding is 1 on every side, as in PyTorch's `Conv2d(4, 2, 1)` and `ConvTranspose2d(4, 2, 1)`: a
convolution halves the side, a transposed one doubles it.  The 3x3 convolution has two
implementations: the backend's own, and matrix products for `matmul`.

Images and kernels in bfloat16 give images in bfloat16; the sums are in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv import im2col, strided, winograd, winograd3x3
from gankd_jax.models.conv.vjp import Conv, ConvTranspose

LAYOUT = ("NHWC", "HWIO", "NHWC")
CONV_IMPLS = ("dilated", "phase", "matmul")
MIN_TILE_CHANNELS = 16  # of a 3x3 convolution in tiles, which pay off in wide ones


def resolve_conv_impl(impl: str, backend: str = "") -> str:
    """Resolves 'auto' to the implementation that is fastest on a backend.

    On a TPU it is `dilated`, judged by the compiler's estimates (configs/results/tpu/forms.md): the
    other implementations read and write up to four times as many bytes, in gathered patches and
    transposed axes, and take about twice as long.

    Args:
        impl: 'auto', or one of `CONV_IMPLS`, which is returned unchanged.
        backend: 'cpu', 'gpu' or 'tpu'; the default backend of this process if it is empty.

    Returns:
        One of `CONV_IMPLS`: for 'auto', 'matmul' on a CPU and 'dilated' elsewhere.
    """
    if impl != "auto":
        return impl
    return "matmul" if (backend or jax.default_backend()) == "cpu" else "dilated"


def conv_transpose_stride2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"], impl: str
) -> Float[Array, "b 2*h 2*w o"]:
    """Transposed convolution: 4x4, stride 2, padding 1, without bias.

    Args:
        images: Any height and width.
        kernel: `kernel[r, s]` maps an input pixel to the output pixel at offset `(r, s)`.  It is
          PyTorch's weight `(in, out, 4, 4)`, permuted by `(2, 3, 0, 1)`.
        impl: One of `CONV_IMPLS`.
    """
    if impl == "dilated":
        return strided.conv_transpose_stride2(images, kernel)
    if impl == "matmul":
        conv_transpose, _ = _choose_matmul(images.shape[1:3], kernel.shape[2:])
        return _sum_in_float32(conv_transpose, images, kernel)
    phases = _conv2x2(im2col.pad_border(images), _phase_kernel(kernel))
    return _interleave_phases(phases, kernel.shape[3])


def conv_stride2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"], impl: str
) -> Float[Array, "b h//2 w//2 o"]:
    """Convolution: 4x4, stride 2, padding 1, without bias.

    Args:
        images: Of even height and width.
        kernel: PyTorch's weight `(out, in, 4, 4)`, permuted by `(2, 3, 1, 0)`.
        impl: One of `CONV_IMPLS`.
    """
    if impl == "dilated":
        return strided.conv_stride2(images, kernel.swapaxes(2, 3))
    if impl == "matmul":
        _, h, w, _ = images.shape
        adjoint = kernel.swapaxes(2, 3)
        _, conv = _choose_matmul((h // 2, w // 2), adjoint.shape[2:])
        return _sum_in_float32(conv, images, adjoint)
    return _conv2x2(im2col.space_to_depth(images), im2col.space_to_depth_kernel(kernel))


def conv_stride1(
    images: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], impl: str
) -> Float[Array, "b h w o"]:
    """Convolution: 3x3, stride 1, padding 1, without bias.

    Args:
        images: Any height and width.
        kernel: PyTorch's weight `(out, in, 3, 3)`, permuted by `(2, 3, 1, 0)`.
        impl: 'matmul' for matrix products: 36 of tiles in place of 144 (`winograd3x3`) from 16
          channels on, else one.  All others mean the backend's own convolution, which XLA's CPU
          backend computes up to 60 times as slowly inside a compiled loop.
    """
    if impl != "matmul":
        return strided.conv_stride1(images, kernel.swapaxes(2, 3))
    return _sum_in_float32(_conv3x3, images, kernel)


def _conv3x3(
    images: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]
) -> Float[Array, "b h w o"]:
    b, h, w, i = images.shape
    is_tiled = h % winograd3x3.TILE == w % winograd3x3.TILE == 0
    if is_tiled and min(kernel.shape[2:]) >= MIN_TILE_CHANNELS:
        return winograd3x3.conv(images, kernel.swapaxes(2, 3))
    padded = im2col.pad_border(images)
    windows = [padded[:, r : r + h, s : s + w] for r in range(3) for s in range(3)]
    rows = jnp.concatenate(windows, axis=3).reshape(-1, 9 * i)
    return (rows @ kernel.reshape(9 * i, -1)).reshape(b, h, w, -1)


def _sum_in_float32(
    convolve: Callable[[Array, Array], Array], images: Array, kernel: Array
) -> Array:
    """Convolves rounded numbers as the backends' own convolutions do: only the result is rounded.

    Args:
        convolve: Adds up the products of several matrices.
        images: In float32, where nothing is rounded, or in bfloat16.
        kernel: Of the same type.
    """
    wide = jnp.promote_types(images.dtype, jnp.float32)
    return convolve(images.astype(wide), kernel.astype(wide)).astype(images.dtype)


def _conv2x2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "2 2 i o"]
) -> Float[Array, "b h-1 w-1 o"]:
    return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def _choose_matmul(side: tuple[int, ...], channels: tuple[int, ...]) -> tuple[ConvTranspose, Conv]:
    """Chooses the fastest matrix products for a layer.

    Args:
        side: Height and width of the small image.
        channels: Of the small image and of the large one.
    """
    if _is_heavy(side, channels):
        return winograd.conv_transpose, winograd.conv
    if _windows_are_faster(side, channels):
        return im2col.conv_transpose_windows, im2col.conv_windows
    return im2col.conv_transpose_col2im, im2col.conv_im2col


def _is_heavy(side: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Returns whether fewer multiplications outweigh more additions and a longer compilation.

    The bounds were measured on two cores with AVX-512.  Lower bounds make small layers slower and
    compile longer; higher ones leave products of 64 multiplications where 36 would do.
    """
    work = side[0] * side[1] * channels[0] * channels[1]
    return min(channels) >= 32 and work >= 2**17 and side[0] % 2 == side[1] % 2 == 0


def _windows_are_faster(side: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Returns whether windows move less memory than taps.

    Small images have too many windows at their edges.  The bounds were measured as above.
    """
    return min(side) >= 16 and channels[0] < 4 * channels[1]


def _phase_kernel(kernel: Float[Array, "4 4 i o"]) -> Float[Array, "2 2 i 4*o"]:
    """Returns the four phases of a transposed convolution as one 2x2 kernel.

    Output row `2m + p` reads input rows `m - 1 + p` and `m + p`, at kernel rows `3 - p` and `1 - p`
    modulo 4: phase 0 reads kernel rows 3 and 1, phase 1 rows 2 and 0.
    """
    i, o = kernel.shape[2:]
    # (phase, tap) of a kernel row: 3 -> (0, 0), 1 -> (0, 1), 2 -> (1, 0), 0 -> (1, 1)
    rows = jnp.array([3, 1, 2, 0])
    split = kernel[rows][:, rows].reshape(2, 2, 2, 2, i, o)  # p, r, q, s, i, o
    return split.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, i, 4 * o)


def _interleave_phases(phases: Float[Array, "b h1 w1 4*{o}"], o: int) -> Float[Array, "b h w {o}"]:
    """Moves window `(m + p, n + q)` of phase `(p, q)` to output pixel `(2m + p, 2n + q)`."""
    b, h, w, _ = phases.shape
    h, w = h - 1, w - 1
    parts = [
        phases[:, p : h + p, q : w + q, (2 * p + q) * o : (2 * p + q + 1) * o]
        for p in (0, 1)
        for q in (0, 1)
    ]
    stacked = jnp.stack(parts, axis=3).reshape(b, h, w, 2, 2, o)
    return stacked.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, o)
