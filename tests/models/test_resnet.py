"""The SNGAN networks against plain PyTorch ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from gankd_jax.config.recipe import Recipe
from gankd_jax.models import conv
from gankd_jax.models.family import FAMILIES
from gankd_jax.models.resnet import ResNetCritic, ResNetGenerator, count_layer_macs
from gankd_jax.training.train_state import NetworkState, StepSpec, make_critic_optimizer
from gankd_jax.training.train_step import _critic_step

SIZES = (32, 64)
LATENT_DIM = 5


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def twin(torch):
    import torch_resnet

    return torch_resnet


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_images(seed: int, size: int, channels: int = 3) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (4, size, size, channels), minval=-1)


def init_shapes(network, shape):
    return jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((2, *shape)), train=False)
    )


def assert_equal_singular_vectors(actual, expected, tolerance):
    vectors = flatten_dict(actual)
    for path, vector in flatten_dict(expected).items():
        if path[-1].endswith("/u"):
            np.testing.assert_allclose(vectors[path], vector, atol=tolerance)


@pytest.mark.parametrize(("size", "width"), [(32, 256), (32, 3), (64, 64), (64, 2)])
def test_generator_has_as_many_parameters_as_pytorchs(twin, size, width):
    shapes = init_shapes(ResNetGenerator(width, size, 3), (128,))
    expected = sum(p.numel() for p in twin.generator(width, size, 3, 128).parameters())
    assert count(shapes["params"]) == expected
    if (size, width) == (32, 256):  # the paper's on CIFAR-10
        assert expected == 4_276_739


@pytest.mark.parametrize(("size", "width"), [(32, 128), (32, 3), (64, 64), (64, 2)])
def test_critic_has_as_many_parameters_as_pytorchs(twin, size, width):
    shapes = init_shapes(ResNetCritic(width, size, 3), (size, size, 3))
    expected = sum(p.numel() for p in twin.critic(width, size, 3).parameters())
    assert count(shapes["params"]) == expected


@pytest.mark.parametrize("conv_impl", conv.CONV_IMPLS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.slow
def test_generator_gives_pytorchs_images(torch, twin, size, conv_impl):
    network = twin.randomise(twin.generator(2, size, 3, LATENT_DIM), seed=0)
    module = ResNetGenerator(2, size, 3, LATENT_DIM, conv_impl=conv_impl)
    latents = jax.random.normal(jax.random.key(1), (4, LATENT_DIM))
    variables = jax.tree.map(jnp.asarray, twin.to_flax(network))
    for train in (False, True):
        images = module.apply(variables, latents, train=train, mutable=["batch_stats"])[0]
        expected = twin.array(network.train(train)(torch.tensor(np.array(latents))))
        np.testing.assert_allclose(images, expected.transpose(0, 2, 3, 1), atol=2e-5)
        assert 0.05 < expected.std() < 0.9


@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.slow
def test_critic_gives_pytorchs_scores(torch, twin, size, norm):
    network = twin.randomise(twin.critic(2, size, 3), seed=0)
    if norm == "spectral":
        twin.use_spectral_norm(network, seed=1)
    images = random_images(2, size)
    variables = jax.tree.map(jnp.asarray, twin.to_flax(network))
    module = ResNetCritic(2, size, 3, norm=norm)
    for _ in range(2):  # the second batch starts from the first one's singular vectors
        scores, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        expected = network.train()(torch.tensor(np.array(images.transpose(0, 3, 1, 2))))
        np.testing.assert_allclose(scores, twin.array(expected), rtol=1e-4, atol=1e-5)
        variables |= updated
        vectors = twin.to_flax(network)["batch_stats"]
        assert bool(vectors) == (norm == "spectral")
        assert_equal_singular_vectors(variables["batch_stats"], vectors, 1e-5)


@pytest.mark.slow
def test_critic_step_with_spectral_norm_is_pytorchs(torch, twin):
    """One Adam step on the hinge loss; each of its two batches moves the singular vectors."""
    network = twin.use_spectral_norm(twin.randomise(twin.critic(2, 32, 3), seed=0), seed=1)
    recipe = Recipe(loss="hinge", critic_lr=1e-3)
    spec = StepSpec(ResNetGenerator(2, 32, 3), ResNetCritic(2, 32, 3), recipe)
    variables = jax.tree.map(jnp.asarray, twin.to_flax(network))
    opt_state = make_critic_optimizer(recipe).init(variables["params"])
    critic = NetworkState(variables["params"], variables["batch_stats"], opt_state)
    real, fake = random_images(3, 32), random_images(4, 32)
    weights = jnp.zeros(len(real))
    critic, metrics = _critic_step(spec, critic, real, fake_images=fake, interp_weight=weights)

    adam = torch.optim.Adam(network.parameters(), recipe.critic_lr, (recipe.b1, recipe.b2))
    batches = (torch.tensor(np.array(images.transpose(0, 3, 1, 2))) for images in (real, fake))
    real_scores, fake_scores = map(network, batches)
    loss = (1 - real_scores).relu().mean() + (1 + fake_scores).relu().mean()
    loss.backward()
    adam.step()
    expected = twin.to_flax(network)
    assert metrics["critic_loss"] == pytest.approx(loss.item(), rel=1e-5)
    norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters()]).item()
    assert metrics["critic_gradient"] == pytest.approx(norm, rel=1e-4)
    assert_equal_singular_vectors(critic.batch_stats, expected["batch_stats"], 1e-5)
    before, after = flatten_dict(variables["params"]), flatten_dict(critic.params)
    for path, weight in flatten_dict(expected["params"]).items():
        # Adam's first step is as long as the learning rate, whatever the gradient's size.
        np.testing.assert_allclose(after[path], weight, atol=1e-5)
        assert np.abs(after[path] - before[path]).max() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("size", [32, pytest.param(64, marks=tiny.ONLY_IF_ALL)])
@pytest.mark.slow
def test_spectral_norm_finds_the_largest_singular_value(size):
    module, images = ResNetCritic(2, size, 1), random_images(5, size, 1)
    variables = module.init(jax.random.key(0), images, train=False)
    score = jax.jit(lambda v: module.apply(v, images, train=True, mutable=["batch_stats"])[1])
    for _ in range(50):
        variables |= score(variables)
    kernel = np.asarray(variables["params"]["block1"]["conv2"]["kernel"])
    largest = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), ord=2)
    estimates = variables["batch_stats"]["block1"]["conv2_spectral"]
    assert estimates["conv2/kernel/sigma"] == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_counted_operations_are_those_that_xla_counts(size, monkeypatch):
    """XLA counts norms and sums as well; matrix products also multiply the zeros of the border."""
    monkeypatch.setattr(conv, "MIN_TILE_CHANNELS", 10**6)  # tiles need fewer operations
    generator = ResNetGenerator(16, size, 3, conv_impl="matmul")
    critic = ResNetCritic(16, size, 3, norm="none", conv_impl="matmul")
    for network, shape in ((generator, (128,)), (critic, (size, size, 3))):
        apply = jax.jit(lambda v, x, network=network: network.apply(v, x, train=False))
        inputs = jax.ShapeDtypeStruct((1, *shape), np.float32)
        flops = apply.lower(init_shapes(network, shape), inputs).cost_analysis()["flops"]
        assert 2 * sum(count_layer_macs(network)) == pytest.approx(flops, rel=0.1)


def test_family_has_the_sizes_of_its_networks():
    assert FAMILIES["resnet"].image_sizes == SIZES
