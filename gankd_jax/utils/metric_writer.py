"""Writes metrics as JSON lines and for TensorBoard, with the methods of CLU's MetricWriter.

CLU's own writers need TensorFlow.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils import atomic_io


class MetricWriter:
    """Appends to FOLDER/log.jsonl and FOLDER/tensorboard/."""

    def __init__(self, folder: Path, resume_step: int):
        """Opens the files.

        Args:
            folder: Of the run.
            resume_step: Lines of later steps are dropped.
        """
        from tensorboardX import SummaryWriter  # imports PyTorch if it is installed: seconds

        path = folder / "log.jsonl"
        lines = [line for line in read_log(folder) if line["step"] <= resume_step]
        self.seconds = float(lines[-1]["seconds"]) if lines else 0.0
        atomic_io.write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line of the log, and one point of each curve.

        Args:
            step: The last step that they describe.
            scalars: Metrics by name.
        """
        try:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        except OSError as error:  # of a full disk; it does not name the file
            raise OSError(error.errno, error.strerror, self._file.name) from error
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Writes one image of each name for TensorBoard.

        Args:
            step: The step that they belong to.
            images: By name, 0..255.
        """
        for name, image in images.items():
            self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        self._board.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's log, up to one that a kill cut short."""
    path = folder / "log.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines
