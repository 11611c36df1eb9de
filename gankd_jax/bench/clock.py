"""The clock of every side of the benchmark, which imports nothing that a side does not have."""

import statistics
import time
from collections.abc import Callable

SECONDS, FEWEST = 0.3, 3


def median_seconds(call: Callable[[], object]) -> float:
    """The median time of a call: of as many as fit in `SECONDS`, and at least `FEWEST`.

    The first is not counted: it finds in the caches what others have left there.
    """
    call()
    times: list[float] = []
    ends = time.perf_counter() + SECONDS
    while len(times) < FEWEST or time.perf_counter() < ends:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
