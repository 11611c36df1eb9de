"""One training step, pure: the same for teacher, student and baseline."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Num

from gankd_jax.models.dcgan import DCGANCritic
from gankd_jax.models.family import FeatureNetwork, PyTree
from gankd_jax.models.merged import MergedGenerator
from gankd_jax.training import losses
from gankd_jax.training.train_state import (
    TRAIN,
    Leaf,
    NetworkState,
    StepSpec,
    TrainState,
    make_critic_optimizer,
    make_optimizer_of,
    make_variables,
    params_norm,
)

REAL_SOURCES = ("data", "teacher")  # of the images that a critic takes as real
Metrics = dict[str, Float[Array, "..."]]  # scalars; of a merged generator one for each run


@struct.dataclass
class Noise:
    """The random numbers of one step: a set for each of its `k` critic steps."""

    latents: Leaf  # Float[Array, "k b z"], standard normal; the generator's step uses the last
    interp_weight: Leaf  # Float[Array, "k b"], 0..1: where the gradient penalty is evaluated


@struct.dataclass
class TeacherTargets:
    """What students imitate: the teacher's images of a step's last latents."""

    images: Leaf  # Float[Array, "b s s c"], -1..1
    features: dict[str, Leaf]  # hidden layers of its first images, by `Recipe.feature_network`


def sample_noise(
    seed: int | Int[Array, ""],
    step: Int[Array, ""],
    *,
    critic_steps: int,
    batch_size: int,
    latent_dim: int,
) -> Noise:
    """Samples the random numbers of one step, a function of seed and step.

    Runs of one seed get the same latents.  Critic steps come in reverse order, so that this also
    holds for the generators of runs with other numbers of critic steps: JAX fills an array of
    random numbers from its front.  The latents are sampled as one row, which XLA's CPU compiler
    compiles in a quarter of the time.

    Args:
        seed: The run's data seed.
        step: The generator step.
        critic_steps: Critic steps before the generator's.
        batch_size: Latents of a batch.
        latent_dim: Dimensions of a latent.

    Returns:
        Latents `[critic_steps, batch_size, latent_dim]` and weights `[critic_steps, batch_size]`.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), TRAIN), step)
    latent_key, weight_key = jax.random.split(key)
    row = jax.random.normal(latent_key, (critic_steps * batch_size * latent_dim,))
    weights = jax.random.uniform(weight_key, (critic_steps * batch_size,))
    return Noise(
        latents=row.reshape(critic_steps, batch_size, latent_dim)[::-1],
        interp_weight=weights.reshape(critic_steps, batch_size),
    )


