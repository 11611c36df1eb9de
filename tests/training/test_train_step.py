"""One training step: schedules, averaged weights, clipping, and which networks are trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.classifiers import WhitenedConvNet
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
    hidden_layers,
    normalize_images,
    sample_noise,
    train_step,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

LATENT, BATCH, SIZE = 4, 4, 16
SIZES = {"critic_steps": 1, "batch_size": BATCH, "latent_dim": LATENT}
jitted_train_step = jax.jit(train_step, static_argnums=0)


def step_spec(recipe: Recipe) -> StepSpec:
    return StepSpec(
        generator=DCGANGenerator(1, SIZE, 1, latent_dim=LATENT, conv_impl="matmul"),
        critic=DCGANCritic(1, SIZE, 1, conv_impl="matmul") if recipe.alpha else None,
        recipe=recipe,
    )


def random_images(seed: int, *shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (*shape, SIZE, SIZE, 1), minval=-1, maxval=1)


@functools.cache
def train_states(spec: StepSpec, steps: int) -> list[TrainState]:
    """Trains on random images; returns the initial state and the state after each step."""
    recipe = spec.recipe
    states = [create_train_state(spec, 0)]
    for step in range(steps):
        noise = sample_noise(0, jnp.array(step), **SIZES | {"critic_steps": recipe.critic_steps})
        real = random_images(step, recipe.critic_steps, BATCH) if spec.critic else None
        target = TeacherTargets(random_images(step + 100, BATCH), {}) if recipe.alpha < 1 else None
        states.append(
            jitted_train_step(spec, states[-1], noise, real_images=real, targets=target)[0]
        )
    return states


def largest_abs_value(tree) -> float:
    """Returns the largest absolute value of a pytree."""
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def any_value_differs(tree, other_tree) -> bool:
    """Returns whether any value of two pytrees differs."""
    differs = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), tree, other_tree)
    return any(jax.tree.leaves(differs))


# Learning rates


@pytest.mark.parametrize(
    ("schedule", "middle", "last_but_one", "end"),
    [
        ("constant", 2.0, 2.0, 2.0),
        ("linear", 1.0, 2.0 / 8, 0.0),
        ("cosine", 1.0, 1 + np.cos(np.pi * 7 / 8), 0.0),
    ],
)
def test_learning_rate_warms_up_and_decays(schedule, middle, last_but_one, end):
    rate = learning_rate_schedule(2.0, Recipe(schedule=schedule, steps=12, warmup=4))
    rates = [float(rate(step)) for step in range(13)]
    np.testing.assert_allclose(rates[:5], [0.0, 0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    assert rates[8] == pytest.approx(middle, rel=1e-6)
    assert rates[11] == pytest.approx(last_but_one, rel=1e-5)
    assert rates[12] == pytest.approx(end, abs=1e-7)


def test_critic_schedule_counts_critic_steps():
    recipe = Recipe(schedule="linear", steps=5, warmup=1, critic_steps=3, critic_lr=1.0)
    adam = make_critic_optimizer(recipe)
    weight = jnp.zeros(())
    state, updates = adam.init(weight), []
    for _ in range(15):  # Adam's update for a constant gradient is the learning rate
        update, state = adam.update(jnp.ones(()), state, weight)
        updates.append(-float(update))
    expected = [k / 3 for k in range(3)] + [1 - k / 12 for k in range(12)]
    np.testing.assert_allclose(updates, expected, rtol=1e-5)


# Noise


def test_noise_depends_on_seed_and_step_only():
    first = sample_noise(3, jnp.array(7), **SIZES)
    again = jax.jit(lambda seed, step: sample_noise(seed, step, **SIZES))(
        jnp.array(3), jnp.array(7)
    )
    np.testing.assert_array_equal(first.latents, again.latents)
    np.testing.assert_array_equal(first.interp_weight, again.interp_weight)
    for seed, step in ((3, 8), (4, 7)):
        noise = sample_noise(seed, jnp.array(step), **SIZES)
        assert not np.any(noise.latents == first.latents)
        assert not np.any(noise.interp_weight == first.interp_weight)


def test_generator_latents_do_not_depend_on_number_of_critic_steps():
    single, several = (
        sample_noise(0, jnp.array(1), **SIZES | {"critic_steps": k}).latents for k in (1, 5)
    )
    # Two ulp: on some processors XLA's rounding of normal numbers depends on the shape.
    np.testing.assert_array_max_ulp(single[-1], several[-1], maxulp=2)
    assert len(np.unique(several)) == several.size


def test_latents_are_normal_and_interp_weights_uniform():
    noise = sample_noise(0, jnp.array(0), critic_steps=3, batch_size=2000, latent_dim=LATENT)
    assert float(noise.latents.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.latents.std()) == pytest.approx(1, abs=0.03)
    assert 0 <= noise.interp_weight.min() < 0.01
    assert 0.99 < noise.interp_weight.max() < 1


def test_normalize_images_maps_uint8_to_minus_one_to_one():
    pixels = jnp.array([0, 51, 255], jnp.uint8)[:, None, None, None]
    np.testing.assert_allclose(normalize_images(pixels).ravel(), [-1, -0.6, 1], atol=1e-6)


# Steps

DISTILLED = step_spec(Recipe(alpha=0.0, reduction="sum", ema=0.15, generator_lr=0.01))
ADVERSARIAL = step_spec(Recipe(loss="hinge", critic_steps=3))


def test_first_distillation_step_equals_hand_computed_update():
    # Adam's first update is -learning_rate * sign(gradient), unless the gradient is tiny.
    first_state, second_state = train_states(DISTILLED, 3)[:2]
    before, after = first_state.generator.params, second_state.generator.params
    latents = sample_noise(0, jnp.array(0), **SIZES).latents[-1]
    target = random_images(100, BATCH)

    def distance(params):
        variables = {"params": params, "batch_stats": first_state.generator.batch_stats}
        generated, _ = DISTILLED.generator.apply(
            variables, latents, train=True, mutable=["batch_stats"]
        )
        return jnp.sum((generated - target) ** 2) / BATCH

    gradient = jax.jit(jax.grad(distance))(before)["layer2"]["kernel"]
    expected = before["layer2"]["kernel"] - 0.01 * jnp.sign(gradient)
    np.testing.assert_allclose(after["layer2"]["kernel"], expected, atol=1e-6)


def test_ema_decay_warms_up():
    states = train_states(DISTILLED, 3)
    first, *weights = [np.asarray(s.generator.params["layer0"]["kernel"], float) for s in states]
    # The warm-up decays are 1/10, 2/11 and 3/12; the last two exceed the recipe's 0.15.
    expected = first
    for state, weight, decay in zip(states[1:], weights, (0.1, 0.15, 0.15), strict=True):
        expected = decay * expected + (1 - decay) * weight
        np.testing.assert_allclose(state.ema_params["layer0"]["kernel"], expected, atol=1e-7)
    assert np.abs(weights[2] - first).max() > 0.01


def test_untrained_critic_stays_fixed_while_generator_learns():
    states = train_states(step_spec(Recipe(train_critic=False)), 2)
    assert not any_value_differs(states[0].critic, states[2].critic)
    assert any_value_differs(states[0].generator.params, states[2].generator.params)


def test_critic_training_changes_weights_and_batch_stats():
    states = train_states(ADVERSARIAL, 2)
    assert any_value_differs(states[0].critic.params, states[2].critic.params)
    assert any_value_differs(states[0].critic.batch_stats, states[2].critic.batch_stats)


def test_wgan_clips_critic_weights_only():
    states = train_states(step_spec(Recipe(loss="wgan", clip=0.01, critic_lr=0.02)), 3)
    assert largest_abs_value(states[0].critic.params) > 0.01
    for state in states[1:]:
        assert largest_abs_value(state.critic.params) == pytest.approx(0.01)
        assert largest_abs_value(state.generator.params) > 0.01


def test_one_train_step_has_three_critic_updates_and_one_generator_update():
    states = train_states(ADVERSARIAL, 2)
    assert [int(s.step) for s in states] == [0, 1, 2]
    assert [int(s.generator.opt_state[0].count) for s in states] == [0, 1, 2]
    assert [int(s.critic.opt_state[0].count) for s in states] == [0, 3, 6]


def test_large_batches_in_place_of_several_give_the_same_critic():
    """Off a CPU all critic steps' images are generated at once, and scored with the real ones."""
    recipe = Recipe(loss="wgan_gp", critic_steps=2, critic_norm="none", batch_size=BATCH)
    noise = sample_noise(0, jnp.array(0), **SIZES | {"critic_steps": 2})
    steps = []
    for conv_impl in ("matmul", "dilated"):
        generator = DCGANGenerator(1, SIZE, 1, latent_dim=LATENT, conv_impl=conv_impl)
        critic = DCGANCritic(1, SIZE, 1, norm="none", conv_impl=conv_impl)
        spec = StepSpec(generator, critic, recipe)
        real = random_images(0, 2, BATCH)
        state = create_train_state(spec, 0)
        steps.append(jitted_train_step(spec, state, noise, real_images=real, targets=None))
    (expected_state, expected), (state, metrics) = steps
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name
    for a, b in zip(
        *(jax.tree.leaves(s.critic.params) for s in (state, expected_state)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_finetuned_teacher_critic_has_teacher_weights_and_a_fresh_optimizer():
    teacher = train_states(ADVERSARIAL, 2)[-1].critic
    spec = step_spec(Recipe(alpha=0.5, critic="teacher"))
    state = create_train_state(spec, 5, teacher)
    assert not any_value_differs(state.critic.params, teacher.params)
    assert not any_value_differs(state.critic.batch_stats, teacher.batch_stats)
    assert int(state.critic.opt_state[0].count) == 0
    assert any_value_differs(create_train_state(spec, 5).critic.params, teacher.params)


def test_initial_weights_depend_on_seed():
    first, repeated, other_seed = (
        create_train_state(step_spec(Recipe()), seed) for seed in (1, 1, 2)
    )
    assert not any_value_differs(first, repeated)
    for network in ("generator", "critic"):
        kernels = [getattr(s, network).params["layer1"]["kernel"] for s in (first, other_seed)]
        assert not np.any(kernels[0] == kernels[1])


def test_real_source_teacher_trains_critic_on_teacher_images():
    state = create_train_state(step_spec(Recipe(alpha=0.5)), 0)
    noise = sample_noise(0, jnp.array(0), **SIZES)
    data_images, teacher_images = random_images(1, 1, BATCH), random_images(2, BATCH)

    def train_critic(recipe, real_images):
        state_after, _ = jitted_train_step(
            step_spec(recipe),
            state,
            noise,
            real_images=real_images,
            targets=TeacherTargets(teacher_images, {}),
        )
        return state_after.critic

    critic = train_critic(Recipe(alpha=0.5, real_source="teacher"), data_images)
    assert not any_value_differs(critic, train_critic(Recipe(alpha=0.5), teacher_images[None]))
    assert any_value_differs(critic, train_critic(Recipe(alpha=0.5), data_images))


def test_learning_rate_is_divided_by_a_power_of_width():
    weight = jnp.zeros(())
    for exponent, expected in ((0.0, 0.1), (1.0, 0.1 / 8), (0.5, 0.1 / 8**0.5)):
        adam = make_generator_optimizer(Recipe(generator_lr=0.1, lr_width_exponent=exponent), 8)
        update, _ = adam.update(jnp.ones(()), adam.init(weight), weight)
        assert -float(update) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_feature_weight_rises_linearly_from_zero():
    recipe = Recipe(alpha=0.0, features="l1", feature_weight=0.8, feature_batch=BATCH, steps=4)
    feature_critic = DCGANCritic(2, SIZE, 1, norm="none", conv_impl="matmul")
    critic_variables = feature_critic.init(
        jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 1)), train=False
    )
    teacher_images = random_images(2, BATCH)
    target = TeacherTargets(
        teacher_images,
        {"critic": hidden_layers(feature_critic, critic_variables, teacher_images)},
    )
    assert [layer.shape for layer in target.features["critic"]] == [
        (BATCH, 8, 8, 2),
        (BATCH, 4, 4, 4),
    ]
    spec = dataclasses.replace(step_spec(recipe), feature_network=feature_critic)
    initial_state = create_train_state(spec, 0)
    for step in (0, 1, 4):
        state = dataclasses.replace(initial_state, step=jnp.array(step))
        noise = sample_noise(0, jnp.array(0), **SIZES)
        _, metrics = jitted_train_step(
            spec,
            state,
            noise,
            real_images=None,
            targets=target,
            feature_variables={"critic": critic_variables},
        )
        weight = 0.8 * step / 4
        expected = (1 - weight) * metrics["pixel_error"] + weight * metrics["feature_distance"]
        assert metrics["distance"] == pytest.approx(float(expected), rel=1e-5)
        assert abs(metrics["pixel_error"] - metrics["feature_distance"]) > 0.01


def test_features_of_an_image_do_not_depend_on_its_batch():
    feature_critic = DCGANCritic(2, SIZE, 1, norm="batch", conv_impl="matmul")
    critic_variables = feature_critic.init(
        jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 1)), train=False
    )
    batch_features = hidden_layers(feature_critic, critic_variables, random_images(1, 3))
    single_features = hidden_layers(feature_critic, critic_variables, random_images(1, 3)[1:2])
    for batch_layer, single_layer in zip(batch_features, single_features, strict=True):
        np.testing.assert_allclose(batch_layer[1:2], single_layer, atol=1e-6)


def test_hidden_layers_of_a_classifier_end_with_its_features():
    network = WhitenedConvNet(10, 1, 4)
    variables = network.init(jax.random.key(3), random_images(1, 1))
    images = random_images(2, 3)
    layers = hidden_layers(network, variables, images)
    assert [layer.shape[1:] for layer in layers] == [(8, 8, 4), (4, 4, 8), (2, 2, 16), (16,)]
    np.testing.assert_allclose(layers[-1], network.apply(variables, images)[1], rtol=1e-6)
