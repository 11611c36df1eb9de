"""Kills a tiny study with SIGKILL again and again, and compares it with one never killed.

    python tests/kill_study.py [KILLS] [SEED]

makes 20 kills by default and prints what each interrupted; the test suite makes two.  All processes
must have the same number of cores: XLA sums in another order on one core than on two.
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

# A kill follows a random one of the first so many events of its phase, within so many seconds.
EVENTS = {"start": 1, "step": 30, "checkpoint": 20, "evaluation": 2, "report": 1}
MAX_DELAYS = {"start": 8.0, "step": 0.3, "checkpoint": 0.02, "evaluation": 1.5, "report": 1.5}
# Of 20 kills.
PHASE_COUNTS = {"start": 2, "step": 6, "checkpoint": 6, "evaluation": 3, "report": 3}
CLOCK_FIELDS = ("seconds", "images_per_second")
MANY_STEPS = {f"recipes__{name}__steps": 200 for name in ("teacher", "mse", "l1", "baseline")}


def choose_phases(kills: int, rng: random.Random) -> list[str]:
    """Lists the phases in which to kill: those of the training shuffled, then the later ones."""
    phases = [
        name for name, count in PHASE_COUNTS.items() for _ in range(round(count * kills / 20))
    ]
    training = [name for name in phases if name in ("start", "step", "checkpoint")]
    rng.shuffle(training)
    return training + [name for name in phases if name not in training]


def kill_in_phase(root: Path, folder: Path, phase: str, *, rng: random.Random, fields: dict) -> str:
    """Starts the study and kills it at a random moment of a phase.

    Args:
        root: The folder that tests share.
        folder: The work directory.
        phase: A key of `EVENTS`.
        rng: Chooses the moment.
        fields: Changes to the tiny study's config.

    Returns:
        A description of what the kill interrupted; '' if the study had ended before.
    """
    stderr_path = root / "killed.stderr"
    arguments = ["study", *tiny.flags(**fields), f"--workdir={folder}"]
    with stderr_path.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "gankd_jax", *arguments],
            cwd=tiny.REPO,
            env=tiny.environment(root),
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
        read_event_id = functools.partial(_read_event_id, phase, folder, stderr_path)
        _wait_for_events(process, read_event_id, rng.randint(1, EVENTS[phase]))
        time.sleep(rng.uniform(0, MAX_DELAYS[phase]))
        process.kill()
    if process.wait() == 0:
        return ""
    assert process.returncode == -signal.SIGKILL, stderr_path.read_text()
    return f"{phase}: {_describe_remains(folder, stderr_path.read_text())}"


def _wait_for_events(
    process: subprocess.Popen, read_event_id: Callable[[], int], count: int
) -> None:
    """Waits for so many events, or for the end of the process."""
    last_id = read_event_id()
    while process.poll() is None and count:
        time.sleep(0.001)
        event_id = read_event_id()
        count -= event_id not in (0, last_id)
        last_id = event_id


def _read_event_id(phase: str, folder: Path, stderr_path: Path) -> int:
    """Reads a number that changes with each event of a phase; 0 while there is none."""
    if phase == "start":
        return time.monotonic_ns()
    if phase == "evaluation":
        return stderr_path.read_text().count("scoring")
    patterns = {"step": "*/log.jsonl", "checkpoint": "*/checkpoints/*tmp*", "report": "table.md"}
    return max(map(_modification_time, folder.glob(patterns[phase])), default=0)


def _modification_time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # a temporary file that is gone
        return 0


def _describe_remains(folder: Path, stderr_text: str) -> str:
    """Describes what a kill left in the work directory."""
    last_line = stderr_text.splitlines()[-1][:60] if stderr_text else "no output"
    saved_runs = [
        f"{run.name}@{max(steps)}"
        for run in plan.plan_runs(tiny.config())
        if (steps := workdir.checkpoint_steps(folder, run))
    ]
    partial_files = [*folder.glob("*/checkpoints/*tmp*"), *folder.rglob(".*.*")]
    names = [str(path.relative_to(folder)) for path in partial_files]
    return f"{last_line}; saved {' '.join(saved_runs)}; half-written {' '.join(names)}"


def read_contents(config: ConfigDict, folder: Path) -> dict[str, object]:
    """Reads a study's files, without clock times, and every array of every checkpoint."""
    contents: dict[str, object] = {}
    for pattern in ("*.json", "*/*.json", "*/*.npz", "*/grids/*.png", "table.*"):
        for path in folder.glob(pattern):
            if not path.name.startswith("."):
                contents[str(path.relative_to(folder))] = path.read_bytes()
    for run in plan.plan_runs(config):
        contents[f"{run.name}/log"] = [
            json.dumps({k: v for k, v in line.items() if k not in CLOCK_FIELDS})
            for line in read_log(folder / run.name)
        ]
        for step, state in _load_states(config, folder, run).items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(state):
                name = f"{run.name}/{step}{jax.tree_util.keystr(path)}"
                contents[name] = np.asarray(leaf).tobytes()
    return contents


