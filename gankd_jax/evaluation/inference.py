"""Sampling from trained generators: batch-norm statistics for inference, images in batches."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.norms import MOMENTUM
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.training.train_state import TrainState, make_variables
from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError

BATCH_STATISTICS = ("recomputed", "running")  # options of evaluation.statistics
# Latents that batch-norm statistics are recomputed on.  Fewer or smaller batches make them noisier;
# any change changes all scores a little.
BN_BATCHES, BN_BATCH_SIZE, BN_SEED = 8, 250, 2_000_000

Batches = Iterator[UInt8[np.ndarray, "_ s s c"]]


def inference_variables(generator: Generator, state: TrainState, statistics: str) -> PyTree:
    """Returns the variables that a trained generator samples with.

    The parameters are the moving average where the recipe has one.

    Args:
        generator: The Flax module.
        state: A state of its training.
        statistics: 'running' for the moving averages of training.  'recomputed' for the mean of the
            batch statistics over `BN_BATCHES` batches of fixed latents, under the parameters used.
    """
    params = state.evaluated_params
    stats = state.generator.batch_stats
    if stats and statistics == "recomputed":
        stats = _recompute_batch_stats(generator, params, stats)
    return make_variables(params, stats)


@partial(jax.jit, static_argnums=0)
@jax.default_matmul_precision("float32")
def _recompute_batch_stats(generator: Generator, params: PyTree, stats: PyTree) -> PyTree:
    zero_stats = jax.tree.map(jnp.zeros_like, stats)

    def update_from_zeros(key: Array) -> PyTree:
        latents = jax.random.normal(key, (BN_BATCH_SIZE, generator.latent_dim))
        _, updated = generator.apply(
            make_variables(params, zero_stats), latents, train=True, mutable=["batch_stats"]
        )
        return updated["batch_stats"]

    keys = jax.random.split(jax.random.key(BN_SEED), BN_BATCHES)
    # From zeros, one update leaves this part of the batch's own statistics.
    part = 1 - MOMENTUM
    return jax.tree.map(lambda x: jnp.mean(x, axis=0) / part, lax.map(update_from_zeros, keys))


def sample_batches(
    generator: TrainedGenerator, seed: int, *, count: int, batch_size: int
) -> Batches:
    """Yields images of a generator in batches.

    Args:
        generator: Module and variables.
        seed: Seed of the latents; with `batch_size` it determines the images.
        count: Total number of images.
        batch_size: Images per batch; the last batch may be smaller.

    Raises:
        UserError: An image is not finite; as 0..255 it would look like any other.
    """
    batches = latent_batches(generator.module, seed, count=count, batch_size=batch_size)
    for latents, size in batches:
        images = sampling.sample_images(generator.module, generator.variables, latents)
        if not jnp.isfinite(images).all():
            raise UserError("the generator's images are not finite: its weights are damaged")
        yield sampling.to_uint8(images)[:size]


def latent_batches(
    generator: Generator, seed: int, *, count: int, batch_size: int
) -> Iterator[tuple[Float[Array, "b z"], int]]:
    """Yields batches of latents, and how many of each batch to use.

    All batches have the same shape, so that one compiled program serves.

    Args:
        generator: The module whose `latent_dim` the latents have.
        seed: Seed of the latents.
        count: Total number of latents to use.
        batch_size: Latents per batch.
    """
    for k in range(-(-count // batch_size)):
        preemption.raise_if_requested()
        size = min(batch_size, count - k * batch_size)
        key = jax.random.fold_in(jax.random.key(seed), k)
        yield jax.random.normal(key, (batch_size, generator.latent_dim)), size


def iterate_batches(images: UInt8[np.ndarray, "n s s c"], batch_size: int) -> Batches:
    """Yields a set of images in batches; the last batch may be smaller.

    Args:
        images: 0..255.
        batch_size: Images of a batch; the last one may be smaller.
    """
    for first in range(0, len(images), batch_size):
        preemption.raise_if_requested()
        yield np.asarray(images[first : first + batch_size])
