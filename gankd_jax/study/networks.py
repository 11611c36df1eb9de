"""The networks of a config's runs, and each run as the train step takes it."""

import ml_collections
import numpy as np

from gankd_jax.config.recipe import Recipe
from gankd_jax.data import registry
from gankd_jax.models import conv
from gankd_jax.models.family import FAMILIES, Critic, Generator
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import StepSpec


def build_generator(config: ml_collections.ConfigDict, width: int) -> Generator:
    """Returns the study's generator of that width, without parameters.

    Args:
        config: The study's config.
        width: Channels of the last hidden layer.
    """
    return FAMILIES["dcgan"].generator(
        width=width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        latent_dim=config.model.latent,
        norm=config.model.generator_norm,
        conv_impl=conv.resolve_conv_impl(config.model.conv),
    )


def build_critic(config: ml_collections.ConfigDict, width: int, norm: str) -> Critic:
    """Returns the study's critic of that width and norm (batch, layer, none).

    Args:
        config: The study's config.
        width: Channels of the first hidden layer.
        norm: batch, layer or none.
    """
    return FAMILIES["dcgan"].critic(
        width=width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        norm=norm,
        conv_impl=conv.resolve_conv_impl(config.model.conv),
    )


def make_run_spec(
    config: ml_collections.ConfigDict, run: Run, teacher: Run | None, *, retries: int = 0
) -> RunSpec:
    """Describes a run as the train step takes it.

    Students of one teacher share latents and batches whatever their seed, so that one forward pass
    of the teacher serves them all; the seed decides their first weights.  With a warm start, whose
    first weights are the teacher's, the seed decides the latents instead.

    Args:
        config: The study's config.
        run: The run.
        teacher: The selected teacher; None for teachers and baselines.  A critic that starts from
            the teacher's has its width and norm.
        retries: How often the run has failed before; each retry draws other random numbers.

    Returns:
        The networks, recipe and seeds of the run.
    """
    recipe = Recipe(**config.recipes[run.recipe])
    critic_run = teacher if recipe.critic == "teacher" and teacher else run
    feature_run = teacher if recipe.features != "none" else None
    spec = StepSpec(
        generator=build_generator(config, run.width),
        critic=_build_own_critic(config, critic_run) if recipe.alpha > 0 else None,
        recipe=recipe,
        feature_critic=_build_own_critic(config, feature_run) if feature_run else None,
    )
    data_seed = teacher.seed if teacher and not recipe.warm_start else run.seed
    return RunSpec(
        spec=spec, seed=retry_seed(run.seed, retries), data_seed=retry_seed(data_seed, retries)
    )


def _build_own_critic(config: ml_collections.ConfigDict, run: Run) -> Critic:
    """Returns the critic of a run's own recipe."""
    recipe = config.recipes[run.recipe]
    return build_critic(config, recipe.critic_width or run.width, recipe.critic_norm)


def retry_seed(seed: int, retries: int) -> int:
    """Returns the seed of a run's n-th retry, a non-negative int32; `seed` itself for 0 retries.

    Args:
        seed: The run's seed.
        retries: How often the run has failed.
    """
    if not retries:
        return seed
    return int(np.random.SeedSequence([seed, retries]).generate_state(1)[0] >> 1)


def image_channels(config: ml_collections.ConfigDict) -> int:
    """Returns 1 for grey images, 3 for colour."""
    return registry.get_dataset(config.data.name).image_shape[2]
