"""Networks, gradients and training against PyTorch: same weights, data and latents."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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

PAPER_WIDTHS = (2, 4, 8, 16, 32, 48, 64, 128, 256)
LATENT, BATCH, SIZE, CHANNELS = 6, 8, 16, 1
TEACHER_WIDTH, STUDENT_WIDTH = 3, 2


def relative(ours, theirs) -> float:
    """The largest difference, in units of the largest value."""
    theirs = np.asarray(theirs)
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs)))


def largest(ours, theirs) -> float:
    """The largest difference between two trees."""
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), ours, theirs)
    return float(np.max(jax.tree.leaves(differences)))  # NaN where one is


# Outputs


# Each network runs once: to optimize its program takes ten times as long.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=UNOPTIMIZED)
def outputs(networks, generator_variables, critic_variables, latents, images):
    """Images and scores in eval mode, then in train mode."""
    generator, critic = networks
    return [
        (
            generator.apply(generator_variables, latents, train=train, mutable=["batch_stats"])[0],
            critic.apply(critic_variables, images, train=train, mutable=["batch_stats"])[0],
        )
        for train in (False, True)
    ]


def torch_outputs(generator, critic, latents, images):
    found = []
    for train in (False, True):
        drawn = twin.draw(generator.train(train), latents)
        scores = critic.train(train)(twin.channels_first(images))
        found.append((twin.channels_last(drawn), twin.array(scores)))
    return found


@torch.no_grad()
def check_outputs(parity, label, shape, *, norm="batch", form="matmul", batch=3):
    """Compare images, in -1..1, as they are; scores in units of the largest.

    `shape` is (width, image size, channels).
    """
    _, size, channels = shape
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(batch, 100)).astype(np.float32)
    images = rng.uniform(-1, 1, (batch, size, size, channels)).astype(np.float32)
    theirs = (
        twin.randomise(twin.generator(*shape, norm=norm), 1),
        twin.randomise(twin.critic(*shape, norm=norm), 2),
    )
    ours = tuple(cls(*shape, norm=norm, conv_impl=form) for cls in (DCGANGenerator, DCGANCritic))
    trees = [make_variables(*twin.to_flax(network)) for network in theirs]
    mine = outputs(ours, *trees, latents, images)
    reference = torch_outputs(*theirs, latents, images)
    for mode, got, want in zip(("eval", "train"), mine, reference, strict=True):
        assert np.std(want[0]) > 0.05  # neither black nor saturated
        error = float(np.max(np.abs(got[0] - want[0])))
        parity.check(f"{label}, {mode} mode: images", error, bound=1e-5)
        parity.check(f"{label}, {mode} mode: scores", relative(got[1], want[1]), bound=1e-5)


@pytest.mark.parametrize("width", PAPER_WIDTHS)
def test_outputs_of_every_width_of_the_paper(parity, width):
    check_outputs(parity, f"64 px, d={width}", (width, 64, 1), batch=2 if width > 64 else 4)


@pytest.mark.parametrize(
    ("size", "channels", "norm", "form"),
    [(16, 3, "none", "matmul"), (32, 1, "layer", "phase"), (128, 3, "batch", "dilated")],
)
def test_outputs_of_other_sizes_norms_and_forms(parity, size, channels, norm, form):
    label = f"{size} px, {channels} channels, norm {norm}, {form}"
    check_outputs(parity, label, (2, size, channels), norm=norm, form=form)


# Training


@dataclasses.dataclass
class Case:
    """One kind of run: its width, critic (None: no critic) and recipe."""

    width: int
    recipe: Recipe
    critic_width: int | None = None
    critic_norm: str = "batch"


def distilled(**changes) -> Recipe:
    return Recipe(reduction="sum", **changes)


RATES = {"generator_lr": 2e-3, "critic_lr": 2e-3}  # so that 50 steps change much
CASES = {
    "teacher (bce)": Case(TEACHER_WIDTH, Recipe(**RATES), TEACHER_WIDTH),
    "mse student": Case(STUDENT_WIDTH, distilled(alpha=0.0, **RATES)),
    "joint student (bce_saturating, mse)": Case(
        STUDENT_WIDTH, distilled(alpha=0.5, loss="bce_saturating", **RATES), TEACHER_WIDTH
    ),
    "baseline (hinge)": Case(STUDENT_WIDTH, Recipe(loss="hinge", **RATES), STUDENT_WIDTH),
    "baseline (wgan_gp, 2 critic steps, warm-up, cosine)": Case(
        STUDENT_WIDTH,
        Recipe(loss="wgan_gp", critic_steps=2, warmup=5, schedule="cosine", steps=50, **RATES),
        TEACHER_WIDTH,
        "layer",
    ),
}
MORE = {
    "baseline (wgan, clipped)": Case(
        STUDENT_WIDTH, Recipe(loss="wgan", clip=0.2, **RATES), TEACHER_WIDTH
    ),
    "l1 student": Case(STUDENT_WIDTH, distilled(alpha=0.0, distance="l1", **RATES)),
}


class Pair:
    """The same run twice, here and in PyTorch, from the same random weights."""

    def __init__(self, case: Case, *, dtype: type):
        self.case, self.dtype = case, dtype
        shape = (SIZE, CHANNELS)
        torch_dtype = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
        generator = twin.generator(case.width, *shape, latent_dim=LATENT)
        critic = None
        if case.critic_width:
            critic = twin.critic(case.critic_width, *shape, norm=case.critic_norm)
            critic = twin.randomise(critic.to(torch_dtype), 2)
        self.twin = twin.Run(twin.randomise(generator.to(torch_dtype), 1), critic, case.recipe)
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
        def network(theirs, optimizer):
            params, stats = jax.tree.map(jnp.asarray, twin.to_flax(theirs))
            return NetworkState(params=params, stats=stats, optimizer=optimizer.init(params))

        recipe = self.case.recipe
        critic = self.twin.critic
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            generator=network(
                self.twin.generator, make_generator_optimizer(recipe, self.case.width)
            ),
            critic=network(critic, make_critic_optimizer(recipe)) if critic else None,
            average=None,
        )

    def inputs(self) -> tuple[Noise, np.ndarray | None, np.ndarray | None]:
        """Random latents, real images and teacher's images, as a step takes them."""
        recipe, rng = self.case.recipe, self._rng
        count, image = (recipe.critic_steps, BATCH), (SIZE, SIZE, CHANNELS)
        draws = Noise(
            latents=rng.normal(size=(*count, LATENT)).astype(self.dtype),
            mix=rng.uniform(size=count).astype(self.dtype),
        )
        real = rng.uniform(-1, 1, (*count, *image)).astype(self.dtype)
        target = np.tanh(rng.normal(size=(BATCH, *image))).astype(self.dtype)
        has_critic = self.spec.critic is not None
        return draws, real if has_critic else None, target if recipe.alpha < 1 else None

    def step(self) -> float:
        """One step of both; the largest relative difference of their losses."""
        draws, real, target = self.inputs()
        shown = None if target is None else TeacherTargets(target, None)
        self.state, ours = jitted(self.spec, self.state, draws, real=real, target=shown)
        theirs = self.twin.step(draws.latents, draws.mix, real, target)
        assert ours.keys() == theirs.keys()
        errors = [abs(float(ours[k]) - theirs[k]) / max(1, abs(theirs[k])) for k in theirs]
        return float(np.max(errors))


