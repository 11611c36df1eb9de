"""A config file for ml_collections that returns the config of a study in a work directory.

`--config=THIS_FILE:WORKDIR` stands for the config that a command without --config goes on with.
"""

import logging
from pathlib import Path

from ml_collections import ConfigDict

from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import WRITERS

logger = logging.getLogger("gankd_jax.cli.stored_config")  # ml_collections gives it another name


def get_config(folder: str) -> ConfigDict:
    """Returns the config of the study in a work directory, with the writers that are registered.

    Raises:
        UserError: There is no study, or its config is damaged.
    """
    from gankd_jax.study import workdir  # imports JAX

    if not (Path(folder) / workdir.CONFIG_FILE).is_file():
        raise UserError(
            f"--workdir={folder} holds no study, whose config could be used; name --config=FILE"
        )
    config = workdir.read_config(Path(folder))
    names = config.training.writers
    config.training.writers = tuple(name for name in names if name in WRITERS)
    if unknown := [name for name in names if name not in WRITERS]:
        logger.warning(
            "nothing is written to %s, which the study's config file registers: name it by"
            " --config=FILE",
            ", ".join(unknown),
        )
    return config
