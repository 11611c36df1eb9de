"""Paths of the user: the home folder, caches, and outputs that are tried before the work."""

import functools
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)


def expand_path(path: str | Path) -> Path:
    """Returns a path with the home folder in place of a leading ~.

    Raises:
        UserError: The home folder is not known, as in a container whose user has no entry in the
            password file.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: the home folder is not known; set HOME") from error


def user_cache_dir() -> Path:
    """Returns the folder of what is kept between studies: compiled programs, FID weights.

    Raises:
        UserError: The home folder is not known.
    """
    return expand_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gankd-jax"


def configs_dir() -> Path:
    """Returns the folder of the package's configs and pretrained generators.

    An installed package has it inside; in a checkout it lies beside the package.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def write_cache(path: Path, write: Callable[[], None]) -> None:
    """Writes to a cache, or warns once and goes on if that is not possible.

    A read-only or full data folder costs the next start some time; it must not cost this one its
    result.

    Args:
        path: The cache's file or folder, for the warning.
        write: Writes it.
    """
    try:
        write()
    except OSError as error:
        _warn_of_cache(path.parent, error.strerror or str(error))


@functools.cache
def _warn_of_cache(folder: Path, reason: str) -> None:
    logger.warning("%s cannot be written (%s): continuing without a cache", folder, reason)


def require_new_file(path: Path, flag: str = "--out") -> None:
    """Refuses an output file that exists or cannot be written, before any work is done for it.

    Args:
        path: The file.
        flag: The flag that named it, for the message.

    Raises:
        UserError: It exists, or its folder cannot be made or written.
    """
    if path.exists():
        raise UserError(f"{path} exists; name another file or remove it")
    _require_writable(path, flag)


def require_new_folder(path: Path, flag: str = "--out") -> None:
    """Refuses an output folder that holds something or cannot be made, before any work is done.

    Args:
        path: The folder; it may exist if it is empty.
        flag: The flag that named it, for the message.

    Raises:
        UserError: It exists and is not an empty folder, or its parent cannot be made or written.
    """
    if path.exists() and not (path.is_dir() and next(path.iterdir(), None) is None):
        raise UserError(f"{path} exists and is no empty folder; name another or remove it")
    _require_writable(path, flag)


def _require_writable(path: Path, flag: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be written: {error.strerror or error}") from error
