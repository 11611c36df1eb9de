"""What `gankd sample` does: the images of a run, or of a pretrained generator, as a picture."""

from pathlib import Path

import ml_collections

from gankd_jax import pretrained, runs, sampling, workdir
from gankd_jax.errors import UserError
from gankd_jax.lab import Lab
from gankd_jax.models.dcgan import Generator
from gankd_jax.runtime import files
from gankd_jax.training.state import Tree


def sample(config: ml_collections.ConfigDict, folder: Path, name: str, *, out: Path) -> None:
    """Write the picture of a trained run's images of the fixed latents.

    Raises:
      UserError: no such run, it is not trained yet, or `out` exists.
    """
    run = runs.find(config, name)
    workdir.need_trained(folder, config, run)
    files.need_free(out)
    _write(out, *Lab(config, folder).drawer(run))


def sample_pretrained(name: str, out: Path) -> None:
    """Write the picture of a pretrained generator's images of the fixed latents.

    Raises:
      UserError: there is no such generator, or `out` exists.
    """
    files.need_free(out)
    _write(out, *pretrained.load(name))


def _write(out: Path, generator: Generator, variables: Tree) -> None:
    try:
        files.write_png(out, sampling.grid(generator, variables))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
