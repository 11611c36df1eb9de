"""The files of one run in training: its log, image grids and checkpoints."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import (
    MetricWriter,
    WriterSettings,
    open_writers,
    read_log,
)

logger = logging.getLogger(__name__)


class RunLogger:
    """A run's folder, open while the run trains.

    In a study of several processes, process 0 alone has loggers.
    """

    def __init__(self, folder: Path, writer_settings: WriterSettings | None = None):
        self.folder = folder
        self._writer_settings = writer_settings or WriterSettings()
        self._seconds = 0.0
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self._writer: MetricWriter | None = None
        self._window: list[dict[str, float]] = []

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoints.close()
        if self._writer is not None:
            self._writer.close()

    def resume_from(self, step: int) -> None:
        """Drops what was logged or saved after `step`, and the record of a failure."""
        self.checkpoints.discard_after(step)
        (self.folder / "failed.json").unlink(missing_ok=True)
        self._writer = open_writers(self.folder, self._writer_settings, step)
        lines = read_log(self.folder)  # those up to `step`
        self._seconds = float(lines[-1]["seconds"]) if lines else 0.0
        self._window = []

    @property
    def writer(self) -> MetricWriter:
        """The metric writer of a run that has begun."""
        if self._writer is None:
            raise RuntimeError("call resume_from first")
        return self._writer

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Adds the mean metrics of one compiled call to the next line of the log."""
        self._window.append(metrics)

    def write_metrics(self, step: int, *, seconds: float, images: int) -> dict[str, float]:
        """Writes the mean metrics since the last line.

        Args:
            step: The last step that they include.
            seconds: What the steps since the last line took.
            images: How many images the generator made in them.

        Returns:
            The means by name.
        """
        names = self._window[0]
        means = {name: float(np.mean([m[name] for m in self._window])) for name in names}
        self._seconds += seconds
        rate = {"seconds": self._seconds, "images_per_second": images / seconds}
        self.writer.write_scalars(step, {**rate, **means})
        self._window = []
        return means

    def write_grid(self, step: int, grid: UInt8[np.ndarray, "h w c"]) -> None:
        """Writes the image grid of the run at `step`.

        Args:
            step: The step that was reached.
            grid: Images of the fixed latents, tiled.
        """
        self.writer.write_images(step, {"fixed_latents": grid})
        atomic_io.write_png(self.folder / "grids" / f"{step:07d}.png", grid)

    def save_checkpoint(self, step: int, state: Any) -> None:
        """Writes a checkpoint.

        Args:
            step: The step that was reached.
            state: A pytree of host or device arrays.

        Raises:
            UserError: It cannot be written, as on a full disk; those before it stay.
        """
        try:
            self.checkpoints.save(step, state)
        except (OSError, ValueError) as error:  # ValueError: TensorStore's
            previous = max((k for k in self.checkpoints.steps() if k < step), default="none")
            raise UserError(
                f"the checkpoint of step {step} of {self.folder} cannot be written"
                f" ({str(error).splitlines()[0]}); the one before it is kept: {previous}"
            ) from error

    def mark_failed(self, step: int, metrics: dict[str, float]) -> None:
        """Records in failed.json that a non-finite value stopped the run.

        Args:
            step: The last step of the call in which it happened.
            metrics: Of that call; a name is listed by whether its value is finite.
        """
        by_kind: dict[bool, list[str]] = {False: [], True: []}
        for name, value in metrics.items():
            by_kind[math.isfinite(value)].append(f"{name} {value:.4g}")
        non_finite, finite = (", ".join(by_kind[kind]) or "none" for kind in (False, True))
        last = max(self.checkpoints.steps(), default="none")
        reason = f"not finite: {non_finite}; finite: {finite}; last checkpoint before: {last}"
        atomic_io.write_json(self.folder / "failed.json", {"step": step, "reason": reason})
        logger.info("%s has failed at step %d: %s", self.folder.name, step, reason)
