"""Settings of all tests: CPU only, run-time checks of types and shapes, shared fixtures."""

import collections
import gc
import logging
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", xla_flags.OLD_GENERATOR)  # compiling is most of the tests' time
# Tests share compiled programs through a cache that is empty when the session starts; a cache of
# an earlier session would hide that a program no longer compiles.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="gankd-tests-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Checks calls against annotated types and shapes; must precede the import of gankd_jax.
HOOK = jaxtyping.install_import_hook("gankd_jax", "beartype.beartype")

Command = Callable[..., tuple[int, str, str]]
PARITY = "parity with PyTorch"
SLOW_FIXTURES = {"finished"}  # they train a whole study


class Parity:
    """Checks an error against a bound, and records it for the table after the tests."""

    def __init__(self, record):
        self._record = record

    def check(self, label: str, error: float, *, bound: float) -> None:
        self._record(PARITY, (label, float(error), bound))
        assert error <= bound, f"{label}: error {error:.2e} above {bound:.0e}"


@pytest.fixture
def parity(record_property) -> Parity:
    return Parity(record_property)


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A folder shared by all tests of the session: data, caches, a finished study."""
    import tiny  # after the hook

    return tiny.session_dir(tmp_path_factory)


@pytest.fixture(scope="session")
def finished(root) -> Path:
    """The work directory of a finished tiny study."""
    import tiny

    return tiny.run_finished_study(root)


@pytest.fixture
def old_workdir(tmp_path) -> Path:
    """A finished study written by version 0.1.0; nothing is trained for it."""
    import tiny

    archive = tiny.REPO / "tests" / "golden" / "workdir-0.1.0.tar.gz"
    with tarfile.open(archive) as members:
        members.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch, root: Path, old_workdir: Path) -> Path:
    """A folder with the study runs/digits, and a cache with weights of the first FID layer."""
    import numpy as np
    import tiny  # after the hook

    from gankd_jax.interop import inception_weights
    from gankd_jax.models.inception import parameter_shapes

    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(old_workdir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_data(root)))
    path = inception_weights.default_weights_path()
    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.savez(
        path,
        **{
            f"{layer}/{part}": rng.normal(0, 0.1, shape).astype(np.float32)
            for layer, parts in parameter_shapes(["64"]).items()
            for part, shape in parts.items()
        },
    )
    return tmp_path


@pytest.fixture
def registries() -> Iterator[None]:
    """Takes out of the registries again what a test registers."""
    from gankd_jax.data.registry import DATASETS
    from gankd_jax.export.formats import FORMATS
    from gankd_jax.metrics.registry import FEATURE_FUNCTIONS, METRICS
    from gankd_jax.models.family import FAMILIES
    from gankd_jax.training import losses
    from gankd_jax.training.train_state import OPTIMIZERS
    from gankd_jax.utils.metric_writer import WRITERS

    all_registries: list[dict[str, Any]] = [
        *(losses.DISTANCES, losses.FEATURE_DISTANCES),
        *(losses.CRITIC_LOSSES, losses.GENERATOR_LOSSES, losses.PENALTIES, OPTIMIZERS),
        *(METRICS, FEATURE_FUNCTIONS, FAMILIES, DATASETS, FORMATS, WRITERS),
    ]
    copies = [dict(registry) for registry in all_registries]
    yield
    for registry, copy in zip(all_registries, copies, strict=True):
        registry.clear()
        registry.update(copy)


@pytest.fixture(scope="module")
def unoptimized() -> Iterator[None]:
    """Compiles with few optimizations, which saves a third of the time of a few steps."""
    import jax  # after its environment variables are set

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def command(monkeypatch, capsys, root) -> Iterator[Command]:
    """A function that runs `gankd ARGUMENTS` in this process: exit status, stdout, stderr."""
    import tiny

    from gankd_jax.cli import main

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # which some commands set
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_data(root)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.chdir(tiny.REPO)
    handlers, level = logging.root.handlers[:], logging.root.level
    package = logging.getLogger("gankd_jax")
    package_handlers, package_level = package.handlers[:], package.level

    def run_command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gankd", *arguments])
        sys.modules.pop("config_config", None)  # ml_collections loads each config as this module
        capsys.readouterr()
        status = 0
        try:
            main.main()
        except SystemExit as error:
            status = int(error.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield run_command
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    package.handlers[:] = package_handlers
    package.setLevel(package_level)
    package.propagate = True


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` deselects
def pytest_collection_modifyitems(items):
    """Marks tests that need a trained study as slow, and runs the files with most of them first.

    If a worker started such a file last, the other workers would wait for it.
    """
    for item in items:
        if not SLOW_FIXTURES.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    slow_tests = collections.Counter(
        item.path for item in items if item.get_closest_marker("slow") is not None
    )
    items.sort(key=lambda item: -slow_tests[item.path])


def pytest_collection_finish():
    """Exempts what importing and collecting made from every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Prints the largest measured error of each comparison with PyTorch."""
    rows: dict[tuple[str, float], float] = {}
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get(
        "failed", []
    ):
        for name, value in getattr(report, "user_properties", []):
            if name == PARITY and report.when == "call":
                label, error, bound = value
                rows[label, bound] = max(error, rows.get((label, bound), 0.0))
    if rows:
        terminalreporter.section(PARITY)
    for (label, bound), error in sorted(rows.items()):
        terminalreporter.line(f"{error:8.1e} of {bound:.0e}  {label}")