def normalize_images(images: Num[Array, "*n s s c"]) -> Float[Array, "*n s s c"]:
    """Scales 0..255 to -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def train_step(
    spec: StepSpec,
    state: TrainState,
    noise: Noise,
    *,
    real_images: Float[Array, "k b s s c"] | None,
    targets: TeacherTargets | None,
    feature_variables: Mapping[str, PyTree] | None = None,
) -> tuple[TrainState, Metrics]:
    """Moves a run by one generator step and the critic steps before it.

    Args:
        spec: The networks and the recipe.
        state: The state before the step.
        noise: The random numbers of the step.
        real_images: A batch in -1..1 for each critic step; None without an adversarial loss.
        targets: The teacher's images; None if alpha is 1 and the critic's real images are data.
        feature_variables: Of `spec.feature_network`, by its name in the recipe.

    Returns:
        The state after the step, and metrics as scalars: losses, and norms of the gradients.
    """
    if targets is not None and spec.recipe.real_source == "teacher":
        real_images = targets.images[None]
    critic, critic_metrics = _train_critic(spec, state, noise, real_images=real_images)

    def distance_to_teacher(images: Array) -> tuple[Array, Metrics]:
        assert targets is not None
        return _distance_to_teacher(
            spec,
            images,
            targets,
            step=state.step,
            feature_variables=feature_variables,
        )

    if isinstance(spec.generator, MergedGenerator):
        distance_to_teacher = jax.vmap(distance_to_teacher)
    distance = distance_to_teacher if spec.recipe.alpha < 1 else None
    generator, metrics = _train_generator(
        spec, state, critic, noise=noise, real_images=real_images, distance=distance
    )
    ema_params = None
    if state.ema_params is not None:
        ema_params = _update_ema(
            state.ema_params, generator.params, state.step, decay=spec.recipe.ema
        )
    new_state = TrainState(
        step=state.step + 1, generator=generator, critic=critic, ema_params=ema_params
    )
    return new_state, critic_metrics | metrics


def _train_critic(
    spec: StepSpec,
    state: TrainState,
    noise: Noise,
    *,
    real_images: Float[Array, "k b s s c"] | None,
) -> tuple[NetworkState | None, Metrics]:
    """Makes all critic steps of one step; none if there is no critic or it is frozen."""
    critic = state.critic
    if critic is None or not spec.recipe.train_critic:
        return critic, {}

    def generate(latents: Float[Array, "b z"]) -> Float[Array, "b s s c"]:
        generator = make_variables(state.generator.params, state.generator.batch_stats)
        return spec.generator.apply(generator, latents, train=True, mutable=["batch_stats"])[0]

    is_single = spec.recipe.critic_steps == 1
    generates_at_once = not is_single and _favours_large_batches(spec)

    def critic_step(
        critic: NetworkState, inputs: tuple[Array, Array, Array]
    ) -> tuple[NetworkState, Metrics]:
        latents_or_fake, interp_weight, images = inputs
        fake = latents_or_fake if generates_at_once else generate(latents_or_fake)
        return _critic_step(spec, critic, images, fake_images=fake, interp_weight=interp_weight)

    latents_or_fake = jax.vmap(generate)(noise.latents) if generates_at_once else noise.latents
    inputs = (latents_or_fake, noise.interp_weight, real_images)
    # A single step is unrolled: the compiler then shares the fakes with the generator's step.
    return scan_means(critic_step, critic, inputs, unroll=is_single)


def _favours_large_batches(spec: StepSpec) -> bool:
    """Returns whether a device computes one large batch faster than several: a CPU does not."""
    return spec.generator.conv_impl != "matmul"


def scan_means(
    step: Callable[[Any, Any], tuple[Any, PyTree]], state: Any, inputs: Any, *, unroll: bool = False
) -> tuple[Any, PyTree]:
    """Makes steps one after the other within a program.

    Args:
        step: Maps a state and its inputs to the next state and metrics.
        state: The first state.
        inputs: Of all steps, along the first axis.
        unroll: Whether the program holds each step by itself.

    Returns:
        The last state, and the means of the metrics over the steps.
    """
    unravel: Any = None

    def body(state: Any, step_inputs: Any) -> tuple[Any, Float[Array, " values"]]:
        nonlocal unravel
        state, metrics = step(state, step_inputs)
        # One array, since a GPU starts a kernel for each array that a loop collects.
        values, unravel = ravel_pytree(metrics)
        return state, values

    state, values = lax.scan(body, state, inputs, unroll=unroll)
    return state, unravel(jnp.mean(values, axis=0))


def _critic_step(
    spec: StepSpec,
    critic: NetworkState,
    real_images: Float[Array, "b s s c"],
    *,
    fake_images: Float[Array, "b s s c"],
    interp_weight: Float[Array, " b"],
) -> tuple[NetworkState, Metrics]:
    """Makes one step of the critic."""

    def loss_fn(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        real_scores, fake_scores, batch_stats = _score_pair(
            spec, params, critic.batch_stats, real_images=real_images, fake_images=fake_images
        )
        loss = losses.CRITIC_LOSSES[spec.recipe.loss](real_scores, fake_scores)
        metrics = {"critic_loss": loss}
        penalise = losses.PENALTIES.get(spec.recipe.loss)
        if penalise:

            def score(images: Array) -> Array:
                return _score(spec, params, critic.batch_stats, images=images)[0]

            penalty = penalise(score, real_images, fake_images, interp_weight=interp_weight)
            metrics["gradient_penalty"] = penalty
            loss = loss + spec.recipe.gradient_penalty * penalty
        return loss, (batch_stats, metrics)

    gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(critic.params)
    optimizer = make_critic_optimizer(spec.recipe)
    critic = _apply_gradients(optimizer, critic, gradients, batch_stats=batch_stats)
    if spec.recipe.loss == "wgan":
        critic = dataclasses.replace(critic, params=_clip_params(critic.params, spec.recipe.clip))
    return critic, metrics | {"critic_gradient": optax.tree.norm(gradients)}


def _train_generator(
    spec: StepSpec,
    state: TrainState,
    critic: NetworkState | None,
    *,
    noise: Noise,
    real_images: Float[Array, "k b s s c"] | None,
    distance: Callable[[Array], tuple[Array, Metrics]] | None,
) -> tuple[NetworkState, Metrics]:
    """Makes one step of the generator on alpha * adversarial + (1 - alpha) * distance.

    A term of weight 0 is not computed, so that alpha 0 and 1 are the pure methods to the bit.
    """
    generator, recipe = state.generator, spec.recipe

    def loss_fn(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        images, updated = spec.generator.apply(
            make_variables(params, generator.batch_stats),
            noise.latents[-1],
            train=True,
            mutable=["batch_stats"],
        )
        loss, metrics = jnp.zeros(()), {}
        if critic is not None:
            assert real_images is not None
            # XLA removes the real images' scores from a program whose loss does not use them.
            fake_scores, real_scores = (
                _score(spec, critic.params, critic.batch_stats, images=batch)[0]
                for batch in (images, real_images[-1])
            )
            loss_of_scores = losses.GENERATOR_LOSSES[recipe.loss]
            metrics["adversarial_loss"] = loss_of_scores(fake_scores, real_scores)
            loss += recipe.alpha * metrics["adversarial_loss"]
        if distance is not None:
            distance_loss, distance_metrics = distance(images)
            metrics |= distance_metrics
            loss += (1 - recipe.alpha) * distance_loss
        # A merged generator's runs have a loss each.
        extras = (updated.get("batch_stats", {}), metrics | {"generator_loss": loss})
        return jnp.sum(loss), extras

    gradients, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(generator.params)
    optimizer = make_optimizer_of(spec)
    generator = _apply_gradients(optimizer, generator, gradients, batch_stats=batch_stats)
    return generator, metrics | {"generator_gradient": params_norm(gradients)}


def _distance_to_teacher(
    spec: StepSpec,
    images: Float[Array, "b s s c"],
    targets: TeacherTargets,
    *,
    step: Array,
    feature_variables: Mapping[str, PyTree] | None,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns the distance between pixels, mixed with that between hidden layers.

    The weight of the features rises linearly from 0 to `feature_weight` at the last step.
    """
    recipe = spec.recipe
    distance = losses.DISTANCES[recipe.distance](images, targets.images, recipe.reduction)
    metrics = {"pixel_error": losses.mse(images, targets.images, "mean")}
    if spec.feature_network is not None:
        assert feature_variables is not None
        name, count = recipe.feature_network, recipe.feature_batch
        features = hidden_layers(spec.feature_network, feature_variables[name], images[:count])
        teacher_features = tuple(layer[:count] for layer in targets.features[name])
        feature_distance = losses.FEATURE_DISTANCES[recipe.features](features, teacher_features)
        metrics["feature_distance"] = feature_distance
        weight = recipe.feature_weight * step / recipe.steps
        distance = (1 - weight) * distance + weight * feature_distance
    return distance, metrics | {"distance": distance}


