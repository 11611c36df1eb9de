"""Destinations of a run's metrics, images, hyperparameters and scores, by name in `WRITERS`.

They have the methods of CLU's `MetricWriter`; CLU's own writers need TensorFlow.
"""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

LOG_WRITER, LOG_FILE = "jsonl", "log.jsonl"


class MetricWriter:
    """A destination of metrics, with the methods of CLU's `MetricWriter`.

    A writer overrides the methods that it has a use for; the others do nothing.

    Example:
        >>> import gankd_jax
        >>> class PrintWriter(gankd_jax.MetricWriter):
        ...     def write_scalars(self, step, scalars):
        ...         print(step, *sorted(scalars))
        >>> PrintWriter().write_scalars(100, {"generator_loss": 0.5})
        100 generator_loss
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers.

        Args:
            step: The last step that they describe.
            scalars: By name; scores of a trained run begin with `scores/`.
        """

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Writes one image of each name.

        Args:
            step: The step that they belong to.
            images: By name, 0..255.
        """

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes what decides the run: numbers, texts and truth values by name."""

    def flush(self) -> None:
        """Puts on the disk what has been written."""

    def close(self) -> None:
        """Flushes, and closes files and connections."""


class JsonlWriter(MetricWriter):
    """Appends numbers to FOLDER/log.jsonl, which reports and resumed runs read.

    Images, hyperparameters and scores have files of their own beside it.
    """

    def __init__(self, folder: Path, study: str, resume_step: int):
        """Opens the file, without the lines after `resume_step`."""
        del study
        lines = [line for line in read_log(folder) if line["step"] <= resume_step]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        atomic_io.write_bytes(folder / LOG_FILE, text.encode())
        self._file = (folder / LOG_FILE).open("a")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line, to the disk at once."""
        try:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
        except OSError as error:  # of a full disk; it does not name the file
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def close(self) -> None:
        """Closes the file, whose lines are all written; after a failed one it would fail again."""
        with contextlib.suppress(OSError):
            self._file.close()


class TensorBoardWriter(MetricWriter):
    """Writes everything to event files in FOLDER/tensorboard/."""

    def __init__(self, folder: Path, study: str, resume_step: int):
        """Opens a file, which hides what earlier ones hold after `resume_step`."""
        from tensorboardX import SummaryWriter  # imports PyTorch if it is installed: seconds

        del study
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one point of each curve."""
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Writes the images."""
        for name, image in images.items():
            self._board.add_image(name, image, step, dataformats="HWC")

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes a row of the HParams tab; TensorBoard finds the columns itself."""
        from tensorboardX.summary import hparams as summarize

        _, session_start, _ = summarize(dict(hparams), {})
        self._board.file_writer.add_summary(session_start)

    def flush(self) -> None:
        """Writes the events of the queue."""
        self._board.flush()

    def close(self) -> None:
        """Closes the file."""
        self._board.close()


class WandbWriter(MetricWriter):
    """Writes everything to Weights & Biases: one run for each run, in a group for each study.

    The environment variables of W&B decide where to: WANDB_MODE=offline for FOLDER/wandb/,
    WANDB_PROJECT for another project than gankd.
    """

    def __init__(self, folder: Path, study: str, resume_step: int):
        """Starts the run, or goes on with the one that the folder began."""
        import wandb

        del resume_step
        self._image = wandb.Image
        # Runs of a group train side by side in one process.  Their output is that of the group.
        settings = wandb.Settings(
            reinit="create_new", console="off", quiet=True, x_disable_stats=True
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gankd"),
            group=study,
            name=folder.name,
            id=_wandb_id(folder),
            resume="allow",
            dir=str(folder),
            settings=settings,
        )
        # A resumed run repeats steps, which the step of W&B itself may not.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one point of each curve."""
        self._run.log({"step": step, **scalars})

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Writes the images."""
        files = {name: self._image(atomic_io.to_pillow(image)) for name, image in images.items()}
        self._run.log({"step": step, **files})

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the config of the W&B run."""
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """Returns the W&B run of a folder; a folder that is trained anew gets another one."""
    path = folder / "wandb.json"
    if not path.exists():
        atomic_io.write_json(path, {"id": uuid.uuid4().hex})
    return str(atomic_io.read_json(path)["id"])


