"""Where things lie: who may import what, and how long a function may be."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

PACKAGE = tiny.REPO / "gankd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 80  # lines of a function

# A module imports its own folder and the folders of a lower floor, and nothing else of the package.
FLOORS = {
    "utils": 1,
    "models": 1,
    "data": 2,
    "interop": 2,
    "metrics": 2,
    "config": 3,
    "export": 3,
    "training": 4,
    "evaluation": 5,
    "study": 6,
    "bench": 7,
    "report": 7,
    "cli": 8,
}
MOST_MODULES = 12  # of a folder, its __init__ included
# They start without JAX, so that a command that trains nothing answers at once.
WITHOUT_JAX = ("cli.main", "config.presets", "config.schema", "data.loading", "study.plan")
TORCH_WORKER = "gankd_jax.bench.torch_worker"  # runs in a process of its own
WORKER = "gankd_jax.bench.worker"  # the clock and the protocol of worker processes
TORCH_EXPORT = "gankd_jax.export.torch"  # runs the file that it wrote
NETWORKS = {"jax", "flax", "optax", "numpy", "jaxtyping", "clu"}  # clu counts parameters


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text()) for path in FILES}


def imported(module: str) -> Iterator[str]:
    """Every module that is imported anywhere in a module, also inside functions."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in TREES else str(node.module)


def ours(module: str) -> set[str]:
    return {name for name in imported(module) if name.split(".")[0] == "gankd_jax"}


def theirs(module: str) -> set[str]:
    """The libraries that a module imports."""
    roots = {name.split(".")[0] for name in imported(module)}
    return roots - {"gankd_jax"} - sys.stdlib_module_names


def folder(module: str) -> str:
    """The first name below the package: a folder, or a module beside the folders."""
    return [*module.split("."), ""][1]


def below(name: str) -> list[str]:
    return [module for module in TREES if folder(module) == name]


def test_every_folder_has_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders == FLOORS.keys()


def test_nothing_but_the_entry_points_lies_beside_the_folders():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", FLOORS)
def test_a_folder_is_small_enough_to_read(name):
    assert len(list((PACKAGE / name).glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("module", [module for module in TREES if folder(module) in FLOORS])
def test_a_module_imports_only_lower_floors(module):
    own = folder(module)
    lower = {own} | {name for name, floor in FLOORS.items() if floor < FLOORS[own]}
    assert {other for other in ours(module) if folder(other) not in lower} == set()


def test_no_imports_go_round_in_a_circle():
    graph = {module: ours(module) for module in TREES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("gankd_jax.study.runner") > order.index("gankd_jax.training.loop")


@pytest.mark.parametrize("name", ["data", "report"])
def test_data_and_report_know_no_network(name):
    found = set().union(*(theirs(module) for module in below(name)))
    assert found & {"jax", "flax", "optax", "orbax", "clu"} == set()


@pytest.mark.parametrize("module", [*below("models"), "gankd_jax.training.losses"])
def test_networks_and_losses_are_numerics_alone(module):
    assert theirs(module) <= NETWORKS
    assert {folder(other) for other in ours(module)} <= {"models"}


@pytest.mark.parametrize("module", TREES)
def test_a_module_says_why_it_exists_and_needs_no_other_framework(module):
    docstring = ast.get_docstring(TREES[module])
    assert docstring is not None
    assert docstring.splitlines()[0].endswith((".", ":"))
    allowed = {"torch"} if module in (TORCH_WORKER, TORCH_EXPORT) else set()
    assert theirs(module) & {"torch", "torchvision", "tensorflow", "keras"} <= allowed


def test_the_torch_worker_shares_only_the_clock_and_protocol():
    assert ours(TORCH_WORKER) == {WORKER}
    assert ours(WORKER) == theirs(WORKER) == set()
    assert {module for module in TREES if TORCH_WORKER in ours(module)} == set()


def test_no_function_is_long():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = {
        f"{module}.{node.name}": int(node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


@pytest.mark.parametrize("module", [*WITHOUT_JAX, "report.page"])
def test_a_module_starts_without_jax(module):
    """What its imports import counts too."""
    code = f"import sys, gankd_jax.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, check=False).returncode == 0
