"""Checkpoints of a group of runs, written by a thread while the training goes on."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from gankd_jax.training.run_logger import RunLogger
from gankd_jax.training.train_state import TrainState


class BackgroundSaver:
    """Writes the checkpoints of one step at a time; an error is raised by the next call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._write: Future[None] | None = None  # the one that is in progress

    def save(
        self,
        loggers: Mapping[str, RunLogger],
        step: int,
        states: Mapping[str, TrainState],
        *,
        donated: bool,
    ) -> None:
        """Has states written, when those before them are.

        Args:
            loggers: Of each run.
            step: The step that was reached.
            states: Of each run to save, on one device.
            donated: Whether the next call takes their memory, so that they are copied first.

        Raises:
            UserError: Checkpoints before these cannot be written.
        """
        self.wait()
        for name in states:
            loggers[name].writer.flush()  # a run that resumes from here has its curves up to here
        if donated:
            states = jax.tree.map(np.array, dict(states))
        else:
            jax.tree.map(lambda leaf: leaf.copy_to_host_async(), dict(states))
        self._write = self._executor.submit(_write_checkpoints, loggers, step, states)

    def raise_if_failed(self) -> None:
        """Raises the error of a write that has ended.

        Raises:
            UserError: A checkpoint cannot be written.
        """
        if self._write is not None and self._write.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: A checkpoint cannot be written.
        """
        write, self._write = self._write, None
        if write is not None:
            write.result()

    def close(self) -> None:
        """Ends the thread after its write, whose error is not raised."""
        self._executor.shutdown()


def _write_checkpoints(
    loggers: Mapping[str, RunLogger], step: int, states: Mapping[str, TrainState]
) -> None:
    for name, state in states.items():
        loggers[name].save_checkpoint(step, state)
