"""Runs the benchmark: times cases in turn with other frameworks, and writes bench.json and .md."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tabulate import tabulate

from gankd_jax.bench.cases import (
    ACCELERATOR_CASES,
    Call,
    Case,
    choose_matrix_products,
    make_cases,
)
from gankd_jax.bench.worker import WorkerCase, median_seconds
from gankd_jax.models.precision import TRAINING_PRECISIONS, resolve_precision
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import require_new_file

# For each of "ours", "matrix" (the product), every worker and variant: a step's time in each round.
Seconds = dict[str, list[float]]
# What `--against` can name.  Each runs in its own process, so that its threads and ours do not wait
# for each other.
WORKERS = {
    "torch": "gankd_jax.bench.torch_worker",
    "torch-compiled": "gankd_jax.bench.torch_worker",
    "onnxruntime": "gankd_jax.bench.onnx_worker",
}
PACKAGES = {
    "torch": ("torch",),
    "torch-compiled": ("torch",),
    "onnxruntime": ("onnx", "onnxruntime"),
}
# A worker that uses JAX to build a network leaves the device to this process.
WORKER_ENV = {"JAX_PLATFORMS": "cpu"}
EXTRAS = {"torch": "torch", "torch-compiled": "torch", "onnxruntime": "export"}
HEADER = (
    *("case", "ms per step", "compared with", "its ms", "times as fast"),
    *("operations", "share of the rate"),
)


class Worker:
    """A process that times cases with another framework; a context manager that ends it.

    Args:
        module: What the process runs; see `bench.worker` for the protocol.
        title: What an error message calls the process.
        env: Changes to its environment.
    """

    def __init__(self, module: str, title: str, env: Mapping[str, str] | None = None) -> None:
        self._title = title
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (env or {}),
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, case: WorkerCase) -> Any:
        """Returns the worker's answer to a case.

        Raises:
            UserError: The process has ended.
        """
        answer = self._send(json.dumps(case))
        if not answer:
            status = self._process.wait()
            raise UserError(f"{self._title} ended (status {status}); see its output above")
        return json.loads(answer)

    def _send(self, line: str) -> str:
        """Returns the process's answer, or '' where it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:  # caught here, since one on our own output is no error
            return ""
        return self._process.stdout.readline()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def run_benchmark(
    folder: Path,
    *,
    against: Sequence[str],
    only: Sequence[str],
    rounds: int,
    precision: str = "auto",
) -> str:
    """Times cases and writes `bench.json` and `bench.md`.

    Args:
        folder: Where the two files go; made if it is missing.
        against: Names in `WORKERS` to compare with.
        only: Names of cases; empty for all, on a CPU without `ACCELERATOR_CASES`.
        rounds: Turns that each case and each of its rivals takes, at least 1.
        precision: Of the training on both sides: 'auto' or one of `TRAINING_PRECISIONS`.

    Returns:
        The table, as in `bench.md`.

    Raises:
        UserError: The folder holds a benchmark already, a worker's package is not installed or its
          process ends, or a name is unknown.
    """
    cases, precision = _select_cases(only), _check_precision(precision)
    for name in against:
        _check_worker(name)
    for path in (folder / "bench.json", folder / "bench.md"):
        require_new_file(path)
    workers = {name: Worker(WORKERS[name], f"the {name} worker", WORKER_ENV) for name in against}
    try:
        seconds = {}
        for name, case_seconds in time_cases(cases, rounds, workers, precision):
            print(f"timed: {cases[name].title}", file=sys.stderr, flush=True)
            seconds[name] = case_seconds
    finally:
        for worker in workers.values():
            worker.close()
    table = format_table(cases, seconds, precision)
    atomic_io.write_json(folder / "bench.json", _results_to_json(cases, seconds, precision))
    atomic_io.write_bytes(folder / "bench.md", (table + "\n").encode())
    return table


def _select_cases(only: Sequence[str]) -> dict[str, Case]:
    cases = make_cases()
    for name in only:
        if name not in cases:
            raise UserError(f"--only={name} is no case of the benchmark: {', '.join(cases)}")
    too_large = ACCELERATOR_CASES if jax.default_backend() == "cpu" else ()
    return {name: cases[name] for name in only or cases if name in only or name not in too_large}


def _check_precision(precision: str) -> str:
    options, backend = ("auto", *TRAINING_PRECISIONS), jax.default_backend()
    if precision not in options:
        raise UserError(f"--precision={precision} is not known; it can be {', '.join(options)}")
    if precision == "tf32" and backend != "gpu":
        raise UserError(f"--precision=tf32 needs a GPU; this machine's device is a {backend}")
    return resolve_precision(precision)


