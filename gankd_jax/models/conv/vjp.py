"""A layer up, a layer down and their kernel's gradient, as each other's derivatives.

All three come from one form, linear in a small image, in a large one and in a kernel: the product
of the kernel with all pairs of pixels that it joins.  `up` is its derivative in the large image,
`down` in the small one, `correlate` in the kernel.  So derivatives of every order, as the gradient
penalty needs them, run through these three and are as fast as values.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

Small = Float[Array, "b h w i"]
Large = Float[Array, "b h2 w2 o"]  # of twice the height and width
Kernel = Float[Array, "4 4 i o"]  # from the small image's channels to the large one's
ConvTranspose = Callable[[Small, Kernel], Large]
Conv = Callable[[Large, Kernel], Small]
KernelGradient = Callable[[Small, Large], Kernel]


def tie_vjps(
    up: ConvTranspose, down: Conv, correlate: KernelGradient
) -> tuple[ConvTranspose, Conv, KernelGradient]:
    """The same functions, with each other as derivatives in place of their own."""
    tied_up, tied_down = jax.custom_vjp(up), jax.custom_vjp(down)
    tied_correlate = jax.custom_vjp(correlate)
    tied_up.defvjp(
        lambda small, kernel: (up(small, kernel), (small, kernel)),
        lambda kept, slope: (tied_down(slope, kept[1]), tied_correlate(kept[0], slope)),
    )
    tied_down.defvjp(
        lambda large, kernel: (down(large, kernel), (large, kernel)),
        lambda kept, slope: (tied_up(slope, kept[1]), tied_correlate(slope, kept[0])),
    )
    tied_correlate.defvjp(
        lambda small, large: (correlate(small, large), (small, large)),
        lambda kept, slope: (tied_down(kept[1], slope), tied_up(kept[0], slope)),
    )
    return tied_up, tied_down, tied_correlate
