"""DCGAN: shapes, ranges, initial weights, batch norm, pruning to a narrower generator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models import conv
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator, hidden_widths, prune_generator

SIZES = (16, 32, 64, 128)


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply_network(network, variables, inputs, train):
    return network.apply(variables, inputs, train=train, mutable=["batch_stats"])


def random_variables_and_inputs(network, *shape):
    """Returns random variables with large kernels, and random inputs of that shape."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=shape).astype(np.float32)
    init = functools.partial(network.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.asarray(inputs))

    def random_leaf(path, leaf):
        mean, spread = {"scale": (1, 0.1), "var": (1, 0), "kernel": (0, 0.3)}.get(
            path[-1].key, (0, 0.1)
        )
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(random_leaf, shapes), jnp.asarray(inputs)


def test_hidden_widths_follow_the_paper():
    assert hidden_widths(3, 64) == (24, 12, 6, 3)
    assert hidden_widths(3, 128)[0] == 48
    assert hidden_widths(3, 32)[0] == 12
    assert hidden_widths(3, 16) == (6, 3)


@pytest.mark.parametrize(("size", "channels"), [(16, 3), (32, 1), (64, 3), (128, 1)])
def test_generator_output_has_the_image_shape_and_range(size, channels):
    generator = DCGANGenerator(1, size, channels, latent_dim=7)
    variables, latents = random_variables_and_inputs(generator, 5, 7)
    images, _ = apply_network(generator, variables, latents, True)
    assert images.shape == (5, size, size, channels)
    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


@pytest.mark.parametrize("size", SIZES)
def test_critic_mirrors_the_generator(size):
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


def test_initial_kernels_are_normal_and_biases_zero():
    variables = DCGANGenerator(16, 16, 3).init(jax.random.key(0), jnp.zeros((1, 100)), train=False)
    kernels = [variables["params"][f"layer{k}"]["kernel"] for k in range(3)]
    for kernel in map(np.asarray, kernels):
        assert kernel.std() == pytest.approx(0.02, rel=0.1)
        assert abs(kernel.mean()) < 4 * 0.02 / kernel.size**0.5
        assert (
            abs(np.mean(kernel**4) / kernel.var() ** 2 - 3) < 0.5
        )  # kurtosis of a normal distribution
    assert not any(np.any(variables["params"][f"layer{k}"]["bias"]) for k in range(3))
    assert not np.any(kernels[0].ravel()[:768] == kernels[2].ravel())


def test_all_conv_implementations_give_the_same_images_and_scores():
    images, scores = {}, {}
    for impl in conv.CONV_IMPLS:
        generator, critic = (
            DCGANGenerator(3, 32, 3, conv_impl=impl),
            DCGANCritic(3, 32, 3, conv_impl=impl),
        )
        images[impl] = apply_network(
            generator, *random_variables_and_inputs(generator, 4, 100), True
        )[0]
        scores[impl] = apply_network(
            critic, *random_variables_and_inputs(critic, 4, 32, 32, 3), True
        )[0]
    for impl in conv.CONV_IMPLS[1:]:
        np.testing.assert_allclose(images[impl], images["dilated"], atol=1e-5)
        np.testing.assert_allclose(scores[impl], scores["dilated"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "train", "depends"),
    [
        ("none", True, False),
        ("layer", True, False),
        ("spectral", True, False),
        ("batch", True, True),
        ("batch", False, False),
    ],
)
def test_scores_depend_on_other_images_only_with_batch_norm_in_training(norm, train, depends):
    critic = DCGANCritic(2, 16, 1, norm=norm)
    variables, images = random_variables_and_inputs(critic, 4, 16, 16, 1)
    scores, _ = apply_network(critic, variables, images, train)
    changed, _ = apply_network(critic, variables, images.at[1:].mul(-2.0), train)
    assert (abs(scores[0] - changed[0]) > 1e-3) == depends
    assert abs(scores[1] - changed[1]) > 1e-3


