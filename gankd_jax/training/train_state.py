"""A run's static description and its state, a pytree."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.family import Critic, Generator, PyTree, family_of

Leaf = Any  # an array; jax also stacks it, and rebuilds pytrees of shapes or of axes
# What a run's seed is folded with, so that no two uses share random numbers.
INIT_GENERATOR, INIT_CRITIC, TRAIN = range(3)
CRITIC_SOURCES = ("fresh", "teacher")  # of a recipe's critic
# Learning-rate schedules by name: functions of the peak rate and of the steps after the warm-up.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
}


@struct.dataclass
class NetworkState:
    """What is kept of a network in training."""

    params: PyTree
    stats: PyTree  # batch norm's running averages; {} without batch norm
    optimizer: optax.OptState


@struct.dataclass
class TrainState:
    """The whole state of a run; random numbers come from the seed and the step alone."""

    step: Leaf  # Int[Array, ""]
    generator: NetworkState
    critic: Leaf  # Network, or None where nothing is adversarial
    average: PyTree | None  # exponential average of the generator's weights; None where not kept


@struct.dataclass
class TeacherParams:
    """A teacher's variables, as its students see it."""

    generator: PyTree
    critic: PyTree | None  # None where no student compares its features


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What a run is but for its seed: its networks and how they are trained (static under jit)."""

    generator: Generator
    critic: Critic | None  # None where nothing is adversarial
    recipe: Recipe
    # The teacher's, in whose features images are compared; None where they are not.
    frozen_critic: Critic | None = None


def make_variables(params: PyTree, stats: PyTree) -> dict[str, PyTree]:
    """The variables that Flax's `apply` takes."""
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def learning_rate_schedule(peak: float, recipe: Recipe) -> optax.Schedule:
    """A recipe's schedule: linear warm-up to `peak`, then constant, cosine or linear to 0."""
    after = SCHEDULES[recipe.schedule](peak, recipe.steps - recipe.warmup)
    rise = optax.linear_schedule(0.0, peak, recipe.warmup)
    return optax.join_schedules([rise, after], [recipe.warmup]) if recipe.warmup else after


def make_generator_optimizer(recipe: Recipe, width: int) -> optax.GradientTransformation:
    """The generator's Adam, for a generator of that width."""
    peak = recipe.generator_lr * width**-recipe.lr_width_exponent
    return optax.adam(learning_rate_schedule(peak, recipe), recipe.b1, recipe.b2)


def make_critic_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The critic's Adam; its schedule runs over critic steps."""
    scaled = dataclasses.replace(
        recipe,
        steps=recipe.steps * recipe.critic_steps,
        warmup=recipe.warmup * recipe.critic_steps,
    )
    return optax.adam(learning_rate_schedule(recipe.critic_lr, scaled), recipe.b1, recipe.b2)


@functools.partial(jax.jit, static_argnums=0)  # else hundreds of small programs compile anew
def create_train_state(
    spec: StepSpec,
    seed: int | Leaf,
    teacher_critic: NetworkState | None = None,
    teacher_params: PyTree | None = None,
) -> TrainState:
    """The state at step 0, a function of the spec, the seed and what is taken from the teacher.

    `teacher_critic` gives its weights to a critic that goes on from the teacher's,
    `teacher_params`, of its generator, to a warm start; the optimizers start afresh.
    """
    generator = _init_generator(spec, seed, teacher_params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        critic=_init_critic(spec, seed, teacher_critic),
        average=_copy(generator.params) if spec.recipe.ema else None,
    )


def _init_generator(
    spec: StepSpec, seed: int | Leaf, teacher_params: PyTree | None
) -> NetworkState:
    optimizer = make_generator_optimizer(spec.recipe, spec.generator.width)
    key = jax.random.fold_in(jax.random.key(seed), INIT_GENERATOR)
    blank = jnp.zeros((2, spec.generator.latent_dim))
    tree = spec.generator.init(key, blank, train=False)
    params = tree["params"]
    if teacher_params is not None:
        params = family_of(spec.generator).prune(params, teacher_params)
    return _network(params, tree.get("batch_stats", {}), optimizer)


def _init_critic(
    spec: StepSpec, seed: int | Leaf, teacher_critic: NetworkState | None
) -> NetworkState | None:
    if spec.critic is None:
        return None
    optimizer = make_critic_optimizer(spec.recipe)
    if teacher_critic is not None:
        return _network(_copy(teacher_critic.params), _copy(teacher_critic.stats), optimizer)
    key = jax.random.fold_in(jax.random.key(seed), INIT_CRITIC)
    size = spec.critic.image_size
    tree = spec.critic.init(key, jnp.zeros((2, size, size, spec.critic.channels)), train=False)
    return _network(tree["params"], tree.get("batch_stats", {}), optimizer)


def _network(
    params: PyTree, stats: PyTree, optimizer: optax.GradientTransformation
) -> NetworkState:
    return NetworkState(params=params, stats=stats, optimizer=optimizer.init(params))


def _copy(tree: PyTree) -> PyTree:
    """Arrays of its own, since the train step takes over the memory of a state's."""
    return jax.tree.map(jnp.copy, tree)
