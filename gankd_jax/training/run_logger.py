"""The files of one run in training: its log, pictures and checkpoints."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils import atomic_io
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import MetricWriter
from gankd_jax.utils.progress import log_info


class RunLogger:
    """A run's folder, open while the run trains."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self._writer: MetricWriter | None = None
        self._window: list[dict[str, float]] = []

    def __enter__(self) -> "RunLogger":
        return self

    def __exit__(self, *_: object) -> None:
        self.checkpoints.close()
        if self._writer is not None:
            self._writer.close()

    def begin(self, step: int) -> None:
        """Go on from `step`: what was logged or saved after it is dropped, and a failure."""
        self.checkpoints.discard_after(step)
        (self.folder / "failed.json").unlink(missing_ok=True)
        self._writer = MetricWriter(self.folder, step)
        self._window = []

    @property
    def writer(self) -> MetricWriter:
        """The log of a run that has begun."""
        if self._writer is None:
            raise RuntimeError("the run has not begun")
        return self._writer

    def add(self, values: dict[str, float]) -> None:
        """Keep one call's mean values for the next line of the log."""
        self._window.append(values)

    def log(self, step: int, *, seconds: float, images: int) -> dict[str, float]:
        """Write the means since the last line, of a span of `seconds` that drew `images`."""
        names = self._window[0]
        means = {name: float(np.mean([v[name] for v in self._window])) for name in names}
        self.writer.seconds += seconds
        rate = {"seconds": self.writer.seconds, "images_per_second": images / seconds}
        self.writer.write_scalars(step, {**rate, **means})
        self._window = []
        return means

    def picture(self, step: int, image: UInt8[np.ndarray, "h w c"]) -> None:
        """Keep a picture of the run at `step`."""
        self.writer.write_images(step, {"fixed_latents": image})
        atomic_io.write_png(self.folder / "grids" / f"{step:07d}.png", image)

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint.

        Raises:
          UserError: it cannot be written, as on a full disk; those before it stay.
        """
        try:
            self.checkpoints.save(step, state)
        except (OSError, ValueError) as error:  # ValueError: TensorStore's
            kept = max((k for k in self.checkpoints.steps() if k < step), default="none")
            raise UserError(
                f"the checkpoint of step {step} of {self.folder} cannot be written"
                f" ({str(error).splitlines()[0]}); the one before it is kept: {kept}"
            ) from error

    def fail(self, step: int, values: dict[str, float]) -> None:
        """Say, and keep, that the run was stopped by a value that is not finite."""
        finite: dict[bool, list[str]] = {False: [], True: []}
        for name, value in values.items():
            finite[math.isfinite(value)].append(f"{name} {value:.4g}")
        wrong, right = (", ".join(finite[kind]) or "none" for kind in (False, True))
        good = max(self.checkpoints.steps(), default="none")
        reason = f"not finite: {wrong}; finite: {right}; last checkpoint before: {good}"
        atomic_io.write_json(self.folder / "failed.json", {"step": step, "reason": reason})
        log_info(f"{self.folder.name} has failed at step {step}: {reason}")


class NullRunLogger:
    """What a process that follows another keeps of a run: nothing."""

    def add(self, values: dict[str, float]) -> None:
        """Pass over a call's mean values."""

    def log(self, step: int, *, seconds: float, images: int) -> dict[str, float]:
        """No line, and no means."""
        return {}

    def fail(self, step: int, values: dict[str, float]) -> None:
        """Pass over a failure."""
