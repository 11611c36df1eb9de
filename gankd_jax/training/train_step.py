"""One training step, pure: the same for teacher, student and baseline."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.models.family import Critic, PyTree
from gankd_jax.training import losses
from gankd_jax.training.train_state import (
    TRAIN,
    Leaf,
    NetworkState,
    StepSpec,
    TrainState,
    make_critic_optimizer,
    make_generator_optimizer,
    make_variables,
)

REAL_SOURCES = ("data", "teacher")  # of the images that a critic takes as real
Metrics = dict[str, Float[Array, ""]]


@struct.dataclass
class Noise:
    """The random numbers of one step: a set for each of its `k` critic steps."""

    latents: Leaf  # Float[Array, "k b z"]; the generator's step uses the last
    mix: Leaf  # Float[Array, "k b"]: where the gradient penalty is taken, 0..1


def sample_noise(
    seed: int | Int[Array, ""],
    step: Int[Array, ""],
    *,
    critic_steps: int,
    batch: int,
    latent: int,
) -> Noise:
    """The draws of a seed's step; runs of one seed see the same latents.

    So do their generators where the numbers of critic steps differ: critic steps come in reverse,
    because JAX fills an array of random numbers from its front.  They are drawn in a row, for which
    XLA's CPU compiler needs a quarter of the time.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), TRAIN), step)
    latents, mix = jax.random.split(key)
    row = jax.random.normal(latents, (critic_steps * batch * latent,))
    return Noise(
        latents=row.reshape(critic_steps, batch, latent)[::-1],
        mix=jax.random.uniform(mix, (critic_steps * batch,)).reshape(critic_steps, batch),
    )


@struct.dataclass
class TeacherTargets:
    """What the teacher shows of a step's last latents."""

    images: Leaf  # Float[Array, "b s s c"], -1..1
    features: Leaf  # a tuple, of the first of them in its critic; None where none are compared


