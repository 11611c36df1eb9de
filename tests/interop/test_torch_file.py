"""The restricted reader of PyTorch files: accepted and rejected files."""

import argparse
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
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


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_values_that_weights_only_allows_are_read(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.note = "an attribute"
    content = {
        "size": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "dtypes": [torch.float16, torch.bfloat16, torch.bool, torch.float8_e4m3fn],
        "layout": torch.strided,
        "set": {1, 2},
        "frozen": frozenset([3]),
        "counter": Counter("aab"),
        "complex": 2 + 1j,
        "bytes": b"\0\xff",
        "bytearray": bytearray(b"ab"),
        "scalars": [np.float64(2.5), np.int32(-7), np.bool_(True), np.float16(0.5)],
        "parameter": parameter,
        "complex tensor": torch.tensor([1j]),
    }
    actual = read_torch_file(save_torch(tmp_path / "f.pth", content, zipped=zipped))
    np.testing.assert_array_equal(actual.pop("parameter"), [1, 1])
    np.testing.assert_array_equal(actual.pop("complex tensor"), [1j])
    assert actual == {
        "size": (2, 3),
        "device": "cuda:1",
        "dtypes": ["torch.float16", "torch.bfloat16", "torch.bool", "torch.float8_e4m3fn"],
        "layout": "torch.strided",
        "set": {1, 2},
        "frozen": {3},
        "counter": {"a": 2, "b": 1},
        "complex": 2 + 1j,
        "bytes": b"\0\xff",
        "bytearray": b"ab",
        "scalars": [2.5, -7, True, 0.5],
    }


FORMATS: dict[str, Callable[[Any, Any, Path], None]] = {
    "zip": lambda torch, state, path: torch.save(state, path),
    "legacy": lambda torch, state, path: torch.save(
        state, path, _use_new_zipfile_serialization=False
    ),
    "safetensors": lambda torch, state, path: path.write_bytes(safetensors_torch().save(state)),
}


def safetensors_torch() -> Any:
    return pytest.importorskip("safetensors.torch", reason="torch is not installed")


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_bfloat16_is_read_as_equal_float32(tmp_path: Path, write: Callable) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)  # every number, and every NaN
    tensor = bits.view(torch.bfloat16).reshape(256, 256)
    write(torch, {"b": tensor, "a": torch.ones(2, dtype=torch.float16)}, tmp_path / "f")
    arrays = read_torch_file(tmp_path / "f")
    assert (arrays["a"].dtype, arrays["b"].dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(arrays["b"], tensor.float().numpy())


def test_safetensors_keep_values_shape_and_dtype(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    kinds = (torch.float64, torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool)
    state = {f"x{k}": torch.tensor([[0, 1], [2, 3]]).to(kind) for k, kind in enumerate(kinds)}
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3)}
    (tmp_path / "f").write_bytes(safetensors_torch().save(state))
    arrays = read_torch_file(tmp_path / "f")
    assert list(arrays) == sorted(state)
    for name, tensor in state.items():
        assert arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def write_torchscript(torch: Any, path: Path) -> None:
    module = torch.jit.trace(torch.nn.Linear(2, 1), torch.zeros(1, 2))
    torch.jit.save(module, str(path))


def write_exported_program(torch: Any, path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(1, 2),)), path)