def test_image_depends_only_on_its_latent_at_inference():
    generator = DCGANGenerator(2, 16, 1, latent_dim=5)
    variables, latents = random_variables_and_inputs(generator, 4, 5)
    images, _ = apply_network(generator, variables, latents, False)
    single_image, _ = apply_network(generator, variables, latents[2:3], False)
    np.testing.assert_allclose(single_image[0], images[2], atol=1e-6)
    assert np.std(images[2]) > 0.01


def test_layer_norm_normalises_each_image():
    critic = DCGANCritic(4, 16, 1, norm="layer")
    variables, images = random_variables_and_inputs(critic, 2, 16, 16, 1)
    blank = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    variables["params"]["norm1"]["layer"] = blank
    _, collections = critic.apply(variables, images, train=True, capture_intermediates=True)
    normalized = collections["intermediates"]["norm1"]["__call__"][0]
    np.testing.assert_allclose(normalized.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.var(axis=(1, 2, 3)), 1, rtol=1e-2)
    assert np.abs(normalized.mean(axis=(1, 2))).max() > 0.01  # not over each channel


def test_running_statistics_have_momentum_0_9():
    generator = DCGANGenerator(1, 16, 1, latent_dim=5)
    variables, latents = random_variables_and_inputs(generator, 6, 5)
    _, updated = apply_network(generator, variables, latents, True)
    layer = variables["params"]["layer0"]
    kernel, bias = (np.asarray(layer[name], float) for name in ("kernel", "bias"))
    before = np.einsum("bz,rszo->brso", np.asarray(latents, float), kernel) + bias
    old, new = (tree["batch_stats"]["norm0"]["batch"] for tree in (variables, updated))
    for name, batch in (("mean", before.mean(axis=(0, 1, 2))), ("var", before.var(axis=(0, 1, 2)))):
        expected = 0.9 * np.asarray(old[name]) + 0.1 * batch
        np.testing.assert_allclose(new[name], expected, rtol=1e-4)


LATENT_DIM = 5


def pruning_generator(width, norm):
    return DCGANGenerator(width, 16, 1, latent_dim=LATENT_DIM, norm=norm, conv_impl="matmul")


def random_params(width, seed, norm="batch"):
    blank = jnp.zeros((2, LATENT_DIM))
    params = pruning_generator(width, norm).init(jax.random.key(0), blank, train=False)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "float32"), params)


def generate_images(width, params, norm):
    latents = jax.random.normal(jax.random.key(7), (4, LATENT_DIM))
    return apply_network(pruning_generator(width, norm), {"params": params}, latents, True)[0]


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.slow
def test_pruning_to_the_same_width_copies_the_teacher(norm):
    teacher = random_params(3, 1, norm)
    pruned = prune_generator(random_params(3, 2, norm), teacher)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), pruned, teacher))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.slow
def test_pruning_unused_channels_changes_no_image(norm):
    teacher = random_params(3, 1, norm)
    unused = {0: [0, 4], 1: [1]}  # of 6 and of 3 channels; a student of width 2 has 4 and 2
    for k, channels in unused.items():
        kernel = teacher[f"layer{k + 1}"]["kernel"]
        teacher[f"layer{k + 1}"]["kernel"] = kernel.at[:, :, jnp.array(channels)].set(0)
    student = prune_generator(random_params(2, 2, norm), teacher)
    images = generate_images(2, student, norm)
    np.testing.assert_allclose(images, generate_images(3, teacher, norm), atol=1e-5)


def test_batch_norm_scale_counts_in_channel_importance():
    teacher = random_params(2, 1)
    scale = teacher["norm1"]["batch"]["scale"]
    teacher["norm1"]["batch"]["scale"] = scale.at[0].set(1e-6)
    student = prune_generator(random_params(1, 2), teacher)
    assert student["norm1"]["batch"]["scale"] == teacher["norm1"]["batch"]["scale"][1]
