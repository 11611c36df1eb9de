"""What ends or hinders a study from outside: kills, a full disk, one that cannot be written."""

import contextlib
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kill_study
import pytest
import tiny

TEACHER = "teacher-d4-s0"


def test_killed_it_ends_as_if_it_had_never_been(root, finished, tmp_path):
    """`python tests/kill_study.py 20` is the long form."""
    chance = random.Random(3)
    for phase in ("checkpoint", "evaluation"):
        assert kill_study.kill(root, tmp_path / "study", phase, chance=chance, fields={})
    kill_study.study(root, tmp_path / "study", {})
    assert kill_study.differences(tiny.config(), tmp_path / "study", finished) == []


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def left_to_train(finished: Path, folder: Path) -> None:
    """A study of which the teacher lacks its last checkpoint."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / TEACHER / "checkpoints" / "40")
    (folder / TEACHER / "scores.json").unlink()


def train(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return tiny.gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={TEACHER}")


def test_a_full_disk_is_told_and_nothing_is_lost(root, finished, tmp_path):
    with disk(tmp_path / "disk", "32m"):
        folder = tmp_path / "disk" / "study"
        left_to_train(finished, folder)
        saved = tiny.snapshot(folder / TEACHER / "checkpoints" / "30")
        room = shutil.disk_usage(folder).free
        (tmp_path / "disk" / "other").write_bytes(bytes(room - 64 * 2**10))
        done = train(root, folder)
        assert (done.returncode, done.stdout) == (2, "")
        progress, line = done.stderr.splitlines()
        assert progress.startswith(f"{TEACHER}: step 40/40")
        assert re.match(r"gankd: the checkpoint of step 40 .* No space left .* is kept: 30$", line)
        assert tiny.snapshot(folder / TEACHER / "checkpoints" / "30") == saved
        (tmp_path / "disk" / "other").unlink()
        kill_study.study(root, folder, {})
        assert kill_study.differences(tiny.config(), folder, finished) == []


def test_a_disk_that_cannot_be_written_is_told(root, finished, tmp_path):
    with disk(tmp_path / "disk", "32m"):
        folder = tmp_path / "disk" / "study"
        left_to_train(finished, folder)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        before = tiny.snapshot(folder)
        done = train(root, folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(r"gankd: .*: Read-only file system\n", done.stderr)
        assert tiny.snapshot(folder) == before


# XLA's threads read the environment while they compile, and glibc moves it when it grows: a process
# that sets a new variable then crashes now and then.
WATCHED = """
import os, runpy, sys

def told(event, arguments):
    if event == "os.putenv" and os.fsdecode(arguments[0]) not in os.environ:
        if getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None):
            sys.stderr.write(f"NEW VARIABLE {arguments[0]}\\n")

sys.addaudithook(told)
runpy.run_module("gankd_jax", run_name="__main__", alter_sys=True)
"""


def test_no_variable_of_the_environment_is_new_once_xla_runs(root, tmp_path):
    few = tiny.flags(study__seeds=(0,), study__students=("mse",))
    words = ["study", *few, f"--workdir={tmp_path / 'study'}"]
    own = ("CRC32C_SW_MODE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK")
    env = {k: v for k, v in tiny.environment(root).items() if k not in own}
    command = [sys.executable, "-c", WATCHED, *words]
    done = subprocess.run(command, cwd=tiny.REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "study" / "table.md").exists()
    assert "NEW VARIABLE" not in done.stderr
