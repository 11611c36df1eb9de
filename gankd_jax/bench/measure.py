"""Times cases in turn with what they are compared with, and with the machine's matrix products."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax

from gankd_jax.bench.cases import Case, Theirs, Work, matrix_product
from gankd_jax.bench.clock import median_seconds
from gankd_jax.utils.errors import UserError

Seconds = dict[str, list[float]]  # of "ours", of each side and variant, of the "matrix" product
# Each side is a process of its own, so that neither's threads are in the other's way.
SIDES = {"torch": "gankd_jax.bench.torch_side", "onnxruntime": "gankd_jax.bench.onnx_side"}


class Side:
    """A process that reads a case a line and answers each with its seconds, both as JSON."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", SIDES[name]]
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def seconds(self, case: Theirs) -> float:
        """The median over runs of a case.

        Raises:
          UserError: the process has ended.
        """
        answer = self._ask(json.dumps(case))
        if not answer:
            raise UserError(f"the {self._name} side ended; what it said last stands above")
        return json.loads(answer)

    def _ask(self, line: str) -> str:
        """What the process answers; nothing where it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:  # not that of our own output, which is no error
            return ""
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measure(
    cases: Mapping[str, Case], rounds: int, sides: Mapping[str, Side]
) -> Iterator[tuple[str, Seconds]]:
    """Each case's seconds for a step, a value for each round; all take turns in a round."""
    rate = partial(_seconds, matrix_product())
    for name, case in cases.items():
        yield name, _turns({"matrix": rate, **_takers(case, sides)}, rounds)


def _takers(case: Case, sides: Mapping[str, Side]) -> Mapping[str, Callable[[], float]]:
    """What tells the seconds of one step: ours, our variants, the other sides."""
    built = {name: build() for name, build in {"ours": case.build, **case.variants}.items()}
    for work in built.values():
        jax.block_until_ready(work())  # compiles
    beside = {name: side for name, side in sides.items() if name in case.sides}
    return {name: partial(_seconds, work, case.steps) for name, work in built.items()} | {
        name: partial(side.seconds, case.sides[name]) for name, side in beside.items()
    }


def _turns(takers: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    found: Seconds = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            found[name].append(take())
    return found


def _seconds(work: Work, steps: int = 1) -> float:
    """The time of a step, of a call of so many, whose result is waited for."""
    return median_seconds(lambda: jax.block_until_ready(work())) / steps
