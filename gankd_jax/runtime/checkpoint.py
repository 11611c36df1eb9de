"""A run's checkpoints: Orbax, the newest ones kept, each sealed with a hash of its files."""

import errno
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from gankd_jax.runtime import files

# Orbax tells each save in several lines of INFO; a study has hundreds.
logging.getLogger("absl").setLevel(logging.WARNING)
# Where one of its writes fails, the others find their event loop closed and tell so at length.
logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)

KEPT = 2  # checkpoints of a run; the runs of a group stopped while it saved then share one
SEAL = "sha256"
ROOM = 2**18  # bytes of a checkpoint beside its arrays
DELETED = ".deleted"  # where a checkpoint goes in one move, before its files are deleted one by one


def is_sound(folder: Path) -> bool:
    """Whether a checkpoint's files are what was written; True if it was not sealed in time."""
    seal = folder / SEAL
    return not seal.exists() or seal.read_text() == _digest(folder)


def _digest(folder: Path) -> str:
    """A hash of the names and contents of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL:
            with path.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder)} {inner}\n".encode())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints in one folder; every save is complete or absent."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT,
            create=False,
            enable_async_checkpointing=False,
            todelete_subdir=DELETED,
            # Of several processes that train together, one alone has checkpoints.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="leader"
            ),
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._sweep()

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Write the pytree `state` as that of `step`: plain arrays, wherever they lay.

        Raises:
          OSError: the disk is full, which Orbax would tell of in hundreds of lines.
        """
        needed = ROOM + sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self._manager.directory).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(state)))
        self._sweep()
        folder = Path(self._manager.directory) / str(step)
        files.write_bytes(folder / SEAL, _digest(folder).encode())

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, with the structure, shapes and types of `like`."""
        shapes = jax.eval_shape(lambda: like)
        found = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        return jax.tree.map(jnp.asarray, found)

    def discard_after(self, step: int) -> None:
        """Delete what is newer than `step`."""
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)
        self._sweep()

    def _sweep(self) -> None:
        """Delete what was moved away to be deleted, now or before a kill."""
        shutil.rmtree(Path(self._manager.directory) / DELETED, ignore_errors=True)

    def close(self) -> None:
        """Let go of threads and files."""
        self._manager.close()
