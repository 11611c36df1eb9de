"""The state of a run in training, its static description, and its optimizers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.family import Critic, FeatureNetwork, Generator, PyTree, family_of
from gankd_jax.models.merged import FlatTrees, MergedGenerator

# An array; typed as Any, since jax rebuilds these dataclasses with shapes or axes in its place.
Leaf = Any
# Numbers that a run's seed is folded with, so that no two uses share random numbers.
INIT_GENERATOR, INIT_CRITIC, TRAIN = range(3)
CRITIC_SOURCES = ("fresh", "teacher")  # of a recipe's critic
# Learning-rate schedules by name: functions of the peak rate and of the steps after the warm-up.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda peak, steps: optax.constant_schedule(peak),
    "cosine": lambda peak, steps: optax.cosine_decay_schedule(peak, steps),
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
}


def _add_l2(
    recipe: Recipe, optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Adds weight decay to the gradients, as `torch.optim` does; nothing if it is 0."""
    if not recipe.weight_decay:
        return optimizer
    return optax.chain(optax.add_decayed_weights(recipe.weight_decay), optimizer)


def _make_adam(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    return _add_l2(recipe, optax.adam(rate, recipe.b1, recipe.b2))


def _make_adamw(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    return optax.adamw(rate, recipe.b1, recipe.b2, weight_decay=recipe.weight_decay)


def _make_rmsprop(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    momentum = recipe.b1 or None
    rmsprop = optax.rmsprop(rate, recipe.b2, momentum=momentum, eps_in_sqrt=False)
    return _add_l2(recipe, rmsprop)


def _make_sgd(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    return _add_l2(recipe, optax.sgd(rate, recipe.b1 or None))


def _make_muon(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    """Muon for the kernels, of convolutions too; NAdamW for biases, norms and other vectors."""
    return optax.contrib.muon(
        rate,
        beta=recipe.b1,
        weight_decay=recipe.weight_decay,
        adam_b1=recipe.b1,
        adam_b2=recipe.b2,
        adam_weight_decay=recipe.weight_decay,
        muon_weight_dimension_numbers=_kernel_axes,
        consistent_rms=0.2,  # steps as large as AdamW's, so that learning rates mean the same
    )


def _kernel_axes(params: PyTree) -> PyTree:
    """Says which axes of each kernel are its inputs and outputs; None for other parameters."""

    def axes(leaf: Leaf) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

    return jax.tree.map(axes, params)


# Optimizers by name: functions of the learning rate's schedule and of the recipe.
OPTIMIZERS: dict[str, Callable[[optax.Schedule, Recipe], optax.GradientTransformation]] = {
    "adam": _make_adam,
    "adamw": _make_adamw,
    "rmsprop": _make_rmsprop,
    "sgd": _make_sgd,
    "muon": _make_muon,
}


@struct.dataclass
class NetworkState:
    """A network in training."""

    params: PyTree
    batch_stats: PyTree  # running averages of batch norm; {} without batch norm
    opt_state: optax.OptState


@struct.dataclass
class TrainState:
    """The whole state of a run; its random numbers come from the seed and the step alone."""

    step: Leaf  # Int[Array, ""], generator steps
    generator: NetworkState
    critic: Leaf  # NetworkState; None without an adversarial loss
    ema_params: PyTree | None  # moving average of the generator's parameters; None without EMA

    @property
    def evaluated_params(self) -> PyTree:
        """The generator's parameters that are evaluated: their average if there is one."""
        return self.generator.params if self.ema_params is None else self.ema_params


@struct.dataclass
class TeacherParams:
    """The variables that students use: of their teacher, and of networks that compare images."""

    generator: PyTree
    features: dict[str, PyTree]  # of feature networks, by `Recipe.feature_network`


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """The networks and the recipe of a run; static under jit, and equal for all seeds."""

    generator: Generator
    critic: Critic | None  # None without an adversarial loss
    recipe: Recipe
    feature_network: FeatureNetwork | None = None  # in whose hidden layers images are compared


def make_variables(params: PyTree, batch_stats: PyTree) -> dict[str, PyTree]:
    """Returns the variables that Flax's `apply` takes.

    Args:
        params: Parameters of a network.
        batch_stats: Its running averages; {} without batch norm.
    """
    return {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}


def learning_rate_schedule(peak: float, recipe: Recipe) -> optax.Schedule:
    """Returns a recipe's schedule: linear warm-up to `peak`, then constant, cosine or linear.

    Args:
        peak: The highest learning rate.
        recipe: Its `steps`, `warmup` and `schedule` are used.
    """
    decay = SCHEDULES[recipe.schedule](peak, recipe.steps - recipe.warmup)
    warmup = optax.linear_schedule(0.0, peak, recipe.warmup)
    return optax.join_schedules([warmup, decay], [recipe.warmup]) if recipe.warmup else decay


def make_generator_optimizer(recipe: Recipe, width: int) -> optax.GradientTransformation:
    """Returns the optimizer of a generator of that width.

    Args:
        recipe: Its fields from `optimizer` to `warmup` are used.
        width: Of the generator.
    """
    peak = recipe.generator_lr * width**-recipe.lr_width_exponent
    return _make_optimizer(learning_rate_schedule(peak, recipe), recipe)


def make_optimizer_of(spec: StepSpec) -> optax.GradientTransformation:
    """Returns the optimizer of a run's generator, or of the runs that are merged into one."""
    if not isinstance(spec.generator, MergedGenerator):
        return make_generator_optimizer(spec.recipe, spec.generator.width)
    optimizer = make_generator_optimizer(spec.recipe, 1)
    # The learning rate is a factor of an update.
    factors = [width**-spec.recipe.lr_width_exponent for width in spec.generator.widths]

    def update(gradients: FlatTrees, state: optax.OptState, params: FlatTrees) -> tuple:
        updates, state = optimizer.update(gradients, state, params)
        return updates.scale(factors), state

    return optax.GradientTransformation(optimizer.init, update)


def params_norm(params: PyTree) -> Float[Array, "*n"]:
    """Returns the norm of a network's parameters or gradients; of merged runs each run's."""
    if isinstance(params, FlatTrees):
        return params.norms()
    return lax.platform_dependent(params, cuda=_norm_by_rows, default=optax.tree.norm)


def _norm_by_rows(params: PyTree) -> Float[Array, ""]:
    """Returns the norm; the last sum is of all arrays together, which is one kernel of a GPU."""
    squares = [jnp.square(jnp.atleast_1d(leaf)) for leaf in jax.tree.leaves(params)]
    rows = [jnp.sum(leaf, axis=tuple(range(leaf.ndim - 1))) for leaf in squares]
    return jnp.sqrt(jnp.sum(jnp.concatenate(rows)))


def make_critic_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Returns the critic's optimizer; its schedule runs over critic steps."""
    scaled = dataclasses.replace(
        recipe,
        steps=recipe.steps * recipe.critic_steps,
        warmup=recipe.warmup * recipe.critic_steps,
    )
    return _make_optimizer(learning_rate_schedule(recipe.critic_lr, scaled), recipe)


def _make_optimizer(rate: optax.Schedule, recipe: Recipe) -> optax.GradientTransformation:
    optimizer = OPTIMIZERS[recipe.optimizer](rate, recipe)
    if not recipe.gradient_clip:  # the state has the structure that it had before there was a clip
        return optimizer
    return optax.chain(optax.clip_by_global_norm(recipe.gradient_clip), optimizer)


@functools.partial(jax.jit, static_argnums=0)  # without it hundreds of small programs compile
def create_train_state(
    spec: StepSpec,
    seed: int | Leaf,
    teacher_critic: NetworkState | None = None,
    wider_params: PyTree | None = None,
) -> TrainState:
    """Creates the state at step 0.

    Args:
        spec: The networks and the recipe.
        seed: Of the first weights, 0 or above.
        teacher_critic: Initialises a critic that starts from the teacher's.
        wider_params: Of the generator that a student with a warm start is pruned from, such as the
            teacher's.

    Returns:
        The state, with new optimizer states.
    """
    generator = _init_generator(spec, seed, wider_params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        generator=generator,
        critic=_init_critic(spec, seed, teacher_critic),
        ema_params=_copy_tree(generator.params) if spec.recipe.ema else None,
    )


def _init_generator(spec: StepSpec, seed: int | Leaf, wider_params: PyTree | None) -> NetworkState:
    optimizer = make_generator_optimizer(spec.recipe, spec.generator.width)
    key = jax.random.fold_in(jax.random.key(seed), INIT_GENERATOR)
    latents = jnp.zeros((2, spec.generator.latent_dim))
    variables = spec.generator.init(key, latents, train=False)
    params = variables["params"]
    if wider_params is not None:
        prune = family_of(spec.generator).prune
        assert prune is not None  # as the config was checked
        params = prune(params, wider_params)
    return init_network(params, variables.get("batch_stats", {}), optimizer)


def _init_critic(
    spec: StepSpec, seed: int | Leaf, teacher_critic: NetworkState | None
) -> NetworkState | None:
    if spec.critic is None:
        return None
    optimizer = make_critic_optimizer(spec.recipe)
    if teacher_critic is not None:
        params, batch_stats = _copy_tree((teacher_critic.params, teacher_critic.batch_stats))
        return init_network(params, batch_stats, optimizer)
    key = jax.random.fold_in(jax.random.key(seed), INIT_CRITIC)
    size = spec.critic.image_size
    images = jnp.zeros((2, size, size, spec.critic.channels))
    variables = spec.critic.init(key, images, train=False)
    return init_network(variables["params"], variables.get("batch_stats", {}), optimizer)


def init_network(
    params: PyTree, batch_stats: PyTree, optimizer: optax.GradientTransformation
) -> NetworkState:
    """Returns a network with a new optimizer state.

    Args:
        params: Its parameters.
        batch_stats: Its running averages; {} without batch norm.
        optimizer: The optimizer that will train it.
    """
    return NetworkState(params=params, batch_stats=batch_stats, opt_state=optimizer.init(params))


def _copy_tree(tree: PyTree) -> PyTree:
    """Copies the arrays, since the train step donates those of a state."""
    return jax.tree.map(jnp.copy, tree)