def write_lfs_pointer(_: Any, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 14222\n")


STATE_DICT = r"torch\.save\(netG\.state_dict\(\), FILE\)"
FLOAT32 = r"save float32: `torch\.save\(.*v\.float\(\)"
# Files that are no state_dict: how each is written, and what the error says.
REJECTED: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "nothing": (lambda _, path: path.write_bytes(b""), "is empty"),
    "LFS": (write_lfs_pointer, "is a Git LFS pointer.*`git lfs pull`"),
    "page": (lambda _, path: path.write_text("\n<!DOCTYPE html><html>"), "is a web page"),
    "gzip": (lambda _, path: path.write_bytes(b"\x1f\x8b\x08"), "by gzip; unpack it"),
    "script": (write_torchscript, r"is a TorchScript program; .*jit\.load\(FILE\)\.state_dict\(\)"),
    "program": (write_exported_program, r"program of torch\.export; .*load\(FILE\)\.state_dict"),
    "module": (
        lambda torch, path: torch.save(torch.nn.Linear(2, 1), path),
        rf"a whole module \(.* torch\.nn\.modules\.linear\.Linear.*{STATE_DICT}",
    ),
    "old module": (
        lambda torch, path: torch.save(
            torch.nn.Linear(2, 1), path, _use_new_zipfile_serialization=False
        ),
        rf"a whole module \(.* torch\.nn\.modules\.linear\.Linear.*{STATE_DICT}",
    ),
    "arguments": (
        lambda torch, path: torch.save({"a": torch.ones(1), "b": argparse.Namespace(c=1)}, path),
        rf"more than weights \(it asks for argparse\.Namespace.*{STATE_DICT}",
    ),
    "arrays": (
        lambda torch, path: torch.save({"losses": np.ones(2)}, path),
        rf"more than weights \(it asks for numpy.*{STATE_DICT}",
    ),
    "sparse": (lambda torch, path: torch.save(torch.eye(2).to_sparse(), path), FLOAT32),
    "8 bits": (
        lambda torch, path: torch.save(torch.ones(2).to(torch.float8_e4m3fn), path),
        FLOAT32,
    ),
    "8 bits, safetensors": (
        lambda torch, path: path.write_bytes(
            safetensors_torch().save({"a": torch.ones(2).to(torch.float8_e4m3fn)})
        ),
        f"type F8_E4M3.*{FLOAT32}",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about sparse and scripted tensors
@pytest.mark.parametrize(("write", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected_file_says_what_it_is_and_what_to_save(
    tmp_path: Path, write: Callable, message: str
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "f.pth"
    write(torch, path)
    with pytest.raises(UserError, match=message) as error_info:
        read_torch_file(path)
    assert str(error_info.value).startswith(f"{path} ")
    assert "\n" not in str(error_info.value)


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


def test_error_is_one_printable_line_whatever_names_a_file_holds(tmp_path: Path) -> None:
    module = "a\x1b[31m" * 1000
    path = tmp_path / "f"
    path.write_bytes(b"\x80\x02c" + module.encode() + b"\nb\n.")
    with pytest.raises(UserError, match="not allowed") as error_info:
        read_torch_file(path)
    text = str(error_info.value)
    assert text.isprintable()
    assert len(text) < 500
    assert text.endswith("FILE)`")


def test_memo_index_that_would_fill_the_memory_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")  # puts a dict into place 4,294,967,295
    with pytest.raises(UserError, match="memo"):
        read_torch_file(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_of_one_storage_share_memory(tmp_path: Path, zipped: bool, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    flat = torch.arange(6, dtype=getattr(torch, dtype))
    state = {"flat": flat, "first": flat[:2], "rest": flat[2:].reshape(2, 2), "other": flat + 1}
    arrays = read_torch_file(save_torch(tmp_path / "f.pth", state, zipped=zipped))
    assert np.shares_memory(arrays["first"], arrays["flat"])
    assert np.shares_memory(arrays["rest"], arrays["flat"])
    assert not np.shares_memory(arrays["other"], arrays["flat"])
    np.testing.assert_array_equal(arrays["rest"], [[2, 3], [4, 5]])
    np.testing.assert_array_equal(arrays["other"], np.arange(1, 7))


def test_legacy_file_without_one_of_its_storages_is_rejected(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = save_torch(tmp_path / "f.pth", {"a": torch.ones(2), "b": torch.ones(2)}, zipped=False)
    content = path.read_bytes()
    start = content.rindex(b"\x80\x02]")  # the list of keys, after the pickle of the object
    values = content.index(b".", start) + 1
    key = read_keys(content[start:values])[0]
    path.write_bytes(content[:start] + pickle.dumps([key], 2) + content[values : values + 16])
    with pytest.raises(UserError, match="its storages are not those of its tensors"):
        read_torch_file(path)


def read_keys(data: bytes) -> list[str]:
    keys = pickle.loads(data)
    assert len(keys) == 2
    return keys


def test_zip_with_duplicate_members_is_rejected(tmp_path: Path) -> None:
    write_zip(tmp_path / "f", TensorView(0, (4,), (1,)))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "f", "a") as archive,
    ):
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(UserError, match="two of its members have one name"):
        read_torch_file(tmp_path / "f")


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
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_torch_file(tmp_path / "f")
