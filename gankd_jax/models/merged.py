"""Generators of several widths as one network, for devices that need wide layers to be busy.

Thin layers leave most of a matrix unit idle, and on a GPU each is a kernel to start.  Side by side
the channels of all generators make one layer, whose kernel has each generator's own as a block on
its diagonal.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from gankd_jax.models.conv.vjp import ConvTranspose
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import PyTree


@struct.dataclass
class FlatTrees:
    """A pytree of arrays for each generator, all arrays end to end.

    An optimizer's step on them is one kernel of a GPU in place of one for each array.
    """

    vector: Any  # Float[Array, " n"]; typed as Any, since jax puts axes in its place
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    unravel: tuple[Callable[[Any], PyTree], ...] = struct.field(pytree_node=False)

    @classmethod
    def pack(cls, trees: Sequence[PyTree]) -> "FlatTrees":
        """Lays the arrays of pytrees end to end."""
        vectors, unravel = zip(*map(ravel_pytree, trees), strict=True)
        return cls(jnp.concatenate(vectors), tuple(map(len, vectors)), tuple(unravel))

    @property
    def vectors(self) -> list[Array]:
        """The arrays of each pytree end to end."""
        return jnp.split(self.vector, np.cumsum(self.sizes)[:-1])

    @property
    def trees(self) -> list[PyTree]:
        """The pytrees."""
        return [f(vector) for f, vector in zip(self.unravel, self.vectors, strict=True)]

    def scale(self, factors: Sequence[float]) -> "FlatTrees":
        """Multiplies the arrays of each pytree by its factor."""
        parts = [jnp.full(n, f) for n, f in zip(self.sizes, factors, strict=True)]
        return dataclasses.replace(self, vector=self.vector * jnp.concatenate(parts))

    def norms(self) -> Float[Array, " _"]:
        """Returns the norm of each pytree."""
        return jnp.stack([jnp.linalg.norm(vector) for vector in self.vectors])


class MergedGenerator(DCGANGenerator):
    """Generators that are equal but for their width, applied as one network in training.

    Its own width and channels are those of all together.  A generator's values that are not finite
    would turn all sums over channels into NaN, as 0 times NaN is NaN.  Zeros take their place; its
    own batch norm has seen them.

    Attributes:
        widths: Of the generators.
    """

    widths: tuple[int, ...] = ()

    def conv_transpose(self, images: Array, kernel: Array) -> Array:
        """Applies a layer without its bias."""
        return _keep_finite(super().conv_transpose)(images, kernel)

    def apply(
        self, variables: PyTree, latents: Float[Array, "b z"], *, train: bool, mutable: list[str]
    ) -> tuple[Float[Array, "n b s s c"], PyTree]:
        """Generates a batch by each generator.

        Args:
            variables: 'params' as `FlatTrees`, and 'batch_stats' as `merge_stats` returns them.
            latents: Of all generators.
            train: Whether batch norm uses this batch.
            mutable: Collections to return, updated.
        """
        params = jax.tree_util.tree_map_with_path(_merge_leaves, *variables["params"].trees)
        images, updated = super().apply(
            variables | {"params": params}, latents, train=train, mutable=mutable
        )
        return jnp.stack(jnp.split(images, len(self.widths), axis=-1)), updated


def merge_generators(generators: Sequence[DCGANGenerator]) -> MergedGenerator:
    """Returns generators, equal but for their width, as one."""
    first, widths = generators[0], tuple(generator.width for generator in generators)
    return MergedGenerator(
        sum(widths),
        first.image_size,
        len(widths) * first.channels,
        first.latent_dim,
        first.norm,
        first.conv_impl,
        first.dtype,
        widths=widths,
    )


def merge_stats(stats: Sequence[PyTree]) -> PyTree:
    """Returns the running averages of all channels, given those of each generator."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=-1), *stats)


def split_stats(stats: PyTree, widths: Sequence[int]) -> list[PyTree]:
    """Inverts `merge_stats` for generators of these widths."""
    ends, total = np.cumsum(widths), sum(widths)

    def split(k: int) -> PyTree:
        start = ends[k] - widths[k]
        return jax.tree.map(
            lambda leaf: leaf[start * len(leaf) // total : ends[k] * len(leaf) // total], stats
        )

    return list(map(split, range(len(ends))))


def _keep_finite(conv_transpose: ConvTranspose) -> ConvTranspose:
    """Returns the function, with zeros in place of non-finite images and slopes of its result."""

    def replace_non_finite(x: Array) -> Array:
        return jnp.where(jnp.isfinite(x), x, 0.0)

    @jax.custom_vjp
    def finite_conv_transpose(images: Array, kernel: Array) -> Array:
        return conv_transpose(replace_non_finite(images), kernel)

    finite_conv_transpose.defvjp(
        lambda images, kernel: jax.vjp(conv_transpose, replace_non_finite(images), kernel),
        lambda vjp, slope: vjp(replace_non_finite(slope)),
    )
    return finite_conv_transpose


def _merge_leaves(path: tuple, *leaves: Array) -> Array:
    """Puts a layer's arrays side by side: kernels as diagonal blocks, but for the first layer's."""
    reads_latents = path[0].key == "layer0"
    if leaves[0].ndim == 1 or reads_latents:
        return jnp.concatenate(leaves, axis=-1)
    outputs = [leaf.shape[3] for leaf in leaves]
    rows, before = [], 0
    for leaf, width in zip(leaves, outputs, strict=True):
        edges = (before, sum(outputs) - before - width)
        rows.append(jnp.pad(leaf, ((0, 0), (0, 0), (0, 0), edges)))
        before += width
    return jnp.concatenate(rows, axis=2)
