"""Headless Chromium over its debugging pipe, so that no driver need be installed."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
TIMEOUT = 60  # seconds for an answer


def find_browser() -> str | None:
    """Returns the path of a browser; None if none is installed."""
    return next(filter(None, map(shutil.which, EXECUTABLES)), None)


class Browser:
    """One page in a browser: commands and events of the DevTools protocol, JSON ended by a zero."""

    def __init__(self, path: str, profile: Path):
        browser_in, self._write = os.pipe()
        self._read, browser_out = os.pipe()
        # As root, Chromium starts only without its sandbox.
        root_flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        # The browser reads from descriptor 3 and writes to 4.
        redirect = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'
        command = [path, *FLAGS, *root_flags, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command],
            pass_fds=(browser_in, browser_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_in)
        os.close(browser_out)
        self._ids, self._buffer, self._session = itertools.count(1), b"", None
        self.events: list[dict[str, Any]] = []
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and returns its result; events that arrive before it are stored."""
        call_id = next(self._ids)
        message = {"id": call_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._read_message()).get("id") != call_id:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], TIMEOUT)
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path) -> None:
        """Loads a file and waits until its images and scripts are ready."""
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression in the page, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until an expression in the page is true."""
        end = time.monotonic() + TIMEOUT
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"timeout while waiting for {condition}"
            time.sleep(0.02)

    def find_events(self, *methods: str) -> list[dict[str, Any]]:
        """Returns the parameters of the events of these kinds since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def set_window(
        self, width: int, height: int, *, dark: bool = False, reduced_motion: bool = False
    ) -> None:
        """Sets the size of the window and what its user prefers."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {
            "name": "prefers-reduced-motion",
            "value": "reduce" if reduced_motion else "no-preference",
        }
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])

    def screenshot(self, path: Path) -> None:
        """Writes the whole page, not only its visible part, as a PNG."""
        result = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(result["data"]))

    def close(self) -> None:
        """Closes the browser and waits for its exit."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(TIMEOUT)
        os.close(self._write)
        os.close(self._read)
