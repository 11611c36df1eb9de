"""The 4x4 stride-2 convolutions as one matrix product (im2col), in two layouts.

im2col gathers the pixels that a kernel sees at each place into the rows of a matrix, so that the
convolution is one product with the kernel as a matrix.  Its transpose, col2im, adds the products up
where they land.

- Taps: every small pixel meets all 16 taps of the kernel.  The matrix holds 16 `o` numbers for each
  small pixel.
- Windows: every 2x2 window of small pixels meets the 2x2 block of large pixels at its centre.  The
  matrices hold 4 `i` and 4 `o` numbers for each window, and there is one more row and one more
  column of windows than of small pixels.

`models.conv` chooses whichever moves less memory.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv.vjp import Kernel, Large, Small, tie_vjps
from gankd_jax.models.conv.winograd import shift_axis


def _conv_transpose_col2im(small: Small, kernel: Kernel) -> Large:
    """Multiplies every small pixel by every tap, and adds the products up where they land."""
    b, h, w, i = small.shape
    o = kernel.shape[3]
    products = small.reshape(-1, i) @ kernel.transpose(2, 0, 1, 3).reshape(i, 16 * o)
    rows = _sum_taps(products.reshape(b, h, w, 4, 4, o), axis=1, taps=3)  # b, h, 2, w, 4, o
    return _sum_taps(rows, axis=3, taps=4).reshape(b, 2 * h, 2 * w, o)


def _conv_im2col(large: Large, kernel: Kernel) -> Small:
    patches = _gather_patches(large)
    rows = space_to_depth_kernel(kernel.swapaxes(2, 3)).reshape(patches.shape[3], -1)
    return (patches.reshape(-1, patches.shape[3]) @ rows).reshape(*patches.shape[:3], -1)


def _kernel_gradient_im2col(small: Small, large: Large) -> Kernel:
    """Computes the gradient of `space_to_depth_kernel`'s rows and undoes its permutation."""
    i, o, patches = small.shape[3], large.shape[3], _gather_patches(large)
    # The image with fewer channels first: twice as fast as the other way round for a few channels.
    rows = _contract_pixels(small, patches)
    split = rows.reshape(i, 2, 2, 2, 2, o)  # block row, block column, row, column
    return split.transpose(1, 3, 2, 4, 0, 5).reshape(4, 4, i, o)


def _conv_transpose_windows(small: Small, kernel: Kernel) -> Large:
    windows = _gather_windows(pad_border(small))
    b, h, w, pixels = windows.shape
    blocks = (windows.reshape(-1, pixels) @ _window_kernel(kernel)).reshape(b, h, w, 2, 2, -1)
    large = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)
    return large[:, 1:-1, 1:-1]


def _conv_windows(large: Large, kernel: Kernel) -> Small:
    blocks = space_to_depth(large)
    b, h, w, pixels = blocks.shape
    columns = _window_kernel(kernel)
    products = lax.dot_general(blocks.reshape(-1, pixels), columns, (((1,), (1,)), ((), ())))
    windows = products.reshape(b, h, w, 2, 2, -1)
    rows = windows[:, 1:, :, 0] + windows[:, :-1, :, 1]  # of the windows below and above
    return rows[:, :, 1:, 0] + rows[:, :, :-1, 1]


def _kernel_gradient_windows(small: Small, large: Large) -> Kernel:
    """Computes the gradient of `_window_kernel`'s columns and undoes its permutation."""
    i, o = small.shape[3], large.shape[3]
    columns = _contract_pixels(_gather_windows(pad_border(small)), space_to_depth(large))
    split = columns.reshape(2, 2, i, 2, 2, o).transpose(0, 3, 1, 4, 2, 5)
    return split[::-1, :, ::-1].reshape(4, 4, i, o)


