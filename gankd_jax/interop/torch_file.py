"""Reads the tensors of PyTorch's files without torch, and without running code from them."""

from __future__ import annotations

import functools
import io
import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors import SafetensorError

from gankd_jax.interop.safe_unpickler import (
    BFLOAT16,
    IS_TORCH_SCRIPT,
    SAVE_FLOAT32,
    RefusedError,
    SafeUnpickler,
)
from gankd_jax.utils.errors import UserError

MAX_REASON = 400  # characters of a message that can come from the file
_LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001)  # magic number, version
# What begins like this is no PyTorch file.
_OTHER_FILES = {
    rb"\Z": "is empty; copy or download it again",
    rb"version https://git-lfs": "is a Git LFS pointer, not the weights; `git lfs pull` gets them",
    rb"\s*<(!doctype|html|\?xml)": "is a web page, not the weights; download them again",
    rb"\x1f\x8b": "is compressed by gzip; unpack it first",
}
# dtypes of safetensors that NumPy has, and bfloat16
_SAFETENSORS_DTYPES = {
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BF16": BFLOAT16,
    "BOOL": np.dtype("<?"),
    "C64": np.dtype("<c8"),
}
# Errors from damaged bytes.
_DAMAGE = (
    *(AttributeError, EOFError, KeyError, IndexError, TypeError, ValueError, OverflowError),
    *(MemoryError, RuntimeError),  # from sizes and depths that the file claims to have
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, SafetensorError),
)


def read_torch_file(path: Path) -> Any:
    """Reads a file that `torch.save` or safetensors wrote, with tensors as NumPy arrays.

    Both formats of `torch.save` are read: the zip of torch 1.6 and later, and the older one.  A
    file may hold what `torch.load(weights_only=True)` accepts: tensors, dicts, lists, numbers,
    text, sizes, devices, dtypes.  If it names any other class or function, it is refused, so none
    is imported or called.  Numbers in bfloat16 become float32, which holds each of them.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged, has another format, or holds more than that.
    """
    try:
        with path.open("rb") as file:
            return _read(file, size=path.stat().st_size)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except RefusedError as error:
        raise UserError(f"{path} {format_reason(error)}") from error
    except _DAMAGE as error:
        reason = format_reason(error) or type(error).__name__
        raise UserError(
            f"{path}: not a PyTorch file, or one cut short or damaged ({reason})"
        ) from error


def format_reason(reason: object) -> str:
    """Returns a text with parts from a file as one printable line of limited length."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(reason))
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]} ..."


def _read(file: io.BufferedIOBase, *, size: int) -> Any:
    head = file.read(64)
    file.seek(0)
    for pattern, description in _OTHER_FILES.items():
        if re.match(pattern, head, re.IGNORECASE):
            raise RefusedError(description)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(file)
    # the length of a header in JSON, and the header
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return _read_safetensors(file.read())
    if not head.startswith(b"\x80"):  # a pickle
        raise ValueError(f"it begins with {head[:4]!r}")
    return _read_legacy(file, size=size)


def _read_zip(file: io.BufferedIOBase) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        root = _find_root(names)
        if len(set(names)) < len(names):
            raise ValueError("two of its members have one name")
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed, which torch.save does not do")
        byteorder = f"{root}byteorder"
        if byteorder in names and archive.read(byteorder) != b"little":
            raise ValueError("it was written on a big-endian machine")

        @functools.cache  # tensors share storages: a flat buffer of parameters is read once
        def read_storage(dtype: np.dtype, key: str, length: int) -> np.ndarray:
            return _decode_values(archive.read(f"{root}data/{key}"), dtype, length)

        pickled = io.BytesIO(archive.read(f"{root}data.pkl"))
        content = SafeUnpickler(pickled, read_storage).load()
        if pickled.read(1):
            raise ValueError("its pickle ends too early")
        return content


def _find_root(names: list[str]) -> str:
    """Returns the folder in a zip that holds data.pkl, with its slash."""
    if any("/code/__torch__" in name for name in names):
        raise RefusedError(IS_TORCH_SCRIPT)
    if any(name.endswith("models/model.json") for name in names):
        save = "torch.save(torch.export.load(FILE).state_dict, NEW_FILE)"
        raise RefusedError(f"is a program of torch.export; save its weights alone: `{save}`")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("no data.pkl in it" if not roots else "two data.pkl in it")
    return roots[0]


def _read_legacy(file: io.BufferedIOBase, *, size: int) -> Any:
    """Reads the format before torch 1.6.

    It consists of pickles of a magic number, a version, the machine, the object and the keys of its
    storages; then of each storage's length and values.
    """
    storages: dict[str, np.ndarray] = {}
    dtypes: dict[str, np.dtype] = {}

    def read_storage(dtype: np.dtype, key: str, length: int) -> np.ndarray:
        if length * dtype.itemsize > size:
            raise ValueError("a storage is larger than the file")
        if key not in storages:
            storages[key] = np.empty(length, np.float32 if dtype == BFLOAT16 else dtype)
            dtypes[key] = dtype
        if (storages[key].size, dtypes[key]) != (length, dtype):
            raise ValueError("a storage has two sizes")
        return storages[key]

    pickles = [SafeUnpickler(file, read_storage).load() for _ in range(5)]
    magic, version, machine, content, keys = pickles
    if (magic, version) != _LEGACY_HEADER or not machine["little_endian"]:
        raise ValueError("not little-endian, or not written by torch.save")
    if sorted(keys) != sorted(storages):
        raise ValueError("its storages are not those of its tensors")
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        if length != storages[key].size:
            raise ValueError("a storage has another length than its tensors say")
        data = file.read(length * dtypes[key].itemsize)
        storages[key][:] = _decode_values(data, dtypes[key], length)
    return content


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in safetensors.deserialize(content):
        if tensor["dtype"] not in _SAFETENSORS_DTYPES:
            raise RefusedError(
                f"holds numbers of type {tensor['dtype']} ({name}); save float32: `{SAVE_FLOAT32}`"
            )
        dtype, shape = _SAFETENSORS_DTYPES[tensor["dtype"]], tensor["shape"]
        length = int(np.prod(shape, dtype=object))
        arrays[name] = _decode_values(tensor["data"], dtype, length).reshape(shape)
    return dict(sorted(arrays.items()))  # the library's order differs from call to call


def _decode_values(data: bytes | bytearray, dtype: np.dtype, length: int) -> np.ndarray:
    """Returns the values of a storage; bfloat16 becomes float32, which NumPy can compute with."""
    if len(data) != length * dtype.itemsize:
        raise ValueError("a storage has another length than its tensors say")
    values = np.frombuffer(data, dtype)
    return values.astype(np.float32) if dtype == BFLOAT16 else values