jitted = jax.jit(train_step, static_argnums=0)


def gradient_error(ours, theirs) -> float:
    """Of two trees, in units of the largest number of each layer.

    Not of each array: a bias in front of batch norm, or the last under a loss of differences, has a
    true gradient of zero.
    """
    units = {k: max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs[k])) for k in theirs}
    return float(np.max([largest(ours[k], theirs[k]) / units[k] for k in theirs]))


@pytest.mark.parametrize("name", CASES | MORE)
def test_gradients_and_20_steps_in_float32(parity, name):
    pair = Pair((CASES | MORE)[name], dtype=np.float32)
    errors = [pair.step()]
    for which in ("critic", "generator") if pair.spec.critic else ("generator",):
        # After the first step Adam's first moment is the gradient but for a factor.
        ours = getattr(pair.state, which).optimizer[0].mu
        error = gradient_error(ours, pair.twin.moments(which))
        parity.check(f"gradients in float32, {name}: {which}", error, bound=1e-4)
    errors += [pair.step() for _ in range(19)]
    parity.check(f"20 steps in float32, {name}: losses", np.max(errors), bound=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_50_steps_in_float64(parity, name):
    label = f"50 steps in float64, {name}"
    with jax.enable_x64(True):
        pair = Pair(CASES[name], dtype=np.float64)
        first = pair.state
        errors = [pair.step() for _ in range(50)]
        parity.check(f"{label}: losses", np.max(errors), bound=1e-6)
        assert first.generator.params["layer0"]["kernel"].dtype == jnp.float64
        for which in ("critic", "generator") if pair.spec.critic else ("generator",):
            before, after = getattr(first, which), getattr(pair.state, which)
            params, stats = twin.to_flax(getattr(pair.twin, which))
            assert largest(before.params, after.params) > 0.01  # it has moved
            error = largest(after.params, params)
            parity.check(f"{label}: {which}'s weights", error, bound=1e-6)
            if stats:
                error = largest(averages(which, before.stats, after.stats), stats)
                parity.check(f"{label}: {which}'s running averages", error, bound=1e-6)
        parity.check(f"{label}: images", image_error(pair, first), bound=1e-6)


def averages(which: str, first, last):
    """Running averages of 50 steps as PyTorch has them: batch variances times n / (n - 1)."""
    updates = {"generator": 50, "critic": 2 * 50}[which]  # the critic's: real images, then fakes
    found = {}
    for name, norm in last.items():
        layer = int(name.removeprefix("norm"))
        side = {"generator": 4 * 2**layer, "critic": SIZE // 2 ** (layer + 1)}[which]
        count = BATCH * side**2
        kept = 0.9**updates * first[name]["batch"]["var"]
        var = kept + (norm["batch"]["var"] - kept) * count / (count - 1)
        found[name] = {"batch": {"mean": norm["batch"]["mean"], "var": var}}
    return found


def image_error(pair: Pair, first: TrainState) -> float:
    """The largest difference of images drawn with the running averages of training."""
    last = pair.state.generator
    tree = make_variables(last.params, averages("generator", first.generator.stats, last.stats))
    latents = np.random.default_rng(4).normal(size=(16, LATENT))
    ours = pair.spec.generator.apply(tree, jnp.asarray(latents), train=False)
    with torch.no_grad():
        theirs = twin.channels_last(twin.draw(pair.twin.generator.eval(), latents))
    return float(np.max(np.abs(ours - theirs)))
