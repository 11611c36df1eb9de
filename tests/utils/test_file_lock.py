"""Locks between processes."""

import errno

import pytest

from gankd_jax.utils import file_lock
from gankd_jax.utils.errors import UserError


def test_a_lock_is_held_until_its_holder_ends(tmp_path):
    path = tmp_path / "locks" / "run"
    assert not file_lock.is_locked(path)
    with file_lock.hold_lock(path, "the run"):
        assert file_lock.is_locked(path)
        taken = pytest.raises(UserError, match=r"the run is locked by process \d+ on \S+")
        with taken, file_lock.hold_lock(path, "the run"):
            pass
    assert not file_lock.is_locked(path)
    with file_lock.hold_lock(path, "the run"):
        pass


def test_a_lock_file_that_is_removed_meanwhile_is_not_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(file_lock.Path, "exists", lambda _: True)
    assert not file_lock.is_locked(tmp_path / "run")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", none)
    missing = pytest.raises(UserError, match=r"run cannot be locked \(No locks available\)")
    with missing, file_lock.hold_lock(tmp_path / "run", "the run"):
        pass
