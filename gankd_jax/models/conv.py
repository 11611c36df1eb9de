"""The 4x4 stride-2 layers, down and up, each in three forms of equal value.

One set of parameters serves every form: a kernel `(4, 4, in, out)` and a bias `(out,)`.

- `dilated`: the backend's own strided / transposed convolution (cuDNN, the TPU compiler).
- `phase`: a 2x2 stride-1 convolution, into four times the channels and interleaved (up), or on the
  image folded 2x2 into channels (down).
- `matmul`: matrix products.  In heavy layers 36 for 64 multiplications (`conv_fast`); else one,
  over gathered patches of that 2x2 convolution or, where that wastes too much, into all 16 taps and
  then summed.  On XLA's CPU backend it is the only form that stays fast inside a loop and in the
  kernel's gradient.

Padding is 1 on every side, as PyTorch's `Conv2d(4, 2, 1)` and `ConvTranspose2d(4, 2, 1)`:
down halves the side, up doubles it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models import conv_fast
from gankd_jax.models.adjoints import Kernel, Large, Small, tie

LAYOUT = ("NHWC", "HWIO", "NHWC")
FORMS = ("dilated", "phase", "matmul")


def resolve_form(form: str, backend: str = "") -> str:
    """'auto' is matmul on CPU and dilated elsewhere; other names stand for themselves.

    `backend` is cpu, gpu or tpu; that of this process where it is not given.  For TPUs this is the
    compiler's word (configs/results/tpu/forms.md): the other forms read and write up to four times
    as many bytes, in gathered patches and moved axes, and take about twice as long.
    """
    if form != "auto":
        return form
    return "matmul" if (backend or jax.default_backend()) == "cpu" else "dilated"


def up(
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
    if form == "matmul" and _is_heavy(images.shape[1:3], kernel.shape[2:]):
        return conv_fast.up(images, kernel)
    if form == "matmul" and _few_outputs(images, kernel):
        return up_by_taps(images, kernel)
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _interleave(_conv2x2(padded, _up_kernel(kernel), form), kernel.shape[3])


def down(
    images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"], form: str
) -> Float[Array, "b h//2 w//2 o"]:
    """Convolution 4x4, stride 2, padding 1, without bias (even h and w).

    `kernel` is PyTorch's weight `(out, in, 4, 4)` permuted by `(2, 3, 1, 0)`.
    """
    if form == "dilated":
        return lax.conv_general_dilated(
            images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
        )
    _, h, w, _ = images.shape
    if form == "matmul" and _is_heavy((h // 2, w // 2), kernel.shape[2:]):
        return conv_fast.down(images, kernel.swapaxes(2, 3))
    if form == "matmul":
        return down_by_patches(images, kernel.swapaxes(2, 3))
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _conv2x2(_space_to_depth(padded), _down_kernel(kernel), form)


def _conv2x2(
    images: Float[Array, "b h w i"], kernel: Float[Array, "2 2 i o"], form: str
) -> Float[Array, "b h-1 w-1 o"]:
    """Stride-1 2x2 convolution without padding, as a convolution or as one matrix product."""
    if form == "phase":
        return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)
    b, h, w, i = images.shape
    patches = _windows2x2(images).reshape(b * (h - 1) * (w - 1), 4 * i)
    return (patches @ kernel.reshape(4 * i, -1)).reshape(b, h - 1, w - 1, -1)


def _windows2x2(images: Float[Array, "b h w i"]) -> Float[Array, "b h-1 w-1 4*i"]:
    """The four pixels of each 2x2 window, row by row, in channels."""
    _, h, w, _ = images.shape
    windows = [images[:, r : h - 1 + r, s : w - 1 + s] for r in (0, 1) for s in (0, 1)]
    return jnp.concatenate(windows, axis=-1)


def _is_heavy(side: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Where fewer multiplications outweigh more sums and a longer compilation.

    Measured on two cores with AVX-512; `side` is the small image's.
    """
    work = side[0] * side[1] * channels[0] * channels[1]
    return min(channels) >= 32 and work >= 2**17 and side[0] % 2 == side[1] % 2 == 0


def _few_outputs(images: Float[Array, "b h w i"], kernel: Float[Array, "4 4 i o"]) -> bool:
    """Where summing taps beats patches: thin products (to pixels), and the 5/4 windows of 4x4."""
    return kernel.shape[3] < 8 or images.shape[1] == 4


def _up_by_taps(small: Small, kernel: Kernel) -> Large:
    """Every input pixel times every tap of the kernel, summed where they land."""
    b, h, w, i = small.shape
    o = kernel.shape[3]
    products = small.reshape(-1, i) @ kernel.transpose(2, 0, 1, 3).reshape(i, 16 * o)
    rows = _sum_taps(products.reshape(b, h, w, 4, 4, o), axis=1, taps=3)  # b, h, 2, w, 4, o
    return _sum_taps(rows, axis=3, taps=4).reshape(b, 2 * h, 2 * w, o)


def _down_by_patches(large: Large, kernel: Kernel) -> Small:
    patches = _patches(large)
    rows = _down_kernel(kernel.swapaxes(2, 3)).reshape(patches.shape[3], -1)
    return (patches.reshape(-1, patches.shape[3]) @ rows).reshape(*patches.shape[:3], -1)


def _correlate_by_patches(small: Small, large: Large) -> Kernel:
    """The rows of `_down_kernel`, put back where they were."""
    i, o, patches = small.shape[3], large.shape[3], _patches(large)
    # Contracted as they lie, since a transpose would be written out, and the thin one first: twice
    # as fast as the other way round for a few channels.
    given, seen = (x.reshape(-1, x.shape[3]) for x in (small, patches))
    rows = lax.dot_general(given, seen, (((0,), (0,)), ((), ())))
    split = rows.reshape(i, 2, 2, 2, 2, o)  # block row, block column, row, column
    return split.transpose(1, 3, 2, 4, 0, 5).reshape(4, 4, i, o)


up_by_taps, down_by_patches, _ = tie(_up_by_taps, _down_by_patches, _correlate_by_patches)


def _patches(large: Large) -> Float[Array, "b h w taps"]:
    """What each small pixel's 16 taps see: four blocks of 2x2 pixels."""
    blocks = _space_to_depth(jnp.pad(large, ((0, 0), (1, 1), (1, 1), (0, 0))))
    return _windows2x2(blocks)


def _sum_taps(products: Array, *, axis: int, taps: int) -> Array:
    """Along one side: pixel 2m gets taps 1 of m and 3 of m - 1; 2m + 1 gets 2 of m and 0 of m + 1.

    The axis `taps` goes; one of the two phases comes in after `axis`.
    """
    tap = [lax.index_in_dim(products, k, taps, keepdims=False) for k in range(4)]
    return jnp.stack(
        [
            tap[1] + conv_fast.shift(tap[3], 1, axis=axis),
            tap[2] + conv_fast.shift(tap[0], -1, axis=axis),
        ],
        axis=axis + 1,
    )


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


def _space_to_depth(images: Float[Array, "b h w i"]) -> Float[Array, "b h//2 w//2 4*i"]:
    b, h, w, i = images.shape
    blocks = images.reshape(b, h // 2, 2, w // 2, 2, i).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(b, h // 2, w // 2, 4 * i)


def _down_kernel(kernel: Float[Array, "4 4 i o"]) -> Float[Array, "2 2 4*i o"]:
    i, o = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, i, o)  # block row, row, block column, column
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * i, o)
