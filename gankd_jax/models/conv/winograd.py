"""The 4x4 stride-2 layers with 36 multiplications in place of 64: Winograd's F(2, 2) in each phase.

Along one side, a pair of input pixels `x[m], x[m + 1]` (m even) makes four output pixels, by eight
products in the plain way.  Six do, two of which share an input:

    a = (x[m-1] - x[m]) k3        b = x[m] (k1 + k3)      c1 = (x[m+1] - x[m]) k1
    e = (x[m+2] - x[m+1]) k0      d = x[m+1] (k0 + k2)    c2 = (x[m+1] - x[m]) (-k2)
    y[2m] = a + b    y[2m+1] = c2 + d    y[2m+2] = b + c1    y[2m+3] = d + e

The same along the other side, and with channels the products become 36 matrix products of 25
inputs (S. Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, arXiv 1509.09308).
No sum has more than two terms a side, so that rounding stays near that of the plain way.

The small image's sides must be even.
"""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.models.conv.vjp import Kernel, Large, Small, tie_vjps

Parts = dict[tuple[int, int], Array]  # by their place along height and width
# The products a, b, d, e, c1, c2 in which each of a side's five inputs takes part.
USES = ((0,), (1,), (2,), (3,), (4, 5))
PRODUCTS = {
    (m, n): [(p, q) for p in rows for q in columns]
    for m, rows in enumerate(USES)
    for n, columns in enumerate(USES)
}


def _up(small: Small, kernel: Kernel) -> Large:
    inputs, factors = _inputs(small), _factors(kernel)
    made: Parts = {}
    for key, pairs in PRODUCTS.items():
        rows = inputs[key].reshape(-1, small.shape[3]) @ _concatenate(factors, pairs, axis=1)
        made |= zip(pairs, jnp.split(rows, len(pairs), axis=1), strict=True)
    b, h, w, _ = small.shape
    return _outputs({pair: rows.reshape(b, h // 2, w // 2, -1) for pair, rows in made.items()})


def _down(large: Large, kernel: Kernel) -> Small:
    slopes, factors = _outputs_transposed(large), _factors(kernel)
    made: Parts = {}
    b, h, w, o = large.shape
    for key, pairs in PRODUCTS.items():
        columns = _concatenate(slopes, pairs, axis=3).reshape(-1, o * len(pairs))
        stacked = _concatenate(factors, pairs, axis=1)
        rows = lax.dot_general(columns, stacked, (((1,), (1,)), ((), ())))
        made[key] = rows.reshape(b, h // 4, w // 4, -1)
    return _inputs_transposed(made)


def _correlate(small: Small, large: Large) -> Kernel:
    inputs, slopes = _inputs(small), _outputs_transposed(large)
    made: Parts = {}
    i, o = small.shape[3], large.shape[3]
    for key, pairs in PRODUCTS.items():
        columns = _concatenate(slopes, pairs, axis=3).reshape(-1, o * len(pairs))
        # Contracted as they lie: `.T` would be written out.
        factors = lax.dot_general(inputs[key].reshape(-1, i), columns, (((0,), (0,)), ((), ())))
        made |= zip(pairs, jnp.split(factors, len(pairs), axis=1), strict=True)
    return _factors_transposed(made)


conv_transpose, conv, kernel_gradient = tie_vjps(_up, _down, _correlate)


def _concatenate(parts: Parts, pairs: Sequence[tuple[int, int]], *, axis: int) -> Array:
    return jnp.concatenate([parts[pair] for pair in pairs], axis=axis)


Side = Callable[[Array, int], Sequence[Array]]
SideTransposed = Callable[[Sequence[Array], int], Array]


def _split(side: Side, array: Array, axes: tuple[int, int]) -> Parts:
    """A side's transform along the height, then along the width."""
    return {
        (p, q): part
        for p, rows in enumerate(side(array, axes[0]))
        for q, part in enumerate(side(rows, axes[1]))
    }


def _merge(side: SideTransposed, parts: Mapping, axes: tuple[int, int]) -> Array:
    """The transpose of `_split`, with the transpose of its side."""
    count = max(p for p, _ in parts) + 1
    rows = [side([parts[p, q] for q in range(count)], axes[1]) for p in range(count)]
    return side(rows, axes[0])


def _inputs(small: Float[Array, "b h w i"]) -> Parts:
    """The 25 inputs, `[b, h/2, w/2, i]`."""

    def side(x: Array, axis: int) -> Sequence[Array]:
        even, odd = _every(x, 0, 2, axis=axis), _every(x, 1, 2, axis=axis)
        return (
            shift_axis(odd, 1, axis=axis) - even,
            even,
            odd,
            shift_axis(even, -1, axis=axis) - odd,
            odd - even,
        )

    return _split(side, _settled(small), (1, 2))


def _inputs_transposed(parts: Parts) -> Float[Array, "b h w i"]:
    def side(found: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c = found
        even = b - a - c + shift_axis(e, 1, axis=axis)
        odd = d - e + c + shift_axis(a, -1, axis=axis)
        return _interleave([even, odd], axis)

    return _merge(side, parts, (1, 2))


def _factors(kernel: Float[Array, "4 4 i o"]) -> Parts:
    """The 36 factors, `[i, o]`."""

    def side(k: Array, axis: int) -> Sequence[Array]:
        k0, k1, k2, k3 = (lax.index_in_dim(k, tap, axis, keepdims=False) for tap in range(4))
        return k3, k1 + k3, k0 + k2, k0, k1, -k2

    return _split(side, kernel, (0, 0))


def _factors_transposed(parts: Parts) -> Float[Array, "4 4 i o"]:
    def side(found: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c1, c2 = found
        return jnp.stack([d + e, b + c1, d - c2, a + b], axis=axis)

    return _merge(side, parts, (0, 0))


def _outputs(parts: Parts) -> Float[Array, "b h4 w4 o"]:
    """The large image of the 36 products `[b, h, w, o]`."""

    def side(products: Sequence[Array], axis: int) -> Array:
        a, b, d, e, c1, c2 = products
        return _interleave([a + b, c2 + d, b + c1, d + e], axis)

    return _merge(side, parts, (1, 2))


def _outputs_transposed(large: Float[Array, "b h w o"]) -> Parts:
    def side(y: Array, axis: int) -> Sequence[Array]:
        y0, y1, y2, y3 = (_every(y, k, 4, axis=axis) for k in range(4))
        return y0, y0 + y2, y1 + y3, y3, y2, y1

    return _split(side, _settled(large), (1, 2))


def _settled(x: Array) -> Array:
    """Computed once: else each of its parts would compute anew what leads to it."""
    return lax.optimization_barrier(x)


def _every(x: Array, start: int, stride: int, *, axis: int) -> Array:
    return lax.slice_in_dim(x, start, None, stride, axis)


def shift_axis(x: Array, by: int, *, axis: int) -> Array:
    """Moved by one place, with a zero where nothing comes from."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def _interleave(parts: Sequence[Array], axis: int) -> Array:
    """Part k at places k, k + n, k + 2n, ... of n parts."""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis=axis + 1).reshape(shape)
