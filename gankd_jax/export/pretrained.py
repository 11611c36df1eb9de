"""Pretrained generators: those of the package by name, any other by its file."""

from pathlib import Path

from gankd_jax.export import safetensors
from gankd_jax.interop import pair_table
from gankd_jax.interop.external_generator import (
    READERS,
    Function,
    load_external,
    read_torch_generator,
)
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import configs_dir, expand_path


def pretrained_paths() -> dict[str, Path]:
    """Returns the files of the package's generators by name, such as `mnist-d2`."""
    paths = configs_dir().glob("results/*/pretrained/*.safetensors")
    return {path.stem: path for path in sorted(paths)}


def load_file(
    source: str | Path | Function, *, latent_dim: int = 0, value_range: str = ""
) -> TrainedGenerator:
    """Loads a generator from a file, ours or another program's, by name, or from a function.

    Args:
        source: What `load_pretrained` or `load_external` takes, or an .npz of pairs.
        latent_dim: See `load_external`.
        value_range: See `load_external`.

    Raises:
        UserError: It cannot be loaded.
    """
    if not callable(source):
        suffix = expand_path(source).suffix
        if suffix == ".npz":
            return pair_table.load_pairs(expand_path(source), value_range)
        if suffix == ".safetensors" or (suffix not in READERS and ":" not in str(source)):
            return load_pretrained(str(source))
    return load_external(source, latent_dim=latent_dim, value_range=value_range)


def load_pretrained(name: str) -> TrainedGenerator:
    """Loads a generator with its card: its run, recipe, data, scores and versions.

    Args:
        name: A key of `pretrained_paths()`, or the path of a file that
          `gankd export --format=safetensors` wrote.  A DCGAN of PyTorch in such a file has no card.

    Raises:
        UserError: There is none of that name, or its file is missing or damaged.
    """
    paths = pretrained_paths()
    path = expand_path(name) if name.endswith(".safetensors") else paths.get(name)
    if path is None:
        names = ", ".join(paths)
        raise UserError(f"no pretrained generator {name!r}; there are: {names}")
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    content = path.read_bytes()
    if not safetensors.has_card(content):
        return read_torch_generator(path)
    try:
        return safetensors.read_safetensors(content)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