conv_transpose_col2im, conv_im2col, kernel_gradient_im2col = tie_vjps(
    _conv_transpose_col2im, _conv_im2col, _kernel_gradient_im2col
)
conv_transpose_windows, conv_windows, _ = tie_vjps(
    _conv_transpose_windows, _conv_windows, _kernel_gradient_windows
)


def _contract_pixels(a: Float[Array, "b h w m"], b: Float[Array, "b h w n"]) -> Array:
    """Sums the products of all pairs of channels over all pixels, `[m, n]`.

    The contraction runs over the first axis of both.  A transpose would be written out to memory.
    """
    rows, columns = (x.reshape(-1, x.shape[3]) for x in (a, b))
    return lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))


def _sum_taps(products: Array, *, axis: int, taps: int) -> Array:
    """Adds up the taps that land on the same large pixel, along one side.

    Pixel 2m gets tap 1 of m and tap 3 of m - 1; pixel 2m + 1 gets tap 2 of m and tap 0 of m + 1.
    The axis `taps` is removed, and an axis of the two phases is inserted after `axis`.
    """
    tap = [lax.index_in_dim(products, k, taps, keepdims=False) for k in range(4)]
    return jnp.stack(
        [tap[1] + shift_axis(tap[3], 1, axis=axis), tap[2] + shift_axis(tap[0], -1, axis=axis)],
        axis=axis + 1,
    )


def pad_border(images: Float[Array, "b h w i"]) -> Float[Array, "b h+2 w+2 i"]:
    """Pads every side by one row or column of zeros, the padding of the layers."""
    return jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _gather_patches(large: Large) -> Float[Array, "b h w taps"]:
    """Gathers the 4x4 pixels that each small pixel sees, as four blocks of 2x2."""
    return _gather_windows(space_to_depth(large))


def _gather_windows(images: Float[Array, "b h w i"]) -> Float[Array, "b h-1 w-1 4*i"]:
    """Gathers the four pixels of each 2x2 window, row by row, into channels."""
    _, h, w, _ = images.shape
    corners = [images[:, r : h - 1 + r, s : w - 1 + s] for r in (0, 1) for s in (0, 1)]
    return jnp.concatenate(corners, axis=-1)


def space_to_depth(large: Float[Array, "b h w i"]) -> Float[Array, "b h//2+1 w//2+1 4*i"]:
    """Folds each 2x2 block of pixels of the padded image into channels.

    Args:
        large: Images of even height and width; one row or column of zeros is added on every side.

    Returns:
        Images of half the height and width plus one; the channels are those of the block's pixels,
        row by row.
    """
    return fold_blocks(pad_border(large))


def fold_blocks(images: Float[Array, "b h w i"]) -> Float[Array, "b h//2 w//2 4*i"]:
    """Folds each 2x2 block of pixels into channels, those of the block's pixels row by row.

    Args:
        images: Of even height and width.
    """
    b, h, w, i = images.shape
    split = images.reshape(b, h // 2, 2, w // 2, 2, i).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(b, h // 2, w // 2, 4 * i)


def space_to_depth_kernel(kernel: Float[Array, "4 4 i o"]) -> Float[Array, "2 2 4*i o"]:
    """Permutes a kernel to act on the image that `space_to_depth` returns.

    Args:
        kernel: Of a 4x4 convolution at stride 2.

    Returns:
        The kernel of the equal 2x2 convolution at stride 1.
    """
    i, o = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, i, o)  # block row, row, block column, column
    return split.transpose(0, 2, 1, 3, 4, 5).reshape(2, 2, 4 * i, o)


def _window_kernel(kernel: Kernel) -> Float[Array, "4*i 4*o"]:
    """Returns the matrix from the pixels of a window to those of the block at its centre.

    Row `r` of a window meets row `p` of the block by tap `p + 2 - 2r`; columns do the same.
    """
    i, o = kernel.shape[2:]
    split = kernel.reshape(2, 2, 2, 2, i, o)[::-1, :, ::-1]  # r, p, s, q
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(4 * i, 4 * o)
