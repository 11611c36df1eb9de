"""Layout and style of the package: imports, sizes of folders and functions, names, docstrings."""

import ast
import collections
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

PACKAGE = tiny.REPO / "gankd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MAX_FUNCTION_LINES = 80
# Names that do not say what a value is, where one is the whole name of a variable.
VAGUE_NAMES = frozenset(
    re.findall(
        r"\w+",
        "found made those theirs ours own kept seen known told few left given wanted shown taken"
        " here there these this that them it one other others another thing things what about"
        " looked asked named",
    )
)
MAX_VAGUE_NAMES = 2  # per 1,000 lines
MIN_ARGS_SHARE = 0.5  # of the public functions with a docstring
# A module imports its own folder and the folders of a lower floor.
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
    "api": 7,
    "bench": 7,
    "report": 7,
    "cli": 8,
}
MAX_MODULES = 12  # of a folder, its __init__ included
# Modules that must not import JAX, so that a command that trains nothing starts at once.
WITHOUT_JAX = ("cli.main", "config.presets", "config.schema", "data.loading", "study.plan")
TORCH_WORKER = "gankd_jax.bench.torch_worker"  # runs in a separate process
WORKER = "gankd_jax.bench.worker"  # the clock and the protocol of worker processes
TORCH_EXPORT = "gankd_jax.export.torch"  # runs the file that it wrote
NETWORKS = {"jax", "flax", "optax", "numpy", "jaxtyping", "clu"}  # clu counts parameters


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text()) for path in FILES}


def imported_modules(module: str) -> Iterator[str]:
    """Every import of a module, also inside functions."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in TREES else str(node.module)


def package_imports(module: str) -> set[str]:
    return {name for name in imported_modules(module) if name.split(".")[0] == "gankd_jax"}


def library_imports(module: str) -> set[str]:
    """The libraries that a module imports, without Python's own."""
    roots = {name.split(".")[0] for name in imported_modules(module)}
    return roots - {"gankd_jax"} - sys.stdlib_module_names


def folder_of(module: str) -> str:
    """The first name below the package: a folder, or a module beside the folders."""
    return [*module.split("."), ""][1]


def modules_in(name: str) -> list[str]:
    return [module for module in TREES if folder_of(module) == name]


def test_every_folder_has_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    assert folders == FLOORS.keys()


def test_an_installed_package_has_every_folder():
    settings = tomllib.loads((tiny.REPO / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {module_of(path.parent / "__init__.py") for path in FILES}
    assert set(settings["packages"]) == folders | settings["package-dir"].keys()


def test_the_root_holds_the_entry_points_alone():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("name", FLOORS)
def test_a_folder_has_few_modules(name):
    assert len(list((PACKAGE / name).glob("*.py"))) <= MAX_MODULES


@pytest.mark.parametrize("module", [module for module in TREES if folder_of(module) in FLOORS])
def test_a_module_imports_only_lower_floors(module):
    folder = folder_of(module)
    lower = {folder} | {name for name, floor in FLOORS.items() if floor < FLOORS[folder]}
    assert {other for other in package_imports(module) if folder_of(other) not in lower} == set()


def test_imports_have_no_cycle():
    graph = {module: package_imports(module) for module in TREES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("gankd_jax.study.runner") > order.index("gankd_jax.training.loop")


@pytest.mark.parametrize("name", ["data", "report"])
def test_data_and_report_import_no_network_library(name):
    libraries = set().union(*(library_imports(module) for module in modules_in(name)))
    assert libraries & {"jax", "flax", "optax", "orbax", "clu"} == set()


@pytest.mark.parametrize("module", [*modules_in("models"), "gankd_jax.training.losses"])
def test_networks_and_losses_import_numerics_alone(module):
    assert library_imports(module) <= NETWORKS
    assert {folder_of(other) for other in package_imports(module)} <= {"models"}


@pytest.mark.parametrize("module", TREES)
def test_a_module_has_a_docstring_and_needs_no_other_framework(module):
    docstring = ast.get_docstring(TREES[module])
    assert docstring is not None
    assert docstring.splitlines()[0].endswith((".", ":"))
    allowed = {"torch"} if module in (TORCH_WORKER, TORCH_EXPORT) else set()
    assert library_imports(module) & {"torch", "torchvision", "tensorflow", "keras"} <= allowed


def test_the_torch_worker_shares_only_the_clock_and_protocol():
    assert package_imports(TORCH_WORKER) == {WORKER}
    assert package_imports(WORKER) == library_imports(WORKER) == set()
    assert {module for module in TREES if TORCH_WORKER in package_imports(module)} == set()


def test_functions_are_short():
    lengths = {
        f"{module}.{node.name}": int(node.end_lineno or 0) - node.lineno + 1
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_no_class_name_is_used_twice():
    counts = collections.Counter(
        node.name
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_names_say_what_they_hold():
    vague = [
        f"{module}:{node.lineno} {node.id}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE_NAMES
    ]
    lines = sum(bool(line.strip()) for path in FILES for line in path.read_text().splitlines())
    assert 1000 * len(vague) / lines < MAX_VAGUE_NAMES, vague


def test_docstrings_of_public_functions_explain_the_arguments():
    docstrings = [
        ast.get_docstring(node) or ""
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_")
    ]
    documented = [text for text in docstrings if text]
    with_args = [text for text in documented if re.search(r"^\s*Args:$", text, re.MULTILINE)]
    assert len(with_args) >= MIN_ARGS_SHARE * len(documented)


@pytest.mark.parametrize("module", [*WITHOUT_JAX, "report.page", "interop.onnx_runtime"])
def test_a_module_imports_no_jax_even_indirectly(module):
    code = f"import sys, gankd_jax.{module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, check=False).returncode == 0
