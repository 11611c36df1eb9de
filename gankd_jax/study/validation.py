"""Checks a study's config against the registries that serve its fields."""

import ml_collections

from gankd_jax.config import schema
from gankd_jax.evaluation.classifier import CLASSIFIERS
from gankd_jax.evaluation.inference import BATCH_STATISTICS
from gankd_jax.models.conv import CONV_IMPLS
from gankd_jax.models.dcgan import CRITIC_NORMS, GENERATOR_NORMS
from gankd_jax.models.inception import POOL_LAYERS
from gankd_jax.study.train import PLACEMENTS
from gankd_jax.training import losses
from gankd_jax.training.train_state import CRITIC_SOURCES, OPTIMIZERS, SCHEDULES
from gankd_jax.training.train_step import REAL_SOURCES


def field_options() -> dict[str, tuple[str, ...]]:
    """Returns the values that each field can have, by the last part of the field's name."""
    return {
        "loss": tuple(losses.GENERATOR_LOSSES),
        "penalised_losses": tuple(losses.PENALTIES),  # no field: these refuse batch norm
        "optimizer": tuple(OPTIMIZERS),
        "distance": tuple(losses.DISTANCES),
        "features": ("none", *losses.FEATURE_DISTANCES),
        "reduction": tuple(losses.REDUCTIONS),
        "critic": CRITIC_SOURCES,
        "real_source": REAL_SOURCES,
        "critic_norm": CRITIC_NORMS,
        "generator_norm": GENERATOR_NORMS,
        "schedule": tuple(SCHEDULES),
        "conv": ("auto", *CONV_IMPLS),
        "placement": PLACEMENTS,
        "classifiers": tuple(CLASSIFIERS),
        "layers": POOL_LAYERS,
        "statistics": BATCH_STATISTICS,
    }


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a config that cannot be run.

    Raises:
        UserError: A field is wrong; names the first one and what it may be.
    """
    schema.validate_fields(config, field_options())
