"""A trained generator in use: its batch norm settled, its images as uint8."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from gankd_jax.models.dcgan import Generator

PyTree = Any  # a pytree of arrays, as Flax gives it
TrainedGenerator = tuple[Generator, PyTree]  # a generator and its variables

GRID_SEED = 3_000_000
GRID_SIDE = 8
INTERPOLATION_PATHS, INTERPOLATION_STEPS = 4, 8
# What a CPU draws in one go needs no more bytes than this, as glibc gives larger memory back to the
# system after each call; else it draws parts of half of it, of this many images or more.
AT_ONCE, FEWEST = 32 * 2**20, 16


@partial(jax.jit, static_argnums=0)
def sample_images(
    generator: Generator, variables: PyTree, latents: Float[Array, "b z"]
) -> Float[Array, "b s s c"]:
    """Images in -1..1, each a function of its own latent."""
    count, size = latents.shape
    part = _part(generator, count)
    if part == count:
        return generator.apply(variables, latents, train=False)
    parts = jnp.pad(latents, ((0, -count % part), (0, 0))).reshape(-1, part, size)
    images = lax.map(lambda few: generator.apply(variables, few, train=False), parts)
    return images.reshape(-1, *images.shape[2:])[:count]


def _part(generator: Generator, count: int) -> int:
    """How many of `count` images to draw at once, by what the last two layers keep of them.

    In parts 250 images of 64x64 pixels take half the time at d=8 and three quarters at d=64.
    """
    pixels = (generator.image_size // 2) ** 2
    needed = 4 * count * pixels * (2 * generator.width + 16 * generator.channels)
    if generator.form != "matmul" or needed <= AT_ONCE:
        return count
    parts = math.ceil(needed / (AT_ONCE // 2))
    return min(count, max(FEWEST, math.ceil(count / parts)))


def to_uint8(images: Float[Array, "b s s c"]) -> UInt8[np.ndarray, "b s s c"]:
    """-1..1 to 0..255, rounded."""
    return np.asarray(jnp.clip(jnp.round(images * 127.5 + 127.5), 0, 255).astype(jnp.uint8))


def sample_latents(seed: int, count: int, size: int) -> Float[Array, "n z"]:
    """Standard normal latents, a function of the three numbers."""
    return jax.random.normal(jax.random.key(seed), (count, size))


def grid_latents(size: int) -> Float[Array, "n z"]:
    """The 64 latents of every picture: the same for all runs of all studies."""
    return sample_latents(GRID_SEED, GRID_SIDE * GRID_SIDE, size)


def sample_grid(generator: Generator, variables: PyTree) -> UInt8[np.ndarray, "h w c"]:
    """A generator's images of the grid's latents, as one picture."""
    images = sample_images(generator, variables, grid_latents(generator.latent))
    return tile_images(to_uint8(images), GRID_SIDE)


def interpolation_latents(size: int, paths: int = INTERPOLATION_PATHS) -> Float[Array, "n z"]:
    """Paths between pairs of latents, `paths * PATH_STEPS` rows.

    Along a great circle, so that each point has a length that the normal distribution gives.
    """
    ends = sample_latents(GRID_SEED + 1, 2 * paths, size)
    starts, stops = ends[:paths, None], ends[paths:, None]
    angle = jnp.linspace(0, jnp.pi / 2, INTERPOLATION_STEPS)[None, :, None]
    return (jnp.cos(angle) * starts + jnp.sin(angle) * stops).reshape(-1, size)


def tile_images(images: UInt8[np.ndarray, "n s s c"], columns: int) -> UInt8[np.ndarray, "h w c"]:
    """The images as one picture, row by row."""
    n, s, _, c = images.shape
    rows = n // columns
    grid = images[: rows * columns].reshape(rows, columns, s, s, c)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * s, columns * s, c)
