"""A run's checkpoints: Orbax, the newest ones kept."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

# Orbax tells each save in several lines of INFO; a study has hundreds.
logging.getLogger("absl").setLevel(logging.WARNING)

KEPT = 2  # checkpoints of a run; the runs of a group stopped while it saved then share one


class Checkpoints:
    """The checkpoints in one folder; every save is complete or absent."""

    def __init__(self, folder: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Write the pytree `state` as that of `step`."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`, with the structure, shapes and types of `like`."""
        shapes = jax.eval_shape(lambda: like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))

    def discard_after(self, step: int) -> None:
        """Delete what is newer than `step`."""
        for newer in self.steps():
            if newer > step:
                self._manager.delete(newer)

    def close(self) -> None:
        """Let go of threads and files."""
        self._manager.close()
