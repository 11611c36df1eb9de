"""Reads the tensors of a PyTorch file without torch, and without running code from it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gankd_jax.utils.errors import UserError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}

# (dtype, key, number of values) -> values of a storage
_StorageReader = Callable[[np.dtype, str, int], np.ndarray]


def read_torch_file(path: Path) -> Any:
    """Reads a file that `torch.save` wrote, with tensors as NumPy arrays.

    Both formats are read: the zip of torch 1.6 and later, and the older one.  A file may hold
    dicts, lists, numbers, text and tensors.  If it names any other class or function, it is
    refused, so none is imported or called.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged, has another format, or holds more than plain tensors.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_zip(file) if zipped else _read_legacy(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, *_DAMAGE) as error:
        raise UserError(f"{path}: not a PyTorch file of plain tensors ({error})") from error


# Errors of unpickling damaged bytes.
_DAMAGE = (
    *(AttributeError, EOFError, IndexError, KeyError, TypeError, ValueError, OverflowError),
    *(MemoryError, RecursionError),  # from sizes and depths that the file claims to have
)


class _Unpickler(pickle.Unpickler):
    """Resolves only the few names that a state_dict needs."""

    def __init__(self, file: io.BufferedIOBase, read_storage: _StorageReader):
        super().__init__(file)
        self._read_storage = read_storage

    def find_class(self, module: str, name: str) -> Any:
        """Returns a replacement for an allowed name; a new one each time, which no file altered."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _view_storage(*arguments[:4])
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns the storage that a tensor is a view of."""
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise pickle.UnpicklingError("it holds something other than a plain storage")
        return self._read_storage(dtype, key, length)


def _view_storage(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """Returns a view of a storage, after checking that it lies inside; strides count values."""
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    if min((offset, *shape, *strides)) < 0 or np.prod(shape, dtype=object) > storage.size:
        raise ValueError("a tensor does not fit its storage")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if offset + sum(steps) >= storage.size:
        raise ValueError("a tensor does not fit its storage")
    in_bytes = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes)


def _read_zip(file: io.BufferedReader) -> Any:
    with zipfile.ZipFile(file) as archive:
        index = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
        if index is None:
            raise ValueError("no data.pkl in it")
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed, which torch.save does not do")
        root = index.removesuffix("data.pkl")
        byteorder = f"{root}byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder) != b"little":
            raise ValueError("it was written on a big-endian machine")

        def read_storage(dtype: np.dtype, key: str, length: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype, length)

        return _Unpickler(io.BytesIO(archive.read(index)), read_storage).load()


def _read_legacy(file: io.BufferedReader) -> Any:
    """Reads the format before torch 1.6.

    It consists of pickles of a magic number, a version, the machine, the object and the keys of its
    storages; then of each storage's length and values.
    """
    size = Path(file.name).stat().st_size
    storages: dict[str, np.ndarray] = {}

    def read_storage(dtype: np.dtype, key: str, length: int) -> np.ndarray:
        if length * dtype.itemsize > size:
            raise ValueError("a storage is larger than the file")
        return storages.setdefault(key, np.empty(length, dtype))

    magic, _, machine, content, keys = (_Unpickler(file, read_storage).load() for _ in range(5))
    if magic != _LEGACY_MAGIC or not machine["little_endian"]:
        raise ValueError("not little-endian, or not written by torch.save")
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        if length != storages[key].size:
            raise ValueError("a storage has another length than its tensors say")
        storages[key][:] = np.frombuffer(file.read(storages[key].nbytes), storages[key].dtype)
    return content
