"""The registry of network families and the interface that each family fulfils."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import folding, sampling
from gankd_jax.models.dcgan import DCGANCritic
from gankd_jax.models.family import (
    FAMILIES,
    Critic,
    Family,
    Generator,
    family_of,
    register_family,
)

SIZES = {"width": 2, "image_size": 32, "channels": 3}


class UnregisteredCritic(DCGANCritic):
    pass


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> Family:
    return FAMILIES[request.param]


def test_networks_fulfil_the_protocols_and_have_a_family(family):
    generator, critic = family.generator(**SIZES, latent_dim=5), family.critic(**SIZES)
    assert isinstance(generator, Generator)
    assert isinstance(critic, Critic)
    assert family_of(generator) is family_of(critic) is family
    assert hash(generator) == hash(family.generator(**SIZES, latent_dim=5))


@pytest.mark.slow
def test_folded_generator_unfolds_to_the_same_images(family):
    module = family.generator(**SIZES, latent_dim=5)
    variables = module.init(jax.random.key(0), jnp.zeros((2, 5)), train=False)
    generator = sampling.TrainedGenerator(module, variables)
    layers = folding.fold_generator(generator)
    unfolded = folding.unfold_generator(module, layers)
    np.testing.assert_allclose(unfolded.sample(0, 3), generator.sample(0, 3), atol=1e-5)
    # A batch norm that stands alone among the layers has no multiply-adds.
    assert len(family.count_layer_macs(module)) == sum(
        layer.kernel.shape[2] > 1 for layer in layers
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.prune])
@pytest.mark.slow
def test_pruning_returns_parameters_of_the_narrower_shapes(name):
    def init_params(width):
        module = FAMILIES[name].generator(**SIZES | {"width": width}, latent_dim=5)
        return module.init(jax.random.key(width), jnp.zeros((2, 5)), train=False)["params"]

    pruned = FAMILIES[name].prune(init_params(1), init_params(3))
    assert jax.tree.map(jnp.shape, pruned) == jax.tree.map(jnp.shape, init_params(1))


def test_unregistered_network_is_rejected():
    with pytest.raises(ValueError, match="UnregisteredCritic belongs to no registered"):
        family_of(UnregisteredCritic(**SIZES))


def test_family_name_belongs_to_one_critic_class(family):
    other = dataclasses.replace(family, critic=UnregisteredCritic)
    with pytest.raises(ValueError, match=f"named '{family.name}' is registered already"):
        register_family(other)
    register_family(family)  # as when a notebook's cell is executed again
    assert FAMILIES[family.name] is family
