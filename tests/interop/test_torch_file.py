"""The restricted reader of PyTorch files: files that it reads, and files that it refuses."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.utils.errors import UserError


def saved(path: Path, value: Any, *, zipped: bool) -> Path:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_are_read_as_torch_wrote_them(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = OrderedDict(
        plain=base,
        permuted=base.permute(2, 0, 1),
        part=base[1, 1:, ::2],
        parameter=torch.nn.Parameter(base.double()),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        half=torch.tensor([0.5, -2.0], dtype=torch.float16),
        flags=torch.tensor([True, False]),
    )
    content = {"state_dict": state, "epoch": 3, "name": "x", "lr": [0.1, None]}
    actual = read_torch_file(saved(tmp_path / "f.pth", content, zipped=zipped))
    assert (actual["epoch"], actual["name"], actual["lr"]) == (3, "x", [0.1, None])
    assert list(actual["state_dict"]) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().numpy()
        assert actual["state_dict"][name].dtype == expected.dtype
        np.testing.assert_array_equal(actual["state_dict"][name], expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_modules_state_dict_is_read(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
    arrays = read_torch_file(saved(tmp_path / "f.pth", state, zipped=zipped))
    assert list(arrays) == list(state)
    np.testing.assert_array_equal(arrays["0.weight"], state["0.weight"].numpy())
    assert arrays["1.num_batches_tracked"] == 0


class Runs:
    """What a harmful file holds: unpickling it calls a function of the file's choice."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_names_code_is_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "f.pth", {"a": Runs()}, zipped=zipped)
    with pytest.raises(UserError, match="not allowed"):
        read_torch_file(path)
    assert not Path("harm").exists()


def test_a_bare_pickle_is_refused_without_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.pth").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(UserError, match="not allowed"):
        read_torch_file(Path("f.pth"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_short_is_one_clear_line(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = saved(tmp_path / "f.pth", {"a": torch.zeros(1000)}, zipped=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"f\.pth: not a PyTorch file"):
        read_torch_file(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme", "hello")
    for name in ("text", "zip"):
        with pytest.raises(UserError, match="not a PyTorch file"):
            read_torch_file(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(tmp_path / "none")


class Tensor:
    """Pickled as torch pickles a tensor: a view of a storage, of any shape one likes."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.view = (offset, shape, strides)


def write_zip(path: Path, tensor: Tensor) -> None:
    """A torch zip with one tensor that claims to view a storage of four floats."""
    offset, shape, strides = tensor.view
    # a function and its arguments, the first a persistent id, in the opcodes that torch uses
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
    numbers = [pickle.dumps(x, protocol=2)[2:-1] for x in (offset, shape, strides)]
    rest = b"\x89ccollections\nOrderedDict\n)RtR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", head + storage + b"".join(numbers) + rest)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())


def test_a_view_inside_its_storage_is_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "f", Tensor(1, (3,), (1,)))
    np.testing.assert_array_equal(read_torch_file(tmp_path / "f"), [1, 2, 3])


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(0, (5,), (1,)),
        Tensor(1, (2, 2), (2, 1)),
        Tensor(4, (1,), (1,)),
        Tensor(-1, (2,), (1,)),
        Tensor(3, (2,), (-1,)),
        Tensor(0, (1 << 40,), (0,)),
        Tensor(0, (2, 2), (1,)),
    ],
    ids=lambda tensor: str(tensor.view),
)
def test_a_view_past_its_storage_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    write_zip(tmp_path / "f", tensor)
    with pytest.raises(UserError, match="not a PyTorch file of plain tensors"):
        read_torch_file(tmp_path / "f")
