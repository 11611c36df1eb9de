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

HEADER = ("", "ms a step", "beside", "its ms", "times as fast", "operations", "share of the rate")


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
    for package in ("jax", "torch", "onnxruntime"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def table(cases: Mapping[str, Case], measured: Mapping[str, Seconds]) -> str:
    """Medians with the smallest and the largest, as a Markdown table."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for name, seconds in measured.items():
        lines += _rows(cases[name], seconds)
    rate = [2 * MATRIX**3 / s / 1e9 for values in measured.values() for s in values["matrix"]]
    of = machine()
    title = (
        f"{of['device']}, {of['cores']} cores, jax {of['jax']}, torch {of['torch']},"
        f" onnxruntime {of['onnxruntime']}; {MATRIX}^3 matrix product at {_span(rate, 0)} GFLOP/s"
    )
    return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)])


def _rows(case: Case, seconds: Seconds) -> list[tuple[str, ...]]:
    """A row for each that the case is compared with; one where there is none."""
    ours = seconds["ours"]
    share = [
        case.operations / mine / (2 * MATRIX**3 / product)
        for mine, product in zip(ours, seconds["matrix"], strict=True)
    ]
    begin = (case.title, _span([1e3 * s for s in ours], 1))
    end = (f"{case.operations / 1e9:.1f} G", _span(share, 2))
    others = [name for name in seconds if name not in ("ours", "matrix")]
    return [(*begin, *_beside(name, ours, seconds[name]), *end) for name in others] or [
        (*begin, "", "", "", *end)
    ]


def _beside(name: str, ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str, str]:
    faster = [other / mine for mine, other in zip(ours, theirs, strict=True)]
    return name, _span([1e3 * s for s in theirs], 1), _span(faster, 2)


def _span(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def taken(folder: Path) -> list[Path]:
    """The files of an earlier benchmark in a folder."""
    return [path for path in (folder / "bench.json", folder / "bench.md") if path.exists()]
