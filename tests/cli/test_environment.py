"""What surrounds a command: home folder, caches, JAX's variables, encodings, full disks."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from gankd_jax.cli import commands, main
from gankd_jax.study.context import StudyContext
from gankd_jax.utils import atomic_io, sharding
from gankd_jax.utils.errors import UserError

PRETRAINED = str(tiny.REPO / "configs" / "results" / "mnist-small" / "generators")
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def write_statistics(path, seed):
    samples = np.random.default_rng(seed).normal(size=(50, 8))
    np.savez(path, mu=samples.mean(axis=0), sigma=np.cov(samples, rowvar=False))
    return str(path)


def test_a_config_in_the_home_folder_is_found_by_its_tilde(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(tiny.DIGITS, tmp_path / "mine.py")
    for words in (["--config=~/mine.py"], ["--config", "~/mine.py"]):
        status, out, err = command("describe", *words, "--config.study.widths=(2,)")
        assert (status, err) == (0, "")
        assert "digits: 16x16x1" in out
    assert "--config=~/none.py is not a file" in command("describe", "--config=~/none.py")[2]


def test_a_data_folder_of_a_config_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    context = StudyContext(tiny.config(data__dir="~/tf"), tmp_path / "study")
    assert context.data_dir == tmp_path / "tf"


def test_an_error_without_a_file_is_not_blamed_on_the_output(command, monkeypatch):
    def raise_full(_):
        """Stand in for a command."""
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commands, "run_describe", raise_full)
    result = command("describe", f"--config={tiny.DIGITS}")
    assert result == (2, "", "gankd: No space left on device\n")


@pytest.mark.slow
def test_output_that_cannot_be_written_is_one_line(root):
    command = [sys.executable, "-m", "gankd_jax", "describe", f"--config={tiny.DIGITS}"]
    env = tiny.environment(root) | {"PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("w") as full:
        streams = {"stdout": full, "stderr": subprocess.PIPE, "text": True}
        done = subprocess.run(command, cwd=tiny.REPO, env=env, check=False, **streams)
    message = "gankd: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize("home", ["file", "unknown"])
def test_a_home_folder_that_cannot_be_used_costs_the_compilation_cache_alone(
    command, tmp_path, monkeypatch, home
):
    blocked = tmp_path / "home"
    blocked.touch()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME")
    if home == "file":
        monkeypatch.setenv("HOME", str(blocked))
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # raises KeyError, as pwd does
    status, out, err = command("describe", f"--config={tiny.DIGITS}")
    assert status == 0
    assert "digits: 16x16x1" in out
    assert err.startswith("compiled programs are not kept for the next start (")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nosuch"])
def test_a_platform_that_is_not_here_gives_one_line(root, tmp_path, platform):
    words = ["sample", "--pretrained=mnist-d2", f"--out={tmp_path / 'grid.png'}"]
    done = tiny.run_gankd(root, *words, JAX_PLATFORMS=platform)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gankd: JAX_PLATFORMS={platform}: no such device here;")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_jax_enable_x64_changes_no_picture(root, tmp_path):
    words = ["sample", "--pretrained=mnist-d2"]
    plain = tiny.run_gankd(root, *words, f"--out={tmp_path / 'plain.png'}")
    with_x64 = tiny.run_gankd(root, *words, f"--out={tmp_path / 'x64.png'}", JAX_ENABLE_X64="1")
    assert plain.returncode == with_x64.returncode == 0
    assert plain.stderr == ""
    assert with_x64.stderr == "JAX_ENABLE_X64 is ignored: gankd computes in float32\n"
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "x64.png").read_bytes()


def test_a_text_is_printed_whatever_the_encoding():
    main._configure_output()
    assert "5.89 ± 0.15, Fréchet 犬".encode("ascii", "ascii_forms") == b"5.89 +- 0.15, Frechet ?"


def test_scores_of_two_files_of_statistics_need_no_network(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    a, b = (write_statistics(tmp_path / f"{k}.npz", k) for k in range(2))
    out = tmp_path / "new" / "scores.json"
    status, printed, err = command("score", a, b, f"--out={out}")
    assert status == 0, err
    result = json.loads(out.read_text())
    assert f"{result['scores']['fd_8']:.6g}" in printed
    status, _, err = command("score", "nothing", "nothing", f"--out={out}")
    assert (status, err) == (2, f"gankd: {out} exists; name another file or remove it\n")


def test_scores_are_printed_where_their_file_cannot_be_written(command, tmp_path, monkeypatch):
    def raise_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "scores.json")

    monkeypatch.setattr(atomic_io, "write_json", raise_full)
    a = write_statistics(tmp_path / "a.npz", 0)
    status, printed, err = command("score", a, a, f"--out={tmp_path / 'scores.json'}")
    assert (status, err) == (2, "gankd: scores.json: No space left on device\n")
    assert "fd_8" in printed


def test_require_platform_accepts_the_devices_that_are_here():
    sharding.require_platform()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to initialize backend 'cuda': out of memory\nmore"), "out of memory"),
        (AssertionError(), "it has no CUDA"),
    ],
)
@pytest.mark.parametrize("platforms", [None, "", "cuda"])
def test_a_device_that_fails_is_told_by_its_own_reason(monkeypatch, error, reason, platforms):
    def raise_error():
        raise error

    monkeypatch.setattr(jax, "devices", raise_error)
    if platforms is None:
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    else:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    with pytest.raises(UserError) as raised:
        sharding.require_platform()
    if platforms:
        assert str(raised.value).startswith("JAX_PLATFORMS=cuda: no such device here;")
    else:
        assert str(raised.value).startswith("JAX cannot use this machine's device: ")
        assert str(raised.value).endswith(reason)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["distill", "mnist-d2", "--width=1"], "false"),
        (["bench", "--against=torch"], "false"),
        (["bench"], None),
    ],
)
@pytest.mark.parametrize("setting", [None, "true"])
def test_jax_leaves_memory_to_other_frameworks_before_it_starts(
    command, monkeypatch, words, expected, setting
):
    """Unless the user has set how much JAX takes."""
    values = []

    def stop():
        values.append(os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"))
        raise UserError("stopped")

    monkeypatch.setattr(sharding, "require_platform", stop)
    if setting is None:
        monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    else:
        monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", setting)
    assert command(*words)[::2] == (2, "gankd: stopped\n")
    assert values == [setting or expected]
