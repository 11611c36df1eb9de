"""Batches: epochs are permutations, and a batch depends on step and seed only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gankd_jax.data.sampler import batch_indices, multi_step_indices
from gankd_jax.utils.errors import UserError


def index_stream(steps: int, *, count: int, batch_size: int, seed: int) -> np.ndarray:
    kwargs = {"count": count, "batch_size": batch_size, "seed": seed}
    return np.concatenate([batch_indices(step, **kwargs) for step in range(steps)])


@given(
    count=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 2**32), data=st.data()
)
def test_each_image_appears_once_in_each_epoch(count, batch, seed, data):
    batch_size = min(count, batch)
    epochs = data.draw(st.integers(1, 4))
    steps = -(-epochs * count // batch_size)
    indices = index_stream(steps, count=count, batch_size=batch_size, seed=seed)
    for epoch in indices[: epochs * count].reshape(epochs, count):
        assert sorted(epoch) == list(range(count))


def test_batch_straddles_two_epochs():
    # 10 images in batches of 4: batch 2 holds the last 2 of epoch 0 and the first 2 of epoch 1.
    first = np.concatenate([batch_indices(k, count=10, batch_size=4, seed=3) for k in (0, 1)])
    straddling = batch_indices(2, count=10, batch_size=4, seed=3)
    assert set(straddling[:2]) == set(range(10)) - set(first)
    second = batch_indices(1, count=10, batch_size=10, seed=3)
    np.testing.assert_array_equal(straddling[2:], second[:2])


def test_stream_does_not_depend_on_the_batch_size():
    epoch = batch_indices(0, count=12, batch_size=12, seed=5)
    np.testing.assert_array_equal(index_stream(4, count=12, batch_size=3, seed=5), epoch)


def test_batches_are_the_same_in_every_version():
    # Recorded values: a change would silently alter every run and every resumed run.
    assert batch_indices(0, count=10, batch_size=10, seed=0).tolist() == [
        0,
        8,
        9,
        3,
        7,
        5,
        1,
        2,
        6,
        4,
    ]
    assert batch_indices(7, count=10, batch_size=10, seed=42).tolist() == [
        8,
        7,
        1,
        9,
        4,
        5,
        0,
        2,
        6,
        3,
    ]


def test_seeds_and_epochs_give_different_orders():
    orders = {
        tuple(batch_indices(epoch, count=50, batch_size=50, seed=seed))
        for epoch in range(5)
        for seed in range(5)
    }
    assert len(orders) == 25


def test_every_image_is_equally_likely_at_each_position():
    # In 4,000 epochs of 5 images, each of the 25 (position, image) pairs expects 800.
    # The statistic has 16 degrees of freedom and exceeds 39.25 with probability 0.001.
    kwargs = {"count": 5, "batch_size": 5, "seed": 1}
    orders = np.stack([batch_indices(epoch, **kwargs) for epoch in range(4000)])
    table = np.stack([np.bincount(column, minlength=5) for column in orders.T])
    assert ((table - 800) ** 2 / 800).sum() < 39.25


@given(
    first=st.integers(0, 20),
    steps=st.integers(1, 5),
    critic_steps=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_multi_step_indices_are_the_batches_in_order(first, steps, critic_steps, seed):
    kwargs = {"count": 13, "batch_size": 6, "seed": seed}
    indices = multi_step_indices(first, steps, critic_steps=critic_steps, **kwargs)
    assert indices.shape == (steps, critic_steps, 6)
    for step in range(steps):
        for critic_step in range(critic_steps):
            number = (first + step) * critic_steps + critic_step
            np.testing.assert_array_equal(
                indices[step, critic_step], batch_indices(number, **kwargs)
            )


def test_batch_of_a_large_step_is_valid():
    batch = batch_indices(10**12, count=60_000, batch_size=64, seed=0)
    assert len(set(batch.tolist())) == 64
    assert 0 <= batch.min() <= batch.max() < 60_000


def test_returned_batch_is_a_copy():
    kwargs = {"count": 8, "batch_size": 8, "seed": 0}
    before = batch_indices(0, **kwargs)
    changed = batch_indices(0, **kwargs)
    changed[:] = 0
    np.testing.assert_array_equal(batch_indices(0, **kwargs), before)


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_out_of_range_is_rejected(batch_size):
    with pytest.raises(UserError, match=f"batch_size {batch_size} .* 10 images"):
        batch_indices(0, count=10, batch_size=batch_size, seed=0)
    with pytest.raises(UserError, match="batch_size"):
        multi_step_indices(0, 1, critic_steps=1, count=10, batch_size=batch_size, seed=0)


def test_negative_seed_is_rejected():
    with pytest.raises(UserError, match="seed -1"):
        batch_indices(0, count=10, batch_size=2, seed=-1)
