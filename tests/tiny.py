"""A tiny study on real digits, which trains in seconds, in this process or in a separate one."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xla_flags
from ml_collections import ConfigDict

from gankd_jax.data.loading import load_split

NEW_VARIABLE = "NEW VARIABLE"
REPORT_NEW_VARIABLES = f"""
import os, runpy, sys

def report_new_variable(event, arguments):
    if event == "os.putenv" and os.fsdecode(arguments[0]) not in os.environ:
        if getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None):
            sys.stderr.write("{NEW_VARIABLE} " + repr(arguments[0]) + chr(10))

sys.addaudithook(report_new_variable)
runpy.run_module("gankd_jax", run_name="__main__", alter_sys=True)
"""
# Tests whose parts other tests cover too, so that the whole suite takes less than 15 minutes.
ONLY_IF_ALL = pytest.mark.skipif(
    os.environ.get("GANKD_TEST_ALL") != "1", reason="GANKD_TEST_ALL is not 1"
)
REPO = Path(__file__).resolve().parents[1]
DIGITS = REPO / "configs" / "digits.py"
# Of separate processes, in which compiling takes most of the time.
FAST_COMPILE_FLAGS = f"{xla_flags.OLD_GENERATOR} --xla_backend_optimization_level=0"
STEPS = 40
FIELDS: dict[str, object] = {
    "study.teacher_widths": (4,),
    "study.widths": (1,),
    "study.seeds": (0, 1),
    "study.students": ("mse", "l1"),
    "recipes.teacher.steps": STEPS,
    "recipes.mse.steps": STEPS,
    "recipes.l1.steps": STEPS,
    "recipes.l1.generator_lr": 1e38,  # diverges in the first steps
    "recipes.baseline.steps": STEPS,
    "training.steps_per_call": 5,
    "training.log_every": 10,
    "training.grid_every": 20,
    "training.checkpoint_every": 10,
    "evaluation.samples": 200,
    "evaluation.batch_size": 80,
}


def flags(**changes: object) -> list[str]:
    """The tiny study's config as flags; in names of changed fields `__` stands for a dot."""
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config={DIGITS}", *(f"--config.{k}={v}" for k, v in fields.items())]


def config(**changes: object) -> ConfigDict:
    """The tiny study's config; in names of changed fields `__` stands for a dot."""
    config = load_config(DIGITS)
    config.update_from_flattened_dict(FIELDS)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def load_config(path: Path, variants: str = "") -> ConfigDict:
    """Loads the config of a file, with variants."""
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.get_config(variants)


def repository_config(name: str, **changes: object) -> ConfigDict:
    """The config `configs/NAME.py`; in names of changed fields `__` stands for a dot."""
    config = load_config(REPO / "configs" / f"{name}.py").copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def session_dir(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the test session share."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    root.mkdir(exist_ok=True)
    return root


def create_once(root: Path, name: str, create: Callable[[Path], None]) -> Path:
    """Creates `root/name` once per session, in the first process that needs it."""
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        marker = root / f"{name}.done"
        if not marker.exists():
            create(root / name)
            marker.touch()
    return root / name


def prepare_data(root: Path) -> Path:
    """Prepares digits, whose classifier comes with the package."""
    return create_once(root, "data", _write_data)


def _write_data(folder: Path) -> None:
    for split in ("train", "test"):
        load_split("digits", split, data_dir=folder, image_size=16, pad=1)


def environment(root: Path) -> dict[str, str]:
    """The environment of a separate process: the CPU, data and caches under `root`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return inherited | {
        "TFDS_DATA_DIR": str(prepare_data(root)),
        "XDG_CACHE_HOME": str(root / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FAST_COMPILE_FLAGS,
        "OPENBLAS_NUM_THREADS": "1",  # parallel tests need the other cores
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # On Intel processors XLA warns that its own cache is of another machine (jax issue 38445).
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def run_gankd(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a separate process, with changes to its environment."""
    command = [sys.executable, "-m", "gankd_jax", *arguments]
    streams = {"capture_output": True, "text": True}
    env = environment(root) | variables
    return subprocess.run(command, cwd=REPO, env=env, check=False, **streams)


def run_finished_study(root: Path) -> Path:
    """Runs the tiny study once; returns its work directory, with stdout and stderr beside it.

    On stderr it also says which environment variables were added while XLA ran.
    """

    def run_study(folder: Path) -> None:
        command = [sys.executable, "-c", REPORT_NEW_VARIABLES, "study", *flags()]
        # These are set when modules are imported, which must not happen late.
        set_by_imports = ("CRC32C_SW_MODE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
        env = {k: v for k, v in environment(root).items() if k not in set_by_imports}
        command.append(f"--workdir={folder}")
        streams = {"capture_output": True, "text": True}
        result = subprocess.run(command, cwd=REPO, env=env, check=False, **streams)
        folder.with_suffix(".stdout").write_text(result.stdout)
        folder.with_suffix(".stderr").write_text(result.stderr)
        assert result.returncode == 0, result.stderr

    return create_once(root, "finished", run_study)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Reads modification time and content of everything below a folder, except bytecode."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        content = path.read_bytes() if path.is_file() else b""
        files[str(path.relative_to(folder))] = (path.lstat().st_mtime_ns, content)
    return files


def differences(a: object, b: object) -> list[str]:
    """Lists the paths of arrays that differ in any bit between two trees of dicts."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        is_equal = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        return [] if is_equal else ["."]
    differing = [key for key in a.keys() | b.keys() if (key in a) != (key in b)]
    for key in a.keys() & b.keys():
        differing += [f"{key}/{path}" for path in differences(a[key], b[key])]
    return differing
