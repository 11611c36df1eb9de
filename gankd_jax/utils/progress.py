"""What a person sees of the work: a bar on a terminal, a line now and then in a file."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 20.0


def log_info(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


class ProgressBar:
    """Steps per second, losses and the time left, on standard error."""

    def __init__(self, title: str, *, first: int, total: int):
        self._title, self._total, self._step = title, total, first
        self._first, self._began = first, time.monotonic()
        self._told = self._began
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=first, desc=title, unit="step")

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show that `step` is done, with a few numbers of it."""
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._step)
        elif step == self._total or time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self._line(step, text)
        self._step = step

    def _line(self, step: int, text: str) -> None:
        self._told = time.monotonic()
        rate = (step - self._first) / max(self._told - self._began, 1e-9)
        left = (self._total - step) / rate if rate else float("inf")
        pace = f"{rate:.3g} steps/s, {left:.0f} s left"
        log_info(f"{self._title}: step {step}/{self._total}, {pace}, {text}")

    def close(self) -> None:
        """Leave the finished bar on the terminal."""
        if self._bar is not None:
            self._bar.close()
