"""The 4x4 stride-2 convolutions with 36 multiplications in place of 64: Winograd's F(2, 2).

Each phase of the transposed convolution is a convolution with two taps a side, to which Winograd's
minimal filtering applies.  Along one side, a pair of input pixels `x[m], x[m + 1]` (m even) makes
four output pixels.  The plain way takes eight products.  Six are enough:

    a = (x[m-1] - x[m]) k3        b = x[m] (k1 + k3)      c1 = (x[m+1] - x[m]) k1
    e = (x[m+2] - x[m+1]) k0      d = x[m+1] (k0 + k2)    c2 = (x[m+1] - x[m]) (-k2)
    y[2m] = a + b    y[2m+1] = c2 + d    y[2m+2] = b + c1    y[2m+3] = d + e

c1 and c2 share an input, so a side has five transformed inputs and six products.  Both sides
together have 25 inputs and 36 products, each a matrix product over the channels.  No sum has more
than two terms a side, which keeps the rounding error near that of the plain way.

The sides of the small image must be even.

Reference: S. Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast Algorithms
for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv.vjp import Kernel, Large, Small, tie_vjps

Parts = dict[tuple[int, int], Array]  # keys: indices along height and width
# For each of a side's five inputs, the indices of the products (a, b, d, e, c1, c2) that use it.
PRODUCTS_OF_INPUT = ((0,), (1,), (2,), (3,), (4, 5))
# For each of the 25 inputs, the indices of the 36 products that use it.
PRODUCTS = {
    (m, n): [(p, q) for p in rows for q in columns]
    for m, rows in enumerate(PRODUCTS_OF_INPUT)
    for n, columns in enumerate(PRODUCTS_OF_INPUT)
}


def _conv_transpose(small: Small, kernel: Kernel) -> Large:
    inputs, factors = _transform_image(small), _transform_kernel(kernel)
    products: Parts = {}
    for key, pairs in PRODUCTS.items():
        rows = inputs[key].reshape(-1, small.shape[3]) @ _concatenate(factors, pairs, axis=1)
        products |= zip(pairs, jnp.split(rows, len(pairs), axis=1), strict=True)
    b, h, w, _ = small.shape
    return _inverse_transform(
        {pair: rows.reshape(b, h // 2, w // 2, -1) for pair, rows in products.items()}
    )


def _conv(large: Large, kernel: Kernel) -> Small:
    """The transpose of `_conv_transpose` in its image: each of its steps transposed, in reverse."""
    slopes, factors = _inverse_transform_transposed(large), _transform_kernel(kernel)
    inputs: Parts = {}
    b, h, w, o = large.shape
    for key, pairs in PRODUCTS.items():
        columns = _concatenate(slopes, pairs, axis=3).reshape(-1, o * len(pairs))
        stacked = _concatenate(factors, pairs, axis=1)
        rows = lax.dot_general(columns, stacked, (((1,), (1,)), ((), ())))
        inputs[key] = rows.reshape(b, h // 4, w // 4, -1)
    return _transform_image_transposed(inputs)


def _kernel_gradient(small: Small, large: Large) -> Kernel:
    """The transpose of `_conv_transpose` in its kernel."""
    inputs, slopes = _transform_image(small), _inverse_transform_transposed(large)
    factors: Parts = {}
    i, o = small.shape[3], large.shape[3]
    for key, pairs in PRODUCTS.items():
        columns = _concatenate(slopes, pairs, axis=3).reshape(-1, o * len(pairs))
        # Contracts the first axes: a transpose by `.T` would be written out to memory.
        block = lax.dot_general(inputs[key].reshape(-1, i), columns, (((0,), (0,)), ((), ())))
        factors |= zip(pairs, jnp.split(block, len(pairs), axis=1), strict=True)
    return _transform_kernel_transposed(factors)


conv_transpose, conv, _ = tie_vjps(_conv_transpose, _conv, _kernel_gradient)


def _concatenate(parts: Parts, pairs: Sequence[tuple[int, int]], *, axis: int) -> Array:
    return jnp.concatenate([parts[pair] for pair in pairs], axis=axis)


SideTransform = Callable[[Array, int], Sequence[Array]]
SideTransposed = Callable[[Sequence[Array], int], Array]


def _apply_both_sides(side: SideTransform, array: Array, axes: tuple[int, int]) -> Parts:
    """Applies the transform of one side along the height, then along the width."""
    return {
        (p, q): part
        for p, rows in enumerate(side(array, axes[0]))
        for q, part in enumerate(side(rows, axes[1]))
    }


def _merge_both_sides(side: SideTransposed, parts: Mapping, axes: tuple[int, int]) -> Array:
    """The transpose of `_apply_both_sides`, given the transpose of its side."""
    count = max(p for p, _ in parts) + 1
    rows = [side([parts[p, q] for q in range(count)], axes[1]) for p in range(count)]
    return side(rows, axes[0])


def _transform_image(small: Float[Array, "b h w i"]) -> Parts:
    """Returns the 25 inputs, each `[b, h/2, w/2, i]`."""

    def side(x: Array, axis: int) -> Sequence[Array]:
        even, odd = _take_every(x, 0, 2, axis=axis), _take_every(x, 1, 2, axis=axis)
        return (
            shift_axis(odd, 1, axis=axis) - even,
            even,
            odd,
            shift_axis(even, -1, axis=axis) - odd,
            odd - even,
        )

    return _apply_both_sides(side, _compute_once(small), (1, 2))


def _transform_image_transposed(parts: Parts) -> Float[Array, "b h w i"]:
    def side(inputs: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c = inputs
        even = b - a - c + shift_axis(e, 1, axis=axis)
        odd = d - e + c + shift_axis(a, -1, axis=axis)
        return interleave([even, odd], axis=axis)

    return _merge_both_sides(side, parts, (1, 2))


def _transform_kernel(kernel: Float[Array, "4 4 i o"]) -> Parts:
    """Returns the 36 factors, each `[i, o]`."""

    def side(k: Array, axis: int) -> Sequence[Array]:
        k0, k1, k2, k3 = (lax.index_in_dim(k, tap, axis, keepdims=False) for tap in range(4))
        return k3, k1 + k3, k0 + k2, k0, k1, -k2

    return _apply_both_sides(side, kernel, (0, 0))


def _transform_kernel_transposed(parts: Parts) -> Float[Array, "4 4 i o"]:
    def side(factors: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c1, c2 = factors
        return jnp.stack([d + e, b + c1, d - c2, a + b], axis=axis)

    return _merge_both_sides(side, parts, (0, 0))


def _inverse_transform(parts: Parts) -> Float[Array, "b h4 w4 o"]:
    """Returns the large image of the 36 products, each `[b, h, w, o]`."""

    def side(products: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c1, c2 = products
        return interleave([a + b, c2 + d, b + c1, d + e], axis=axis)

    return _merge_both_sides(side, parts, (1, 2))


def _inverse_transform_transposed(large: Float[Array, "b h w o"]) -> Parts:
    def side(y: Array, axis: int) -> Sequence[Array]:
        y0, y1, y2, y3 = (_take_every(y, k, 4, axis=axis) for k in range(4))
        return y0, y0 + y2, y1 + y3, y3, y2, y1

    return _apply_both_sides(side, _compute_once(large), (1, 2))


def _compute_once(x: Array) -> Array:
    """Stops XLA from computing `x` again for each of the parts that are sliced from it."""
    return lax.optimization_barrier(x)


def _take_every(x: Array, start: int, stride: int, *, axis: int) -> Array:
    return lax.slice_in_dim(x, start, None, stride, axis)


def shift_axis(x: Array, by: int, *, axis: int) -> Array:
    """Shifts an array by one place along an axis.

    Args:
        x: Any array.
        by: 1 towards higher indices, -1 towards lower ones.  The end that becomes free gets zeros.
        axis: The axis to shift along.
    """
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def interleave(parts: Sequence[Array], *, axis: int) -> Array:
    """Interleaves n parts along an axis: part k goes to indices k, k + n, k + 2n, ...

    Args:
        parts: Arrays of one shape.
        axis: The axis, which becomes n times as long.
    """
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
