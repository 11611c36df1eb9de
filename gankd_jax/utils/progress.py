"""Progress of a long loop: a bar where somebody watches, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 20.0  # of a log file; fewer fill the logs of a cluster


class ProgressBar:
    """Shows steps per second, a few metrics and the time left, on standard error."""

    def __init__(self, title: str, *, first: int, total: int):
        """Starts the bar.

        Args:
            title: What is in progress.
            first: The step that it resumes from.
            total: The last step.
        """
        self._title, self._total, self._step = title, total, first
        self._first, self._start_time = first, time.monotonic()
        self._last_line_time = self._start_time
        self._bars: tuple[tqdm, tqdm] | None = None
        if _can_show_bar():
            options = {"desc": title, "unit": "step", "dynamic_ncols": True}
            bar = tqdm(total=total, initial=first, **options)
            # The metrics have a line of their own, which a narrow terminal shows whole.
            self._bars = bar, tqdm(bar_format="{desc}", position=1, leave=False)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows that `step` is done, with a few metrics of it.

        Args:
            step: The last step that is done.
            metrics: A few metrics to show, by name.
        """
        text = " ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bars is not None:
            bar, metrics_line = self._bars
            metrics_line.set_description_str(text)
            bar.update(step - self._step)
        elif step == self._total or time.monotonic() - self._last_line_time > SECONDS_BETWEEN_LINES:
            self._log_line(step, text)
        self._step = step

    def _log_line(self, step: int, text: str) -> None:
        self._last_line_time = time.monotonic()
        rate = (step - self._first) / max(self._last_line_time - self._start_time, 1e-9)
        seconds_left = (self._total - step) / rate if rate else float("inf")
        pace = f"{rate:.3g} steps/s, {seconds_left:.0f} s left"
        logger.info("%s: step %d/%d, %s, %s", self._title, step, self._total, pace, text)

    def close(self) -> None:
        """Leaves the finished bar on the terminal."""
        for bar in reversed(self._bars or ()):
            bar.close()


def _can_show_bar() -> bool:
    """Returns whether a terminal or notebook shows it; of several processes only process 0 does."""
    is_silenced = logging.getLogger("gankd_jax").level > logging.INFO
    return not is_silenced and (sys.stderr.isatty() or "ipykernel" in sys.modules)
