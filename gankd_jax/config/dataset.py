"""The data set that a config names."""

from pathlib import Path

import ml_collections

from gankd_jax.data import registry
from gankd_jax.data.registry import Dataset
from gankd_jax.data.stored import default_data_dir
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import expand_path


def config_data_dir(config: ml_collections.ConfigDict) -> Path:
    """Returns the folder of prepared data sets: `config.data.dir`, or TFDS's own default."""
    return expand_path(config.data.dir) if config.data.dir else default_data_dir()


def config_dataset(config: ml_collections.ConfigDict) -> Dataset:
    """Returns the data set of `config.data.name`.

    Args:
        config: A study's config.

    Raises:
        UserError: It is neither registered nor prepared.
    """
    return registry.get_dataset(config.data.name, config_data_dir(config))


def evaluation_split(config: ml_collections.ConfigDict) -> str:
    """Returns the split that a study scores against: test, or where there is none, validation.

    Args:
        config: The study's config.

    Raises:
        UserError: The data set has neither.
    """
    splits = config_dataset(config).counts
    if "test" in splits:
        return "test"
    if "validation" in splits or config.data.validation:
        return "validation"
    raise UserError(
        f"{config.data.name} has no test split: config.data.validation=1000 would hold back as many"
        " of its training images"
    )
