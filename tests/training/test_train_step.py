"""One training step: schedules, averages, clipping, what is trained and what is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.training.train_state import (
    StepSpec,
    TrainState,
    create_train_state,
    learning_rate_schedule,
    make_critic_optimizer,
    make_generator_optimizer,
)
from gankd_jax.training.train_step import (
    TeacherTargets,
    critic_features,
    normalize_images,
    sample_noise,
    train_step,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

LATENT, BATCH, SIZE = 4, 4, 16
SIZES = {"critic_steps": 1, "batch_size": BATCH, "latent_dim": LATENT}
jitted = jax.jit(train_step, static_argnums=0)


def spec(recipe: Recipe) -> StepSpec:
    return StepSpec(
        generator=DCGANGenerator(1, SIZE, 1, latent_dim=LATENT, conv_impl="matmul"),
        critic=DCGANCritic(1, SIZE, 1, conv_impl="matmul") if recipe.alpha else None,
        recipe=recipe,
    )


def images(seed: int, *shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (*shape, SIZE, SIZE, 1), minval=-1, maxval=1)


@functools.cache
def trained(a_spec: StepSpec, steps: int) -> list[TrainState]:
    """The states of a run of that many steps, the first one among them, on random images."""
    recipe, states = a_spec.recipe, [create_train_state(a_spec, 0)]
    for step in range(steps):
        draws = sample_noise(0, jnp.array(step), **SIZES | {"critic_steps": recipe.critic_steps})
        real = images(step, recipe.critic_steps, BATCH) if a_spec.critic else None
        target = TeacherTargets(images(step + 100, BATCH), None) if recipe.alpha < 1 else None
        states.append(jitted(a_spec, states[-1], draws, real_images=real, targets=target)[0])
    return states


def reach(tree) -> float:
    """The largest size of a number in a tree."""
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def differ(one, other) -> bool:
    """Whether any number of two trees differs."""
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.any(a != b)), one, other)))


# Learning rates


@pytest.mark.parametrize(
    ("schedule", "middle", "last_but_one", "end"),
    [
        ("constant", 2.0, 2.0, 2.0),
        ("linear", 1.0, 2.0 / 8, 0.0),
        ("cosine", 1.0, 1 + np.cos(np.pi * 7 / 8), 0.0),
    ],
)
def test_schedules_rise_and_fall(schedule, middle, last_but_one, end):
    rate = learning_rate_schedule(2.0, Recipe(schedule=schedule, steps=12, warmup=4))
    rates = [float(rate(step)) for step in range(13)]
    np.testing.assert_allclose(rates[:5], [0.0, 0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    assert rates[8] == pytest.approx(middle, rel=1e-6)
    assert rates[11] == pytest.approx(last_but_one, rel=1e-5)
    assert rates[12] == pytest.approx(end, abs=1e-7)


def test_the_critics_schedule_runs_over_critic_steps():
    recipe = Recipe(schedule="linear", steps=5, warmup=1, critic_steps=3, critic_lr=1.0)
    adam = make_critic_optimizer(recipe)
    weight = jnp.zeros(())
    state, updates = adam.init(weight), []
    for _ in range(15):  # of a constant gradient, of which Adam makes the learning rate
        update, state = adam.update(jnp.ones(()), state, weight)
        updates.append(-float(update))
    expected = [k / 3 for k in range(3)] + [1 - k / 12 for k in range(12)]
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


# Random numbers


def test_draws_are_a_function_of_seed_and_step():
    first = sample_noise(3, jnp.array(7), **SIZES)
    again = jax.jit(lambda seed, step: sample_noise(seed, step, **SIZES))(
        jnp.array(3), jnp.array(7)
    )
    np.testing.assert_array_equal(first.latents, again.latents)
    np.testing.assert_array_equal(first.interp_weight, again.interp_weight)
    for other in (sample_noise(3, jnp.array(8), **SIZES), sample_noise(4, jnp.array(7), **SIZES)):
        assert not np.any(other.latents == first.latents)
        assert not np.any(other.interp_weight == first.interp_weight)


def test_the_generators_latents_do_not_depend_on_the_number_of_critic_steps():
    one, five = (sample_noise(0, jnp.array(1), **SIZES | {"critic_steps": k}) for k in (1, 5))
    # Two ulp: XLA rounds normal numbers of another shape otherwise on some processors.
    np.testing.assert_array_max_ulp(one.latents[-1], five.latents[-1], maxulp=2)
    assert len(np.unique(five.latents)) == five.latents.size


def test_draws_have_their_distributions():
    draws = sample_noise(0, jnp.array(0), critic_steps=3, batch_size=2000, latent_dim=LATENT)
    assert float(draws.latents.mean()) == pytest.approx(0, abs=0.03)
    assert float(draws.latents.std()) == pytest.approx(1, abs=0.03)
    assert 0 <= draws.interp_weight.min() < 0.01
    assert 0.99 < draws.interp_weight.max() < 1


def test_pixels_become_numbers_from_minus_one_to_one():
    pixels = jnp.array([0, 51, 255], jnp.uint8)[:, None, None, None]
    np.testing.assert_allclose(normalize_images(pixels).ravel(), [-1, -0.6, 1], atol=1e-6)


# Steps

DISTILLED = spec(Recipe(alpha=0.0, reduction="sum", ema=0.15, generator_lr=0.01))
ADVERSARIAL = spec(Recipe(loss="hinge", critic_steps=3))


def test_the_first_step_of_a_distilled_generator_by_hand():
    # Adam's first step is the learning rate against the gradient's sign, where that is not tiny.
    before, after = (state.generator.params for state in trained(DISTILLED, 3)[:2])
    latents = sample_noise(0, jnp.array(0), **SIZES).latents[-1]
    target = images(100, BATCH)

    def distance(params):
        variables = {
            "params": params,
            "batch_stats": trained(DISTILLED, 3)[0].generator.batch_stats,
        }
        drawn, _ = DISTILLED.generator.apply(
            variables, latents, train=True, mutable=["batch_stats"]
        )
        return jnp.sum((drawn - target) ** 2) / BATCH

    slope = jax.jit(jax.grad(distance))(before)["layer2"]["kernel"]
    expected = before["layer2"]["kernel"] - 0.01 * jnp.sign(slope)
    np.testing.assert_allclose(after["layer2"]["kernel"], expected, atol=1e-6)


def test_the_average_warms_up():
    states = trained(DISTILLED, 3)
    first, *weights = [np.asarray(s.generator.params["layer0"]["kernel"], float) for s in states]
    # Decays: 1 / 10, then 2 / 11 and 3 / 12, which are above 0.15.
    one = 0.1 * first + 0.9 * weights[0]
    two = 0.15 * one + 0.85 * weights[1]
    three = 0.15 * two + 0.85 * weights[2]
    for state, expected in zip(states[1:], (one, two, three), strict=True):
        np.testing.assert_allclose(state.ema_params["layer0"]["kernel"], expected, atol=1e-7)
    assert np.abs(weights[2] - first).max() > 0.01


def test_a_feature_critic_does_not_change_and_still_teaches():
    states = trained(spec(Recipe(train_critic=False)), 2)
    assert not differ(states[0].critic, states[2].critic)
    assert differ(states[0].generator.params, states[2].generator.params)


def test_a_trained_critic_changes_with_its_statistics():
    states = trained(ADVERSARIAL, 2)
    assert differ(states[0].critic.params, states[2].critic.params)
    assert differ(states[0].critic.batch_stats, states[2].critic.batch_stats)


def test_wgan_keeps_the_critics_weights_within_the_bound():
    states = trained(spec(Recipe(loss="wgan", clip=0.01, critic_lr=0.02)), 3)
    assert reach(states[0].critic.params) > 0.01
    for state in states[1:]:
        assert reach(state.critic.params) == pytest.approx(0.01)
        assert reach(state.generator.params) > 0.01


def test_each_critic_step_trains_the_critic_and_the_generator_moves_once():
    states = trained(ADVERSARIAL, 2)
    assert [int(s.step) for s in states] == [0, 1, 2]
    assert [int(s.generator.opt_state[0].count) for s in states] == [0, 1, 2]
    assert [int(s.critic.opt_state[0].count) for s in states] == [0, 3, 6]


def test_a_critic_that_goes_on_from_the_teachers_starts_with_its_weights_and_a_fresh_optimizer():
    teacher = trained(ADVERSARIAL, 2)[-1].critic
    a_spec = spec(Recipe(alpha=0.5, critic="teacher"))
    state = create_train_state(a_spec, 5, teacher)
    assert not differ(state.critic.params, teacher.params)
    assert not differ(state.critic.batch_stats, teacher.batch_stats)
    assert int(state.critic.opt_state[0].count) == 0
    assert differ(create_train_state(a_spec, 5).critic.params, teacher.params)


def test_generator_and_critic_start_from_numbers_of_their_seed():
    one, same, other = (create_train_state(spec(Recipe()), seed) for seed in (1, 1, 2))
    assert not differ(one, same)
    for network in ("generator", "critic"):
        kernels = [getattr(s, network).params["layer1"]["kernel"] for s in (one, other)]
        assert not np.any(kernels[0] == kernels[1])


def test_a_critic_of_the_teachers_images_takes_them_for_real():
    state, draws = (
        create_train_state(spec(Recipe(alpha=0.5)), 0),
        sample_noise(0, jnp.array(0), **SIZES),
    )
    data, shown = images(1, 1, BATCH), images(2, BATCH)

    def critic_after(recipe, real):
        target = TeacherTargets(shown, None)
        return jitted(spec(recipe), state, draws, real_images=real, targets=target)[0].critic

    seen = critic_after(Recipe(alpha=0.5, real_source="teacher"), data)
    assert not differ(seen, critic_after(Recipe(alpha=0.5), shown[None]))
    assert differ(seen, critic_after(Recipe(alpha=0.5), data))


def test_the_rate_falls_with_the_width_as_the_power_says():
    weight = jnp.zeros(())
    for power, expected in ((0.0, 0.1), (1.0, 0.1 / 8), (0.5, 0.1 / 8**0.5)):
        adam = make_generator_optimizer(Recipe(generator_lr=0.1, lr_width_exponent=power), 8)
        update, _ = adam.update(jnp.ones(()), adam.init(weight), weight)
        assert -float(update) == pytest.approx(expected, rel=1e-5)


def test_the_share_of_the_features_rises_from_none_to_its_end():
    recipe = Recipe(alpha=0.0, features="l1", feature_weight=0.8, feature_batch=BATCH, steps=4)
    eye = DCGANCritic(2, SIZE, 1, norm="none", conv_impl="matmul")
    frozen = eye.init(jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 1)), train=False)
    shown = images(2, BATCH)
    target = TeacherTargets(shown, critic_features(eye, frozen, shown))
    assert [layer.shape for layer in target.features] == [(BATCH, 8, 8, 2), (BATCH, 4, 4, 4)]
    a_spec = dataclasses.replace(spec(recipe), feature_critic=eye)
    begun = create_train_state(a_spec, 0)
    for step in (0, 1, 4):
        state = dataclasses.replace(begun, step=jnp.array(step))
        draws = sample_noise(0, jnp.array(0), **SIZES)
        _, found = jitted(
            a_spec, state, draws, real_images=None, targets=target, feature_critic_variables=frozen
        )
        share = 0.8 * step / 4
        expected = (1 - share) * found["pixel_error"] + share * found["feature_distance"]
        assert found["distance"] == pytest.approx(float(expected), rel=1e-5)
        assert abs(found["pixel_error"] - found["feature_distance"]) > 0.01


def test_a_feature_critics_features_are_of_each_image_by_itself():
    eye = DCGANCritic(2, SIZE, 1, norm="batch", conv_impl="matmul")
    frozen = eye.init(jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 1)), train=False)
    together = critic_features(eye, frozen, images(1, 3))
    alone = critic_features(eye, frozen, images(1, 3)[1:2])
    for all_of_them, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(all_of_them[1:2], one, atol=1e-6)
