"""Writes arrays as a PyTorch file, without torch."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gankd_jax.utils import atomic_io

_STORAGES = {
    np.dtype("<f4"): "FloatStorage",
    np.dtype("<f2"): "HalfStorage",
    np.dtype("<i8"): "LongStorage",
    np.dtype("i1"): "CharStorage",
}


def write_torch(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a PyTorch file: `torch_bytes`."""
    atomic_io.write_bytes(path, torch_bytes(arrays))


def torch_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named float32, float16, int64 and int8 arrays as `torch.save` writes a dict of tensors.

    The format is that of torch 1.6 and later: an uncompressed zip of one pickle and of each
    tensor's bytes. Equal arrays make equal files. `torch.load(path, weights_only=True)` reads it.
    """
    members = {"data.pkl": _pickled(arrays), "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{k}": _bytes(values) for k, values in enumerate(arrays.values())}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()


def _bytes(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The dict in the opcodes that torch uses: pickle itself would import what they name."""
    items = b"".join(_text(name) + _tensor(k, a) for k, (name, a) in enumerate(arrays.items()))
    dictionary = pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + dictionary + pickle.STOP


def _tensor(key: int, values: np.ndarray) -> bytes:
    """A call of the function that makes a tensor from a storage, which stands in file data/key."""
    kind = _global("torch", _STORAGES[values.dtype.newbyteorder("<")])
    size = _integer(values.size)
    storage = _tuple([_text("storage"), kind, _text(str(key)), _text("cpu"), size])
    shape = _tuple(map(_integer, values.shape))
    strides = _tuple(_integer(int(np.prod(values.shape[k + 1 :]))) for k in range(values.ndim))
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    offset, needs_gradient = _integer(0), pickle.NEWFALSE
    view = [storage + pickle.BINPERSID, offset, shape, strides, needs_gradient, hooks]
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(view) + pickle.REDUCE


def _tuple(parts: Iterable[bytes]) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _integer(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)
