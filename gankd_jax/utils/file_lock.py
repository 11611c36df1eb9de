"""File locks between processes; a lock ends with the process that holds it."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gankd_jax.utils.errors import UserError

LOCKS_DIR = ".locks"  # in a work directory: a file for each run in training


@contextlib.contextmanager
def hold_lock(path: Path, name: str) -> Iterator[None]:
    """Holds a lock file within the block.

    Args:
        path: The lock file; it is created.
        name: What is locked, for the message.

    Raises:
        UserError: Another process holds the lock, on this machine or on one that shares the file
            system; or the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _lock(file):
            time.sleep(0.2)  # `is_locked` in another process holds it for a moment
            if not _lock(file):
                file.seek(0)
                raise UserError(f"{name} is locked by {file.read().strip()}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # only a process that was killed leaves its name there


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock file."""
    # Opened for reading: the user may not be allowed to write it.
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        return not _lock(file, fcntl.LOCK_SH)
    return False


def lock_holder(path: Path) -> str:
    """Returns who holds a lock or was killed with it, as `process 7 on HOST`; else ''."""
    return path.read_text().strip() if path.exists() else ""


def _lock(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}): the file system needs locks that all"
            " its machines see (NFS 4; Lustre mounted with -o flock)"
        ) from error
    return True
