"""Graceful shutdown on SIGTERM and SIGINT."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# Seconds between a second SIGINT and the end of the process.  In them Python may still raise
# KeyboardInterrupt by itself; a longer wait makes Ctrl-C feel ignored.
GRACE_SECONDS = 2.0
STOPPING_MESSAGE = b"stopping after this call; Ctrl-C stops at once\n"

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
    """A signal stopped the work at a point from which it can resume.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def install_handlers() -> None:
    """Makes SIGTERM and SIGINT request a stop; a second SIGINT ends the process at once.

    Python runs a signal handler between two of its own instructions, and one compiled call, or the
    compiler, can take minutes.  So a thread waits for the signals as well.
    """
    if signal.getsignal(signal.SIGTERM) is _record_signal:
        return
    signal.signal(signal.SIGTERM, _record_signal)
    signal.signal(signal.SIGINT, _record_signal)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    threading.Thread(target=_wait_for_signals, args=(read_end,), daemon=True).start()


@contextlib.contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Makes the first Ctrl-C in a notebook or script request a stop; a second one interrupts.

    Afterwards the handler is the one from before.  Other threads than the main one get no Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGINT, _record_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous_handler)
        _signals.clear()


def signal_received() -> int:
    """Returns the first signal that came; 0 for none."""
    return _signals[0] if _signals else 0


def raise_if_requested() -> None:
    """Stops the work if a signal has come; call it where the work can resume.

    Raises:
        Preempted: A signal has come.
    """
    if _signals:
        raise Preempted(_signals[0])


def exit_status(error: KeyboardInterrupt | Preempted) -> int:
    """Returns the exit status of a process that a signal ended: 128 plus its number."""
    return 128 + getattr(error, "number", signal.SIGINT)


def _record_signal(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _wait_for_signals(read_end: int) -> None:
    """Confirms the first signal; ends the process after a later SIGINT if nothing else does."""
    os.read(read_end, 1)
    os.write(2, STOPPING_MESSAGE)
    while os.read(read_end, 1)[0] != signal.SIGINT:
        pass
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGINT)  # as after a kill, the next start resumes
