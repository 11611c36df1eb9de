"""A run's static description and its state, a pytree."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gankd_jax.models.dcgan import Critic, Generator
from gankd_jax.training.inherit import inherit
from gankd_jax.training.recipe import Recipe

Tree = Any  # a pytree of arrays, as Flax gives it
Leaf = Any  # an array; jax also stacks it, and rebuilds pytrees of shapes or of axes
# What a run's seed is folded with, so that no two uses share random numbers.
INIT_GENERATOR, INIT_CRITIC, TRAIN = range(3)


@struct.dataclass
class Network:
    """What is kept of a network in training."""

    params: Tree
    stats: Tree  # batch norm's running averages; {} without batch norm
    optimizer: optax.OptState


@struct.dataclass
class State:
    """The whole state of a run; random numbers come from the seed and the step alone."""

    step: Leaf  # Int[Array, ""]
    generator: Network
    critic: Leaf  # Network, or None where nothing is adversarial
    average: Tree | None  # exponential average of the generator's weights; None where not kept


@struct.dataclass
class Frozen:
    """A teacher's variables, as its students see it."""

    generator: Tree
    critic: Tree | None  # None where no student compares its features


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a run is but for its seed: its networks and how they are trained (static under jit)."""

    generator: Generator
    critic: Critic | None  # None where nothing is adversarial
    recipe: Recipe
    # The teacher's, in whose features images are compared; None where they are not.
    frozen_critic: Critic | None = None


def variables(params: Tree, stats: Tree) -> dict[str, Tree]:
    """The variables that Flax's `apply` takes."""
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def learning_rate(peak: float, recipe: Recipe) -> optax.Schedule:
    """A recipe's schedule: linear warm-up to `peak`, then constant, cosine or linear to 0."""
    left = recipe.steps - recipe.warmup
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, left),
        "linear": optax.linear_schedule(peak, 0.0, left),
    }[recipe.schedule]
    rise = optax.linear_schedule(0.0, peak, recipe.warmup)
    return optax.join_schedules([rise, after], [recipe.warmup]) if recipe.warmup else after


def generator_optimizer(recipe: Recipe, width: int) -> optax.GradientTransformation:
    """The generator's Adam, for a generator of that width."""
    peak = recipe.generator_lr * width**-recipe.lr_power
    return optax.adam(learning_rate(peak, recipe), recipe.b1, recipe.b2)


def critic_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """The critic's Adam; its schedule runs over critic steps."""
    scaled = dataclasses.replace(
        recipe,
        steps=recipe.steps * recipe.critic_steps,
        warmup=recipe.warmup * recipe.critic_steps,
    )
    return optax.adam(learning_rate(recipe.critic_lr, scaled), recipe.b1, recipe.b2)


@functools.partial(jax.jit, static_argnums=0)  # else hundreds of small programs compile anew
def init(
    spec: Spec,
    seed: int | Leaf,
    teacher_critic: Network | None = None,
    teacher_params: Tree | None = None,
) -> State:
    """The state at step 0, a function of the spec, the seed and what is taken from the teacher.

    `teacher_critic` gives its weights to a critic that goes on from the teacher's,
    `teacher_params`, of its generator, to a warm start; the optimizers start afresh.
    """
    generator = _init_generator(spec, seed, teacher_params)
    return State(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        critic=_init_critic(spec, seed, teacher_critic),
        average=_copy(generator.params) if spec.recipe.ema else None,
    )


def _init_generator(spec: Spec, seed: int | Leaf, teacher_params: Tree | None) -> Network:
    optimizer = generator_optimizer(spec.recipe, spec.generator.width)
    key = jax.random.fold_in(jax.random.key(seed), INIT_GENERATOR)
    blank = jnp.zeros((2, spec.generator.latent))
    tree = spec.generator.init(key, blank, train=False)
    params = tree["params"]
    if teacher_params is not None:
        params = inherit(params, teacher_params)
    return _network(params, tree.get("batch_stats", {}), optimizer)


def _init_critic(spec: Spec, seed: int | Leaf, teacher_critic: Network | None) -> Network | None:
    if spec.critic is None:
        return None
    optimizer = critic_optimizer(spec.recipe)
    if teacher_critic is not None:
        return _network(_copy(teacher_critic.params), _copy(teacher_critic.stats), optimizer)
    key = jax.random.fold_in(jax.random.key(seed), INIT_CRITIC)
    size = spec.critic.image_size
    tree = spec.critic.init(key, jnp.zeros((2, size, size, spec.critic.channels)), train=False)
    return _network(tree["params"], tree.get("batch_stats", {}), optimizer)


def _network(params: Tree, stats: Tree, optimizer: optax.GradientTransformation) -> Network:
    return Network(params=params, stats=stats, optimizer=optimizer.init(params))


def _copy(tree: Tree) -> Tree:
    """Arrays of its own, since the train step takes over the memory of a state's."""
    return jax.tree.map(jnp.copy, tree)
