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

# What a folder may import of the others; beside them, anybody's are `LEAVES`.
DIRECTIONS = {
    "data": set(),
    "models": set(),
    "runtime": set(),
    "metrics": {"models", "runtime"},
    "interop": {"models", "runtime"},
    "report": {"metrics", "runtime"},
    "training": {"models", "data", "runtime"},
    "export": {"models", "runtime", "training", "interop", "evaluate", "lab", "runs", "sampling"}
    | {"score_runs", "workdir"},
    "bench": {"models", "data", "runtime", "training", "runs", "sampling"}
    | {"export", "lab", "workdir"},
    "commands": {"bench", "data", "export", "interop", "report", "runtime", "config", "describe"}
    | {"exchange", "sample", "score", "study", "train_runs"},
}
LEAVES = {"errors", "names", "paper"}
TORCH_SIDE = "gankd_jax.bench.torch_side"  # runs in a process of its own
CLOCK = "gankd_jax.bench.clock"
TORCH_FILE = "gankd_jax.export.torch_file"  # tries the file that it wrote
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


def test_every_folder_has_its_direction():
    assert {path.parent.name for path in FILES} - {"gankd_jax"} == DIRECTIONS.keys()


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_folder_imports_only_what_lies_below_it(name):
    allowed = DIRECTIONS[name] | LEAVES | {name}
    found = {(module, other) for module in below(name) for other in ours(module)}
    assert found
    assert {pair for pair in found if folder(pair[1]) not in allowed} == set()


def test_no_imports_go_round_in_a_circle():
    graph = {module: ours(module) for module in TREES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("gankd_jax.study") > order.index("gankd_jax.training.loop")


def test_nobody_imports_the_command_line():
    users = {module for module in TREES if "gankd_jax.cli" in ours(module)}
    assert users == {"gankd_jax.__main__"}
    users = {module for module in TREES if "commands" in map(folder, ours(module))}
    assert users - {*below("commands")} == {"gankd_jax.cli"}


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
    allowed = {"torch"} if module in (TORCH_SIDE, TORCH_FILE) else set()
    assert theirs(module) & {"torch", "torchvision", "tensorflow", "keras"} <= allowed


def test_the_torch_side_of_the_benchmark_shares_no_code_but_the_clock():
    assert ours(TORCH_SIDE) == {CLOCK}
    assert ours(CLOCK) == set()
    assert {module for module in TREES if TORCH_SIDE in ours(module)} == set()


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


def test_data_and_report_start_without_jax():
    """What their imports import counts too."""
    names = "gankd_jax.cli, gankd_jax.data.load, gankd_jax.report.page"
    code = f"import sys, {names}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, check=False).returncode == 0
