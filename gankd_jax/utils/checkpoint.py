"""A run's checkpoints: Orbax, the newest ones kept, each sealed with a hash of its files.

A state's arrays lie end to end, one array for each dtype, and the checkpoint's metadata say which
is which: TensorStore writes a few long arrays sooner than many short ones, and (0.1.86) never lets
go of the text of an array's place, some 300 bytes each time that one is written.
"""

import errno
import hashlib
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

# Orbax tells each save in several lines of INFO; a study has hundreds.
logging.getLogger("absl").setLevel(logging.WARNING)
# Where one of its writes fails, the others find their event loop closed and tell so at length.
logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)

MAX_TO_KEEP = 2  # checkpoints of a run; the runs of a group stopped while it saved then share one
SEAL = "sha256"
LAYOUT = "layout"
# Fields of the training state that were renamed since checkpoints are written.
RENAMED_FIELDS = {
    r"^\.average\b": ".ema_params",
    r"^(\.generator|\.critic)\.stats\b": r"\1.batch_stats",
    r"^(\.generator|\.critic)\.optimizer\b": r"\1.opt_state",
}
ROOM = 2**18  # bytes of a checkpoint beside its arrays
DELETED = ".deleted"  # where a checkpoint goes in one move, before its files are deleted one by one


def is_intact(folder: Path) -> bool:
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


class Place(NamedTuple):
    """An array of a state: what it is called there, and what it holds."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def _current_name(name: str) -> str:
    """Returns the name that an array has in this version, given its name in any version."""
    for old, new in RENAMED_FIELDS.items():
        name = re.sub(old, new, name)
    return name


def _layout(state: Any) -> list[Place]:
    """The arrays of a pytree, or of its shapes, in order."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda: state))
    return [Place(jax.tree_util.keystr(k), str(leaf.dtype), leaf.shape) for k, leaf in leaves]


def _packed(state: Any, layout: list[Place]) -> dict[str, np.ndarray]:
    """The arrays of each dtype end to end."""
    found: dict[str, list[np.ndarray]] = {}
    leaves = jax.tree.leaves(jax.device_get(state))
    for place, leaf in zip(layout, leaves, strict=True):
        found.setdefault(place.dtype, []).append(np.ravel(leaf).astype(place.dtype, copy=False))
    return {dtype: np.concatenate(parts) for dtype, parts in found.items()}


def _unpacked(packed: dict[str, np.ndarray], layout: list[Place]) -> dict[str, np.ndarray]:
    """The inverse of `_packed`, by name."""
    found, begun = {}, dict.fromkeys(packed, 0)
    for name, dtype, shape in layout:
        end = begun[dtype] + math.prod(shape)
        found[name] = packed[dtype][begun[dtype] : end].reshape(shape)
        begun[dtype] = end
    return found


class Checkpoints:
    """The checkpoints in one folder; every save is complete or absent."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=MAX_TO_KEEP,
            create=False,
            enable_async_checkpointing=False,
            todelete_subdir=DELETED,
            # Of several processes that train together, one alone has checkpoints.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=0, active_processes={0}, barrier_sync_key_prefix="leader"
            ),
        )
        # Named, or Orbax warns each time that it is asked for metadata.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(
            folder.absolute(), options=options, item_handlers=handler
        )
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
        layout = _layout(state)
        self._manager.save(
            step,
            args=ocp.args.StandardSave(_packed(state, layout)),
            custom_metadata={LAYOUT: [list(place) for place in layout]},
        )
        self._sweep()
        folder = Path(self._manager.directory) / str(step)
        atomic_io.write_bytes(folder / SEAL, _digest(folder).encode())

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, with the structure, shapes and types of `like`.

        Raises:
          UserError: it has other arrays, as where another version of the program wrote it.
        """
        layout = self._layout_of(step)
        names = [place._replace(name=_current_name(place.name)) for place in layout]
        if names != _layout(like):
            folder = Path(self._manager.directory) / str(step)
            raise UserError(f"{folder} holds no state of this run; train it in another --workdir")
        found = self._read(step, layout).values()
        return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, found))

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of the state of `step` by their names in it."""
        return self._read(step, self._layout_of(step))

    def _read(self, step: int, layout: list[Place]) -> dict[str, np.ndarray]:
        sizes: dict[str, int] = {}
        for place in layout:
            sizes[place.dtype] = sizes.get(place.dtype, 0) + math.prod(place.shape)
        shapes = {dtype: jax.ShapeDtypeStruct((n,), dtype) for dtype, n in sizes.items()}
        packed = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        return _unpacked(jax.tree.map(np.asarray, packed), layout)

    def _layout_of(self, step: int) -> list[Place]:
        said = self._manager.metadata(step).custom_metadata or {}
        return [Place(name, dtype, tuple(shape)) for name, dtype, shape in said.get(LAYOUT, [])]

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
