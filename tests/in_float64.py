"""Trains as `gankd study` does, but in float64 and without scores.

    python tests/in_float64.py study FLAGS [+ study FLAGS]

`+` starts another study in the same process.  Two environment variables change the training:
STOP_AT=GROUP:STEP sends SIGTERM when the group whose title begins so has reached that step;
PAUSE=SECONDS sleeps after each call of the compiled program.
"""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tiny

from gankd_jax.training import train_state
from gankd_jax.utils.checkpoint import Checkpoints


def start_process(
    root: Path, devices: int, *arguments: str, **variables: str
) -> subprocess.Popen[str]:
    """Starts this program in a separate process.

    Args:
        root: The folder that tests share.
        devices: How many CPU devices the process has.
        *arguments: Command-line arguments.
        **variables: Changes to the process's environment.
    """
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        cwd=tiny.REPO,
        env=make_environment(root, devices) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_environment(root: Path, devices: int) -> dict[str, str]:
    """Makes the environment of a process with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices} {tiny.FAST_COMPILE_FLAGS}"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root / "cache" / "float64")}
    return tiny.environment(root) | {"XLA_FLAGS": flags, "PYTHONPATH": str(tiny.REPO)} | cache


def assert_equal_runs(run_dir: Path, reference_dir: Path, step: int) -> None:
    """Asserts that all arrays of two runs' checkpoints of a step agree within 1e-8."""
    arrays, expected_arrays = load_arrays(run_dir, step), load_arrays(reference_dir, step)
    assert arrays.keys() == expected_arrays.keys()
    assert sum(a.dtype == np.float64 and a.ndim == 4 for a in expected_arrays.values()) >= 6
    for key, expected in expected_arrays.items():
        scale = 1.0 if "params" in key else max(1.0, float(np.abs(expected).max(initial=0)))
        assert np.abs(arrays[key] - expected).max(initial=0) < 1e-8 * scale, key


def load_arrays(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Loads the arrays of a run's checkpoint, without the biases in front of batch norm.

    The true gradient of those biases is 0, and Adam turns its rounding noise into steps.
    """
    checkpoints = Checkpoints(run_dir / "checkpoints")
    try:
        arrays = checkpoints.arrays(step)
    finally:
        checkpoints.close()
    normed_layers = {re.sub(r"norm(\d).*", r"layer\1", key) for key in arrays if "norm" in key}
    return {k: v for k, v in arrays.items() if k.split("']['bias")[0] not in normed_layers}


def cast_to_float64(create_state):
    """Wraps `create_train_state`; otherwise batch norm's statistics start in float32."""

    @functools.wraps(create_state)
    def create_float64_state(*arguments):
        state = create_state(*arguments)
        return jax.tree.map(lambda a: a.astype("float64") if a.dtype.kind == "f" else a, state)

    return create_float64_state


def add_pause_and_signal(call):
    """Wraps `_GroupTrainer._call`; STOP_AT and PAUSE take effect after it."""
    title, step = os.environ.get("STOP_AT", ":0").split(":")

    def call_and_interrupt(trainer):
        call(trainer)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if title and trainer._group.title.startswith(title) and trainer.step == int(step):
            os.kill(os.getpid(), signal.SIGTERM)

    return call_and_interrupt


def skip_report(_: object) -> None:
    """Writes no report; the parser needs this docstring."""


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    train_state.create_train_state = cast_to_float64(train_state.create_train_state)
    from gankd_jax.cli import commands, main
    from gankd_jax.study import runner
    from gankd_jax.training import loop

    runner.evaluate_runs = lambda *_: None
    commands.run_report = skip_report
    loop._GroupTrainer._call = add_pause_and_signal(loop._GroupTrainer._call)
    arguments = sys.argv[1:]
    while arguments:
        end = arguments.index("+") if "+" in arguments else len(arguments)
        sys.argv, arguments = ["gankd", *arguments[:end]], arguments[end + 1 :]
        main.main()


if __name__ == "__main__":
    main()
