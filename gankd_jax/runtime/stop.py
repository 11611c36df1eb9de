"""A wish to stop, told by a signal and noticed where work can be left."""

import signal
import sys
from types import FrameType

_signals: list[int] = []


class Stopped(Exception):  # noqa: N818  it is no error
    """Work was left where it can go on; `number` is the signal that asked for it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Take SIGTERM and SIGINT as a wish to stop; a second SIGINT stops at once, as ever."""
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)


def requested() -> bool:
    """Whether a signal has come."""
    return bool(_signals)


def check() -> None:
    """Leave the work if a signal has come.

    Raises:
      Stopped: it has.
    """
    if _signals:
        raise Stopped(_signals[0])


def _note(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("stopping after this call; Ctrl-C stops at once", file=sys.stderr, flush=True)
