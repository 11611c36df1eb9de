"""What `gankd sample` does: the images of a run, or of a pretrained generator, as a picture."""

from pathlib import Path

import ml_collections

from gankd_jax.export import pretrained
from gankd_jax.models import sampling
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError


def sample_run(config: ml_collections.ConfigDict, folder: Path, name: str, *, out: Path) -> None:
    """Write the picture of a trained run's images of the fixed latents.

    Raises:
      UserError: no such run, it is not trained yet, or `out` exists.
    """
    run = plan.find_run(config, name)
    workdir.require_trained(folder, config, run)
    atomic_io.require_absent(out)
    _write(out, StudyContext(config, folder).drawer(run))


def sample_pretrained(name: str, out: Path) -> None:
    """Write the picture of a pretrained generator's images of the fixed latents.

    Raises:
      UserError: there is no such generator, or `out` exists.
    """
    atomic_io.require_absent(out)
    _write(out, pretrained.load_pretrained(name))


def _write(out: Path, generator: TrainedGenerator) -> None:
    try:
        atomic_io.write_png(out, sampling.sample_grid(*generator))
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror}") from error
