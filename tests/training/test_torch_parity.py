"""Networks, gradients and training against PyTorch: same weights, data and latents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.training.train_state import (
    NetworkState,
    StepSpec,
    TrainState,
    make_critic_optimizer,
    make_generator_optimizer,
    make_variables,
)
from gankd_jax.training.train_step import Noise, TeacherTargets, train_step

twin = pytest.importorskip("torch_twin", reason="torch is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
use_spectral_norm = pytest.importorskip("torch_resnet").use_spectral_norm

PAPER_WIDTHS = (2, 4, 8, 16, 32, 48, 64, 128, 256)
LATENT, BATCH, SIZE, CHANNELS = 6, 8, 16, 1
TEACHER_WIDTH, STUDENT_WIDTH = 3, 2


def relative_error(actual, expected) -> float:
    """Returns the largest difference, relative to the largest value."""
    expected = np.asarray(expected)
    return float(np.max(np.abs(np.asarray(actual) - expected)) / np.max(np.abs(expected)))


def max_difference(actual, expected) -> float:
    """Returns the largest difference between two pytrees."""
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), actual, expected)
    return float(np.max(jax.tree.leaves(differences)))  # NaN if any is


# Outputs


# Each network runs once, and optimizing its program would take ten times as long.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=UNOPTIMIZED)
def apply_networks(networks, generator_variables, critic_variables, latents, images):
    """Returns images and scores, in eval mode and in train mode."""
    generator, critic = networks
    return [
        (
            generator.apply(generator_variables, latents, train=train, mutable=["batch_stats"])[0],
            critic.apply(critic_variables, images, train=train, mutable=["batch_stats"])[0],
        )
        for train in (False, True)
    ]


def apply_torch_networks(generator, critic, latents, images):
    outputs = []
    for train in (False, True):
        images_of_mode = twin.generate(generator.train(train), latents)
        scores = critic.train(train)(twin.channels_first(images))
        outputs.append((twin.channels_last(images_of_mode), twin.to_numpy(scores)))
    return outputs


@torch.no_grad()
def check_outputs(parity, label, shape, *, norm="batch", impl="matmul", batch=3):
    """Compares images in -1..1 by their difference, scores relative to the largest.

    `shape` is (width, image size, channels).
    """
    _, size, channels = shape
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(batch, 100)).astype(np.float32)
    images = rng.uniform(-1, 1, (batch, size, size, channels)).astype(np.float32)
    torch_networks = (
        twin.randomise(twin.generator(*shape, norm=norm), 1),
        twin.randomise(twin.critic(*shape, norm=norm), 2),
    )
    networks = tuple(
        cls(*shape, norm=norm, conv_impl=impl) for cls in (DCGANGenerator, DCGANCritic)
    )
    trees = [make_variables(*twin.to_flax(network)) for network in torch_networks]
    outputs = apply_networks(networks, *trees, latents, images)
    references = apply_torch_networks(*torch_networks, latents, images)
    for mode, actual, expected in zip(("eval", "train"), outputs, references, strict=True):
        assert np.std(expected[0]) > 0.05  # neither black nor saturated
        error = float(np.max(np.abs(actual[0] - expected[0])))
        parity.check(f"{label}, {mode} mode: images", error, bound=1e-5)
        parity.check(
            f"{label}, {mode} mode: scores", relative_error(actual[1], expected[1]), bound=1e-5
        )


@pytest.mark.parametrize(
    "width", [w if w in (2, 48) else pytest.param(w, marks=tiny.ONLY_IF_ALL) for w in PAPER_WIDTHS]
)
def test_outputs_of_every_width_of_the_paper(parity, width):
    check_outputs(parity, f"64 px, d={width}", (width, 64, 1), batch=2 if width > 64 else 4)


@pytest.mark.parametrize(
    ("size", "channels", "norm", "impl"),
    [(16, 3, "none", "matmul"), (32, 1, "layer", "phase"), (128, 3, "batch", "dilated")],
)
def test_outputs_of_other_sizes_norms_and_implementations(parity, size, channels, norm, impl):
    label = f"{size} px, {channels} channels, norm {norm}, {impl}"
    check_outputs(parity, label, (2, size, channels), norm=norm, impl=impl)


@torch.no_grad()
def test_critic_with_spectral_norm(parity):
    """Three batches: each improves the singular values by which kernels are divided."""
    network = twin.randomise(twin.critic(3, 32, 3, norm="none"), 2)
    params, _ = twin.to_flax(network)
    use_spectral_norm(network, seed=1)
    layers = [layer for layer in network if isinstance(layer, torch.nn.Conv2d)]
    critic = DCGANCritic(3, 32, 3, norm="spectral", conv_impl="matmul")
    stats = {
        f"layer{k}_spectral": {
            f"layer{k}/kernel/u": twin.to_numpy(layer.weight_u)[None],
            f"layer{k}/kernel/sigma": np.ones((), np.float32),
        }
        for k, layer in enumerate(layers)
    }
    apply = jax.jit(functools.partial(critic.apply, train=True, mutable=["batch_stats"]))
    for seed in range(3):
        images = np.random.default_rng(seed).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
        scores, updated = apply(make_variables(params, stats), images)
        stats = updated["batch_stats"]
        expected = twin.to_numpy(network(twin.channels_first(images)))
        error = relative_error(scores, expected)
        parity.check(f"critic with spectral norm, batch {seed + 1}: scores", error, bound=1e-5)


# Training


@dataclasses.dataclass
class Case:
    """One kind of run: its width, critic (None: no critic) and recipe."""

    width: int
    recipe: Recipe
    critic_width: int | None = None
    critic_norm: str = "batch"


def distillation_recipe(**changes) -> Recipe:
    return Recipe(reduction="sum", **changes)


RATES = {"generator_lr": 2e-3, "critic_lr": 2e-3}  # large, so that 50 steps change the weights much
CASES = {
    "teacher (bce)": Case(TEACHER_WIDTH, Recipe(**RATES), TEACHER_WIDTH),
    "mse student": Case(STUDENT_WIDTH, distillation_recipe(alpha=0.0, **RATES)),
    "joint student (bce_saturating, mse)": Case(
        STUDENT_WIDTH, distillation_recipe(alpha=0.5, loss="bce_saturating", **RATES), TEACHER_WIDTH
    ),
    "baseline (hinge)": Case(STUDENT_WIDTH, Recipe(loss="hinge", **RATES), STUDENT_WIDTH),
    "baseline (wgan_gp, 2 critic steps, warm-up, cosine)": Case(
        STUDENT_WIDTH,
        Recipe(loss="wgan_gp", critic_steps=2, warmup=5, schedule="cosine", steps=50, **RATES),
        TEACHER_WIDTH,
        "layer",
    ),
    "baseline (rpgan with R1 and R2, 2 critic steps)": Case(
        STUDENT_WIDTH, Recipe(loss="rpgan", critic_steps=2, **RATES), TEACHER_WIDTH, "none"
    ),
}
FLOAT32_CASES = {
    "baseline (wgan, clipped)": Case(
        STUDENT_WIDTH, Recipe(loss="wgan", clip=0.2, **RATES), TEACHER_WIDTH
    ),
    "l1 student": Case(STUDENT_WIDTH, distillation_recipe(alpha=0.0, distance="l1", **RATES)),
}


class Pair:
    """The same run in JAX and in PyTorch, from the same random weights."""

    def __init__(self, case: Case, *, dtype: type):
        self.case, self.dtype = case, dtype
        shape = (SIZE, CHANNELS)
        torch_dtype = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
        generator = twin.generator(case.width, *shape, latent_dim=LATENT)
        critic = None
        if case.critic_width:
            critic = twin.critic(case.critic_width, *shape, norm=case.critic_norm)
            critic = twin.randomise(critic.to(torch_dtype), 2)
        self.twin = twin.Trainer(twin.randomise(generator.to(torch_dtype), 1), critic, case.recipe)
        self.spec = StepSpec(
            generator=DCGANGenerator(case.width, *shape, latent_dim=LATENT, conv_impl="matmul"),
            critic=self._critic(),
            recipe=case.recipe,
        )
        self.state = self._state()
        self._rng = np.random.default_rng(3)

    def _critic(self) -> DCGANCritic | None:
        case = self.case
        if not case.critic_width:
            return None
        return DCGANCritic(
            case.critic_width, SIZE, CHANNELS, norm=case.critic_norm, conv_impl="matmul"
        )

    def _state(self) -> TrainState:
        def network_state(torch_network, optimizer):
            params, stats = jax.tree.map(jnp.asarray, twin.to_flax(torch_network))
            return NetworkState(params=params, batch_stats=stats, opt_state=optimizer.init(params))

        recipe = self.case.recipe
        critic = self.twin.critic
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            generator=network_state(
                self.twin.generator, make_generator_optimizer(recipe, self.case.width)
            ),
            critic=network_state(critic, make_critic_optimizer(recipe)) if critic else None,
            ema_params=None,
        )

    def random_inputs(self) -> tuple[Noise, np.ndarray | None, np.ndarray | None]:
        """Returns random latents, real images and teacher images, as a step takes them."""
        recipe, rng = self.case.recipe, self._rng
        count, image = (recipe.critic_steps, BATCH), (SIZE, SIZE, CHANNELS)
        noise = Noise(
            latents=rng.normal(size=(*count, LATENT)).astype(self.dtype),
            interp_weight=rng.uniform(size=count).astype(self.dtype),
        )
        real = rng.uniform(-1, 1, (*count, *image)).astype(self.dtype)
        target = np.tanh(rng.normal(size=(BATCH, *image))).astype(self.dtype)
        has_critic = self.spec.critic is not None
        return noise, real if has_critic else None, target if recipe.alpha < 1 else None

    def train_step(self) -> float:
        """Trains one step in both; returns the largest relative difference of their losses."""
        noise, real, target = self.random_inputs()
        targets = None if target is None else TeacherTargets(target, {})
        self.state, metrics = jitted_train_step(
            self.spec, self.state, noise, real_images=real, targets=targets
        )
        expected = self.twin.train_step(noise.latents, noise.interp_weight, real, target)
        assert metrics.keys() == expected.keys()
        errors = [abs(float(metrics[k]) - expected[k]) / max(1, abs(expected[k])) for k in expected]
        return float(np.max(errors))


jitted_train_step = jax.jit(train_step, static_argnums=0)


def gradient_error(actual, expected) -> float:
    """Returns the largest difference of two pytrees, relative to the largest value of each layer.

    Not of each array: the true gradient is zero for a bias in front of batch norm, and for the last
    bias under a loss of differences.
    """
    units = {k: max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[k])) for k in expected}
    return float(np.max([max_difference(actual[k], expected[k]) / units[k] for k in expected]))


@pytest.mark.parametrize("name", CASES | FLOAT32_CASES)
@pytest.mark.slow
def test_gradients_and_20_steps_in_float32(parity, name):
    pair = Pair((CASES | FLOAT32_CASES)[name], dtype=np.float32)
    errors = [pair.train_step()]
    for network in ("critic", "generator") if pair.spec.critic else ("generator",):
        # After the first step Adam's first moment is proportional to the gradient.
        gradients = getattr(pair.state, network).opt_state[0].mu
        error = gradient_error(gradients, pair.twin.first_moments(network))
        parity.check(f"gradients in float32, {name}: {network}", error, bound=1e-4)
    errors += [pair.train_step() for _ in range(19)]
    parity.check(f"20 steps in float32, {name}: losses", np.max(errors), bound=1e-3)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_50_steps_in_float64(parity, name):
    label = f"50 steps in float64, {name}"
    with jax.enable_x64(True):
        pair = Pair(CASES[name], dtype=np.float64)
        first = pair.state
        errors = [pair.train_step() for _ in range(50)]
        parity.check(f"{label}: losses", np.max(errors), bound=1e-6)
        assert first.generator.params["layer0"]["kernel"].dtype == jnp.float64
        for network in ("critic", "generator") if pair.spec.critic else ("generator",):
            before, after = getattr(first, network), getattr(pair.state, network)
            params, stats = twin.to_flax(getattr(pair.twin, network))
            assert (
                max_difference(before.params, after.params) > 0.01
            )  # training has changed the weights
            error = max_difference(after.params, params)
            parity.check(f"{label}: {network}'s weights", error, bound=1e-6)
            if stats:
                error = max_difference(
                    unbiased_averages(network, before.batch_stats, after.batch_stats), stats
                )
                parity.check(f"{label}: {network}'s running averages", error, bound=1e-6)
        parity.check(f"{label}: images", image_error(pair, first), bound=1e-6)


def unbiased_averages(network: str, first, last):
    """Converts running averages of 50 steps to PyTorch's: batch variances times n / (n - 1)."""
    updates = {"generator": 50, "critic": 2 * 50}[network]  # the critic's: real images, then fakes
    averages = {}
    for name, norm in last.items():
        layer = int(name.removeprefix("norm"))
        side = {"generator": 4 * 2**layer, "critic": SIZE // 2 ** (layer + 1)}[network]
        count = BATCH * side**2
        initial = 0.9**updates * first[name]["batch"]["var"]
        var = initial + (norm["batch"]["var"] - initial) * count / (count - 1)
        averages[name] = {"batch": {"mean": norm["batch"]["mean"], "var": var}}
    return averages


def image_error(pair: Pair, first: TrainState) -> float:
    """Returns the largest difference of images, with the running averages of training."""
    last = pair.state.generator
    tree = make_variables(
        last.params, unbiased_averages("generator", first.generator.batch_stats, last.batch_stats)
    )
    latents = np.random.default_rng(4).normal(size=(16, LATENT))
    images = pair.spec.generator.apply(tree, jnp.asarray(latents), train=False)
    with torch.no_grad():
        expected = twin.channels_last(twin.generate(pair.twin.generator.eval(), latents))
    return float(np.max(np.abs(images - expected)))
