"""What `gankd sample` does: a trained run's images as a picture."""

from pathlib import Path

import ml_collections

from gankd_jax import runs, sampling, workdir
from gankd_jax.errors import UserError
from gankd_jax.lab import Lab
from gankd_jax.runtime import files


def sample(config: ml_collections.ConfigDict, folder: Path, name: str, *, out: Path) -> None:
    """Write the picture of a trained run's images of the fixed latents.

    Raises:
      UserError: no such run, it is not trained yet, or `out` exists.
    """
    run = runs.find(config, name)
    workdir.need(folder, config)
    if not workdir.is_trained(folder, config, run):
        raise UserError(f"{name} is not trained; run `gankd train --run={name}` first")
    if out.exists():
        raise UserError(f"--out={out} exists; name another file or remove it")
    picture = sampling.grid(*Lab(config, folder).drawer(run))
    try:
        files.write_png(out, picture)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
