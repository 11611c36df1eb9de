"""Which images the evaluation classifiers take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import classifiers
from gankd_jax.models.classifiers import ResNet, WhitenedConvNet, accepts_image_size

SIZES = range(4, 140)


def images_of(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, size, size, 1), np.float32)


def test_accepted_sizes_have_sides_that_can_be_halved_three_times():
    for size in SIZES:
        reduced = jax.eval_shape(classifiers.downsample_mean, images_of(size)).shape[1]
        assert accepts_image_size(size) == (reduced in range(8, 64, 8)), size
    assert all(map(accepts_image_size, (8, 16, 32, 64, 128)))
    assert not any(map(accepts_image_size, (28, 36, 100)))


@pytest.mark.parametrize("network", [WhitenedConvNet(10, 1, 4), ResNet(10, 1, 4)], ids=["a", "b"])
def test_each_network_takes_every_accepted_size(network):
    for size in filter(accepts_image_size, SIZES):
        variables = jax.eval_shape(network.init, jax.random.key(0), images_of(size))
        logits, features = jax.eval_shape(network.apply, variables, images_of(size))
        assert (logits.shape, features.shape) == ((2, 10), (2, 16)), size


def test_a_size_that_is_not_accepted_would_fail_only_in_the_network():
    with pytest.raises(TypeError, match="incompatible shapes"):
        jax.eval_shape(WhitenedConvNet(10, 1, 4).init, jax.random.key(0), images_of(28))
    image = jnp.zeros((1, 28, 28, 1))
    assert classifiers.downsample_mean(image).shape == image.shape
