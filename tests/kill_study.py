"""Kills a tiny study with SIGKILL again and again, and compares it with one that was never killed.

    python tests/kill_study.py [KILLS] [SEED]

makes 20 kills by default and tells where each of them struck; the test suite makes two.  All that
it starts must have the same cores: XLA sums in another order on one than on two.
"""

import functools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import tiny
from ml_collections import ConfigDict

from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.training.train_state import create_train_state
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.metric_writer import read_log

# A kill comes at a random one of the first so many signs of its phase, and within so many seconds.
SIGNS = {"start": 1, "step": 30, "checkpoint": 20, "evaluation": 2, "report": 1}
DELAYS = {"start": 8.0, "step": 0.3, "checkpoint": 0.02, "evaluation": 1.5, "report": 1.5}
SHARES = {"start": 2, "step": 6, "checkpoint": 6, "evaluation": 3, "report": 3}  # of 20 kills
CLOCKED = ("seconds", "images_per_second")
MANY_STEPS = {f"recipes__{name}__steps": 200 for name in ("teacher", "mse", "l1", "baseline")}


def phases(kills: int, chance: random.Random) -> list[str]:
    """The phases in which to kill: those of the training in any order, then the later ones."""
    drawn = [name for name, share in SHARES.items() for _ in range(round(share * kills / 20))]
    training = [name for name in drawn if name in ("start", "step", "checkpoint")]
    chance.shuffle(training)
    return training + [name for name in drawn if name not in training]


def kill(root: Path, folder: Path, phase: str, *, chance: random.Random, fields: dict) -> str:
    """Start the study and kill it at a random moment of a phase; where that struck.

    It is '' where the study came to its end before.
    """
    told = root / "killed.stderr"
    words = ["study", *tiny.flags(**fields), f"--workdir={folder}"]
    with told.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gankd_jax", *words],
            cwd=tiny.REPO,
            env=tiny.environment(root),
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        _await(
            process, functools.partial(_trace, phase, folder, told), chance.randint(1, SIGNS[phase])
        )
        time.sleep(chance.uniform(0, DELAYS[phase]))
        process.kill()
    if process.wait() == 0:
        return ""
    assert process.returncode == -signal.SIGKILL, told.read_text()
    return f"{phase}: {_where(folder, told.read_text())}"


def _await(process: subprocess.Popen, trace: Callable[[], int], signs: int) -> None:
    """Wait until a trace has changed so often, or the process has ended."""
    last = trace()
    while process.poll() is None and signs:
        time.sleep(0.001)
        now = trace()
        signs -= now not in (0, last)
        last = now


def _trace(phase: str, folder: Path, told: Path) -> int:
    """A number that changes with each sign of a phase; 0: none now."""
    if phase == "start":
        return time.monotonic_ns()
    if phase == "evaluation":
        return told.read_text().count("scoring")
    kinds = {"step": "*/log.jsonl", "checkpoint": "*/checkpoints/*tmp*", "report": "table.md"}
    return max(map(_changed, folder.glob(kinds[phase])), default=0)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # it was a temporary one
        return 0


def _where(folder: Path, told: str) -> str:
    """What a kill left, in words."""
    last = told.splitlines()[-1][:60] if told else "nothing told"
    saved = [
        f"{run.name}@{max(steps)}"
        for run in plan.plan_runs(tiny.config())
        if (steps := workdir.checkpoint_steps(folder, run))
    ]
    half = [*folder.glob("*/checkpoints/*tmp*"), *folder.rglob(".*.*")]
    names = [str(path.relative_to(folder)) for path in half]
    return f"{last}; saved {' '.join(saved)}; half-written {' '.join(names)}"


def holdings(config: ConfigDict, folder: Path) -> dict[str, object]:
    """What a study came to: its files without clocks, and every array of every checkpoint."""
    found: dict[str, object] = {}
    for pattern in ("*.json", "*/*.json", "*/*.npz", "*/grids/*.png", "table.*"):
        for path in folder.glob(pattern):
            if not path.name.startswith("."):
                found[str(path.relative_to(folder))] = path.read_bytes()
    for run in plan.plan_runs(config):
        found[f"{run.name}/log"] = [
            json.dumps({k: v for k, v in line.items() if k not in CLOCKED})
            for line in read_log(folder / run.name)
        ]
        for step, state in _states(config, folder, run).items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                name = f"{run.name}/{step}{jax.tree_util.keystr(path)}"
                found[name] = np.asarray(leaf).tobytes()
    return found


def _states(config: ConfigDict, folder: Path, run: plan.Run) -> dict[int, object]:
    member = StudyContext(config, folder).make_run_spec(run)
    like = jax.eval_shape(lambda: create_train_state(member.spec, member.seed))
    checkpoints = Checkpoints(folder / run.name / "checkpoints")
    try:
        return {k: checkpoints.restore(k, like) for k in workdir.checkpoint_steps(folder, run)}
    finally:
        checkpoints.close()


def differences(config: ConfigDict, ours: Path, theirs: Path) -> list[str]:
    """What two studies do not have in common, to the bit."""
    a, b = holdings(config, ours), _expected(config, theirs)
    assert len(b) > 100
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


_EXPECTED: dict[Path, dict[str, object]] = {}  # to read hundreds of arrays takes seconds


def _expected(config: ConfigDict, folder: Path) -> dict[str, object]:
    """What a study came to that nobody touches any more, read once."""
    if folder not in _EXPECTED:
        _EXPECTED[folder] = holdings(config, folder)
    return _EXPECTED[folder]


def study(root: Path, folder: Path, fields: dict) -> None:
    """Bring a study to its end."""
    done = tiny.gankd(root, "study", *tiny.flags(**fields), f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr


def main(kills: int = 20, seed: int = 0) -> None:
    """The long form."""
    chance, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kill-study-"))
    study(root, root / "whole", MANY_STEPS)
    left, folders = phases(kills, chance), [root / "killed-1"]
    while left:
        where = kill(root, folders[-1], left[0], chance=chance, fields=MANY_STEPS)
        print(where or f"{left[0]}: it had ended, and another begins", flush=True)
        if where:
            left.pop(0)
        else:
            folders.append(root / f"killed-{len(folders) + 1}")
    config, unequal = tiny.config(**MANY_STEPS), []
    for folder in folders:
        study(root, folder, MANY_STEPS)
        unequal += differences(config, folder, root / "whole")
    count = len(folders) * len(_expected(config, root / "whole"))
    print(f"{kills} kills; {count} files and arrays compared, {len(unequal)} differ {unequal[:5]}")
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
