"""The data set that a config names."""

from pathlib import Path

import ml_collections

from gankd_jax.data import registry
from gankd_jax.data.registry import Dataset
from gankd_jax.data.stored import default_data_dir
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
