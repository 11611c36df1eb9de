"""Images from a trained generator: fixed latents, grids, interpolation paths."""

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from gankd_jax.models.family import Generator, PyTree

GRID_SEED = 3_000_000
GRID_SIDE = 8
INTERPOLATION_PATHS, INTERPOLATION_STEPS = 4, 8
# On a CPU, glibc returns memory blocks above 32 MiB to the system after each call, and the next
# call faults all pages in again.  A batch that needs more is generated in parts of half that size.
# Larger parts bring the page faults back; parts below MIN_PART images cost more in overhead.
MAX_BYTES, MIN_PART = 32 * 2**20, 16
# Elsewhere a batch only has to fit the device's memory.
MAX_BYTES_OFF_CPU = 2**30


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedGenerator:
    """A generator and the variables to sample with; unpacks as `module, variables`.

    Attributes:
        module: The Flax module.
        variables: Its 'params' and, with batch norm, the 'batch_stats' of inference.
        card: How it was trained and how it scores; empty if nothing is recorded.

    Example:
        >>> import gankd_jax
        >>> generator = gankd_jax.load_generator("mnist-d2")
        >>> (generator.image_size, generator.channels, generator.latent_dim)
        (32, 1, 100)
        >>> module, variables = generator
        >>> sorted(variables)
        ['params']
    """

    module: Generator
    variables: PyTree
    card: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.module, self.variables))

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""
        return self.module.latent_dim

    @property
    def image_size(self) -> int:
        """Pixels of an image's side."""
        return self.module.image_size

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour."""
        return self.module.channels

    def sample(self, seed: int = 0, n: int = 16) -> Float[np.ndarray, "n s s c"]:
        """Generates images.

        Args:
            seed: Of the latents; another seed gives other images.
            n: How many.

        Returns:
            Images in -1..1, float32, a function of the variables, `seed` and `n`.
        """
        latents = sample_latents(seed, n, self.latent_dim)
        return np.asarray(sample_images(self.module, self.variables, latents))


@partial(jax.jit, static_argnums=0)
def sample_images(
    generator: Generator, variables: PyTree, latents: Float[Array, "b z"]
) -> Float[Array, "b s s c"]:
    """Generates images in -1..1, one for each latent.

    Batch norm uses its stored statistics, so an image depends on its own latent alone.  Products
    are in float32 on every device.

    Args:
        generator: The module.
        variables: Its 'params' and, with batch norm, the 'batch_stats' of inference.
        latents: Any number of them; large batches are generated in parts, of about 16 MiB with the
          layers of a CPU (`matmul`) and of half a GiB with others.
    """
    count, size = latents.shape
    if count == 0:  # the convolutions reshape, which needs a size
        return jnp.zeros((0, generator.image_size, generator.image_size, generator.channels))
    part = _part_size(generator, count)
    if part == count:
        return apply_in_float32(generator, variables, latents)
    parts = jnp.pad(latents, ((0, -count % part), (0, 0))).reshape(-1, part, size)
    images = lax.map(lambda part: apply_in_float32(generator, variables, part), parts)
    return images.reshape(-1, *images.shape[2:])[:count]


def apply_in_float32(
    generator: Generator, variables: PyTree, latents: Float[Array, "b z"]
) -> Float[Array, "b s s c"]:
    """Generates images with products in float32 on every device, for use within `jax.jit`.

    Training may round to TF32 or bfloat16, which scores and exports must not see.

    Args:
        generator: The module.
        variables: Its 'params' and, with batch norm, the 'batch_stats' of inference.
        latents: Any number of them.
    """
    with jax.default_matmul_precision("highest"):
        return generator.apply(variables, latents, train=False)


def _part_size(generator: Generator, count: int) -> int:
    """Returns how many of `count` images to generate at once.

    The need for memory is estimated from the last two layers.  On a CPU, 250 images of 64x64 pixels
    take half the time at d=8 in parts, and three quarters at d=64.
    """
    pixels = (generator.image_size // 2) ** 2
    needed = 4 * count * pixels * (2 * generator.width + 16 * generator.channels)
    limit = MAX_BYTES if generator.conv_impl == "matmul" else MAX_BYTES_OFF_CPU
    if needed <= limit:
        return count
    parts = math.ceil(needed / (limit // 2))
    return min(count, max(MIN_PART, math.ceil(count / parts)))


def to_uint8(
    images: Float[Array, "b s s c"] | Float[np.ndarray, "b s s c"],
) -> UInt8[np.ndarray, "b s s c"]:
    """Converts images from -1..1 to 0..255, rounded."""
    return np.asarray(jnp.clip(jnp.round(images * 127.5 + 127.5), 0, 255).astype(jnp.uint8))


def sample_latents(seed: int, count: int, size: int) -> Float[Array, "n z"]:
    """Samples standard normal latents, a function of the arguments.

    Args:
        seed: Of the random numbers.
        count: How many latents.
        size: Numbers in a latent.
    """
    # The dtype is named, so that jax_enable_x64 does not change the images.
    return jax.random.normal(jax.random.key(seed), (count, size), jnp.float32)


def grid_latents(size: int) -> Float[Array, "n z"]:
    """Returns the 64 latents of every image grid: the same for all runs of all studies."""
    return sample_latents(GRID_SEED, GRID_SIDE * GRID_SIDE, size)


def sample_grid(generator: Generator, variables: PyTree) -> UInt8[np.ndarray, "h w c"]:
    """Generates the images of the grid latents, tiled into one image.

    Args:
        generator: The module.
        variables: Its 'params' and, with batch norm, the 'batch_stats' of inference.
    """
    images = sample_images(generator, variables, grid_latents(generator.latent_dim))
    return tile_images(to_uint8(images), GRID_SIDE)


def interpolation_latents(size: int, paths: int = INTERPOLATION_PATHS) -> Float[Array, "n z"]:
    """Returns latents on paths between pairs of random latents.

    A path follows a great circle, so that each point has a norm that is likely under the normal
    distribution.

    Args:
        size: Numbers in a latent.
        paths: How many paths.

    Returns:
        `paths * INTERPOLATION_STEPS` latents, path by path.
    """
    ends = sample_latents(GRID_SEED + 1, 2 * paths, size)
    starts, stops = ends[:paths, None], ends[paths:, None]
    angle = jnp.linspace(0, jnp.pi / 2, INTERPOLATION_STEPS)[None, :, None]
    return (jnp.cos(angle) * starts + jnp.sin(angle) * stops).reshape(-1, size)


def tile_images(images: UInt8[np.ndarray, "n s s c"], columns: int) -> UInt8[np.ndarray, "h w c"]:
    """Tiles images into one, row by row.

    Args:
        images: Of equal size; those of an incomplete last row are dropped.
        columns: Images in a row.
    """
    n, s, _, c = images.shape
    rows = n // columns
    grid = images[: rows * columns].reshape(rows, columns, s, s, c)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * s, columns * s, c)
