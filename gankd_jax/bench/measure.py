"""Times cases in turn with PyTorch and with the machine's own rate of matrix products."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from gankd_jax.bench.cases import MATRIX, Case, Work, matrix_product

Seconds = dict[str, list[float]]  # ours, theirs, and of the matrix product on either side


class TorchSide:
    """PyTorch in a process of its own, so that neither side's threads are in the other's way."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "gankd_jax.bench.torch_side"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, case: Mapping[str, Any], repeats: int) -> float:
        """The median over `repeats` runs of a case."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({**case, "repeats": repeats}), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(
    cases: Mapping[str, Case], rounds: int, torch: TorchSide | None
) -> Iterator[tuple[str, Seconds]]:
    """Each case's seconds for a step, a value for each round; the sides take turns."""
    rate = matrix_product()
    _seconds(rate, 1)
    for name, case in cases.items():
        work = case.build()
        _seconds(work, 1)  # compiles
        found: Seconds = {"ours": [], "matrix": [], "theirs": [], "their matrix": []}
        for _ in range(rounds):
            found["matrix"].append(_seconds(rate, 5))
            found["ours"].append(_seconds(work, 3) / case.steps)
            if torch and case.theirs:
                product = {"kind": "matrix_product", "of": [MATRIX], "with": {}}
                found["their matrix"].append(torch.seconds(product, 5))
                found["theirs"].append(torch.seconds(case.theirs, 5))
        yield name, {side: values for side, values in found.items() if values}


def _seconds(work: Work, repeats: int) -> float:
    """The median time of a call, its result waited for."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return statistics.median(times)
