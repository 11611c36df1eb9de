"""Trains as `gankd study` does, but in float64 and without scores: study FLAGS [+ study FLAGS].

`+` begins another study in the same process.  With STOP_AT=GROUP:STEP in the environment the
process sends itself SIGTERM when the group with that title has come to that step; with PAUSE it
rests so many seconds after each call.
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


def begin(root: Path, devices: int, *words: str, **environment: str) -> subprocess.Popen[str]:
    """This program in a process of its own, which sees so many devices."""
    return subprocess.Popen(
        [sys.executable, __file__, *words],
        cwd=tiny.REPO,
        env=surroundings(root, devices) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def surroundings(root: Path, devices: int) -> dict[str, str]:
    """The environment of such a process."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    cache = {"JAX_COMPILATION_CACHE_DIR": str(root / "cache" / "float64")}
    return tiny.environment(root) | {"XLA_FLAGS": flags, "PYTHONPATH": str(tiny.REPO)} | cache


def assert_equal_runs(ours: Path, theirs: Path, step: int) -> None:
    """Every array of two runs' checkpoints of a step within 1e-8 of each other."""
    found, expected = weights(ours, step), weights(theirs, step)
    assert found.keys() == expected.keys()
    assert sum(a.dtype == np.float64 and a.ndim == 4 for a in expected.values()) >= 6
    for key, value in expected.items():
        scale = 1.0 if "params" in key else max(1.0, float(np.abs(value).max(initial=0)))
        assert np.abs(found[key] - value).max(initial=0) < 1e-8 * scale, key


def weights(run: Path, step: int) -> dict[str, np.ndarray]:
    """What a run's checkpoint holds, without the biases in front of batch norm.

    Their true gradient is 0, and Adam makes steps of its rounding noise.
    """
    checkpoints = Checkpoints(run / "checkpoints")
    try:
        named = checkpoints.arrays(step)
    finally:
        checkpoints.close()
    normed = {re.sub(r"norm(\d).*", r"layer\1", key) for key in named if "norm" in key}
    return {k: v for k, v in named.items() if k.split("']['bias")[0] not in normed}


def double(function):
    """`state.init`, of which batch norm's numbers start with 32 bits too."""

    @functools.wraps(function)
    def made(*arguments):
        found = function(*arguments)
        return jax.tree.map(lambda a: a.astype("float64") if a.dtype.kind == "f" else a, found)

    return made


def disturbed(call):
    """`_GroupTrainer._call`, followed by a rest and by a signal at a step."""
    title, step = os.environ.get("STOP_AT", ":0").split(":")

    def made(trainer):
        call(trainer)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if (trainer._group.title, trainer.step) == (title, int(step)):
            os.kill(os.getpid(), signal.SIGTERM)

    return made


def skip_report(_: object) -> None:
    """Writes no report."""


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    train_state.create_train_state = double(train_state.create_train_state)
    from gankd_jax.cli import commands, main
    from gankd_jax.study import runner
    from gankd_jax.training import loop

    runner.evaluate_runs = lambda *_: None
    commands.run_report = skip_report
    loop._GroupTrainer._call = disturbed(loop._GroupTrainer._call)
    words = sys.argv[1:]
    while words:
        end = words.index("+") if "+" in words else len(words)
        sys.argv, words = ["gankd", *words[:end]], words[end + 1 :]
        main.main()


if __name__ == "__main__":
    main()
