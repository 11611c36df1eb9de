"""A thread that writes files of a training while the training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Executes one function at a time; its error is raised by a later call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._write: Future[None] | None = None  # the one that is in progress

    def submit(self, write: Callable[[], None]) -> None:
        """Has a function executed once the one before it is done, which is waited for.

        Args:
            write: Writes files.  It must not read what the caller goes on to change.

        Raises:
            UserError: The function before it failed, as on a full disk.
        """
        self.wait()
        self._write = self._executor.submit(write)

    def raise_if_failed(self) -> None:
        """Raises the error of a function that has ended.

        Raises:
            UserError: The function failed.
        """
        if self._write is not None and self._write.done():
            self.wait()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            UserError: The function failed.
        """
        write, self._write = self._write, None
        if write is not None:
            write.result()

    def close(self) -> None:
        """Ends the thread after its function, whose error is not raised."""
        self._executor.shutdown()
