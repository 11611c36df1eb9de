"""Which images make up batch k: a pure function of k and the seed, so nothing is to be saved."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from gankd_jax.utils.errors import UserError


def batch_indices(
    step: int, *, count: int, batch_size: int, seed: int
) -> Int64[np.ndarray, " {batch_size}"]:
    """The images of batch `step`: indices in [0, `count`).

    Batches are cut from an endless stream of epochs, each a fresh permutation of the images drawn
    from (seed, epoch). A batch may straddle two epochs, so no image is dropped. Raises UserError
    where `batch_size` is not in 1..`count` or the seed is negative.
    """
    _check(count, batch_size, seed)
    return _stream(step * batch_size, batch_size, count=count, seed=seed)


def multi_step_indices(
    first_step: int, steps: int, *, critic_steps: int, count: int, batch_size: int, seed: int
) -> Int64[np.ndarray, "{steps} {critic_steps} {batch_size}"]:
    """The batches of `steps` training steps, each of which takes `critic_steps` batches.

    They are the batches `first_step` * `critic_steps` and on, in order. Raises UserError as
    `batch_indices` does.
    """
    _check(count, batch_size, seed)
    per_step = critic_steps * batch_size
    stream = _stream(first_step * per_step, steps * per_step, count=count, seed=seed)
    return stream.reshape(steps, critic_steps, batch_size)


def _check(count: int, batch_size: int, seed: int) -> None:
    if not 1 <= batch_size <= count:
        raise UserError(f"batch_size {batch_size} must lie between 1 and the {count} images")
    if seed < 0:
        raise UserError(f"seed {seed} must not be negative")


def _stream(start: int, length: int, *, count: int, seed: int) -> Int64[np.ndarray, " {length}"]:
    """`length` entries of the endless stream of epochs from `start` on."""
    stop = start + length
    pieces = []
    for epoch in range(start // count, -(-stop // count)):
        order = _permutation(seed, epoch, count)
        pieces.append(order[max(0, start - epoch * count) : stop - epoch * count])
    return np.concatenate(pieces)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " {count}"]:
    """The order of the images in an epoch.

    Sorted by random 64-bit numbers, because NumPy promises that the bits of `SeedSequence` and
    `Philox` never change, but not `Generator.permutation` (NEP 19).
    """
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(count)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.flags.writeable = False  # it is shared by the cache
    return order
