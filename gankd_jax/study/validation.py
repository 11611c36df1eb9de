"""Checks a study's config against the registries that serve its fields."""

import itertools
from collections.abc import Iterable

import ml_collections

from gankd_jax.config import schema
from gankd_jax.config.dataset import config_dataset
from gankd_jax.evaluation.classifier import CLASSIFIER_SOURCES, CLASSIFIERS
from gankd_jax.evaluation.inference import BATCH_STATISTICS
from gankd_jax.interop import inception_weights
from gankd_jax.models.conv import CONV_IMPLS
from gankd_jax.models.family import FAMILIES
from gankd_jax.models.inception import POOL_LAYERS
from gankd_jax.models.precision import TRAINING_PRECISIONS, has_dtype
from gankd_jax.study.networks import FEATURE_NETWORKS
from gankd_jax.study.train import PLACEMENTS
from gankd_jax.training import losses
from gankd_jax.training.train_state import CRITIC_SOURCES, OPTIMIZERS, SCHEDULES
from gankd_jax.training.train_step import REAL_SOURCES
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import WRITERS

AUTO_LAYERS = "auto"  # of `config.evaluation.layers`


def field_options() -> dict[str, tuple[str, ...]]:
    """Returns the values that each field can have, by the last part of the field's name."""
    return {
        "loss": tuple(losses.GENERATOR_LOSSES),
        "penalised_losses": tuple(losses.PENALTIES),  # no field: these refuse batch norm
        "optimizer": tuple(OPTIMIZERS),
        "distance": tuple(losses.DISTANCES),
        "features": ("none", *losses.FEATURE_DISTANCES),
        "feature_network": FEATURE_NETWORKS,
        "reduction": tuple(losses.REDUCTIONS),
        "critic": CRITIC_SOURCES,
        "real_source": REAL_SOURCES,
        "family": tuple(FAMILIES),
        "critic_norm": _merge_options(family.critic_norms for family in FAMILIES.values()),
        "generator_norm": _merge_options(family.generator_norms for family in FAMILIES.values()),
        "schedule": tuple(SCHEDULES),
        "conv": ("auto", *CONV_IMPLS),
        "precision": ("auto", *TRAINING_PRECISIONS),
        "placement": PLACEMENTS,
        "classifiers": tuple(CLASSIFIERS),
        "classifier_source": CLASSIFIER_SOURCES,
        "layers": (AUTO_LAYERS, *POOL_LAYERS),
        "statistics": BATCH_STATISTICS,
        "writers": tuple(WRITERS),
    }


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a config that cannot be run.

    Raises:
        UserError: A field is wrong; names the first one and what it may be.
    """
    schema.validate_fields(config, field_options())
    # A given teacher is not trained, so that its recipe does not matter.
    for owner in ("student",) if config.study.teacher else ("teacher", "student"):
        _validate_family(config, owner)


def resolve_layers(config: ml_collections.ConfigDict) -> None:
    """Replaces the FID layers `auto` by those that serve.

    Args:
        config: Changed in place.  A data set with labels needs no layer; without, it is the last
            one that the fetched weights serve, if there are any.

    Raises:
        UserError: The data set is neither registered nor prepared.
    """
    if AUTO_LAYERS not in config.evaluation.layers:
        return
    path = inception_weights.default_weights_path()
    is_needed = config_dataset(config).classes is None and path.exists()
    layers = inception_weights.available_layers(path) if is_needed else ()
    config.evaluation.layers = tuple(layer for layer in layers if layer in POOL_LAYERS)[-1:]


def _merge_options(options: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(options)))


def _validate_family(config: ml_collections.ConfigDict, owner: str) -> None:
    """Refuses sizes, norms and a precision that networks of teachers, or of others, do not have.

    Raises:
        UserError: Names the field and what the family has.
    """
    family = FAMILIES[config.model[owner].family]
    fields = {"data.image_size": family.image_sizes, "model.generator_norm": family.generator_norms}
    if config.model.precision == "bfloat16" and not has_dtype(family.generator):
        raise UserError(
            f"config.model.precision is 'bfloat16', and config.model.{owner}.family is"
            f" {family.name!r}, whose networks have no attribute dtype; set it to float32 or tf32"
        )
    study = config.study
    names = ("teacher",) if owner == "teacher" else (*study.students, *study.baselines)
    for name in names:
        recipe = config.recipes[name]
        if recipe.alpha > 0 and recipe.critic == "fresh":
            fields[f"recipes.{name}.critic_norm"] = family.critic_norms
        if recipe.warm_start:
            _require_pruning(config, name)
    values = schema.flatten_config(config.to_dict())
    for field, options in fields.items():
        if values[field] not in options:
            raise UserError(
                f"config.{field} is {values[field]!r}, and config.model.{owner}.family is"
                f" {family.name!r}, whose networks have {', '.join(map(str, options))}"
            )


def _require_pruning(config: ml_collections.ConfigDict, name: str) -> None:
    """Refuses a warm start where no channels of the teacher can become the student's."""
    teacher, student = config.model.teacher.family, config.model.student.family
    if teacher != student or FAMILIES[student].prune is None:
        raise UserError(
            f"config.recipes.{name}.warm_start copies channels of the teacher, which a {student}"
            f" student cannot take from a {teacher} teacher; set it to False"
        )
