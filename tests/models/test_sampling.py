"""Sampling from trained generators: batch-norm statistics, latents, image grids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.evaluation import inference
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.training.train_state import StepSpec, TrainState, create_train_state
from gankd_jax.training.train_step import normalize_images

LATENT = 9


@pytest.fixture(scope="module")
def generator() -> Generator:
    return DCGANGenerator(width=3, image_size=16, channels=1, latent_dim=LATENT)


@pytest.fixture(scope="module")
def state(generator) -> TrainState:
    """A state whose averages, of weights and of batch norm, differ from the last values."""
    first = create_train_state(StepSpec(generator, None, Recipe(alpha=0.0, ema=0.5)), 0)
    running = jax.tree.map(lambda leaf: leaf + 0.25, first.generator.batch_stats)
    average = jax.tree.map(lambda leaf: leaf * 2 + 0.05, first.ema_params)
    return first.replace(generator=first.generator.replace(batch_stats=running), ema_params=average)


def test_recomputed_statistics_are_means_over_the_fixed_batches(generator, state):
    variables = inference.inference_variables(generator, state, "recomputed")
    keys = jax.random.split(jax.random.key(inference.BN_SEED), inference.BN_BATCHES)
    shape = (inference.BN_BATCH_SIZE, LATENT)
    batches = np.stack([np.asarray(jax.random.normal(key, shape), np.float64) for key in keys])
    layer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.ema_params["layer0"])
    # The first layer is a product with each of the 16 taps, in front of the first norm.
    maps = np.einsum("nbz,hwzc->nbhwc", batches, layer["kernel"]) + layer["bias"]
    first_norm = variables["batch_stats"]["norm0"]["batch"]
    np.testing.assert_allclose(first_norm["mean"], maps.mean((1, 2, 3)).mean(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(first_norm["var"], maps.var((1, 2, 3)).mean(0), rtol=1e-4)


def test_running_statistics_are_used_as_they_are(generator, state):
    variables = inference.inference_variables(generator, state, "running")
    assert variables["batch_stats"] is state.generator.batch_stats
    assert variables["params"] is state.ema_params


def test_without_averaged_weights_the_last_ones_are_used(generator, state):
    plain = state.replace(ema_params=None)
    assert inference.inference_variables(generator, plain, "running")["params"] is (
        state.generator.params
    )
    unaveraged = inference.inference_variables(generator, plain, "recomputed")["batch_stats"]
    averaged = inference.inference_variables(generator, state, "recomputed")["batch_stats"]
    assert not np.allclose(unaveraged["norm0"]["batch"]["var"], averaged["norm0"]["batch"]["var"])


def test_large_batches_are_generated_in_parts_on_a_cpu(state, monkeypatch):
    cpu = DCGANGenerator(width=3, image_size=16, channels=1, latent_dim=LATENT, conv_impl="matmul")
    variables = inference.inference_variables(cpu, state, "running")
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


def test_without_batch_norm_there_are_no_statistics():
    generator = DCGANGenerator(width=1, image_size=16, channels=1, latent_dim=LATENT, norm="none")
    state = create_train_state(StepSpec(generator, None, Recipe(alpha=0.0)), 0)
    variables = inference.inference_variables(generator, state, "recomputed")
    assert variables == {"params": state.generator.params}


def test_an_image_depends_only_on_its_latent(generator, state):
    variables = inference.inference_variables(generator, state, "recomputed")
    latents = sampling.sample_latents(5, 6, LATENT)
    together = np.asarray(sampling.sample_images(generator, variables, latents))
    assert together.shape == (6, 16, 16, 1)
    assert np.abs(together).max() <= 1
    alone = [np.asarray(sampling.sample_images(generator, variables, z[None]))[0] for z in latents]
    np.testing.assert_allclose(np.stack(alone), together, rtol=0, atol=1e-5)


def test_uint8_maps_minus_one_to_0_and_one_to_255():
    values = jnp.array([-7.0, -1.0, -0.998, 0.0, 0.5, 1.0, 1.001]).reshape(1, 7, 1, 1)
    values = jnp.broadcast_to(values, (1, 7, 7, 1))
    images = sampling.to_uint8(values)
    assert images.dtype == np.uint8
    assert images[0, :, 0, 0].tolist() == [0, 0, 0, 128, 191, 255, 255]


def test_every_grey_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(sampling.to_uint8(normalize_images(jnp.asarray(levels))), levels)


def test_latents_are_standard_normal_and_a_function_of_their_seed():
    latents = np.asarray(sampling.sample_latents(1, 4000, 50))
    assert abs(latents.mean()) < 0.01
    assert abs(latents.std() - 1) < 0.01
    assert np.array_equal(latents, sampling.sample_latents(1, 4000, 50))
    assert not np.array_equal(latents, sampling.sample_latents(2, 4000, 50))
    assert sampling.grid_latents(7).shape == (64, 7)


def test_paths_run_along_great_circles_at_even_speed():
    paths = np.asarray(sampling.interpolation_latents(100), np.float64).reshape(
        sampling.INTERPOLATION_PATHS, sampling.INTERPOLATION_STEPS, 100
    )
    for path in paths:
        ends = np.stack([path[0], path[-1]], axis=1)
        weights, residues, _, _ = np.linalg.lstsq(ends, path.T, rcond=None)
        assert residues.max() < 1e-8  # in the plane of the two ends
        # Squares that sum to one: a mixture of two standard normal latents is one again.
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


def test_a_trained_generator_unpacks_and_samples_what_its_module_generates():
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
