"""Counted operations against XLA's count of the program before it is optimised."""

import math

import jax
import jax.numpy as jnp
import pytest
import tiny

from gankd_jax.bench import programs
from gankd_jax.config.recipe import Recipe
from gankd_jax.models.classifiers import WhitenedConvNet
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import networks, plan
from gankd_jax.training import cost_model, train_step
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import StepSpec, create_train_state

# XLA counts a convolution as it is only in this implementation; it leaves out what a kernel
# multiplies beyond the image, which the cost model counts.
SHAPE = {"width": 16, "image_size": 32, "channels": 3, "conv_impl": "dilated"}
BATCH_SIZE = 8


def count_by_xla(recipe, critic, *, has_teacher, feature_network=None):
    """Operations of a step for one image."""
    spec = StepSpec(DCGANGenerator(**SHAPE), critic, recipe, feature_network)
    images = jax.ShapeDtypeStruct((BATCH_SIZE, 32, 32, 3), jnp.float32)
    real = jax.ShapeDtypeStruct((1, *images.shape), jnp.float32) if critic else None
    sizes = {"critic_steps": 1, "batch_size": BATCH_SIZE, "latent_dim": 100}
    noise = jax.eval_shape(lambda: train_step.sample_noise(0, jnp.zeros((), int), **sizes))
    state = jax.eval_shape(lambda: create_train_state(spec, 0))
    variables = network_shapes(feature_network, images) if feature_network else {}

    def step(state, noise, real, images, variables):
        target, features = None, {}
        if feature_network:
            compared = images[: recipe.feature_batch]
            layers = train_step.hidden_layers(feature_network, variables, compared)
            features = {recipe.feature_network: layers}
        if images is not None:
            target = train_step.TeacherTargets(images, features)
        return train_step.train_step(
            spec,
            state,
            noise,
            real_images=real,
            targets=target,
            feature_variables={recipe.feature_network: variables},
        )

    teacher_images = images if has_teacher else None
    lowered = jax.jit(step).lower(state, noise, real, teacher_images, variables)
    return lowered.cost_analysis()["flops"] / BATCH_SIZE


def network_shapes(network, images):
    """Shapes of a network's variables."""
    return jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.ones(images.shape), train=False)
    )


def test_student_step_has_the_operations_that_xla_counts():
    flops = cost_model.student_step_flops(DCGANGenerator(**SHAPE))
    recipe = Recipe(alpha=0.0, batch_size=BATCH_SIZE)
    assert count_by_xla(recipe, None, has_teacher=True) == pytest.approx(flops, rel=0.15)


@pytest.mark.parametrize(
    "network",
    [DCGANCritic(**SHAPE, norm="none"), WhitenedConvNet(10, 3, 8)],
    ids=["critic", "classifier"],
)
def test_feature_distance_adds_the_operations_that_xla_counts(network):
    recipe = Recipe(alpha=0.0, batch_size=BATCH_SIZE, features="l1", feature_batch=4)
    spec = RunSpec(StepSpec(DCGANGenerator(**SHAPE), None, recipe, network), 0, 0)
    teacher = DCGANGenerator(**SHAPE)
    # The teacher's images come from outside of the step that XLA counts.
    flops = cost_model.group_step_flops({"run": spec}, teacher)
    flops -= BATCH_SIZE * cost_model.generator_flops(teacher)
    by_xla = count_by_xla(recipe, None, has_teacher=True, feature_network=network)
    assert by_xla == pytest.approx(flops / BATCH_SIZE, rel=0.15)
    added = by_xla - count_by_xla(recipe, None, has_teacher=True)
    assert added > 0.2 * cost_model.student_step_flops(teacher)


@pytest.mark.parametrize("loss", ["bce", "wgan_gp", "rpgan"])
def test_adversarial_step_has_the_operations_that_xla_counts(loss):
    critic = DCGANCritic(**SHAPE, norm="none")
    generator = DCGANGenerator(**SHAPE)
    flops = cost_model.adversarial_step_flops(generator, critic, 1, loss=loss)
    recipe = Recipe(loss=loss, batch_size=BATCH_SIZE)
    assert count_by_xla(recipe, critic, has_teacher=False) == pytest.approx(flops, rel=0.15)


def test_every_critic_step_costs_the_same():
    pair = (DCGANGenerator(**SHAPE), DCGANCritic(**SHAPE, norm="none"))
    one, two, five = (
        cost_model.adversarial_step_flops(*pair, steps, loss="wgan_gp") for steps in (1, 2, 5)
    )
    assert five - one == 4 * (two - one)


@pytest.mark.slow
def test_group_step_has_the_operations_that_xla_counts():
    fields = {"study__widths": (2, 8), "study__teacher_widths": (16,), "model__conv": "dilated"}
    config = tiny.repository_config("mnist", **fields)
    for group, program in zip(
        plan.group_runs(config, plan.plan_runs(config)),
        programs.training_programs(config),
        strict=True,
    ):
        teacher = plan.teacher_runs(config)[0]
        specs = {run.name: networks.make_run_spec(config, run, teacher) for run in group}
        generator = (
            networks.build_generator(config, teacher) if group[0].kind == "student" else None
        )
        by_xla = program.function.lower(*program.arguments).cost_analysis()["flops"]
        assert cost_model.group_step_flops(specs, generator) == pytest.approx(by_xla, rel=0.2)


@pytest.mark.parametrize("width", [2, 16, 256])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_formulas_of_the_readme_hold(width, size):
    """The cost model of gankd_jax/bench/README.md."""
    d, s, c, z = width, size, 3, 100
    generator = DCGANGenerator(d, s, c, latent_dim=z)
    products = 2 * d * d * s * s * int(math.log2(s / 8)) + 4 * c * d * s * s + 2 * z * d * s
    assert cost_model.generator_flops(generator) == 2 * products
    kernels = d * d * (s * s - 64) // 6 + 2 * z * d * s + 16 * c * d
    assert generator_cost(generator).parameters == pytest.approx(
        kernels, rel=0.05 if width == 2 else 0.01
    )
