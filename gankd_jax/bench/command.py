"""What `gankd bench` does: choose the cases, time them, write bench.json and the table."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from gankd_jax.bench import report
from gankd_jax.bench.cases import cases
from gankd_jax.bench.measure import SIDES, Side, measure
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError


def bench(folder: Path, *, against: Sequence[str], only: Sequence[str], rounds: int) -> str:
    """Time cases, beside the sides asked for; writes into `folder` and returns the table.

    Raises:
      UserError: the folder holds a benchmark already, a side is not installed, or a name is
        unknown.
    """
    chosen = _chosen(only)
    for path in report.taken(folder):
        raise UserError(f"{path} exists; name another folder with --out")
    _check_sides(against)
    sides = {name: Side(name) for name in against}
    try:
        measured = {}
        for name, seconds in measure(chosen, rounds, sides):
            print(f"timed: {chosen[name].title}", file=sys.stderr, flush=True)
            measured[name] = seconds
    finally:
        for side in sides.values():
            side.close()
    table = report.table(chosen, measured)
    atomic_io.write_json(folder / "bench.json", report.results(chosen, measured))
    atomic_io.write_bytes(folder / "bench.md", (table + "\n").encode())
    return table


def _chosen(only: Sequence[str]) -> dict:
    found = cases()
    for name in only:
        if name not in found:
            raise UserError(f"no case {name!r} in the benchmark; there are: {', '.join(found)}")
    return {name: found[name] for name in only or found}


def _check_sides(names: Sequence[str]) -> None:
    needs = {"torch": ("torch",), "onnxruntime": ("onnx", "onnxruntime")}
    extras = {"torch": "torch", "onnxruntime": "export"}
    for name in names:
        if name not in SIDES:
            raise UserError(f"--against={name} is not known; it can be {', '.join(SIDES)}")
        if not all(map(importlib.util.find_spec, needs[name])):
            raise UserError(f"--against={name} needs: pip install 'gankd-jax[{extras[name]}]'")
