"""Losses and optimizers that a user registers by name."""

import jax.numpy as jnp
import optax
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.training import losses, registration, train_state
from gankd_jax.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("registries")


def test_a_registered_function_is_the_registry_s_and_stays_a_function():
    @registration.register_distance("half")
    def half(student, teacher, reduction):
        return jnp.mean(jnp.abs(student - teacher)) / 2

    assert losses.DISTANCES["half"] is half
    assert half(jnp.ones(2), jnp.zeros(2), "mean") == 0.5


@pytest.mark.parametrize(
    ("register", "name", "message"),
    [
        (registration.register_distance, "l1", "a distance named 'l1' is registered already"),
        (registration.register_feature_distance, "energy", "a feature distance named 'energy'"),
        (registration.register_optimizer, "adam", "an optimizer named 'adam' is registered"),
    ],
)
def test_a_name_of_the_package_is_refused(register, name, message):
    with pytest.raises(UserError, match=message):
        register(name)(lambda *arguments: None)


def test_a_gan_loss_is_a_pair_with_or_without_a_penalty():
    with pytest.raises(UserError, match="a GAN loss named 'hinge' is registered already"):
        registration.register_gan_loss("hinge", critic=jnp.add, generator=jnp.add)
    registration.register_gan_loss("plain", critic=jnp.add, generator=jnp.subtract)
    assert (losses.CRITIC_LOSSES["plain"], losses.GENERATOR_LOSSES["plain"]) == (
        jnp.add,
        jnp.subtract,
    )
    assert "plain" not in losses.PENALTIES
    registration.register_gan_loss(
        "zero", critic=jnp.add, generator=jnp.add, penalty=losses.r1_r2_penalty
    )
    assert losses.PENALTIES["zero"] is losses.r1_r2_penalty
    registration.register_gan_loss("zero", critic=jnp.add, generator=jnp.add)
    assert "zero" not in losses.PENALTIES


def test_code_that_is_executed_again_replaces_what_it_registered():
    def define(size: float):
        @registration.register_optimizer("constant")
        def make_constant(learning_rate, recipe):
            return optax.scale(-size)

    define(1.0)
    define(2.0)
    optimizer = train_state.make_generator_optimizer(Recipe(optimizer="constant"), 1)
    update, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())))
    assert update == -2.0
