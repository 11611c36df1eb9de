"""The 4x4 stride-2 layers as one plain matrix product, by taps or by windows.

By taps, every small pixel meets all 16 taps of the kernel; by windows, every 2x2 window of small
pixels meets the 2x2 block of large ones between them.  Taps hold `16 o` numbers for a small pixel,
windows `4 i` and `4 o`, and one more row and column of them.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv.vjp import Kernel, Large, Small, tie_vjps
from gankd_jax.models.conv.winograd import shift_axis


def _up_by_taps(small: Small, kernel: Kernel) -> Large:
    """Every input pixel times every tap of the kernel, summed where they land."""
    b, h, w, i = small.shape
    o = kernel.shape[3]
    products = small.reshape(-1, i) @ kernel.transpose(2, 0, 1, 3).reshape(i, 16 * o)
    rows = _sum_taps(products.reshape(b, h, w, 4, 4, o), axis=1, taps=3)  # b, h, 2, w, 4, o
    return _sum_taps(rows, axis=3, taps=4).reshape(b, 2 * h, 2 * w, o)


def _down_by_taps(large: Large, kernel: Kernel) -> Small:
    patches = _patches(large)
    rows = space_to_depth_kernel(kernel.swapaxes(2, 3)).reshape(patches.shape[3], -1)
    return (patches.reshape(-1, patches.shape[3]) @ rows).reshape(*patches.shape[:3], -1)


def _correlate_by_taps(small: Small, large: Large) -> Kernel:
    """The rows of `patch_kernel`, put back where they were."""
    i, o, patches = small.shape[3], large.shape[3], _patches(large)
    # The thin one first: twice as fast as the other way round for a few channels.
    rows = _contract_pixels(small, patches)
    split = rows.reshape(i, 2, 2, 2, 2, o)  # block row, block column, row, column
    return split.transpose(1, 3, 2, 4, 0, 5).reshape(4, 4, i, o)


def _up_by_windows(small: Small, kernel: Kernel) -> Large:
    seen = _windows(pad_border(small))
    b, h, w, pixels = seen.shape
    made = (seen.reshape(-1, pixels) @ _window_kernel(kernel)).reshape(b, h, w, 2, 2, -1)
    large = made.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)
    return large[:, 1:-1, 1:-1]


def _down_by_windows(large: Large, kernel: Kernel) -> Small:
    seen = space_to_depth(large)
    b, h, w, pixels = seen.shape
    columns = _window_kernel(kernel)
    found = lax.dot_general(seen.reshape(-1, pixels), columns, (((1,), (1,)), ((), ())))
    parts = found.reshape(b, h, w, 2, 2, -1)
    rows = parts[:, 1:, :, 0] + parts[:, :-1, :, 1]  # of the windows below and above
    return rows[:, :, 1:, 0] + rows[:, :, :-1, 1]


def _correlate_by_windows(small: Small, large: Large) -> Kernel:
    """The columns of `_window_kernel`, put back where they were."""
    i, o = small.shape[3], large.shape[3]
    found = _contract_pixels(_windows(pad_border(small)), space_to_depth(large))
    split = found.reshape(2, 2, i, 2, 2, o).transpose(0, 3, 1, 4, 2, 5)
    return split[::-1, :, ::-1].reshape(4, 4, i, o)


conv_transpose_col2im, conv_im2col, _ = tie_vjps(_up_by_taps, _down_by_taps, _correlate_by_taps)
conv_transpose_windows, conv_windows, _ = tie_vjps(
    _up_by_windows, _down_by_windows, _correlate_by_windows
)


def _contract_pixels(one: Float[Array, "b h w m"], other: Float[Array, "b h w n"]) -> Array:
    """The products of all pairs of channels, `[m, n]`, contracted as they lie.

    A transpose would be written out.
    """
    rows, columns = (x.reshape(-1, x.shape[3]) for x in (one, other))
    return lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))


def _sum_taps(products: Array, *, axis: int, taps: int) -> Array:
    """Along one side: pixel 2m gets taps 1 of m and 3 of m - 1; 2m + 1 gets 2 of m and 0 of m + 1.

    The axis `taps` goes; one of the two phases comes in after `axis`.
    """
    tap = [lax.index_in_dim(products, k, taps, keepdims=False) for k in range(4)]
    return jnp.stack(
        [tap[1] + shift_axis(tap[3], 1, axis=axis), tap[2] + shift_axis(tap[0], -1, axis=axis)],
        axis=axis + 1,
    )


def pad_border(images: Float[Array, "b h w i"]) -> Float[Array, "b h+2 w+2 i"]:
    """The layers' padding: zeros on every side."""
    return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _patches(large: Large) -> Float[Array, "b h w taps"]:
    """What each small pixel's 16 taps see: four blocks of 2x2 pixels."""
    return _windows(space_to_depth(large))


def _windows(images: Float[Array, "b h w i"]) -> Float[Array, "b h-1 w-1 4*i"]:
    """The four pixels of each 2x2 window, row by row, in channels."""
    _, h, w, _ = images.shape
    corners = [images[:, r : h - 1 + r, s : w - 1 + s] for r in (0, 1) for s in (0, 1)]
    return jnp.concatenate(corners, axis=-1)


def space_to_depth(large: Float[Array, "b h w i"]) -> Float[Array, "b h//2+1 w//2+1 4*i"]:
    """The four pixels of each 2x2 block of the framed image, row by row, in channels."""
    padded = pad_border(large)
    b, h, w, i = padded.shape
    split = padded.reshape(b, h // 2, 2, w // 2, 2, i).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(b, h // 2, w // 2, 4 * i)


def space_to_depth_kernel(kernel: Float[Array, "4 4 i o"]) -> Float[Array, "2 2 4*i o"]:
    """For the image as blocks of 2x2 pixels in channels."""
    i, o = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, i, o)  # block row, row, block column, column
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * i, o)


def _window_kernel(kernel: Kernel) -> Float[Array, "4*i 4*o"]:
    """From the pixels of a window to those of the block within it.

    Pixel `r` of a window meets pixel `p` of the block by tap `p + 2 - 2r`, down as across.
    """
    i, o = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1]  # r, p, s, q
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(4 * i, 4 * o)
