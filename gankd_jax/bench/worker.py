"""The part of the benchmark that runs in every process: its clock and the protocol of workers.

A worker is a process that times another framework.  It reads a case from each line of its standard
input and answers with a line on its standard output, both JSON.  This module imports no framework
and nothing of the package, so that a worker that imports it shares no other code with what it is
compared with.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Longer measurements average over more of what else the machine does; shorter ones finish sooner.
SECONDS = 0.3
MIN_CALLS = 3  # so that calls longer than `SECONDS` have a median too

PROCESS_STATUS = Path("/proc/self/status")  # where a worker reads its memory
WorkerCase = dict[str, Any]  # what a worker is asked to time; must be JSON


def median_seconds(call: Callable[[], object]) -> float:
    """Times a call: as often as fits in `SECONDS`, and at least `MIN_CALLS` times.

    One call more goes first and is not counted, because it runs with the caches that other work
    left behind.

    Args:
        call: Must return only when its work is done.

    Returns:
        The median time of one call, in seconds.
    """
    call()
    times: list[float] = []
    deadline = time.perf_counter() + SECONDS
    while len(times) < MIN_CALLS or time.perf_counter() < deadline:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def serve_cases(build: Callable[[WorkerCase], Callable[[], Any]]) -> None:
    """Answers cases from standard input until it ends.

    Args:
        build: Returns a function for a case; what that returns is the answer, and must be JSON.  It
          is called once per case, however often the case is asked for.
    """
    measurements: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        if line not in measurements:
            measurements[line] = build(json.loads(line))
        print(json.dumps(measurements[line]()), flush=True)
