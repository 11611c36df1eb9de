"""A wish to stop, told by a signal and noticed where work can be left."""

import os
import signal
import threading
import time
from types import FrameType

GRACE = 2.0  # seconds in which a second SIGINT may still find Python at work
STOPPING = b"stopping after this call; Ctrl-C stops at once\n"

_signals: list[int] = []


class PeerEnded(Exception):  # noqa: N818  it is no error of this process
    """Another process of the same program has ended.

    Attributes:
        status: Its exit status, which becomes that of this process.
        message: What to print here; "" if the other process has said it.
    """

    def __init__(self, status: int, message: str = ""):
        super().__init__(status)
        self.status = status
        self.message = message


class Preempted(Exception):  # noqa: N818  it is no error
    """Work was left where it can go on; `number` is the signal that asked for it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def install_handlers() -> None:
    """Take SIGTERM and SIGINT as a wish to stop; a second SIGINT stops at once.

    Python calls a signal's handler between two of its own instructions, and one compiled call, or
    the compiler, can take minutes.  So a thread hears of the signals as well.
    """
    if signal.getsignal(signal.SIGTERM) is _note:
        return
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told)
    threading.Thread(target=_attend, args=(heard,), daemon=True).start()


def signal_received() -> int:
    """The signal that has come first; 0: none."""
    return _signals[0] if _signals else 0


def raise_if_requested() -> None:
    """Leave the work if a signal has come.

    Raises:
      Stopped: it has.
    """
    if _signals:
        raise Preempted(_signals[0])


def exit_status(error: KeyboardInterrupt | Preempted) -> int:
    """The exit status of a process that a signal ended."""
    return 128 + getattr(error, "number", signal.SIGINT)


def _note(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _attend(heard: int) -> None:
    """Answer the first signal; end the process at a SIGINT after it, if that does not itself."""
    os.read(heard, 1)
    os.write(2, STOPPING)
    while os.read(heard, 1)[0] != signal.SIGINT:
        pass
    time.sleep(GRACE)
    os._exit(128 + signal.SIGINT)  # as after a kill, the next start goes on
