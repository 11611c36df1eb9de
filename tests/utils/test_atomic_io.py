"""Files are written whole or not at all."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    atomic_io.write_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    monkeypatch.setattr(
        atomic_io.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        atomic_io.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]  # nothing half-written is left


def test_of_two_processes_that_write_if_absent_the_first_wins(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a"
    for value in (b"1", b"2"):
        atomic_io.write_bytes_if_absent(path, value)
    assert path.read_bytes() == b"1"
    assert [entry.name for entry in path.parent.iterdir()] == ["a"]
    monkeypatch.setattr(atomic_io.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    atomic_io.write_bytes_if_absent(tmp_path / "b", b"3")
    assert (tmp_path / "b").read_bytes() == b"3"


def test_a_file_has_the_usual_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", None)  # a call, which changes it for all threads, would fail
    atomic_io.write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_round_trips(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"c": "ä"}}
    atomic_io.write_json(tmp_path / "v.json", value)
    assert atomic_io.read_json(tmp_path / "v.json") == value
    assert (tmp_path / "v.json").read_text().endswith("}\n")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    atomic_io.write_png(tmp_path / "p.png", pixels)
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_arrays_round_trip_and_objects_are_not_unpickled(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array(0.5)}
    atomic_io.write_npz(tmp_path / "a.npz", **arrays)
    found = atomic_io.read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)
    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    (tmp_path / "bad.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        atomic_io.read_npz(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, np.nan], "x holds values that are not finite"),
        ([1.0, -np.inf], "x holds values that are not finite"),
        ([1j], "x holds complex128, not real numbers"),
        (["a"], "x holds <U1, not real numbers"),
        (np.array(["2026-01-01"], "M8[D]"), "not real numbers"),
    ],
)
def test_arrays_of_other_than_finite_real_numbers_are_refused(tmp_path, values, reason):
    path = tmp_path / "a.npz"
    np.savez(path, x=values)
    with pytest.raises(ValueError, match=reason):
        atomic_io.read_npz(path)
    with pytest.raises(UserError, match=rf"a\.npz is damaged \(.*{reason}\); delete it and run"):
        atomic_io.read_own_npz(path)


def test_an_array_that_is_stored_twice_or_followed_by_bytes_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3))
    with zipfile.ZipFile(tmp_path / "longer.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"more")
    with pytest.raises(ValueError, match="holds more than an array"):
        atomic_io.read_npz(tmp_path / "longer.npz")
    with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
        archive.writestr("x", buffer.getvalue())
    with pytest.raises(ValueError, match="holds the array x twice"):
        atomic_io.read_npz(tmp_path / "twice.npz")
