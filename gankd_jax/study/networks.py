"""The networks of a config's runs, and each run as the train step takes it."""

import ml_collections
import numpy as np

from gankd_jax.config.dataset import config_dataset
from gankd_jax.config.recipe import Recipe
from gankd_jax.evaluation.classifier import build_classifier
from gankd_jax.evaluation.inception import available_maps
from gankd_jax.models import conv
from gankd_jax.models.family import (
    FAMILIES,
    Critic,
    Family,
    FeatureNetwork,
    Generator,
    family_of,
    is_in_family,
)
from gankd_jax.models.inception import InceptionMaps
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import plan
from gankd_jax.study.plan import Run
from gankd_jax.training import cost_model
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import StepSpec

# In whose hidden layers a recipe can compare images: the teacher's critic, the study's first
# classifier, the FID network.
FEATURE_NETWORKS = ("critic", "classifier", "inception")


def run_family(config: ml_collections.ConfigDict, run: Run) -> Family:
    """Returns the network family of a run: the teacher's, or that of students and baselines."""
    return FAMILIES[config.model["teacher" if run.kind == "teacher" else "student"].family]


def build_generator(config: ml_collections.ConfigDict, run: Run) -> Generator:
    """Returns the generator of a run, without parameters.

    Args:
        config: The study's config.
        run: The run, which decides the family and the width.
    """
    return run_family(config, run).generator(
        width=run.width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        latent_dim=config.model.latent,
        norm=config.model.generator_norm,
        conv_impl=conv.resolve_conv_impl(config.model.conv),
    )


def build_critic(config: ml_collections.ConfigDict, run: Run) -> Critic:
    """Returns the critic of a run's own recipe, without parameters.

    Args:
        config: The study's config.
        run: The run, which decides the family and, unless its recipe does, the width.
    """
    recipe = config.recipes[run.recipe]
    return run_family(config, run).critic(
        width=recipe.critic_width or run.width,
        image_size=config.data.image_size,
        channels=image_channels(config),
        norm=recipe.critic_norm,
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
    spec = StepSpec(
        generator=build_generator(config, run),
        critic=build_critic(config, critic_run) if recipe.alpha > 0 else None,
        recipe=recipe,
        feature_network=_build_feature_network(config, recipe, teacher) if teacher else None,
    )
    data_seed = teacher.seed if teacher and not recipe.warm_start else run.seed
    return RunSpec(
        spec=spec, seed=retry_seed(run.seed, retries), data_seed=retry_seed(data_seed, retries)
    )


def can_start_from(teacher: TrainedGenerator, family: str, *, norm: str, width: int) -> bool:
    """Returns whether a student can start with channels of a given teacher.

    Args:
        teacher: Any generator.
        family: Of the student, a key of `FAMILIES`.
        norm: Of the student.
        width: Of the student.
    """
    module = teacher.module
    if not is_in_family(module) or family_of(module).name != family:
        return False
    return FAMILIES[family].prune is not None and module.norm == norm and module.width >= width


def _build_feature_network(
    config: ml_collections.ConfigDict, recipe: Recipe, teacher: Run
) -> FeatureNetwork | None:
    """Returns the network in whose hidden layers a recipe compares images; None for no features."""
    if recipe.features == "none":
        return None
    if recipe.feature_network == "critic":
        return build_critic(config, teacher)
    if recipe.feature_network == "inception":
        return InceptionMaps(available_maps())
    classes = config_dataset(config).classes
    assert classes  # validated
    return build_classifier(
        recipe.feature_network,
        classes,
        config.data.image_size,
        image_channels(config),
        conv_impl=conv.resolve_conv_impl(config.model.conv),
    )


def feature_network_names(config: ml_collections.ConfigDict) -> set[str]:
    """Returns the names of the networks in whose hidden layers students are compared."""
    recipes = [config.recipes[name] for name in config.study.students]
    return {recipe.feature_network for recipe in recipes if recipe.features != "none"}


def run_flops(config: ml_collections.ConfigDict, run: Run) -> int:
    """Counts the operations of a run's training, without the teacher's images.

    Args:
        config: The study's config.
        run: The run.
    """
    spec = make_run_spec(config, run, plan.widest_teacher(config))
    return spec.spec.recipe.steps * cost_model.group_step_flops({run.name: spec}, None)


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
    return config.data.channels or config_dataset(config).image_shape[2]
