"""Fixtures of the export tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.models.resnet import ResNetGenerator
from gankd_jax.models.sampling import TrainedGenerator


@pytest.fixture(scope="package")
def generator() -> TrainedGenerator:
    """A generator with random weights and random batch-norm statistics."""
    return fill_randomly(DCGANGenerator(3, 32, 3, latent_dim=7))


@pytest.fixture(scope="package")
def resnet_generator() -> TrainedGenerator:
    """The same of another family, whose batch norms stay layers of their own."""
    return fill_randomly(ResNetGenerator(3, 32, 3, latent_dim=7))


def fill_randomly(module: Generator) -> TrainedGenerator:
    blank = jnp.zeros((2, module.latent_dim))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), blank, train=False))
    rng = np.random.default_rng(0)

    def random_leaf(leaf):
        """Kernels of both signs; positive scales and variances."""
        if len(leaf.shape) == 4:
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
        return jnp.asarray(rng.uniform(0.3, 0.8, leaf.shape), jnp.float32)

    return TrainedGenerator(module, jax.tree.map(random_leaf, shapes))
