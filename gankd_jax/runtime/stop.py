"""A wish to stop, told by a signal and noticed where work can be left."""

import signal
import sys
from types import FrameType

_signals: list[int] = []


class Ended(Exception):  # noqa: N818  it is no error
    """The process that led this one has ended; `status` is its exit status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class Stopped(Exception):  # noqa: N818  it is no error
    """Work was left where it can go on; `number` is the signal that asked for it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def listen() -> None:
    """Take SIGTERM and SIGINT as a wish to stop; a second SIGINT stops at once, as ever."""
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)


def requested() -> int:
    """The signal that has come first; 0: none."""
    return _signals[0] if _signals else 0


def check() -> None:
    """Leave the work if a signal has come.

    Raises:
      Stopped: it has.
    """
    if _signals:
        raise Stopped(_signals[0])


def status_of(error: KeyboardInterrupt | Stopped) -> int:
    """The exit status of a process that a signal ended."""
    return 128 + getattr(error, "number", signal.SIGINT)


def _note(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("stopping after this call; Ctrl-C stops at once", file=sys.stderr, flush=True)
