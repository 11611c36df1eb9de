"""The restricted reader of PyTorch files: accepted and rejected files."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.utils.errors import UserError


def save_torch(path: Path, value: Any, *, zipped: bool) -> Path:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_keep_values_shape_and_dtype(tmp_path: Path, zipped: bool) -> None:
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
    actual = read_torch_file(save_torch(tmp_path / "f.pth", content, zipped=zipped))
    assert (actual["epoch"], actual["name"], actual["lr"]) == (3, "x", [0.1, None])
    assert list(actual["state_dict"]) == list(state)
    for name, tensor in state.items():
        expected = tensor.detach().numpy()
        assert actual["state_dict"][name].dtype == expected.dtype
        np.testing.assert_array_equal(actual["state_dict"][name], expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_state_dict_of_a_module_is_read(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
    arrays = read_torch_file(save_torch(tmp_path / "f.pth", state, zipped=zipped))
    assert list(arrays) == list(state)
    np.testing.assert_array_equal(arrays["0.weight"], state["0.weight"].numpy())
    assert arrays["1.num_batches_tracked"] == 0


class MaliciousObject:
    """Content of a malicious file: unpickling it creates the file `harm`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_file_with_code_is_rejected_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_torch(tmp_path / "f.pth", {"a": MaliciousObject()}, zipped=zipped)
    with pytest.raises(UserError, match="not allowed"):
        read_torch_file(path)
    assert not Path("harm").exists()


def test_bare_pickle_is_rejected_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.pth").write_bytes(pickle.dumps(MaliciousObject()))
    with pytest.raises(UserError, match="not allowed"):
        read_torch_file(Path("f.pth"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_file_raises_user_error(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = save_torch(tmp_path / "f.pth", {"a": torch.zeros(1000)}, zipped=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"f\.pth: not a PyTorch file"):
        read_torch_file(path)


def test_files_of_other_formats_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello\n")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("readme", "hello")
    for name in ("text", "zip"):
        with pytest.raises(UserError, match="not a PyTorch file"):
            read_torch_file(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(tmp_path / "none")


class TensorView:
    """Offset, shape and strides of a tensor in its storage, which may lie outside of it."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.view = (offset, shape, strides)


def write_zip(path: Path, tensor: TensorView) -> None:
    """Writes a torch zip with one tensor that claims to view a storage of four floats."""
    offset, shape, strides = tensor.view
    # Torch's opcodes: a function and its arguments, the first of which is a persistent id.
    head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
    numbers = [pickle.dumps(x, protocol=2)[2:-1] for x in (offset, shape, strides)]
    tail = b"\x89ccollections\nOrderedDict\n)RtR."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", head + storage + b"".join(numbers) + tail)
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())


def test_view_inside_its_storage_is_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "f", TensorView(1, (3,), (1,)))
    np.testing.assert_array_equal(read_torch_file(tmp_path / "f"), [1, 2, 3])


@pytest.mark.parametrize(
    "tensor",
    [
        TensorView(0, (5,), (1,)),
        TensorView(1, (2, 2), (2, 1)),
        TensorView(4, (1,), (1,)),
        TensorView(-1, (2,), (1,)),
        TensorView(3, (2,), (-1,)),
        TensorView(0, (1 << 40,), (0,)),
        TensorView(0, (2, 2), (1,)),
    ],
    ids=lambda tensor: str(tensor.view),
)
def test_view_outside_its_storage_is_rejected(tmp_path: Path, tensor: TensorView) -> None:
    write_zip(tmp_path / "f", tensor)
    with pytest.raises(UserError, match="not a PyTorch file of plain tensors"):
        read_torch_file(tmp_path / "f")
