"""Trained generators that come with the project, found by name; any other by its file."""

from pathlib import Path
from typing import Any

from gankd_jax.export import safetensors
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils.errors import UserError

RESULTS = Path(__file__).resolve().parents[1] / "configs" / "results"  # of a checkout


def pretrained_paths() -> dict[str, Path]:
    """The generators that come with the checkout, by name, such as `mnist-d2`."""
    return {path.stem: path for path in sorted(RESULTS.glob("*/pretrained/*.safetensors"))}


def load_pretrained(name: str) -> TrainedGenerator:
    """A generator and its variables, ready for `sampling.draw`.

    Args:
      name: of `names()`, or the path of a file that `gankd export --format=safetensors` wrote.

    Raises:
      UserError: there is none of that name, or its file is damaged.
    """
    return _read(name)[0]


def load_card(name: str) -> dict[str, Any]:
    """How it was made and how it scores.

    Raises:
      UserError: as `load`.
    """
    return _read(name)[1]


def _read(name: str) -> tuple[TrainedGenerator, dict[str, Any]]:
    path = (
        Path(name).expanduser() if name.endswith(".safetensors") else pretrained_paths().get(name)
    )
    if path is None:
        known = (
            ", ".join(pretrained_paths()) or "none, as this is no checkout: give the path of a file"
        )
        raise UserError(f"no pretrained generator {name!r}; there are: {known}")
    if not path.is_file():
        raise UserError(f"{path} is not there")
    try:
        return safetensors.read_safetensors(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
