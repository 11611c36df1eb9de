"""Memory, open files and threads stay as they are over many steps, groups and scored runs.

The suite takes 500 steps and 6 runs; with GANKD_LONG=1 it is 10,000 steps and 50 runs.
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
MOST = 2**20 * 16  # bytes by which the second half may be above the first

# Recipes that differ in their steps, so that each is a group and a program of its own.
CONFIG = f"""
from gankd_jax.config.schema import base_config, recipe_config

def get_config(_=""):
    config = base_config()
    config.data.update(name="digits", image_size=16, pad=1, validation=0)
    small = dict(batch_size=8, critic_width=1)
    config.recipes.teacher = recipe_config(steps=20, **small)
    names = tuple(f"b{{k}}" for k in range({GROUPS}))
    for k, name in enumerate(names):
        config.recipes[name] = recipe_config(steps=20 * (k + 2) if k else {STEPS}, **small)
    config.study.update(teacher_widths=(1,), widths=(1,), seeds=tuple(range({SEEDS})))
    config.study.update(students=(), baselines=names)
    config.training.update(steps_per_call=5, log_every=10, grid_every=0, checkpoint_every=20)
    config.evaluation.update(samples=100, batch_size=50)
    return config
"""


class Use(NamedTuple):
    """What a process has done and holds at a moment."""

    steps: int
    trained: int  # groups
    scored: int  # runs
    bytes: int
    files: int
    threads: int


def watch(root: Path, folder: Path, *words: str) -> list[Use]:
    """Run a command to its end; what it did and held all the while."""
    command = [sys.executable, "-m", "gankd_jax", *words, f"--workdir={folder}"]
    found, told = [], folder.with_suffix(".stderr")
    with told.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=tiny.REPO,
            env=tiny.environment(root),
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        while process.poll() is None:
            if held := _held(process.pid):
                found.append(Use(*_done(folder), *held))
            time.sleep(0.05)
    assert process.returncode == 0, told.read_text()
    return found


def _done(folder: Path) -> tuple[int, int, int]:
    log = read_log(folder / "baseline-b0-d1-s0")
    trained = {path.parent.name.split("-")[1] for path in folder.glob("baseline-*/log.jsonl")}
    return log[-1]["step"] if log else 0, len(trained), len(list(folder.glob("*-*/scores.json")))


def _held(pid: int) -> tuple[int, int, int] | None:
    """Bytes, files and threads of a process; None where it has ended.

    Its own bytes, in memory or swapped out: pages of libraries come and go as the system likes.
    """
    place = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
        own = sum(1024 * int(status[name].split()[0]) for name in ("RssAnon", "VmSwap"))
        files, threads = (len(list((place / name).iterdir())) for name in ("fd", "task"))
    except (FileNotFoundError, KeyError, ProcessLookupError):  # one that is ending has no bytes
        return None
    return own, files, threads


def check(uses: list[Use], done: Callable[[Use], int], last: int) -> str:
    """Of what was done in the second half, nothing is kept: it holds what the first half held."""
    halves = [
        [use for use in uses if low * last < done(use) <= high * last]
        for low, high in ((0.1, 0.5), (0.5, 1.0))
    ]
    assert min(map(len, halves)) >= 3
    bytes_ = [max(use.bytes for use in half) for half in halves]
    # The least of each half: a save or a restore has files and threads of its own for a while, and
    # one that is kept is there at all times.
    files, threads = (
        [min(getattr(use, name) for use in half) for half in halves]
        for name in ("files", "threads")
    )
    told = f"{bytes_[0] / 2**20:.1f} and {bytes_[1] / 2**20:.1f} MiB, files {files}, {threads}"
    assert bytes_[1] - bytes_[0] < MOST, told
    assert files[1] <= files[0], told
    # Pools of threads fill as work comes; what leaks with each use would be far more.
    assert threads[1] <= threads[0] + 2, told
    return told


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_nothing_is_kept_of_what_is_done(root, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    uses = watch(root, tmp_path / "study", "study", f"--config={tmp_path / 'config.py'}")
    in_b0 = [use for use in uses if use.trained == 1 and not use.scored]
    print("steps:", check(in_b0, lambda use: use.steps, STEPS))
    last = GROUPS * SEEDS + 1
    scoring = [use for use in uses if 0 < use.scored < last]  # then comes the report
    print("runs:", check(scoring, lambda use: use.scored, last))
    if LONG:
        training = [use for use in uses if use.trained and not use.scored]
        print("groups:", check(training, lambda use: use.trained, GROUPS))
