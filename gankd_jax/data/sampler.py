"""Indices of the images of each batch: a pure function of step and seed, without any state."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from gankd_jax.utils.errors import UserError


def batch_indices(
    step: int, *, count: int, batch_size: int, seed: int
) -> Int64[np.ndarray, " {batch_size}"]:
    """Returns the images of one batch.

    Batches are cut from an endless stream of epochs, each a new permutation of the images.  A batch
    may straddle two epochs, so no image is dropped.

    Args:
        step: Number of the batch, from 0.
        count: Number of images in the data set.
        batch_size: 1 to `count`.
        seed: Of the permutations, not negative.

    Returns:
        Indices in [0, `count`).

    Raises:
        UserError: `batch_size` or `seed` is out of range.
    """
    _check_range(count, batch_size, seed)
    return _slice_stream(step * batch_size, batch_size, count=count, seed=seed)


def multi_step_indices(
    first_step: int, steps: int, *, critic_steps: int, count: int, batch_size: int, seed: int
) -> Int64[np.ndarray, "{steps} {critic_steps} {batch_size}"]:
    """Returns the batches of several training steps: those from `first_step * critic_steps` on.

    Args:
        first_step: Number of the first training step, from 0.
        steps: Number of training steps.
        critic_steps: Batches that one training step takes.
        count: Number of images in the data set.
        batch_size: 1 to `count`.
        seed: Of the permutations, not negative.

    Returns:
        Indices in [0, `count`), in the order of `batch_indices`.

    Raises:
        UserError: `batch_size` or `seed` is out of range.
    """
    _check_range(count, batch_size, seed)
    per_step = critic_steps * batch_size
    stream = _slice_stream(first_step * per_step, steps * per_step, count=count, seed=seed)
    return stream.reshape(steps, critic_steps, batch_size)


def _check_range(count: int, batch_size: int, seed: int) -> None:
    if not 1 <= batch_size <= count:
        raise UserError(f"batch_size {batch_size} must lie between 1 and the {count} images")
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")


def _slice_stream(
    start: int, length: int, *, count: int, seed: int
) -> Int64[np.ndarray, " {length}"]:
    """Returns `length` entries of the endless stream of epochs, from `start` on."""
    stop = start + length
    pieces = []
    for epoch in range(start // count, -(-stop // count)):
        permutation = _permute(seed, epoch, count)
        pieces.append(permutation[max(0, start - epoch * count) : stop - epoch * count])
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def _permute(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " {count}"]:
    """Returns the permutation of the images in an epoch.

    It sorts random 64-bit numbers, because NumPy promises that the bits of `SeedSequence` and
    `Philox` never change, but makes no such promise for `Generator.permutation` (NEP 19).
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    permutation = np.argsort(bits, kind="stable").astype(np.int64)
    permutation.flags.writeable = False  # it is shared by the cache
    return permutation
