"""Images of a teacher outside of JAX: those of the latents that the train step samples."""

import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.training.teacher_prefetch import TeacherPrefetcher
from gankd_jax.training.train_step import sample_noise

LATENT_DIM = 3
RECIPE = Recipe(alpha=0.0, steps=12, batch_size=4)


def paint(latents: np.ndarray) -> np.ndarray:
    """Images `[b, 2, 2, 1]` from which the latents can be read."""
    return np.concatenate([latents, latents[:, :1]], axis=1).reshape(-1, 2, 2, 1)


@pytest.fixture
def prefetcher():
    prefetcher = TeacherPrefetcher(
        paint, RECIPE, latent_dim=LATENT_DIM, seeds=[0, 7], steps_per_call=3
    )
    yield prefetcher
    prefetcher.close()


def expected_images(step: int, seed: int) -> np.ndarray:
    sizes = {"critic_steps": 1, "batch_size": RECIPE.batch_size, "latent_dim": LATENT_DIM}
    return paint(np.asarray(sample_noise(seed, jnp.asarray(step), **sizes).latents[-1]))


@pytest.mark.parametrize("first_steps", [(0, 3, 6, 9), (6, 0), (3,)])
def test_each_call_gets_the_images_of_its_own_steps_and_seeds(prefetcher, first_steps):
    for first in first_steps:
        images = prefetcher.images(first)
        assert images.shape == (3, 2, 4, 2, 2, 1)
        for k in range(3):
            for row, seed in enumerate((0, 7)):
                np.testing.assert_allclose(
                    images[k, row], expected_images(first + k, seed), rtol=1e-5, atol=1e-6
                )


def test_an_error_of_the_teacher_reaches_the_caller():
    def fail(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    prefetcher = TeacherPrefetcher(fail, RECIPE, latent_dim=LATENT_DIM, seeds=[0], steps_per_call=3)
    with pytest.raises(RuntimeError, match="out of memory"):
        prefetcher.images(0)
    prefetcher.close()
