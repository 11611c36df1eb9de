"""The benchmark's results as JSON and as a table."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gankd_jax.bench.cases import MATRIX, Case
from gankd_jax.bench.measure import Seconds

HEADER = ("", "ms a step", "PyTorch", "times faster", "operations", "share of the rate")


def results(cases: Mapping[str, Case], measured: Mapping[str, Seconds]) -> dict[str, Any]:
    """Everything that was measured, in seconds, with the machine that it was measured on."""
    return {
        "machine": machine(),
        "cases": {
            name: {
                "title": cases[name].title,
                "operations": cases[name].operations,
                "seconds": seconds,
            }
            for name, seconds in measured.items()
        },
    }


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    device = jax.devices()[0]
    found = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found |= {"backend": device.platform, "device": device.device_kind}
    for package in ("jax", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def table(cases: Mapping[str, Case], measured: Mapping[str, Seconds]) -> str:
    """Medians with the smallest and the largest, as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER)]
    lines += [_row(cases[name], seconds, measured) for name, seconds in measured.items()]
    rate = [2 * MATRIX**3 / s / 1e9 for values in measured.values() for s in values["matrix"]]
    of = machine()
    title = (
        f"{of['device']}, {of['cores']} cores, jax {of['jax']}, torch {of['torch']};"
        f" {MATRIX}^3 matrix product at {_span(rate, 0)} GFLOP/s"
    )
    return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)])


def _row(case: Case, seconds: Seconds, measured: Mapping[str, Seconds]) -> tuple[str, ...]:
    ours = seconds["ours"]
    theirs = seconds.get("theirs", [])
    other = measured[case.beside]["ours"] if case.beside in measured else theirs
    faster = [b / a for a, b in zip(ours, other, strict=True)] if other else []
    rates = [2 * MATRIX**3 / s for s in seconds["matrix"]]
    share = [case.operations / s / rate for s, rate in zip(ours, rates, strict=True)]
    return (
        case.title,
        _span([1e3 * s for s in ours], 1),
        _span([1e3 * s for s in theirs], 1),
        _span(faster, 2) + (f" (of {case.beside})" if case.beside in measured else ""),
        f"{case.operations / 1e9:.1f} G",
        _span(share, 2),
    )


def _span(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def taken(folder: Path) -> list[Path]:
    """The files of an earlier benchmark in a folder."""
    return [path for path in (folder / "bench.json", folder / "bench.md") if path.exists()]
