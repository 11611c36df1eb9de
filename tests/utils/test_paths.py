"""The user's paths: the home folder, caches, outputs that are tried first."""

import errno
import os
import pwd
from pathlib import Path

import pytest

from gankd_jax.utils import atomic_io, paths
from gankd_jax.utils.errors import UserError


def test_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert paths.expand_path("~/data") == tmp_path / "data"
    assert paths.user_cache_dir() == tmp_path / ".cache" / "gankd-jax"


def test_tilde_of_a_user_without_a_password_entry_is_refused(monkeypatch):
    def raise_key_error(_: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", raise_key_error)
    assert paths.expand_path("data") == Path("data")
    with pytest.raises(UserError, match="~/data: the home folder is not known; set HOME"):
        paths.expand_path("~/data")


def test_a_cache_that_cannot_be_written_is_warned_of_once(tmp_path, caplog):
    blocked = tmp_path / "cache"
    blocked.write_text("a file, where a folder is needed")
    for name in ("a.npz", "b.npz"):
        target = blocked / name
        paths.write_cache(target, lambda target=target: atomic_io.write_bytes(target, b"x"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{blocked} cannot be written (File exists): continuing without a cache"
    ]


def test_a_new_file_is_tried_before_the_work(tmp_path):
    out = tmp_path / "new" / "scores.json"
    paths.require_new_file(out)
    assert list(out.parent.iterdir()) == []  # nothing is left behind
    out.write_text("{}")
    with pytest.raises(UserError, match="exists; name another file or remove it"):
        paths.require_new_file(out)
    with pytest.raises(UserError, match=r"--out=.*below cannot be written: "):
        paths.require_new_file(out / "below")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch, function):
    def raise_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, raise_full)
    with pytest.raises(OSError, match="No space left on device") as error:
        atomic_io.write_bytes(tmp_path / "table.md", b"text")
    assert error.value.filename == str(tmp_path / "table.md")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
