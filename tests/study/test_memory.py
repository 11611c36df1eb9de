"""Memory, open files and threads do not grow over many steps, groups and scored runs.

The test trains 500 steps and 6 runs; with GANKD_LONG=1, 10,000 steps and 50 runs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from gankd_jax.utils.metric_writer import read_log

LONG = bool(os.environ.get("GANKD_LONG"))
STEPS = 10_000 if LONG else 500
GROUPS, SEEDS = (10, 5) if LONG else (3, 2)
MAX_GROWTH = 2**20 * 16  # bytes from the first half to the second

# Recipes with different numbers of steps: each is a group with its own program.
CONFIG = f"""
from gankd_jax.config.schema import base_config, recipe_config

def get_config(_=""):
    config = base_config()
    config.data.update(name="digits", image_size=16, pad=1, validation=0)
    small_recipe = dict(batch_size=8, critic_width=1)
    config.recipes.teacher = recipe_config(steps=20, **small_recipe)
    names = tuple(f"b{{k}}" for k in range({GROUPS}))
    for k, name in enumerate(names):
        config.recipes[name] = recipe_config(steps=20 * (k + 2) if k else {STEPS}, **small_recipe)
    config.study.update(teacher_widths=(1,), widths=(1,), seeds=tuple(range({SEEDS})))
    config.study.update(students=(), baselines=names)
    config.training.update(steps_per_call=5, log_every=10, grid_every=0, checkpoint_every=20)
    config.evaluation.update(samples=100, batch_size=50)
    return config
"""


class Measurement(NamedTuple):
    """Progress and resources of a process at one moment."""

    steps: int  # of the first group
    trained_groups: int
    scored_runs: int
    bytes: int
    files: int
    threads: int


def measure_command(root: Path, folder: Path, *arguments: str) -> list[Measurement]:
    """Runs a command to its end and measures it every 50 ms."""
    command = [sys.executable, "-m", "gankd_jax", *arguments, f"--workdir={folder}"]
    measurements, stderr_path = [], folder.with_suffix(".stderr")
    with stderr_path.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=tiny.REPO,
            env=tiny.environment(root),
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        while process.poll() is None:
            if resources := _read_resources(process.pid):
                measurements.append(Measurement(*_read_progress(folder), *resources))
            time.sleep(0.05)
    assert process.returncode == 0, stderr_path.read_text()
    return measurements


def _read_progress(folder: Path) -> tuple[int, int, int]:
    """Reads steps, trained groups and scored runs from a work directory."""
    log = read_log(folder / "baseline-b0-d1-s0")
    recipes = {path.parent.name.split("-")[1] for path in folder.glob("baseline-*/log.jsonl")}
    return log[-1]["step"] if log else 0, len(recipes), len(list(folder.glob("*-*/scores.json")))


def _read_resources(pid: int) -> tuple[int, int, int] | None:
    """Reads bytes, open files and threads of a process; None if it has ended.

    Only anonymous memory counts, swapped out or not: the system loads and drops libraries' pages.
    """
    proc = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        bytes_ = sum(1024 * int(status[name].split()[0]) for name in ("RssAnon", "VmSwap"))
        files, threads = (len(list((proc / name).iterdir())) for name in ("fd", "task"))
    except (FileNotFoundError, KeyError, ProcessLookupError):  # an ending process has no RssAnon
        return None
    return bytes_, files, threads


def assert_no_growth(
    measurements: list[Measurement], progress_of: Callable[[Measurement], int], end: int
) -> str:
    """Asserts that the second half of some work holds no more resources than the first.

    Args:
        measurements: Those taken during the work.
        progress_of: Returns a measurement's progress.
        end: The progress at the end; the first tenth is left out as a warm-up.

    Returns:
        A summary of both halves.
    """
    halves = [
        [m for m in measurements if low * end < progress_of(m) <= high * end]
        for low, high in ((0.1, 0.5), (0.5, 1.0))
    ]
    assert min(map(len, halves)) >= 3
    bytes_ = [max(m.bytes for m in half) for half in halves]
    # A save or a restore has its own files and threads for a while.  The minimum leaves them out.
    files, threads = (
        [min(getattr(m, name) for m in half) for half in halves] for name in ("files", "threads")
    )
    summary = f"{bytes_[0] / 2**20:.1f} and {bytes_[1] / 2**20:.1f} MiB, files {files}, {threads}"
    assert bytes_[1] - bytes_[0] < MAX_GROWTH, summary
    assert files[1] <= files[0], summary
    # Thread pools still fill up; a leak at every use would be far more.
    assert threads[1] <= threads[0] + 2, summary
    return summary


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_files_and_threads_do_not_grow(root, tmp_path):
    config_path = tmp_path / "config.py"
    config_path.write_text(CONFIG)
    measurements = measure_command(root, tmp_path / "study", "study", f"--config={config_path}")
    first_group = [m for m in measurements if m.trained_groups == 1 and not m.scored_runs]
    print("steps:", assert_no_growth(first_group, lambda m: m.steps, STEPS))
    run_count = GROUPS * SEEDS + 1
    scoring = [m for m in measurements if 0 < m.scored_runs < run_count]  # before the report
    print("runs:", assert_no_growth(scoring, lambda m: m.scored_runs, run_count))
    if LONG:
        training = [m for m in measurements if m.trained_groups and not m.scored_runs]
        print("groups:", assert_no_growth(training, lambda m: m.trained_groups, GROUPS))