# Functions of a run's folder, the study's name and the step that the run resumes from.
WRITERS: dict[str, Callable[[Path, str, int], MetricWriter]] = {
    LOG_WRITER: JsonlWriter,
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
}


class MultiWriter(MetricWriter):
    """Writes to several writers.

    An error of log.jsonl is raised, since a run cannot resume without it.  Any other writer that
    fails is named in a warning and gets nothing more, and the run goes on.
    """

    def __init__(self, writers: Mapping[str, MetricWriter]):
        """Takes the writers by name."""
        self._writers, self._lock = dict(writers), threading.Lock()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes numbers to all."""
        self._call_all(lambda writer: writer.write_scalars(step, scalars))

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Writes images to all."""
        self._call_all(lambda writer: writer.write_images(step, images))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes hyperparameters to all."""
        self._call_all(lambda writer: writer.write_hparams(hparams))

    def flush(self) -> None:
        """Flushes all."""
        self._call_all(lambda writer: writer.flush())

    def close(self) -> None:
        """Closes all."""
        self._call_all(lambda writer: writer.close())

    def _call_all(self, call: Callable[[MetricWriter], None]) -> None:
        with self._lock:  # images come from another thread than numbers
            for name, writer in list(self._writers.items()):
                try:
                    call(writer)
                except Exception as error:  # libraries and users' writers may raise anything
                    if name == LOG_WRITER:
                        raise
                    del self._writers[name]
                    text = "the writer %s fails and gets nothing more: %s"
                    logger.warning(text, name, _line(error))


@dataclasses.dataclass(frozen=True)
class WriterSettings:
    """What the writers of a run are opened with.

    Attributes:
        names: Keys of `WRITERS`.
        study: The study's name, by which W&B groups runs.
        hparams: What decides the run, by name.
    """

    names: tuple[str, ...] = (LOG_WRITER,)
    study: str = ""
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def require_writers(names: Iterable[str]) -> None:
    """Refuses a writer whose package is missing.

    Raises:
        UserError: Says what to install.
    """
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise UserError(
            "config.training.writers has wandb, which is not installed: pip install"
            " 'gankd-jax[wandb]'"
        )


def open_writers(folder: Path, settings: WriterSettings, resume_step: int) -> MultiWriter:
    """Opens the writers of a run, and writes its hyperparameters.

    Args:
        folder: Of the run.
        settings: Which writers.
        resume_step: What a writer holds of later steps is dropped, if it can be.

    Raises:
        UserError: A writer cannot be opened.
    """
    writers: dict[str, MetricWriter] = {}
    with contextlib.ExitStack() as stack:
        for name in settings.names:
            try:
                writers[name] = WRITERS[name](folder, settings.study, resume_step)
            except (OSError, UserError):
                raise
            except Exception as error:  # libraries and users' writers may raise anything
                raise UserError(f"the writer {name} cannot be opened: {_line(error)}") from error
            stack.callback(writers[name].close)
        stack.pop_all()
    writer = MultiWriter(writers)
    writer.write_hparams(settings.hparams)
    return writer


def write_scores(
    folder: Path, settings: WriterSettings, step: int, scores: Mapping[str, float]
) -> None:
    """Writes the scores of a trained run as `scores/KEY`, but not to log.jsonl.

    They are in a file already, so a writer that cannot be opened is named in a warning alone.

    Args:
        folder: Of the run.
        settings: Which writers.
        step: The run's last step.
        scores: By metric key.
    """
    for name in settings.names:
        if name == LOG_WRITER:
            continue
        try:
            writer = open_writers(folder, dataclasses.replace(settings, names=(name,)), step)
        except (OSError, UserError) as error:
            logger.warning("%s: scores are not written to %s: %s", folder.name, name, error)
        else:
            writer.write_scalars(step, {f"scores/{key}": value for key, value in scores.items()})
            writer.close()


def _line(error: Exception) -> str:
    """Returns an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's log, up to one that a kill cut short."""
    path = folder / LOG_FILE
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
