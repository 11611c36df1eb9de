"""How long a new process takes to a config's first steps, with and without compilation.

It times `gankd train` as a user types it, cut to the teacher's first compiled call: imports, data,
compilation, the call, and the checkpoint at its end.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from gankd_jax.study import plan
from gankd_jax.utils.errors import UserError


def start(config: ml_collections.ConfigDict, flags: Sequence[str], rounds: int) -> str:
    """Two lines, cold and warm: medians over `rounds` pairs of starts, with smallest and largest.

    `flags` are those that made the config.

    Raises:
      UserError: the command failed; with its last line.
    """
    command = [sys.executable, "-m", "gankd_jax", "train", *flags, *_cut(config)]
    pairs = [_pair(command) for _ in range(rounds)]
    lines = [f"{config.name}: seconds from the command to the end of its first compiled call"]
    for name, values in zip(("cold", "warm"), zip(*pairs, strict=True), strict=True):
        low, middle, high = min(values), statistics.median(values), max(values)
        lines.append(f"{name}  {middle:.1f} ({low:.1f} to {high:.1f})")
    return "\n".join(lines)


def _cut(config: ml_collections.ConfigDict) -> list[str]:
    """The flags that end the first teacher's training after one call."""
    call = config.training.steps_per_call
    return [
        f"--run={plan.teacher_runs(config)[0].name}",
        f"--config.recipes.teacher.steps={call}",
        f"--config.training.log_every={call}",
        f"--config.training.checkpoint_every={call}",
        "--config.training.grid_every=0",
    ]


def _pair(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a start with empty caches, and of the next one."""
    own = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as folder:
        environment = own | {"XDG_CACHE_HOME": folder}  # where gankd keeps what it compiled
        cold, warm = (
            _seconds([*command, f"--workdir={Path(folder, name)}"], environment)
            for name in ("cold", "warm")
        )
    return cold, warm


def _seconds(command: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise UserError(f"the start failed: {said[-1]}")
    return time.perf_counter() - began