def hidden_layers(
    network: FeatureNetwork, variables: PyTree, images: Float[Array, "b s s c"]
) -> tuple[Float[Array, "b ..."], ...]:
    """Returns the hidden layers of a frozen network; each image is processed by itself.

    Args:
        network: A critic, say.
        variables: Its parameters and running averages.
        images: In -1..1.
    """
    _, collections = network.apply(variables, images, train=False, mutable=["intermediates"])
    [layers] = collections["intermediates"].values()
    return layers


def _score(
    spec: StepSpec, params: PyTree, batch_stats: PyTree, *, images: Float[Array, "b s s c"]
) -> tuple[Float[Array, " b"], PyTree]:
    """Returns the critic's scores and its updated running averages."""
    assert spec.critic is not None
    scores, updated = spec.critic.apply(
        make_variables(params, batch_stats), images, train=True, mutable=["batch_stats"]
    )
    return scores, updated.get("batch_stats", {})


def _score_pair(
    spec: StepSpec,
    params: PyTree,
    batch_stats: PyTree,
    *,
    real_images: Float[Array, "b s s c"],
    fake_images: Float[Array, "b s s c"],
) -> tuple[Float[Array, " b"], Float[Array, " b"], PyTree]:
    """Returns the scores of real and fake images, and the updated running averages.

    Where a critic scores each image by itself, they are one batch.
    """
    scores_each_alone = isinstance(spec.critic, DCGANCritic) and not batch_stats
    if not (scores_each_alone and _favours_large_batches(spec)):
        real_scores, batch_stats = _score(spec, params, batch_stats, images=real_images)
        fake_scores, batch_stats = _score(spec, params, batch_stats, images=fake_images)
        return real_scores, fake_scores, batch_stats
    # In turn, so that each device keeps its part of either batch.
    pairs = jnp.stack([real_images, fake_images], axis=1)
    scores, _ = _score(spec, params, {}, images=pairs.reshape(-1, *pairs.shape[2:]))
    real_scores, fake_scores = scores.reshape(-1, 2).T
    return real_scores, fake_scores, {}


def _apply_gradients(
    optimizer: optax.GradientTransformation,
    network: NetworkState,
    gradients: PyTree,
    *,
    batch_stats: PyTree,
) -> NetworkState:
    updates, opt_state = optimizer.update(gradients, network.opt_state, network.params)
    params = optax.apply_updates(network.params, updates)
    return NetworkState(params=params, batch_stats=batch_stats, opt_state=opt_state)


def _clip_params(params: PyTree, bound: float) -> PyTree:
    return jax.tree.map(lambda weight: jnp.clip(weight, -bound, bound), params)


def _update_ema(ema_params: PyTree, params: PyTree, step: Array, *, decay: float) -> PyTree:
    """Updates the moving average; its decay warms up as min(decay, (1 + step) / (10 + step)).

    Without the warm-up, the average of a short training keeps much of the first weights.
    """
    decay_now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(
        lambda average, new: decay_now * average + (1 - decay_now) * new, ema_params, params
    )