def _check_worker(name: str) -> None:
    if name not in WORKERS:
        raise UserError(f"--against={name} is not known; it can be {', '.join(WORKERS)}")
    if not all(map(importlib.util.find_spec, PACKAGES[name])):
        raise UserError(f"--against={name} needs: pip install 'gankd-jax[{EXTRAS[name]}]'")
    if name == "onnxruntime" and jax.default_backend() == "gpu":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise UserError(
                "--against=onnxruntime on a GPU needs its GPU build: pip install onnxruntime-gpu"
            )


def time_cases(
    cases: Mapping[str, Case], rounds: int, workers: Mapping[str, Worker], precision: str
) -> Iterator[tuple[str, Seconds]]:
    """Times cases one after the other; within a round everything that is compared takes a turn.

    Args:
        cases: By name.
        rounds: At least 1.
        workers: By a name in `WORKERS`.
        precision: One of `TRAINING_PRECISIONS`.

    Yields:
        The name of each case and its seconds per step.
    """
    time_matrix = partial(_seconds_per_step, choose_matrix_products().build(precision))
    for name, case in cases.items():
        timers = _build_timers(case, workers, precision)
        yield name, _take_turns({"matrix": time_matrix, **timers}, rounds)


def _build_timers(
    case: Case, workers: Mapping[str, Worker], precision: str
) -> dict[str, Callable[[], float]]:
    """Returns what measures the seconds of one step: ours, our variants, the workers."""
    builders = {"ours": case.build, **case.variants}
    calls = {name: build(precision) for name, build in builders.items()}
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    timers: dict[str, Callable[[], float]] = {
        name: partial(_seconds_per_step, call, case.steps) for name, call in calls.items()
    }
    for name, worker in workers.items():
        if name in case.worker_cases:
            settings = {
                "precision": precision,
                "steps": case.steps,
                "backend": jax.default_backend(),
            }
            timers[name] = partial(worker.measure, settings | case.worker_cases[name])
    return timers


def _take_turns(timers: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    seconds: Seconds = {name: [] for name in timers}
    for _ in range(rounds):
        for name, time_step in timers.items():
            seconds[name].append(time_step())
    return seconds


def _seconds_per_step(call: Call, steps: int = 1) -> float:
    return median_seconds(lambda: jax.block_until_ready(call())) / steps


def _results_to_json(
    cases: Mapping[str, Case], seconds: Mapping[str, Seconds], precision: str
) -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "precision": precision,
        "cases": {
            name: {
                "title": cases[name].title,
                "operations": cases[name].flops,
                "seconds": case_seconds,
            }
            for name, case_seconds in seconds.items()
        },
    }


def describe_machine() -> dict[str, Any]:
    """Returns the machine and the versions that the numbers hold for."""
    device = jax.devices()[0]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "backend": device.platform,
        "device": device.device_kind,
        "platform": device.client.platform_version,  # on a GPU with the version of CUDA
    }
    for package in ("jax", "torch", "onnxruntime"):
        try:
            machine[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            machine[package] = None
    return machine


def format_table(cases: Mapping[str, Case], seconds: Mapping[str, Seconds], precision: str) -> str:
    """Formats medians over the rounds, with the smallest and largest, as a Markdown table.

    Args:
        cases: By name.
        seconds: As `time_cases` yields them, by case.
        precision: Of the training.

    Returns:
        A line about the machine and a table with a row for each comparison.
    """
    products = choose_matrix_products()
    rates = [products.flops / s / 1e9 for values in seconds.values() for s in values["matrix"]]
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine[name]}" for name in ("jax", "torch", "onnxruntime"))
    title = (
        f"{machine['device']}, {machine['cores']} cores, {versions}, {precision};"
        f" {products.size}^3 matrix product at {_format_range(rates, 0)} GFLOP/s"
    )
    rows = [row for name, values in seconds.items() for row in _case_rows(cases[name], values)]
    table = tabulate(rows, HEADER, tablefmt="github", disable_numparse=True)
    return f"{title}\n\n{table}"


def _case_rows(case: Case, seconds: Seconds) -> list[tuple[str, ...]]:
    """Returns a row for each rival of a case; one row where there is none."""
    shares = [
        case.flops / step / (choose_matrix_products().flops / product)
        for step, product in zip(seconds["ours"], seconds["matrix"], strict=True)
    ]
    first = (case.title, _format_range([1e3 * s for s in seconds["ours"]], 1))
    last = (f"{case.flops / 1e9:.1f} G", _format_range(shares, 2))
    rivals = [name for name in seconds if name not in ("ours", "matrix")]
    if not rivals:
        return [(*first, "", "", "", *last)]
    return [(*first, *_compare(name, seconds), *last) for name in rivals]


def _compare(rival: str, seconds: Seconds) -> tuple[str, str, str]:
    # Ratios are taken round by round: whatever slows the machine slows both within a round.
    ratios = [b / a for a, b in zip(seconds["ours"], seconds[rival], strict=True)]
    return rival, _format_range([1e3 * s for s in seconds[rival]], 1), _format_range(ratios, 2)


def _format_range(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
