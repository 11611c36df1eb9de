"""Sampling from trained generators: latents, batches, image grids."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.training.train_step import normalize_images

LATENT = 9


@pytest.fixture(scope="module")
def generator() -> Generator:
    return DCGANGenerator(width=3, image_size=16, channels=1, latent_dim=LATENT)


@pytest.fixture(scope="module")
def variables(generator) -> dict:
    """Variables whose images vary visibly, with running statistics other than 0 and 1."""
    initial = generator.init(jax.random.key(0), jnp.zeros((2, LATENT)), train=False)
    return {
        "params": jax.tree.map(lambda leaf: leaf * 2 + 0.05, initial["params"]),
        "batch_stats": jax.tree.map(lambda leaf: leaf + 0.25, initial["batch_stats"]),
    }


@pytest.mark.slow
def test_large_batches_are_generated_in_parts_on_a_cpu(variables, monkeypatch):
    cpu = DCGANGenerator(width=3, image_size=16, channels=1, latent_dim=LATENT, conv_impl="matmul")
    latents = sampling.sample_latents(0, 21, LATENT)
    image_bytes = 4 * 8 * 8 * (2 * 3 + 16)
    monkeypatch.setattr(sampling, "MIN_PART", 2)
    assert sampling._part_size(cpu, 21) == 21
    monkeypatch.setattr(sampling, "MAX_BYTES", 16 * image_bytes)
    assert sampling._part_size(cpu, 16) == 16
    assert sampling._part_size(cpu, 21) == 7  # three parts of at most 8 images
    assert sampling._part_size(cpu, 20) == 7  # and one is padding
    assert sampling._part_size(dataclasses.replace(cpu, conv_impl="dilated"), 21) == 21
    for count in (20, 21):
        images = sampling.sample_images(cpu, variables, latents[:count])
        expected = cpu.apply(variables, latents[:count], train=False)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-6)


def test_any_number_of_images_fits_the_memory_of_a_gpu():
    gpu = DCGANGenerator(64, 64, 3, conv_impl="dilated")
    last_layers = 4 * (32 * 32 * 64 * 2 + 64 * 64 * 3 * 4)  # bytes of an image's
    part = sampling._part_size(gpu, 50_000)
    assert 2**28 < part * last_layers <= 2**29  # half of the limit
    assert sampling._part_size(gpu, 1_000) == 1_000


def test_image_depends_only_on_its_latent(generator, variables):
    latents = sampling.sample_latents(5, 6, LATENT)
    batch = np.asarray(sampling.sample_images(generator, variables, latents))
    assert batch.shape == (6, 16, 16, 1)
    assert np.abs(batch).max() <= 1
    single = [np.asarray(sampling.sample_images(generator, variables, z[None]))[0] for z in latents]
    np.testing.assert_allclose(np.stack(single), batch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", ["matmul", "dilated"])
def test_products_are_in_float32_on_every_device(variables, impl):
    module = DCGANGenerator(3, 16, 1, latent_dim=LATENT, conv_impl=impl)
    latents = jax.ShapeDtypeStruct((2, LATENT), np.float32)
    text = sampling.sample_images.lower(module, variables, latents).as_text()
    products = re.findall(r".*(?:dot_general|convolution\().*", text)
    assert len(products) >= 3  # the first layer and two of 4x4
    assert all(line.count("HIGHEST") == 2 for line in products), products


def test_uint8_maps_minus_one_to_0_and_one_to_255():
    values = jnp.array([-7.0, -1.0, -0.998, 0.0, 0.5, 1.0, 1.001]).reshape(1, 7, 1, 1)
    values = jnp.broadcast_to(values, (1, 7, 7, 1))
    images = sampling.to_uint8(values)
    assert images.dtype == np.uint8
    assert images[0, :, 0, 0].tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_uint8_round_trip_keeps_every_grey_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(sampling.to_uint8(normalize_images(jnp.asarray(levels))), levels)


def test_latents_are_standard_normal_and_a_function_of_their_seed():
    latents = np.asarray(sampling.sample_latents(1, 4000, 50))
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1) < 0.01
    assert np.array_equal(latents, sampling.sample_latents(1, 4000, 50))
    assert not np.array_equal(latents, sampling.sample_latents(2, 4000, 50))
    assert sampling.grid_latents(7).shape == (64, 7)


def test_interpolation_follows_great_circles_at_constant_speed():
    paths = np.asarray(sampling.interpolation_latents(100), np.float64).reshape(
        sampling.INTERPOLATION_PATHS, sampling.INTERPOLATION_STEPS, 100
    )
    for path in paths:
        ends = np.stack([path[0], path[-1]], axis=1)
        weights, residues, _, _ = np.linalg.lstsq(ends, path.T, rcond=None)
        assert residues.max() < 1e-8  # in the plane of the two ends
        # Squared weights sum to 1, so that interpolated latents stay standard normal.
        np.testing.assert_allclose((weights**2).sum(axis=0), 1, atol=1e-5)
        angles = np.arctan2(weights[1], weights[0])
        np.testing.assert_allclose(np.diff(angles), np.pi / 2 / (len(path) - 1), atol=1e-5)
    starts = paths[:, 0]
    assert np.unique(np.round(starts, 3), axis=0).shape == starts.shape  # all paths differ


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_are_laid_out_row_by_row(channels):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, channels), np.uint8)
    tiled = sampling.tile_images(images, 3)
    assert tiled.shape == (8, 12, channels)  # the seventh image has no complete row
    for k in range(6):
        row, column = 4 * (k // 3), 4 * (k % 3)
        assert np.array_equal(tiled[row : row + 4, column : column + 4], images[k])


def test_trained_generator_unpacks_and_samples_like_its_module():
    module = DCGANGenerator(width=1, image_size=16, channels=3, latent_dim=LATENT)
    variables = module.init(jax.random.key(0), jnp.zeros((2, LATENT)), train=False)
    generator = sampling.TrainedGenerator(module, variables)
    assert tuple(generator) == (module, variables)
    assert (generator.latent_dim, generator.image_size, generator.channels) == (LATENT, 16, 3)
    latents = sampling.sample_latents(7, 2, LATENT)
    expected = module.apply(variables, latents, train=False)
    images = generator.sample(seed=7, n=2)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_no_latents_give_no_images(generator, variables):
    latents = jnp.zeros((0, generator.latent_dim))
    images = sampling.sample_images(generator, variables, latents)
    assert images.shape == (0, generator.image_size, generator.image_size, generator.channels)
    assert sampling.TrainedGenerator(generator, variables).sample(n=0).shape == images.shape
