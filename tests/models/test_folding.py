"""Folded and quantized generators: equal images, and rounding within half a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.constants import PRECISIONS
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.folding import (
    KERNEL_DTYPES,
    fold_generator,
    quantize,
    quantize_generator,
    unfold_generator,
)

MODULE = DCGANGenerator(2, 16, 3, latent_dim=7)


@pytest.fixture(scope="module")
def generator() -> sampling.TrainedGenerator:
    """A generator with random weights and random batch-norm statistics."""
    shapes = jax.eval_shape(
        lambda: MODULE.init(jax.random.key(0), jnp.zeros((2, MODULE.latent_dim)), train=False)
    )
    rng = np.random.default_rng(0)

    def random_leaf(leaf):
        """Kernels of both signs; positive scales and variances."""
        if len(leaf.shape) == 4:
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
        return jnp.asarray(rng.uniform(0.3, 0.8, leaf.shape), jnp.float32)

    return sampling.TrainedGenerator(MODULE, jax.tree.map(random_leaf, shapes))


def test_folded_layers_give_the_images_of_batch_norm(generator):
    folded = unfold_generator(MODULE, fold_generator(generator))
    assert "batch_stats" not in folded.variables
    images = generator.sample(5, 9)
    assert np.std(images) > 0.1
    np.testing.assert_allclose(folded.sample(5, 9), images, atol=2e-5)


def test_int8_rounds_a_weight_by_at_most_half_a_step(generator):
    for layer in fold_generator(generator):
        stored = quantize(layer, "int8")
        assert stored.kernel.dtype == np.int8
        step = np.abs(layer.kernel).max(axis=(0, 1, 2)) / 127
        assert (np.abs(stored.weights - layer.kernel) <= step / 2 * 1.0001).all()


def test_int8_channel_of_zeros_stays_zero(generator):
    layer = fold_generator(generator)[0]
    layer.kernel[..., 1] = 0
    stored = quantize(layer, "int8")
    assert stored.scale[1] == 1
    assert not stored.weights[..., 1].any()


@pytest.mark.parametrize(
    ("precision", "weight_bytes", "channel_bytes"),
    [("float32", 4, 4), ("float16", 2, 4), ("int8", 1, 8)],
)
def test_bytes_are_those_of_kernels_biases_and_int8_scales(
    generator, precision, weight_bytes, channel_bytes
):
    layers = fold_generator(generator)
    weights = sum(layer.kernel.size for layer in layers)
    channels = sum(len(layer.bias) for layer in layers)
    quantized, nbytes = quantize_generator(generator, precision)
    assert nbytes == weight_bytes * weights + channel_bytes * channels
    assert quantized.module.norm == "none"


def test_reports_know_the_precisions_of_exported_files():
    assert PRECISIONS == KERNEL_DTYPES
