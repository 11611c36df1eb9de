"""Inference variables: averaged weights and batch-norm statistics."""

import jax
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.evaluation import inference
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.training.train_state import StepSpec, TrainState, create_train_state

LATENT = 9


@pytest.fixture(scope="module")
def generator() -> Generator:
    return DCGANGenerator(width=3, image_size=16, channels=1, latent_dim=LATENT)


@pytest.fixture(scope="module")
def state(generator) -> TrainState:
    """A state whose averaged weights and running statistics differ from their current values."""
    initial = create_train_state(StepSpec(generator, None, Recipe(alpha=0.0, ema=0.5)), 0)
    running = jax.tree.map(lambda leaf: leaf + 0.25, initial.generator.batch_stats)
    average = jax.tree.map(lambda leaf: leaf * 2 + 0.05, initial.ema_params)
    return initial.replace(
        generator=initial.generator.replace(batch_stats=running), ema_params=average
    )


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


def test_running_statistics_are_used_unchanged(generator, state):
    variables = inference.inference_variables(generator, state, "running")
    assert variables["batch_stats"] is state.generator.batch_stats
    assert variables["params"] is state.ema_params


def test_current_weights_are_used_without_averaged_weights(generator, state):
    plain = state.replace(ema_params=None)
    assert inference.inference_variables(generator, plain, "running")["params"] is (
        state.generator.params
    )
    unaveraged = inference.inference_variables(generator, plain, "recomputed")["batch_stats"]
    averaged = inference.inference_variables(generator, state, "recomputed")["batch_stats"]
    assert not np.allclose(unaveraged["norm0"]["batch"]["var"], averaged["norm0"]["batch"]["var"])


def test_network_without_batch_norm_has_no_statistics():
    generator = DCGANGenerator(width=1, image_size=16, channels=1, latent_dim=LATENT, norm="none")
    state = create_train_state(StepSpec(generator, None, Recipe(alpha=0.0)), 0)
    variables = inference.inference_variables(generator, state, "recomputed")
    assert variables == {"params": state.generator.params}
