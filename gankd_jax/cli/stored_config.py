"""A config file for ml_collections that returns the config of a study in a work directory.

`--config=THIS_FILE:WORKDIR` stands for the config that a command without --config goes on with.
"""

from pathlib import Path

from ml_collections import ConfigDict

from gankd_jax.utils.errors import UserError


def get_config(folder: str) -> ConfigDict:
    """Returns the config of the study in a work directory.

    Raises:
        UserError: There is no study, or its config is damaged.
    """
    from gankd_jax.study import workdir  # imports JAX

    if not (Path(folder) / workdir.CONFIG_FILE).is_file():
        raise UserError(
            f"--workdir={folder} holds no study, whose config could be used; name --config=FILE"
        )
    return workdir.read_config(Path(folder))
