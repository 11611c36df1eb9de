"""What `gankd bench` does: choose the cases, time them, write bench.json and the table."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from gankd_jax.bench import report
from gankd_jax.bench.cases import cases
from gankd_jax.bench.measure import TorchSide, measure
from gankd_jax.errors import UserError
from gankd_jax.runtime import files


def bench(folder: Path, *, against: str | None, only: Sequence[str], rounds: int) -> str:
    """Time cases, beside PyTorch if asked for; writes into `folder` and returns the table.

    Raises:
      UserError: the folder holds a benchmark already, PyTorch is not there, or a name is unknown.
    """
    chosen = _chosen(only)
    for path in report.taken(folder):
        raise UserError(f"{path} exists; name another folder with --out")
    torch = _torch_side(against)
    try:
        measured = {}
        for name, seconds in measure(chosen, rounds, torch):
            print(f"timed: {chosen[name].title}", file=sys.stderr, flush=True)
            measured[name] = seconds
    finally:
        if torch:
            torch.close()
    table = report.table(chosen, measured)
    files.write_json(folder / "bench.json", report.results(chosen, measured))
    files.write_bytes(folder / "bench.md", (table + "\n").encode())
    return table


def _chosen(only: Sequence[str]) -> dict:
    found = cases()
    for name in only:
        if name not in found:
            raise UserError(f"no case {name!r} in the benchmark; there are: {', '.join(found)}")
    return {name: found[name] for name in only or found}


def _torch_side(against: str | None) -> TorchSide | None:
    if against is None:
        return None
    if against != "torch":
        raise UserError(f"--against={against} is not known; it can be torch")
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch needs PyTorch: pip install 'gankd-jax[torch]'")
    return TorchSide()
