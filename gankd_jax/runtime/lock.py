"""One process at a time: a lock that ends with its holder, however that ends."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gankd_jax.errors import UserError


@contextlib.contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while `what` is worked on.

    Raises:
      UserError: another process holds it, on this machine or one that shares the file system; or
        that has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _lock(file):
            time.sleep(0.2)  # somebody may only have looked
            if not _lock(file):
                file.seek(0)
                raise UserError(f"{what} is taken: {file.read().strip()} is at it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file."""
    if not path.exists():
        return False
    with path.open("a+") as file:
        return not _lock(file)


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked ({error.strerror}): the file system needs locks that all"
            " its machines see (NFS 4; Lustre mounted with -o flock)"
        ) from error
    return True
