"""Settings of every test: types and shapes checked at run time, the CPU, one table of errors."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # tests must not share compiled programs
# Before gankd_jax is imported: every annotated shape is then compared with the array it gets.
HOOK = jaxtyping.install_import_hook("gankd_jax", "beartype.beartype")

Command = Callable[..., tuple[int, str, str]]
PARITY = "parity with PyTorch"
LONG = ("test_runner", "test_launch", "test_distributed", "test_survival", "test_memory")


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


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """What the tests share: data, caches, a finished study."""
    import tiny  # after the hook

    return tiny.shared(tmp_path_factory)


@pytest.fixture(scope="session")
def finished(root) -> Path:
    """The work directory of a finished tiny study."""
    import tiny

    return tiny.finished(root)


@pytest.fixture(scope="module")
def unoptimized() -> Iterator[None]:
    """Programs of a few steps, which take longer to compile than to run: a third less in all."""
    import jax  # after its variables of the environment

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def command(monkeypatch, capsys, root) -> Iterator[Command]:
    """Run `gankd WORDS` in this process: its exit status, output and errors."""
    import tiny

    from gankd_jax.cli import main

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # undone in the end, as all of these
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.data(root)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.chdir(tiny.REPO)
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gankd", *words])
        sys.modules.pop("config_config", None)  # ml_collections loads each config as this module
        capsys.readouterr()
        status = 0
        try:
            main.main()
        except SystemExit as end:
            status = int(end.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    yield run
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def pytest_collection_modifyitems(items):
    """Files that take minutes go first, so that no process is left alone with one in the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


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
