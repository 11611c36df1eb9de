"""Times how long a new process takes to a config's first steps, with and without compilation.

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


def time_start(config: ml_collections.ConfigDict, flags: Sequence[str], rounds: int) -> str:
    """Times pairs of starts: one with empty caches (cold) and the next one (warm).

    Args:
        config: Of a study.
        flags: Those of the command line that made the config.
        rounds: Pairs, at least 1.

    Returns:
        A title and two lines, cold and warm: the median in seconds, the smallest and the largest.

    Raises:
        UserError: The command failed; with the last line that it wrote.
    """
    command = [sys.executable, "-m", "gankd_jax", "train", *flags, *_one_call_flags(config)]
    cold_times, warm_times = zip(*(_time_pair(command) for _ in range(rounds)), strict=True)
    lines = [f"{config.name}: seconds from the command to the end of its first compiled call"]
    for name, values in (("cold", cold_times), ("warm", warm_times)):
        low, middle, high = min(values), statistics.median(values), max(values)
        lines.append(f"{name}  {middle:.1f} ({low:.1f} to {high:.1f})")
    return "\n".join(lines)


def _one_call_flags(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the flags that end the first teacher's training after one call."""
    steps = config.training.steps_per_call
    return [
        f"--run={plan.teacher_runs(config)[0].name}",
        f"--config.recipes.teacher.steps={steps}",
        f"--config.training.log_every={steps}",
        f"--config.training.checkpoint_every={steps}",
        "--config.training.grid_every=0",
    ]


def _time_pair(command: Sequence[str]) -> tuple[float, float]:
    """Returns the seconds of a start with empty caches, and of the next one."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    with tempfile.TemporaryDirectory() as folder:
        environment = inherited | {"XDG_CACHE_HOME": folder}  # of gankd's compilation cache
        cold, warm = (
            _time_command([*command, f"--workdir={Path(folder, name)}"], environment)
            for name in ("cold", "warm")
        )
    return cold, warm


def _time_command(command: Sequence[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"status {process.returncode}, no message"]
        raise UserError(f"the start failed: {lines[-1]}")
    return time.perf_counter() - started
