"""A trained generator in use: its batch norm settled, its images as uint8."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from gankd_jax.models.dcgan import Generator
from gankd_jax.training.state import State, Tree, variables

# Latents whose batches settle batch norm: 8 batches of 250 (see `inference_variables`).
SETTLE_BATCHES, SETTLE_BATCH = 8, 250
SETTLE_SEED = 2_000_000
GRID_SEED = 3_000_000
GRID_SIDE = 8
PATHS, PATH_STEPS = 4, 8
# What a CPU draws in one go needs no more bytes than this, as glibc gives larger memory back to the
# system after each call; else it draws parts of half of it, of this many images or more.
AT_ONCE, FEWEST = 32 * 2**20, 16


def inference_variables(generator: Generator, state: State, statistics: str) -> Tree:
    """The variables to draw images with: averaged weights where kept, and settled batch norm.

    `statistics` is 'running' (the averages of training) or 'recomputed': the mean over 8 batches of
    250 fixed latents of each batch's mean and variance, under the weights that are used.
    """
    params = state.generator.params if state.average is None else state.average
    stats = state.generator.stats
    if stats and statistics == "recomputed":
        stats = _settled(generator, params, stats)
    return variables(params, stats)


@partial(jax.jit, static_argnums=0)
def _settled(generator: Generator, params: Tree, stats: Tree) -> Tree:
    blank = jax.tree.map(jnp.zeros_like, stats)

    def one(seed: Array) -> Tree:
        latents = jax.random.normal(seed, (SETTLE_BATCH, generator.latent))
        _, updated = generator.apply(
            variables(params, blank), latents, train=True, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    seeds = jax.random.split(jax.random.key(SETTLE_SEED), SETTLE_BATCHES)
    # From zeros, one update of momentum 0.9 leaves a tenth of the batch's own statistics.
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0) * 10.0, lax.map(one, seeds))


@partial(jax.jit, static_argnums=0)
def draw(
    generator: Generator, variables: Tree, latents: Float[Array, "b z"]
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


def latents(seed: int, count: int, size: int) -> Float[Array, "n z"]:
    """Standard normal latents, a function of the three numbers."""
    return jax.random.normal(jax.random.key(seed), (count, size))


def grid_latents(size: int) -> Float[Array, "n z"]:
    """The 64 latents of every picture: the same for all runs of all studies."""
    return latents(GRID_SEED, GRID_SIDE * GRID_SIDE, size)


def grid(generator: Generator, variables: Tree) -> UInt8[np.ndarray, "h w c"]:
    """A generator's images of the grid's latents, as one picture."""
    images = draw(generator, variables, grid_latents(generator.latent))
    return tile(to_uint8(images), GRID_SIDE)


def path_latents(size: int, paths: int = PATHS) -> Float[Array, "n z"]:
    """Paths between pairs of latents, `paths * PATH_STEPS` rows.

    Along a great circle, so that each point has a length that the normal distribution gives.
    """
    ends = latents(GRID_SEED + 1, 2 * paths, size)
    starts, stops = ends[:paths, None], ends[paths:, None]
    angle = jnp.linspace(0, jnp.pi / 2, PATH_STEPS)[None, :, None]
    return (jnp.cos(angle) * starts + jnp.sin(angle) * stops).reshape(-1, size)


def tile(images: UInt8[np.ndarray, "n s s c"], columns: int) -> UInt8[np.ndarray, "h w c"]:
    """The images as one picture, row by row."""
    n, s, _, c = images.shape
    rows = n // columns
    grid = images[: rows * columns].reshape(rows, columns, s, s, c)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * s, columns * s, c)
