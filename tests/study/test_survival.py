"""Studies under kills, a full disk, a read-only disk, and changes to the environment."""

import contextlib
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import kill_study
import pytest
import tiny

pytestmark = pytest.mark.slow

TEACHER = "teacher-d4-s0"


def test_killed_study_ends_with_the_same_bits(root, finished, tmp_path):
    """`python tests/kill_study.py` kills more often."""
    rng = random.Random(3)
    for phase in ("checkpoint", "evaluation"):
        assert kill_study.kill_in_phase(root, tmp_path / "study", phase, rng=rng, fields={})
    kill_study.finish_study(root, tmp_path / "study", {})
    assert kill_study.compare_studies(tiny.config(), tmp_path / "study", finished) == []


@contextlib.contextmanager
def mount_disk(folder: Path, size: str) -> Iterator[None]:
    """Mounts a file system of its own on a folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def copy_unfinished_study(finished: Path, folder: Path) -> None:
    """Copies the finished study without the teacher's last checkpoint and scores."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / TEACHER / "checkpoints" / "40")
    (folder / TEACHER / "scores.json").unlink()


def train_teacher(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return tiny.run_gankd(root, "train", *tiny.flags(), f"--workdir={folder}", f"--run={TEACHER}")


def test_full_disk_is_reported_and_no_checkpoint_lost(root, finished, tmp_path):
    with mount_disk(tmp_path / "disk", "32m"):
        folder = tmp_path / "disk" / "study"
        copy_unfinished_study(finished, folder)
        checkpoint = tiny.snapshot(folder / TEACHER / "checkpoints" / "30")
        free_bytes = shutil.disk_usage(folder).free
        (tmp_path / "disk" / "filler").write_bytes(bytes(free_bytes - 64 * 2**10))
        result = train_teacher(root, folder)
        assert (result.returncode, result.stdout) == (2, "")
        start, progress, message = result.stderr.splitlines()
        assert start.endswith(f" in {folder}: training {TEACHER}")
        assert progress.startswith(f"{TEACHER} (part 1 of 3): step 40/40")
        assert re.match(
            r"gankd: the checkpoint of step 40 .* No space left .* is kept: 30$", message
        )
        assert tiny.snapshot(folder / TEACHER / "checkpoints" / "30") == checkpoint
        (tmp_path / "disk" / "filler").unlink()
        kill_study.finish_study(root, folder, {})
        assert kill_study.compare_studies(tiny.config(), folder, finished) == []


def test_read_only_disk_is_reported(root, finished, tmp_path):
    with mount_disk(tmp_path / "disk", "32m"):
        folder = tmp_path / "disk" / "study"
        copy_unfinished_study(finished, folder)
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        before = tiny.snapshot(folder)
        result = train_teacher(root, folder)
        assert (result.returncode, result.stdout) == (2, "")
        assert re.fullmatch(r"gankd: .*: Read-only file system", result.stderr.splitlines()[-1])
        assert tiny.snapshot(folder) == before


# XLA's threads read the environment while they compile.  A new variable makes glibc move it, which
# sometimes crashes the process.
def test_no_environment_variable_is_added_while_xla_runs(finished):
    assert (finished / "table.md").exists()
    assert tiny.NEW_VARIABLE not in finished.with_suffix(".stderr").read_text()
