"""Batch norm with its own derivative, against Flax and against autodiff."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models.norms import (
    EPSILON,
    BatchNorm,
    _moments,
    _moments_in_one_pass,
    batch_normalize,
)

SHAPE = (3, 4, 2, 5)


@pytest.fixture
def enable_float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def random_array(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def normalize_by_definition(images, scale, bias):
    """Computes batch norm by its definition."""
    mean = jnp.mean(images, axis=(0, 1, 2))
    var = jnp.mean((images - mean) ** 2, axis=(0, 1, 2))
    return (images - mean) / jnp.sqrt(var + EPSILON) * scale + bias, mean, var


def random_inputs():
    # With a mean of 10, E[x^2] - E[x]^2 would show its rounding errors.
    return 10 + random_array(0, *SHAPE), random_array(1, 5), random_array(2, 5)


def test_values_and_gradients_of_all_results_equal_autodiff(enable_float64):
    actual, actual_vjp = jax.vjp(batch_normalize, *random_inputs())
    expected, expected_vjp = jax.vjp(normalize_by_definition, *random_inputs())
    gradients = (random_array(3, *SHAPE), random_array(4, 5), random_array(5, 5))
    for a, b in zip(
        (*actual, *actual_vjp(gradients)), (*expected, *expected_vjp(gradients)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_second_derivatives_equal_autodiff(enable_float64):
    """A gradient penalty needs second derivatives."""
    weights = random_array(6, *SHAPE)

    def penalty(norm):
        def score(images, scale, bias):
            return jnp.sum(jnp.tanh(norm(images, scale, bias)[0]) * weights)

        return jax.grad(lambda *x: jnp.sum(jax.grad(score)(*x) ** 2), argnums=(0, 1, 2))

    for a, b in zip(
        penalty(batch_normalize)(*random_inputs()),
        penalty(normalize_by_definition)(*random_inputs()),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax(train):
    """Outputs and updated variables, from the same variables."""
    images = random_inputs()[0].astype(jnp.float32)
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, use_fast_variance=False)
    variables = BatchNorm().init(jax.random.key(0), images, True)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, variables, flax.init(jax.random.key(0), images))
    )
    variables = jax.tree.map(lambda leaf: leaf + 0.3 * random_array(7, 5) ** 2, variables)
    actual = BatchNorm().apply(variables, images, train, mutable=["batch_stats"])
    expected = flax.apply(variables, images, mutable=["batch_stats"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), actual, expected
    )


def test_moments_in_one_pass_equal_those_in_two():
    images = 3.0 + 0.5 * random_array(8, *SHAPE).astype(jnp.float32)
    for a, b in zip(_moments_in_one_pass(images), _moments(images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)
