"""One device, eight, and two processes train the same runs; what one layout saved another resumes.

All runs are in float64, so that the order of sums shows in the last digits only.
"""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from gankd_jax import runs, workdir
from gankd_jax.runtime.checkpoint import Checkpoints

STEPS = 20
PENALTY = {"loss": "wgan_gp", "critic_norm": "none", "critic_steps": 3}
CHANGES: dict[str, object] = {
    "study__students": ("mse", "joint"),
    "training__checkpoint_every": 5,
    "training__grid_every": 0,
    **{f"recipes__teacher__{name}": value for name, value in PENALTY.items()},
    **{f"recipes__{name}__steps": STEPS for name in ("teacher", "mse", "l1", "joint", "baseline")},
    **{f"recipes__{name}__batch_size": 16 for name in ("teacher", "mse", "joint", "baseline")},
}
NAMES = [run.name for run in runs.plan(tiny.config(**CHANGES))]
STOP = 10  # the step of the baselines after which the second process gets a signal


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.shared(tmp_path_factory)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(root: Path, devices: int, *words: str, **environment: str) -> subprocess.Popen[str]:
    """A process that sees so many devices and trains in float64."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("in_float64.py"), *words],
        cwd=tiny.REPO,
        env=tiny.environment(root) | {"XLA_FLAGS": flags, "PYTHONPATH": "."} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def words(folder: Path, devices: int, **changes: object) -> list[str]:
    made = tiny.flags(**CHANGES, training__devices=devices, **changes)
    return [*made, f"--workdir={folder}"]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> dict[str, Path]:
    """The same study on one device, on eight, and by two processes of two devices each, which a
    signal to the second stops among the baselines; eight devices of one process finish it."""
    base = tmp_path_factory.mktemp("trained")
    folders = {name: base / name for name in ("one", "eight", "two")}
    meeting = ["--processes=2", f"--coordinator=127.0.0.1:{free_port()}"]
    two = [
        begin(
            root,
            2,
            *words(folders["two"], 0),
            *meeting,
            f"--process={k}",
            **({"STOP_AT": f"2 baselines:{STOP}"} if k else {}),
        )
        for k in range(2)
    ]
    told = [process.communicate(timeout=500) for process in two]
    (base / "two.stderr").write_text("\n---\n".join(err for _, err in told))
    assert [process.returncode for process in two] == [128 + signal.SIGTERM] * 2, told
    saved = [workdir.saved_steps(folders["two"], run) for run in baselines()]
    assert saved == [[STOP, STOP + 5]] * 2
    rest = [*words(folders["one"], 1), "+", *words(folders["eight"], 8)]
    one = begin(root, 8, *rest, "+", *words(folders["two"], 8))
    _, errors = one.communicate(timeout=500)
    assert one.returncode == 0, errors
    return folders


def baselines() -> list[runs.Run]:
    return runs.baselines(tiny.config(**CHANGES))


def weights(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What a run holds at its last step, without the biases in front of batch norm.

    Their true gradient is 0, and Adam makes steps of its rounding noise.
    """
    checkpoints = Checkpoints(folder / name / "checkpoints")
    try:
        found = checkpoints._manager.restore(STEPS)
    finally:
        checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(found)
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    normed = {key.split("norm")[1][0] for key in named if "norm" in key}
    return {k: v for k, v in named.items() if not re.search(rf"layer[{''.join(normed)}].*bias", k)}


@pytest.mark.parametrize("layout", ["eight", "two"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_trains_the_same_run(trained, name, layout):
    ours, expected = (weights(trained[where], name) for where in (layout, "one"))
    assert ours.keys() == expected.keys()
    assert any(value.dtype == np.float64 and value.ndim == 4 for value in expected.values())
    for key, value in expected.items():
        scale = 1.0 if "params" in key else max(1.0, float(np.abs(value).max(initial=0)))
        assert np.abs(ours[key] - value).max(initial=0) < 1e-8 * scale, key
