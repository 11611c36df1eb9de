"""The 3x3 convolution with 36 multiplications in place of 144: Winograd's F(4, 3).

Along one side, six input pixels make four output pixels.  The plain way takes twelve products, one
for each output and tap; six are enough.  Both sides together have 36 products for each tile of 4x4
output pixels, each a matrix product over the channels.  Input tiles overlap by two pixels, so that
2.25 times the image is written, and not nine times as by `im2col`.

The sides must be multiples of four.  Sums have up to five terms with factors up to eight: rounding
errors are about ten times those of the plain way.

Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv import im2col
from gankd_jax.models.conv.vjp import tie_vjps
from gankd_jax.models.conv.winograd import interleave

TILE = 4  # output pixels of a tile, along a side
Small = Float[Array, "b h w i"]  # the input of the transposed convolution, as in `vjp`
Large = Float[Array, "b h w o"]  # its output, of the same size
Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 i o"]
Parts = list[Array]  # the 36 products' factors or values, row by row
Side = Callable[[Sequence[Array]], Sequence[Array]]  # a linear map along one side


def _conv(large: Large, kernel: Kernel) -> Small:
    return _correlate(large, kernel.swapaxes(2, 3))


def _conv_transpose(small: Small, kernel: Kernel) -> Large:
    return _correlate(small, kernel[::-1, ::-1])


def _kernel_gradient(small: Small, large: Large) -> Kernel:
    inputs, slopes = _transform_image(large), _transform_slope(small)
    # Contracts the first axes: a transpose by `.T` would be written out to memory.
    products = [
        lax.dot_general(x, y, (((0,), (0,)), ((), ()))) for x, y in zip(inputs, slopes, strict=True)
    ]
    columns = _apply_to_rows(_kernel_side_transposed, products)
    taps = _kernel_side_transposed(columns)
    return jnp.stack(taps).swapaxes(2, 3)


def _correlate(images: Small, kernel: Kernel) -> Large:
    b, h, w, _ = images.shape
    inputs, factors = _transform_image(images), _transform_kernel(kernel)
    shape = (b, h // TILE, w // TILE, kernel.shape[3])
    products = [(x @ k).reshape(shape) for x, k in zip(inputs, factors, strict=True)]
    rows = [interleave(_output_side(products[k : k + 6]), axis=2) for k in range(0, 36, 6)]
    return interleave(_output_side(rows), axis=1)


conv_transpose, conv, _ = tie_vjps(_conv_transpose, _conv, _kernel_gradient)


def _transform_image(images: Images) -> Parts:
    """Returns the 36 inputs, each of a row for each tile: `[b * h/4 * w/4, i]`."""
    return _transform_tiles(_input_side, im2col.pad_border(images), size=TILE + 2)


def _transform_slope(slope: Images) -> Parts:
    """Returns the 36 transformed gradients of the output, each `[b * h/4 * w/4, o]`."""
    return _transform_tiles(_output_side_transposed, slope, size=TILE)


def _transform_tiles(side: Side, images: Images, *, size: int) -> Parts:
    """Applies a side's transform along height and width of tiles of `size` pixels."""
    # A barrier stops XLA from computing the images again for each of the parts.
    rows = side(_split_tiles(lax.optimization_barrier(images), size, axis=1))
    parts = [side(_split_tiles(row, size, axis=2)) for row in lax.optimization_barrier(rows)]
    return [part.reshape(-1, images.shape[3]) for row in parts for part in row]


def _split_tiles(images: Images, size: int, *, axis: int) -> list[Array]:
    """Returns the k-th pixels of all tiles, for each k below `size`; tiles begin every 4 pixels."""
    length = images.shape[axis] - size + 1
    return [lax.slice_in_dim(images, k, k + length, TILE, axis) for k in range(size)]


def _transform_kernel(kernel: Kernel) -> Parts:
    """Returns the 36 factors, each `[i, o]`."""
    return [part for row in _kernel_side(list(kernel)) for part in _kernel_side(list(row))]


def _apply_to_rows(side: Side, products: Parts) -> list[Array]:
    """Applies a side's map to each row of the products; the result is stacked."""
    return [jnp.stack(side(products[k : k + 6])) for k in range(0, 36, 6)]


# The matrices of one side: B^T (inputs), G (kernel), A^T (outputs) of Lavin and Gray, F(4, 3).


def _input_side(pixels: Sequence[Array]) -> Sequence[Array]:
    x0, x1, x2, x3, x4, x5 = pixels
    a, b = x4 - 4 * x2, x3 - 4 * x1
    c, d = x4 - x2, 2 * (x3 - x1)
    return 4 * x0 - 5 * x2 + x4, a + b, a - b, c + d, c - d, 4 * x1 - 5 * x3 + x5


def _kernel_side(taps: Sequence[Array]) -> Sequence[Array]:
    k0, k1, k2 = taps
    near, far = (k0 + k2) / 6, k0 / 24 + k2 / 6
    return k0 / 4, -near - k1 / 6, k1 / 6 - near, far + k1 / 12, far - k1 / 12, k2


def _kernel_side_transposed(products: Sequence[Array]) -> Sequence[Array]:
    m0, m1, m2, m3, m4, m5 = products
    near, far = (m1 + m2) / 6, m3 + m4
    return m0 / 4 - near + far / 24, (m2 - m1) / 6 + (m3 - m4) / 12, far / 6 - near + m5


def _output_side(products: Sequence[Array]) -> Sequence[Array]:
    m0, m1, m2, m3, m4, m5 = products
    a, b, c, d = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + a + c, b + 2 * d, a + 4 * c, b + 8 * d + m5


def _output_side_transposed(slopes: Sequence[Array]) -> Sequence[Array]:
    y0, y1, y2, y3 = slopes
    a, b, c, d = y0 + y2, y1 + y3, y0 + 4 * y2, 2 * y1 + 8 * y3
    return y0, a + b, a - b, c + d, c - d, y3
