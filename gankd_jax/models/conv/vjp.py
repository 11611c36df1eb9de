"""Ties a transposed convolution, a convolution and their kernel gradient together by custom VJPs.

All three come from one function that is linear in a small image `s`, a large image `l` and a kernel
`k`: the sum of `s * l * k` over all pairs of pixels that the kernel connects.  Its derivative by
`l` is the transposed convolution of `s`, by `s` the convolution of `l`, by `k` the kernel gradient.
So the derivatives of each of the three are the other two.

Autodiff would derive a gradient from the forward code instead: from sums over taps it gets slices
and pads, from gathered patches it gets scatters, and both are slow on a CPU.  Tied, gradients of
every order (the gradient penalty needs the second) run through the same three fast functions.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

Small = Float[Array, "b h w i"]
Large = Float[Array, "b h2 w2 o"]  # twice the height and width of the small image
Kernel = Float[Array, "4 4 i o"]  # from the small image's channels to the large one's
ConvTranspose = Callable[[Small, Kernel], Large]
Conv = Callable[[Large, Kernel], Small]
KernelGradient = Callable[[Small, Large], Kernel]


def tie_vjps(
    conv_transpose: ConvTranspose, conv: Conv, kernel_gradient: KernelGradient
) -> tuple[ConvTranspose, Conv, KernelGradient]:
    """Defines the derivatives of three functions by each other.

    Args:
        conv_transpose: Maps a small image and a kernel to a large image.
        conv: Maps a large image and the same kernel to a small image; the adjoint of the first.
        kernel_gradient: Maps a small and a large image to the gradient of either in the kernel.

    Returns:
        The same functions, differentiable to any order in reverse mode.
    """
    tied_transpose, tied_conv = jax.custom_vjp(conv_transpose), jax.custom_vjp(conv)
    tied_gradient = jax.custom_vjp(kernel_gradient)
    # A value that a gradient's gradient passes through is tied too.
    tied_transpose.defvjp(
        lambda small, kernel: (tied_transpose(small, kernel), (small, kernel)),
        lambda saved, slope: (tied_conv(slope, saved[1]), tied_gradient(saved[0], slope)),
    )
    tied_conv.defvjp(
        lambda large, kernel: (tied_conv(large, kernel), (large, kernel)),
        lambda saved, slope: (tied_transpose(slope, saved[1]), tied_gradient(slope, saved[0])),
    )
    tied_gradient.defvjp(
        lambda small, large: (tied_gradient(small, large), (small, large)),
        lambda saved, slope: (tied_conv(saved[1], slope), tied_transpose(saved[0], slope)),
    )
    return tied_transpose, tied_conv, tied_gradient
