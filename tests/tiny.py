"""A study on real digits that trains in seconds, in this process or in a separate one."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from ml_collections import ConfigDict

from gankd_jax.data.loading import load_split
from gankd_jax.evaluation import classifier

REPO = Path(__file__).resolve().parents[1]
DIGITS = REPO / "configs" / "digits.py"
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
    """The tiny study's config as flags; `__` in the name of a changed field stands for a dot."""
    fields = FIELDS | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config={DIGITS}", *(f"--config.{k}={v}" for k, v in fields.items())]


def config(**changes: object) -> ConfigDict:
    """The tiny study's config as an object."""
    config = load(DIGITS)
    config.update_from_flattened_dict(FIELDS)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def load(path: Path, variants: str = "") -> ConfigDict:
    """The config of a file, with variants."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variants)


def repository_config(name: str, **changes: object) -> ConfigDict:
    """The config `configs/NAME.py` with changed fields; in their names `__` is a dot."""
    config = load(REPO / "configs" / f"{name}.py").copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def shared(factory: pytest.TempPathFactory) -> Path:
    """A folder for the whole test session, shared by all its processes."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    root.mkdir(exist_ok=True)
    return root


def once(root: Path, name: str, make: Callable[[Path], None]) -> Path:
    """`root/name`, made once per session, by the first process that asks for it."""
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = root / f"{name}.done"
        if not done.exists():
            make(root / name)
            done.touch()
    return root / name


def data(root: Path) -> Path:
    """Prepared digits, and in their cache a classifier that was trained for seconds only."""
    return once(root, "data", _make_data)


def _make_data(folder: Path) -> None:
    sizes = {"data_dir": folder, "image_size": 16, "pad": 1}
    train, test = (load_split("digits", split, **sizes) for split in ("train", "test"))
    with mock.patch.object(classifier, "STEPS", 100):
        classifier.load_or_train_classifier(train, test, folder / "gankd_cache")


def environment(root: Path) -> dict[str, str]:
    """The environment of a separate process: the CPU, data and caches under `root`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return inherited | {
        "TFDS_DATA_DIR": str(data(root)),
        "XDG_CACHE_HOME": str(root / "cache"),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # most time goes into compiling
        "OPENBLAS_NUM_THREADS": "1",  # more threads wait for each other when tests run in parallel
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # On Intel's processors XLA warns that its own cache is another machine's (jax issue 38445).
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def gankd(root: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a separate process, with changes to its environment."""
    command = [sys.executable, "-m", "gankd_jax", *arguments]
    streams = {"capture_output": True, "text": True}
    env = environment(root) | changes
    return subprocess.run(command, cwd=REPO, env=env, check=False, **streams)


def finished(root: Path) -> Path:
    """The work directory of a finished tiny study; its output lies beside it."""

    def make(folder: Path) -> None:
        done = gankd(root, "study", *flags(), f"--workdir={folder}")
        folder.with_suffix(".stdout").write_text(done.stdout)
        folder.with_suffix(".stderr").write_text(done.stderr)
        assert done.returncode == 0, done.stderr

    return once(root, "finished", make)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file and folder below a folder, without bytecode."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts:
            continue
        content = path.read_bytes() if path.is_file() else b""
        files[str(path.relative_to(folder))] = (path.lstat().st_mtime_ns, content)
    return files


def differences(a: object, b: object) -> list[str]:
    """The paths of arrays that differ in any bit between two trees of dicts."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        same = np.asarray(a).tobytes() == np.asarray(b).tobytes()
        return [] if same else ["."]
    unequal = [key for key in a.keys() | b.keys() if (key in a) != (key in b)]
    for key in a.keys() & b.keys():
        unequal += [f"{key}/{path}" for path in differences(a[key], b[key])]
    return unequal
