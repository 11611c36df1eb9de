"""Unpickles tensors and plain values; whatever else a pickle names is refused, not imported."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from gankd_jax.utils.atomic_io import require_dense_memo

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "ComplexDoubleStorage": np.dtype("<c16"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("<?"),
}
SAVE_WEIGHTS = "torch.save(netG.state_dict(), FILE)"
SAVE_FLOAT32 = "torch.save({k: v.float() for k, v in netG.state_dict().items()}, FILE)"
SAVE_SCRIPTED = "torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
IS_TORCH_SCRIPT = f"is a TorchScript program; its weights alone are saved by `{SAVE_SCRIPTED}`"
_DTYPE_NAME = r"((b?float|complex|q?u?int)\d+(_\w+)?|bool)"  # such as bfloat16, quint4x2

# (dtype, key, number of values) -> values of a storage
StorageReader = Callable[[np.dtype, str, int], np.ndarray]


class RefusedError(Exception):
    """A file holds more than tensors and plain values; the text says what, and what to do."""


class SafeUnpickler(pickle.Unpickler):
    """Unpickles what `torch.load(weights_only=True)` would, with replacements of every class."""

    def __init__(self, file: io.BufferedIOBase, read_storage: StorageReader):
        super().__init__(file)
        self._file = file
        self._read_storage = read_storage

    def load(self) -> Any:
        """Reads one pickle, after a check of its opcodes."""
        start = self._file.tell()
        with warnings.catch_warnings(action="ignore"):  # of escapes in damaged text
            require_dense_memo(self._file)
            self._file.seek(start)
            return super().load()

    def find_class(self, module: str, name: str) -> Any:
        """Returns a replacement for an allowed name; a new one each time, which no file altered."""
        if module == "torch" and name in STORAGES:
            return name
        if module == "torch" and re.fullmatch(_DTYPE_NAME, name):
            return f"torch.{name}"
        constructor = _CONSTRUCTORS.get((module.replace("__builtin__", "builtins"), name))
        if constructor is None:
            raise RefusedError(_describe_refused_name(module, name))
        return lambda *arguments: constructor(*arguments)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Returns the storage that a tensor is a view of."""
        kind, name, key, _, length, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise ValueError("it holds something other than a plain storage")
        return self._read_storage(STORAGES[name], key, length)


class _NumpyDtype:
    """What `numpy.dtype` is unpickled to."""

    def __init__(self, code: str, *_: object):
        self._code, self._order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self._order = state[1]

    def read_scalar(self, data: bytes) -> Any:
        """Returns the only value in `data`."""
        (value,) = np.frombuffer(data, np.dtype(self._order + self._code))
        return value


def _view_storage(
    storage: np.ndarray,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool = False,
    hooks: object = None,
) -> np.ndarray:
    """Returns a view of a storage, after checking that it lies inside; strides count values."""
    if not isinstance(requires_grad, bool):
        raise ValueError("a tensor has an unknown property")
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    if min((offset, *shape, *strides)) < 0 or np.prod(shape, dtype=object) > storage.size:
        raise ValueError("a tensor does not fit its storage")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    if offset + sum(steps) >= storage.size:
        raise ValueError("a tensor does not fit its storage")
    in_bytes = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, in_bytes)


def _first(value: Any, *_: object) -> Any:
    return value


def _encode(text: str, *_: object) -> bytes:
    return text.encode("latin-1")


# What stands for each name that a file may use.  None of them can do harm.
_CONSTRUCTORS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _view_storage,
    ("torch._utils", "_rebuild_tensor_v2"): _view_storage,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda build, _, arguments, __: build(*arguments),
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch", "Tensor"): _first,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
    ("torch.serialization", "_get_layout"): _first,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): dict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): _first,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _NumpyDtype,
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: dtype.read_scalar(data),
    ("numpy._core.multiarray", "scalar"): lambda dtype, data: dtype.read_scalar(data),
}


def _describe_refused_name(module: str, name: str) -> str:
    """Returns what a file is that asks for a name which is not allowed, and what to do."""
    asks = f"it asks for {f'{module}.{name}':.100}, which is not allowed"
    if module.startswith("__torch__"):
        return IS_TORCH_SCRIPT
    if module.startswith("torch.nn."):
        return f"holds a whole module ({asks}); save its weights: `{SAVE_WEIGHTS}`"
    if module.startswith("torch") and re.search("Storage|_rebuild_.*tensor", name):
        return f"holds tensors of a rare kind ({asks}); save float32: `{SAVE_FLOAT32}`"
    return f"holds more than weights ({asks}); save these alone: `{SAVE_WEIGHTS}`"
