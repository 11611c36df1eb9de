"""Every loss against values worked out by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.training import losses

LN3 = np.log(3.0)
# Probabilities of being real: 1/2 and 3/4 for real images, 1/2 and 1/4 for fakes.
REAL, FAKE = jnp.array([0.0, LN3]), jnp.array([0.0, -LN3])
MEAN_NEGATIVE_LOG = (np.log(2) + np.log(4 / 3)) / 2


def test_bce_of_the_critic():
    # -ln(1/2) and -ln(3/4), for real images and for fakes
    expected = 2 * MEAN_NEGATIVE_LOG
    assert losses.CRITIC_LOSSES["bce"](REAL, FAKE) == pytest.approx(expected, rel=1e-6)
    assert losses.CRITIC_LOSSES["bce_saturating"](REAL, FAKE) == pytest.approx(expected, rel=1e-6)


def test_bce_of_the_generator():
    # -ln(1/2) and -ln(1/4)
    expected = (np.log(2) + np.log(4)) / 2
    assert losses.GENERATOR_LOSSES["bce"](FAKE, REAL) == pytest.approx(expected, rel=1e-6)


def test_saturating_bce_of_the_generator():
    # ln(1 - 1/2) and ln(1 - 1/4)
    expected = -MEAN_NEGATIVE_LOG
    loss = losses.GENERATOR_LOSSES["bce_saturating"](FAKE, REAL)
    assert loss == pytest.approx(expected, rel=1e-6)


def test_hinge():
    # real: 1 - 0.5, and nothing beyond 1; fake: nothing below -1, and 1 + 0.5
    loss = losses.CRITIC_LOSSES["hinge"](jnp.array([0.5, 2.0]), jnp.array([-2.0, 0.5]))
    assert loss == pytest.approx(0.25 + 0.75)
    assert losses.GENERATOR_LOSSES["hinge"](jnp.array([-2.0, 0.5]), REAL) == pytest.approx(0.75)


@pytest.mark.parametrize("name", ["wgan", "wgan_gp"])
def test_wasserstein(name):
    loss = losses.CRITIC_LOSSES[name](jnp.array([3.0, 5.0]), jnp.array([-1.0, 2.0]))
    assert loss == pytest.approx(0.5 - 4.0)
    assert losses.GENERATOR_LOSSES[name](jnp.array([-1.0, 2.0]), REAL) == pytest.approx(-0.5)


def test_the_relativistic_loss_compares_each_fake_with_its_real_image():
    # Differences of the pairs: 0 and ln 3 for the real image, so probabilities 1/2 and 3/4.
    real, fake = jnp.array([2.0, LN3]), jnp.array([2.0, 0.0])
    critic_loss = losses.CRITIC_LOSSES["rpgan"](real, fake)
    assert critic_loss == pytest.approx(MEAN_NEGATIVE_LOG, rel=1e-6)
    generator_loss = losses.GENERATOR_LOSSES["rpgan"](fake, real)
    assert generator_loss == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-6)
    shifted = losses.CRITIC_LOSSES["rpgan"](real + 7, fake + 7)  # only differences count
    assert shifted == pytest.approx(float(critic_loss), rel=1e-5)


@pytest.mark.parametrize("name", losses.GENERATOR_LOSSES)
def test_extreme_scores_have_finite_losses_and_gradients(name):
    scores = jnp.array([-300.0, 300.0])
    values = [
        *jax.value_and_grad(losses.GENERATOR_LOSSES[name])(scores, -scores),
        *jax.value_and_grad(losses.CRITIC_LOSSES[name])(scores, -scores),
    ]
    assert all(np.isfinite(value).all() for value in values)


def test_bce_of_an_extreme_score_is_the_score():
    confident = jnp.array([200.0])
    assert losses.critic_bce(-confident, confident) == pytest.approx(400.0)
    assert jax.grad(losses.generator_bce)(-confident, confident) == pytest.approx(-1.0)


def random_images(seed: int):
    return jax.random.normal(jax.random.key(seed), (3, 4, 4, 2))


def test_gradient_penalty_of_a_linear_critic():
    weights = jax.random.normal(jax.random.key(0), (4, 4, 2))

    def penalty(weights):
        def critic(images):
            return jnp.tensordot(images, weights, 3)

        interp_weight = jnp.array([0.1, 0.5, 0.9])
        return losses.gradient_penalty(
            critic, random_images(1), random_images(2), interp_weight=interp_weight
        )

    norm = np.linalg.norm(weights)
    assert penalty(weights) == pytest.approx((norm - 1) ** 2, rel=1e-5)
    # Its gradient with respect to the weights is 2 (|w| - 1) w / |w|.
    expected = 2 * (norm - 1) * np.asarray(weights) / norm
    np.testing.assert_allclose(jax.grad(penalty)(weights), expected, rtol=1e-5)


def test_gradient_penalty_is_taken_at_interpolated_images():
    real, fake = np.asarray(random_images(1)), np.asarray(random_images(2))
    interp_weight = np.array([0.0, 0.3, 1.0], np.float32)

    def critic(images):  # its gradient is the image itself
        return jnp.sum(jnp.square(images), axis=(1, 2, 3)) / 2

    weight = interp_weight[:, None, None, None]
    interpolated = weight * real + (1 - weight) * fake
    expected = np.mean([(np.linalg.norm(image) - 1) ** 2 for image in interpolated])
    arrays = map(jnp.asarray, (real, fake))
    penalty = losses.gradient_penalty(critic, *arrays, interp_weight=jnp.asarray(interp_weight))
    assert penalty == pytest.approx(expected, rel=1e-5)


def test_gradient_penalty_of_a_constant_critic_is_one_with_finite_gradient():
    def penalty(weight):
        def critic(images):
            return weight * jnp.sum(images, axis=(1, 2, 3))

        interp_weight = jnp.full(3, 0.5)
        return losses.gradient_penalty(
            critic, random_images(1), random_images(2), interp_weight=interp_weight
        )

    value, gradient = jax.value_and_grad(penalty)(0.0)
    assert value == 1.0
    assert np.isfinite(gradient)


def test_r1_and_r2_are_the_squared_slopes_at_real_and_at_fake_images():
    real, fake = np.asarray(random_images(1)), np.asarray(random_images(2))

    def critic(images):  # its gradient is the image itself
        return jnp.sum(jnp.square(images), axis=(1, 2, 3)) / 2

    expected = (np.mean([(i**2).sum() for i in real]) + np.mean([(i**2).sum() for i in fake])) / 2
    penalty = losses.PENALTIES["rpgan"](
        critic, jnp.asarray(real), jnp.asarray(fake), interp_weight=jnp.zeros(3)
    )
    assert penalty == pytest.approx(expected, rel=1e-5)


def test_distances_by_hand():
    teacher = jnp.zeros((2, 1, 1, 2))
    student = jnp.array([1.0, -2.0, 0.0, 3.0]).reshape(2, 1, 1, 2)
    # squares 1 + 4 and 0 + 9; absolute values 1 + 2 and 0 + 3
    assert losses.mse(student, teacher, "sum") == pytest.approx((5 + 9) / 2)
    assert losses.mse(student, teacher, "mean") == pytest.approx(14 / 4)
    assert losses.l1(student, teacher, "sum") == pytest.approx((3 + 3) / 2)
    assert losses.l1(student, teacher, "mean") == pytest.approx(6 / 4)


@pytest.mark.parametrize("name", losses.DISTANCES)
def test_sum_is_mean_times_values_per_image(name):
    student, teacher = random_images(1), random_images(2)
    total = losses.DISTANCES[name](student, teacher, "sum")
    assert total == pytest.approx(4 * 4 * 2 * losses.DISTANCES[name](student, teacher, "mean"))


def test_huber_is_quadratic_then_linear():
    student = jnp.array([0.1, -0.2, 0.5, -1.0]).reshape(2, 1, 1, 2)
    # d^2 / 2 up to 0.2, then 0.2 (|d| - 0.1)
    expected = [0.005, 0.02, 0.08, 0.18]
    assert losses.huber(student, jnp.zeros_like(student), "mean") == pytest.approx(
        np.mean(expected), rel=1e-5
    )


def test_pyramid_l1_of_a_constant_difference_is_its_absolute_value():
    difference = jnp.full((2, 16, 16, 3), -0.3)
    loss = losses.laplacian_pyramid_l1(difference, jnp.zeros_like(difference), "mean")
    assert loss == pytest.approx(0.3, rel=1e-5)


def test_pyramid_l1_is_the_sum_over_bands():
    fine = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1.0  # alternating pixels: zero in coarser bands
    coarse = np.kron(np.indices((4, 4)).sum(axis=0) % 2 * 2 - 1.0, np.ones((2, 2)))
    images = jnp.asarray(0.5 * fine + 0.25 * coarse, jnp.float32)[None, :, :, None]
    loss = losses.laplacian_pyramid_l1(images, jnp.zeros_like(images), "mean")
    assert loss == pytest.approx(0.5 + 0.25, rel=1e-5)


def random_features(seed: int, count: int = 6, scale: float = 1.0):
    keys = jax.random.split(jax.random.key(seed))
    return (
        scale * jax.random.normal(keys[0], (count, 2, 2, 3)),
        scale * jax.random.normal(keys[1], (count, 5)),
    )


def test_feature_l1_is_relative_to_each_layer():
    teacher = random_features(1)
    student = (teacher[0] * 1.5, teacher[1] * 0.9)
    assert losses.feature_l1(student, teacher) == pytest.approx((0.5 + 0.1) / 2, rel=1e-5)


def test_feature_energy_equals_a_computation_by_loops():
    student, teacher = random_features(1), random_features(2, scale=2.0)
    expected = []
    for s, t in zip(student, teacher, strict=True):
        s, t = (np.asarray(x, np.float64).reshape(6, -1) for x in (s, t))

        def mean_distance(x, y):
            pairs = itertools.permutations(range(6), 2)
            return np.mean([np.linalg.norm(x[i] - y[j]) for i, j in pairs])

        energy = 2 * mean_distance(s, t) - mean_distance(s, s) - mean_distance(t, t)
        expected.append(energy / mean_distance(t, t))
    assert losses.feature_energy(student, teacher) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("name", losses.FEATURE_DISTANCES)
def test_equal_features_have_zero_distance_and_a_finite_gradient(name):
    teacher = random_features(3)
    value, gradient = jax.value_and_grad(losses.FEATURE_DISTANCES[name])(teacher, teacher)
    assert value == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
