"""The networks of a config's runs, and each run as the train step takes it."""

import ml_collections
import numpy as np

from gankd_jax.config.recipe import Recipe
from gankd_jax.data import registry
from gankd_jax.models import conv
from gankd_jax.models.dcgan import Critic, Generator
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import StepSpec


def build_generator(config: ml_collections.ConfigDict, width: int) -> Generator:
    """The study's generator of that width."""
    return Generator(
        width=width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        latent=config.model.latent,
        norm=config.model.generator_norm,
        form=conv.resolve_conv_impl(config.model.conv),
    )


def build_critic(config: ml_collections.ConfigDict, width: int, norm: str) -> Critic:
    """The study's critic of that width."""
    return Critic(
        width=width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        norm=norm,
        form=conv.resolve_conv_impl(config.model.conv),
    )


def make_run_spec(
    config: ml_collections.ConfigDict, run: Run, teacher: Run | None, *, retries: int = 0
) -> RunSpec:
    """The run as the train step takes it; a critic that goes on from the teacher's is like it.

    Students of one teacher see the same latents and batches, whatever their seed: its forward pass
    then serves them all.  Where they begin with the teacher's weights a seed decides the latents
    alone, which are then its own.  One that has failed and goes on sees others, at each of its
    `retries`.
    """
    recipe = Recipe(**config.recipes[run.recipe])
    owner = teacher if recipe.critic == "teacher" and teacher else run
    looked_through = teacher if recipe.features != "none" else None
    spec = StepSpec(
        generator=build_generator(config, run.width),
        critic=_critic_of(config, owner) if recipe.alpha > 0 else None,
        recipe=recipe,
        frozen_critic=_critic_of(config, looked_through) if looked_through else None,
    )
    stream = teacher.seed if teacher and not recipe.warm_start else run.seed
    seeds = {"seed": run.seed, "stream": stream}
    return RunSpec(spec=spec, **{name: retry_seed(seed, retries) for name, seed in seeds.items()})


def _critic_of(config: ml_collections.ConfigDict, run: Run) -> Critic:
    """The critic of a run's own recipe."""
    recipe = config.recipes[run.recipe]
    return build_critic(config, recipe.critic_width or run.width, recipe.critic_norm)


def retry_seed(seed: int, retries: int) -> int:
    """The seed in place of another after a run has failed so often: the same, at first."""
    if not retries:
        return seed
    return int(np.random.SeedSequence([seed, retries]).generate_state(1)[0] >> 1)  # an int32


def image_channels(config: ml_collections.ConfigDict) -> int:
    """1 for grey images, 3 for colour."""
    return registry.get_dataset(config.data.name).image_shape[2]
