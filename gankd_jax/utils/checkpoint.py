"""A run's checkpoints by Orbax: the newest are kept, each with a hash of its files.

The arrays of a state are packed end to end into one array for each dtype; the metadata hold their
names.  TensorStore writes a few long arrays faster than many short ones, and version 0.1.86 leaks
about 300 bytes for each array written.
"""

import contextlib
import errno
import functools
import hashlib
import logging
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

# The least level that is logged while Orbax works, by logger.
LOG_LEVELS = {
    "absl": logging.WARNING,  # several lines of INFO at each save; a study has hundreds of saves
    # After a failed write, its other threads find their event loop closed and log tracebacks.
    "concurrent.futures": logging.CRITICAL,
}
# Checkpoints of a run.  With two, the runs of a group that was killed while it saved share a step.
MAX_TO_KEEP = 2
HASH_FILE = "sha256"
LAYOUT = "layout"  # key in the metadata
# Fields of the training state that were renamed, as patterns over the names of arrays.
RENAMED_FIELDS = {
    r"^\.average\b": ".ema_params",
    r"^(\.generator|\.critic)\.stats\b": r"\1.batch_stats",
    r"^(\.generator|\.critic)\.optimizer\b": r"\1.opt_state",
}
METADATA_BYTES = 2**18  # of a checkpoint beside its arrays, at most
# A checkpoint is moved here before its files are deleted one by one, so that none is half deleted.
DELETED_DIR = ".deleted"


def is_intact(folder: Path) -> bool:
    """Returns whether a checkpoint's files are as they were written.

    True if there is no hash: the process was killed before it was written.
    """
    path = folder / HASH_FILE
    return not path.exists() or path.read_text() == _hash_folder(folder)


def _hash_folder(folder: Path) -> str:
    """Returns a hash of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != HASH_FILE:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Drops what Orbax logs below `LOG_LEVELS`, within the block or the decorated function.

    By filters and not by the loggers' levels: those belong to the user's program, and of threads
    that save side by side one would restore what another has set.
    """
    with contextlib.ExitStack() as stack:
        for name, level in LOG_LEVELS.items():
            logger, is_logged = logging.getLogger(name), functools.partial(_has_level, level)
            logger.addFilter(is_logged)
            stack.callback(logger.removeFilter, is_logged)
        yield


def _has_level(level: int, record: logging.LogRecord) -> bool:
    return record.levelno >= level


class ArrayInfo(NamedTuple):
    """An array of a state."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def _current_name(name: str) -> str:
    """Returns the name that an array has in this version, given its name in any version."""
    for old, new in RENAMED_FIELDS.items():
        name = re.sub(old, new, name)
    return name


def _layout(state: Any) -> list[ArrayInfo]:
    """Returns the arrays of a pytree, or of its shapes, in order."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: state))
    return [ArrayInfo(jax.tree_util.keystr(k), str(leaf.dtype), leaf.shape) for k, leaf in leaves]


def _pack(state: Any, layout: list[ArrayInfo]) -> dict[str, np.ndarray]:
    """Returns the arrays of each dtype end to end."""
    parts: dict[str, list[np.ndarray]] = {}
    leaves = jax.tree.leaves(jax.device_get(state))
    for info, leaf in zip(layout, leaves, strict=True):
        parts.setdefault(info.dtype, []).append(np.ravel(leaf).astype(info.dtype, copy=False))
    return {dtype: np.concatenate(arrays) for dtype, arrays in parts.items()}


def _unpack(packed: dict[str, np.ndarray], layout: list[ArrayInfo]) -> dict[str, np.ndarray]:
    """Inverts `_pack`; returns the arrays by name."""
    arrays, starts = {}, dict.fromkeys(packed, 0)
    for name, dtype, shape in layout:
        end = starts[dtype] + math.prod(shape)
        arrays[name] = packed[dtype][starts[dtype] : end].reshape(shape)
        starts[dtype] = end
    return arrays


class Checkpoints:
    """The checkpoints in one folder; a save is complete or absent."""

    @_quiet_orbax()
    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=MAX_TO_KEEP,
            create=False,
            enable_async_checkpointing=False,
            todelete_subdir=DELETED_DIR,
            # Of several processes that train together, process 0 alone has checkpoints.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="leader"
            ),
        )
        # Without an explicit handler Orbax warns at each read of the metadata.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handler
        )
        self._delete_moved()

    @_quiet_orbax()
    def steps(self) -> list[int]:
        """Returns the steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    @_quiet_orbax()
    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint.

        Args:
            step: Its step.
            state: A pytree of host or device arrays.

        Raises:
            OSError: The disk is full; Orbax would log it in hundreds of lines.
        """
        needed = METADATA_BYTES + sum(getattr(leaf, "nbytes", 0) for leaf in jax.tree.leaves(state))
        if shutil.disk_usage(self._manager.directory).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        layout = _layout(state)
        self._manager.save(
            step,
            args=ocp.args.StandardSave(_pack(state, layout)),
            custom_metadata={LAYOUT: [list(info) for info in layout]},
        )
        self._delete_moved()
        folder = Path(self._manager.directory) / str(step)
        atomic_io.write_bytes(folder / HASH_FILE, _hash_folder(folder).encode())

    def restore(self, step: int, template: Any) -> Any:
        """Reads a checkpoint.

        Args:
            step: Its step.
            template: A pytree of the same structure, shapes and dtypes, such as its shapes.

        Raises:
            UserError: It holds other arrays, as those of a later version of the program.
        """
        layout, expected = self._layout_of(step), _layout(template)
        renamed = [info._replace(name=_current_name(info.name)) for info in layout]
        if renamed != expected:
            folder = Path(self._manager.directory) / str(step)
            if [(a.name, a.shape) for a in renamed] == [(a.name, a.shape) for a in expected]:
                raise UserError(
                    f"{folder} has another precision: set jax_enable_x64 as in training"
                )
            raise UserError(f"{folder} holds no state of this run; train it in another --workdir")
        arrays = self._read(step, layout).values()
        return jax.tree.unflatten(jax.tree.structure(template), map(jnp.asarray, arrays))

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint by their names in the state, of any structure."""
        return self._read(step, self._layout_of(step))

    @_quiet_orbax()
    def _read(self, step: int, layout: list[ArrayInfo]) -> dict[str, np.ndarray]:
        sizes: dict[str, int] = {}
        for info in layout:
            sizes[info.dtype] = sizes.get(info.dtype, 0) + math.prod(info.shape)
        shapes = {dtype: jax.ShapeDtypeStruct((n,), dtype) for dtype, n in sizes.items()}
        packed = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        return _unpack(jax.tree.map(np.asarray, packed), layout)

    @_quiet_orbax()
    def _layout_of(self, step: int) -> list[ArrayInfo]:
        metadata = self._manager.metadata(step).custom_metadata or {}
        return [
            ArrayInfo(name, dtype, tuple(shape)) for name, dtype, shape in metadata.get(LAYOUT, [])
        ]

    @_quiet_orbax()
    def discard_after(self, step: int) -> None:
        """Deletes the checkpoints newer than `step`."""
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)
        self._delete_moved()

    def _delete_moved(self) -> None:
        """Deletes the files of deleted checkpoints, also those of a process that was killed."""
        shutil.rmtree(Path(self._manager.directory) / DELETED_DIR, ignore_errors=True)

    @_quiet_orbax()
    def close(self) -> None:
        """Releases threads and files."""
        self._manager.close()
