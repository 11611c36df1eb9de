"""Settings of every test: types and shapes checked at run time, the CPU, one table of errors."""

import os

import jaxtyping
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # tests must not share compiled programs
# Before gankd_jax is imported: every annotated shape is then compared with the array it gets.
HOOK = jaxtyping.install_import_hook("gankd_jax", "beartype.beartype")

PARITY = "parity with PyTorch"


class Parity:
    """Compares with PyTorch, and keeps the error measured for the table after the tests."""

    def __init__(self, record):
        self._record = record

    def check(self, what: str, error: float, *, bound: float) -> None:
        self._record(PARITY, (what, float(error), bound))
        assert error <= bound, f"{what}: error {error:.2e} above {bound:.0e}"


@pytest.fixture
def parity(record_property) -> Parity:
    return Parity(record_property)


def pytest_terminal_summary(terminalreporter):
    """One line per parity check with the largest error measured."""
    rows: dict[tuple[str, float], float] = {}
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get(
        "failed", []
    ):
        for name, value in getattr(report, "user_properties", []):
            if name == PARITY and report.when == "call":
                what, error, bound = value
                rows[what, bound] = max(error, rows.get((what, bound), 0.0))
    if rows:
        terminalreporter.section(PARITY)
    for (what, bound), error in sorted(rows.items()):
        terminalreporter.line(f"{error:8.1e} of {bound:.0e}  {what}")
