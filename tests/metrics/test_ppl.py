"""Perceptual path length against torch-fidelity's interpolation and a plain calculation."""

import numpy as np
import pytest
from torch_references import import_reference

from gankd_jax.metrics import ppl


def test_interpolation_is_that_of_torch_fidelity(parity):
    torch, noise = import_reference("torch"), import_reference("torch_fidelity.noise")
    rng = np.random.default_rng(0)
    starts, stops = rng.normal(size=(2, 50, 8))
    places = rng.uniform(size=50)
    expected = noise.batch_slerp_any(
        *map(torch.from_numpy, (starts, stops)), torch.from_numpy(places)[:, None]
    )
    error = np.abs(ppl.slerp(starts, stops, places) - expected.numpy()).max()
    parity.check("slerp of latents", error, bound=1e-12)


def test_steps_begin_and_end_on_the_great_circle():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(2, 20, 8))
    starts, stops = directions / np.linalg.norm(directions, axis=2, keepdims=True)
    before, after = ppl.path_steps(starts, stops, rng.uniform(size=20))
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1)
    angles = np.arccos((starts * stops).sum(axis=1))  # a step is a ten-thousandth of each
    np.testing.assert_allclose(np.linalg.norm(after - before, axis=1), 1e-4 * angles, rtol=1e-6)


def test_length_is_the_mean_square_without_one_percent_at_each_end():
    torch = import_reference("torch")
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=(2, 1_000, 5)).astype(np.float32)
    squares = (torch.from_numpy(after).double() - torch.from_numpy(before).double()).square().sum(1)
    ordered = squares.div(1e-4**2).sort().values
    lengths = ppl.step_lengths(before, after)
    # The percentiles lie at places 9.99 and 989.01 of 0..999; StyleGAN keeps the values around.
    assert ppl.mean_path_length(lengths) == pytest.approx(ordered[9:991].mean().item(), rel=1e-9)
    assert ppl.mean_path_length(lengths[:1]) == lengths[0]
