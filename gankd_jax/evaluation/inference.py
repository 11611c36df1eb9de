"""A trained generator in evaluation: its batch-norm statistics, its images batch by batch."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.training.train_state import TrainState, make_variables
from gankd_jax.utils import preemption

# Latents whose batches settle batch norm: 8 batches of 250 (see `inference_variables`).
BN_BATCHES, BN_BATCH_SIZE = 8, 250


BATCH_STATISTICS = ("recomputed", "running")  # of a trained generator
BN_SEED = 2_000_000


def inference_variables(generator: Generator, state: TrainState, statistics: str) -> PyTree:
    """The variables to draw images with: averaged weights where kept, and settled batch norm.

    `statistics` is 'running' (the averages of training) or 'recomputed': the mean over 8 batches of
    250 fixed latents of each batch's mean and variance, under the weights that are used.
    """
    params = state.generator.params if state.average is None else state.average
    stats = state.generator.stats
    if stats and statistics == "recomputed":
        stats = _settled(generator, params, stats)
    return make_variables(params, stats)


@partial(jax.jit, static_argnums=0)
def _settled(generator: Generator, params: PyTree, stats: PyTree) -> PyTree:
    blank = jax.tree.map(jnp.zeros_like, stats)

    def one(seed: Array) -> PyTree:
        latents = jax.random.normal(seed, (BN_BATCH_SIZE, generator.latent_dim))
        _, updated = generator.apply(
            make_variables(params, blank), latents, train=True, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    seeds = jax.random.split(jax.random.key(BN_SEED), BN_BATCHES)
    # From zeros, one update of momentum 0.9 leaves a tenth of the batch's own statistics.
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0) * 10.0, lax.map(one, seeds))


Batches = Iterator[UInt8[np.ndarray, "_ s s c"]]


def sample_batches(drawer: TrainedGenerator, seed: int, *, count: int, batch_size: int) -> Batches:
    """`count` images of a generator, batch by batch, on the latents of `seed`."""
    generator, variables = drawer
    for latents, wanted in latent_batches(generator, seed, count=count, batch_size=batch_size):
        yield sampling.to_uint8(sampling.sample_images(generator, variables, latents))[:wanted]


def latent_batches(
    generator: Generator, seed: int, *, count: int, batch_size: int
) -> Iterator[tuple[Float[Array, "b z"], int]]:
    """Batches of one size, so that one program serves, and how many of each are wanted."""
    for k in range(-(-count // batch_size)):
        preemption.raise_if_requested()
        wanted = min(batch_size, count - k * batch_size)
        key = jax.random.fold_in(jax.random.key(seed), k)
        yield jax.random.normal(key, (batch_size, generator.latent_dim)), wanted


def iterate_batches(images: UInt8[np.ndarray, "n s s c"], size: int) -> Batches:
    """A set of images, batch by batch."""
    for first in range(0, len(images), size):
        preemption.raise_if_requested()
        yield np.asarray(images[first : first + size])