def normalize_images(images: UInt8[Array, "*n s s c"]) -> Float[Array, "*n s s c"]:
    """0..255 to -1..1."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def train_step(
    spec: StepSpec,
    state: TrainState,
    draws: Noise,
    *,
    real: Float[Array, "k b s s c"] | None,
    target: TeacherTargets | None,
    frozen: PyTree | None = None,
) -> tuple[TrainState, Metrics]:
    """Move a run by one generator step and the critic steps before it.

    `real` are images in -1..1, needed where the recipe is adversarial; `target` is the teacher's
    part, needed where alpha is below 1 or the critic takes the teacher's images for real; `frozen`
    are the variables of `spec.frozen_critic`.
    """
    if target is not None and spec.recipe.real_source == "teacher":
        real = target.images[None]
    critic, critic_metrics = _train_critic(spec, state, draws, real=real)

    def distance(images: Array) -> tuple[Array, Metrics]:
        assert target is not None
        return _distance(spec, images, target, step=state.step, frozen=frozen)

    taught = distance if spec.recipe.alpha < 1 else None
    generator, metrics = _train_generator(spec, state, critic, draws=draws, distance=taught)
    average = None
    if state.average is not None:
        average = _average(state.average, generator.params, state.step, decay=spec.recipe.ema)
    state = TrainState(step=state.step + 1, generator=generator, critic=critic, average=average)
    return state, critic_metrics | metrics


def _train_critic(
    spec: StepSpec, state: TrainState, draws: Noise, *, real: Float[Array, "k b s s c"] | None
) -> tuple[NetworkState | None, Metrics]:
    """All critic steps of one step; nothing where the critic is absent or frozen."""
    critic = state.critic
    if critic is None or not spec.recipe.train_critic:
        return critic, {}

    def one(
        critic: NetworkState, inputs: tuple[Array, Array, Array]
    ) -> tuple[NetworkState, Metrics]:
        latents, mix, images = inputs
        generator = make_variables(state.generator.params, state.generator.stats)
        fake, _ = spec.generator.apply(generator, latents, train=True, mutable=["batch_stats"])
        return _critic_step(spec, critic, images, fake=fake, mix=mix)

    inputs: Any = (draws.latents, draws.mix, real)
    # Unrolled for one step, where the compiler then shares the fakes with the generator's step.
    trained, metrics = lax.scan(one, critic, inputs, unroll=spec.recipe.critic_steps == 1)
    return trained, jax.tree.map(jnp.mean, metrics)


def _critic_step(
    spec: StepSpec,
    critic: NetworkState,
    real: Float[Array, "b s s c"],
    *,
    fake: Float[Array, "b s s c"],
    mix: Float[Array, " b"],
) -> tuple[NetworkState, Metrics]:
    """One Adam step of the critic on real and fake images."""

    def loss_of(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        real_scores, stats = _score(spec, params, critic.stats, images=real)
        fake_scores, stats = _score(spec, params, stats, images=fake)
        loss = losses.CRITIC_LOSSES[spec.recipe.loss](real_scores, fake_scores)
        metrics = {"critic_loss": loss}
        if spec.recipe.loss == "wgan_gp":

            def score(images: Array) -> Array:
                return _score(spec, params, critic.stats, images=images)[0]

            penalty = losses.gradient_penalty(score, real, fake, mix=mix)
            metrics["gradient_penalty"] = penalty
            loss = loss + spec.recipe.gradient_penalty * penalty
        return loss, (stats, metrics)

    gradients, (stats, metrics) = jax.grad(loss_of, has_aux=True)(critic.params)
    critic = _adam(make_critic_optimizer(spec.recipe), critic, gradients, stats=stats)
    if spec.recipe.loss == "wgan":
        critic = dataclasses.replace(critic, params=_clip(critic.params, spec.recipe.clip))
    return critic, metrics | {"critic_gradient": optax.tree.norm(gradients)}


def _train_generator(
    spec: StepSpec,
    state: TrainState,
    critic: NetworkState | None,
    *,
    draws: Noise,
    distance: Callable[[Array], tuple[Array, Metrics]] | None,
) -> tuple[NetworkState, Metrics]:
    """One Adam step of the generator: alpha * adversarial + (1 - alpha) * distance.

    A term of weight 0 is left out, so that alpha 0 and 1 are the pure methods to the bit.
    """
    generator, recipe = state.generator, spec.recipe

    def loss_of(params: PyTree) -> tuple[Array, tuple[PyTree, Metrics]]:
        images, updated = spec.generator.apply(
            make_variables(params, generator.stats),
            draws.latents[-1],
            train=True,
            mutable=["batch_stats"],
        )
        loss, metrics = jnp.zeros(()), {}
        if critic is not None:
            scores, _ = _score(spec, critic.params, critic.stats, images=images)
            metrics["adversarial_loss"] = losses.GENERATOR_LOSSES[recipe.loss](scores)
            loss += recipe.alpha * metrics["adversarial_loss"]
        if distance is not None:
            away, found = distance(images)
            metrics |= found
            loss += (1 - recipe.alpha) * away
        return loss, (updated.get("batch_stats", {}), metrics | {"generator_loss": loss})

    gradients, (stats, metrics) = jax.grad(loss_of, has_aux=True)(generator.params)
    optimizer = make_generator_optimizer(recipe, spec.generator.width)
    generator = _adam(optimizer, generator, gradients, stats=stats)
    return generator, metrics | {"generator_gradient": optax.tree.norm(gradients)}


def _distance(
    spec: StepSpec,
    images: Float[Array, "b s s c"],
    target: TeacherTargets,
    *,
    step: Array,
    frozen: PyTree | None,
) -> tuple[Float[Array, ""], Metrics]:
    """How far the images are from the teacher's: in pixels, ever more in its critic's features."""
    recipe = spec.recipe
    distance = losses.DISTANCES[recipe.distance](images, target.images, recipe.reduction)
    metrics = {"pixel_error": losses.mse(images, target.images, "mean")}
    if spec.frozen_critic is not None:
        few = recipe.feature_batch
        found = critic_features(spec.frozen_critic, frozen, images[:few])
        theirs = tuple(layer[:few] for layer in target.features)
        apart = losses.FEATURE_DISTANCES[recipe.features](found, theirs)
        metrics["feature_distance"] = apart
        share = recipe.feature_weight * step / recipe.steps
        distance = (1 - share) * distance + share * apart
    return distance, metrics | {"distance": distance}


def critic_features(
    critic: Critic, frozen: PyTree, images: Float[Array, "b s s c"]
) -> tuple[Float[Array, "b ..."], ...]:
    """A frozen critic's hidden layers for images in -1..1, each image by itself."""
    _, kept = critic.apply(frozen, images, train=False, mutable=["intermediates"])
    return kept["intermediates"]["features"]


def _score(
    spec: StepSpec, params: PyTree, stats: PyTree, *, images: Float[Array, "b s s c"]
) -> tuple[Float[Array, " b"], PyTree]:
    assert spec.critic is not None
    scores, updated = spec.critic.apply(
        make_variables(params, stats), images, train=True, mutable=["batch_stats"]
    )
    return scores, updated.get("batch_stats", {})


def _adam(
    optimizer: optax.GradientTransformation,
    network: NetworkState,
    gradients: PyTree,
    *,
    stats: PyTree,
) -> NetworkState:
    updates, state = optimizer.update(gradients, network.optimizer, network.params)
    return NetworkState(
        params=optax.apply_updates(network.params, updates), stats=stats, optimizer=state
    )


def _clip(params: PyTree, bound: float) -> PyTree:
    return jax.tree.map(lambda weight: jnp.clip(weight, -bound, bound), params)


def _average(average: PyTree, params: PyTree, step: Array, *, decay: float) -> PyTree:
    """Exponential average, warmed up as min(decay, (1 + step) / (10 + step))."""
    warm = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: warm * old + (1 - warm) * new, average, params)
