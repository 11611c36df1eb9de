"""The generator and the critic: shapes, ranges, initial weights, and what batch norm sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import conv
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator, hidden_widths

SIZES = (16, 32, 64, 128)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(network, variables, inputs, train):
    return network.apply(variables, inputs, train=train, mutable=["batch_stats"])


def made(network, *shape):
    """Random variables of a network, its kernels large, and inputs of that shape."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=shape).astype(np.float32)
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.asarray(inputs))

    def fill(path, leaf):
        mean, spread = {"scale": (1, 0.1), "var": (1, 0), "kernel": (0, 0.3)}.get(
            path[-1].key, (0, 0.1)
        )
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes), jnp.asarray(inputs)


def test_hidden_widths_are_the_papers():
    assert hidden_widths(3, 64) == (24, 12, 6, 3)
    assert hidden_widths(3, 128)[0] == 48
    assert hidden_widths(3, 32)[0] == 12
    assert hidden_widths(3, 16) == (6, 3)


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (32, 1), (64, 3), (128, 1)])
def test_images_have_their_size_and_range(size, channels):
    generator = DCGANGenerator(1, size, channels, latent_dim=7)
    variables, latents = made(generator, 5, 7)
    images, _ = apply(generator, variables, latents, True)
    assert images.shape == (5, size, size, channels)
    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_the_critic_mirrors_the_generator(size):
    critic = DCGANCritic(2, size, 3)
    blank = jnp.zeros((5, size, size, 3))
    scores, variables = jax.eval_shape(
        functools.partial(critic.init_with_output, train=True), jax.random.key(0), blank
    )
    assert scores.shape == (5,)
    layers = sorted(name for name in variables["params"] if name.startswith("layer"))
    widths = [variables["params"][name]["bias"].shape[0] for name in layers]
    assert widths == [*reversed(hidden_widths(2, size)), 1]
    assert "norm0" not in variables["params"]


def test_kernels_start_from_a_normal_distribution_and_biases_from_zero():
    variables = DCGANGenerator(16, 16, 3).init(jax.random.key(0), jnp.zeros((1, 100)), train=False)
    kernels = [variables["params"][f"layer{k}"]["kernel"] for k in range(3)]
    for kernel in map(np.asarray, kernels):
        assert kernel.std() == pytest.approx(0.02, rel=0.1)
        assert abs(kernel.mean()) < 4 * 0.02 / kernel.size**0.5
        assert abs(np.mean(kernel**4) / kernel.var() ** 2 - 3) < 0.5  # as of a normal distribution
    assert not any(np.any(variables["params"][f"layer{k}"]["bias"]) for k in range(3))
    assert not np.any(kernels[0].ravel()[:768] == kernels[2].ravel())


def test_every_form_draws_the_same_image_and_gives_the_same_score():
    images, scores = {}, {}
    for form in conv.CONV_IMPLS:
        generator, critic = (
            DCGANGenerator(3, 32, 3, conv_impl=form),
            DCGANCritic(3, 32, 3, conv_impl=form),
        )
        images[form] = apply(generator, *made(generator, 4, 100), True)[0]
        scores[form] = apply(critic, *made(critic, 4, 32, 32, 3), True)[0]
    for form in conv.CONV_IMPLS[1:]:
        np.testing.assert_allclose(images[form], images["dilated"], atol=1e-5)
        np.testing.assert_allclose(scores[form], scores["dilated"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "train", "depends"),
    [
        ("none", True, False),
        ("layer", True, False),
        ("batch", True, True),
        ("batch", False, False),
    ],
)
def test_only_batch_norm_in_training_sees_the_batch_mates(norm, train, depends):
    critic = DCGANCritic(2, 16, 1, norm=norm)
    variables, images = made(critic, 4, 16, 16, 1)
    scores, _ = apply(critic, variables, images, train)
    others, _ = apply(critic, variables, images.at[1:].mul(-2.0), train)
    assert (abs(scores[0] - others[0]) > 1e-3) == depends
    assert abs(scores[1] - others[1]) > 1e-3


def test_a_generator_in_use_draws_each_latent_by_itself():
    generator = DCGANGenerator(2, 16, 1, latent_dim=5)
    variables, latents = made(generator, 4, 5)
    images, _ = apply(generator, variables, latents, False)
    alone, _ = apply(generator, variables, latents[2:3], False)
    np.testing.assert_allclose(alone[0], images[2], atol=1e-6)
    assert np.std(images[2]) > 0.01


def test_layer_norm_is_over_an_image():
    critic = DCGANCritic(4, 16, 1, norm="layer")
    variables, images = made(critic, 2, 16, 16, 1)
    blank = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    variables["params"]["norm1"]["layer"] = blank
    _, kept = critic.apply(variables, images, train=True, capture_intermediates=True)
    normed = kept["intermediates"]["norm1"]["__call__"][0]
    np.testing.assert_allclose(normed.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normed.var(axis=(1, 2, 3)), 1, rtol=1e-2)
    assert np.abs(normed.mean(axis=(1, 2))).max() > 0.01  # not over each channel


def test_running_averages_move_a_tenth_towards_the_batch():
    generator = DCGANGenerator(1, 16, 1, latent_dim=5)
    variables, latents = made(generator, 6, 5)
    _, updated = apply(generator, variables, latents, True)
    layer = variables["params"]["layer0"]
    kernel, bias = (np.asarray(layer[name], float) for name in ("kernel", "bias"))
    before = np.einsum("bz,rszo->brso", np.asarray(latents, float), kernel) + bias
    old, new = (tree["batch_stats"]["norm0"]["batch"] for tree in (variables, updated))
    for name, batch in (("mean", before.mean(axis=(0, 1, 2))), ("var", before.var(axis=(0, 1, 2)))):
        expected = 0.9 * np.asarray(old[name]) + 0.1 * batch
        np.testing.assert_allclose(new[name], expected, rtol=1e-4)