def _load_states(config: ConfigDict, folder: Path, run: plan.Run) -> dict[int, object]:
    """Loads the state of every checkpoint, by step."""
    run_spec = StudyContext(config, folder).make_run_spec(run)
    template = jax.eval_shape(lambda: create_train_state(run_spec.spec, run_spec.seed))
    checkpoints = Checkpoints(folder / run.name / "checkpoints")
    try:
        steps = workdir.checkpoint_steps(folder, run)
        return {step: checkpoints.restore(step, template) for step in steps}
    finally:
        checkpoints.close()


def compare_studies(config: ConfigDict, folder: Path, reference: Path) -> list[str]:
    """Compares two finished studies bit by bit.

    Args:
        config: The config of both.
        folder: The work directory of the first.
        reference: The work directory of the second, which no longer changes.

    Returns:
        The names of files and arrays that differ.
    """
    a, b = read_contents(config, folder), _read_reference(config, reference)
    assert len(b) > 100
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


_REFERENCES: dict[Path, dict[str, object]] = {}  # reading hundreds of arrays takes seconds


def _read_reference(config: ConfigDict, folder: Path) -> dict[str, object]:
    """Reads a study that no longer changes, once per process."""
    if folder not in _REFERENCES:
        _REFERENCES[folder] = read_contents(config, folder)
    return _REFERENCES[folder]


def finish_study(root: Path, folder: Path, fields: dict) -> None:
    """Runs a study to its end."""
    result = tiny.run_gankd(root, "study", *tiny.flags(**fields), f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    assert "damaged" not in result.stderr


def main(kills: int = 20, seed: int = 0) -> None:
    """Kills studies `kills` times, finishes them and exits with 1 if any bit differs."""
    rng, root = random.Random(seed), Path(tempfile.mkdtemp(prefix="kill-study-"))
    finish_study(root, root / "whole", MANY_STEPS)
    phases, folders = choose_phases(kills, rng), [root / "killed-1"]
    while phases:
        remains = kill_in_phase(root, folders[-1], phases[0], rng=rng, fields=MANY_STEPS)
        print(remains or f"{phases[0]}: the study had ended, another one starts", flush=True)
        if remains:
            phases.pop(0)
        else:
            folders.append(root / f"killed-{len(folders) + 1}")
    config, differing = tiny.config(**MANY_STEPS), []
    for folder in folders:
        finish_study(root, folder, MANY_STEPS)
        differing += compare_studies(config, folder, root / "whole")
    count = len(folders) * len(_read_reference(config, root / "whole"))
    summary = f"{kills} kills; {count} files and arrays compared, {len(differing)} differ"
    print(summary, differing[:5])
    sys.exit(bool(differing))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
