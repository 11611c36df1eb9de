"""Reads pickled arrays, as in CIFAR-10's Python archive, without running code of the pickle."""

import io
import pickle
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gankd_jax.utils.atomic_io import require_dense_memo


class _StoredArray:
    """Stands for an array of a pickle, and takes what would be the array's state."""

    state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _StoredType:
    """Stands for an array's dtype."""

    def __init__(self, code: str | bytes, *options: object):
        self.code = _to_text(code)

    def __setstate__(self, state: tuple) -> None:
        """Takes the byte order, which bytes have not."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds lists, dicts, texts and numbers, and what stands for arrays; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        stand_ins = {
            ("multiarray", "_reconstruct"): lambda *_: _StoredArray(),
            ("numpy", "ndarray"): _StoredArray,
            ("numpy", "dtype"): _StoredType,
            # How Python 3 writes bytes for Python 2.
            ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
        }
        if (module, name) not in stand_ins:
            raise ValueError(f"it refers to {module}.{name}, no part of an array")
        return stand_ins[module, name]


def load_byte_arrays(content: bytes) -> dict[str, Any]:
    """Reads a pickled dict of arrays of bytes, lists and texts, of Python 2 or 3.

    Args:
        content: The pickle.

    Returns:
        Its values by key; an array as uint8.

    Raises:
        ValueError: It is damaged, is not such a dict, or refers to anything but such arrays.
    """
    try:
        require_dense_memo(io.BytesIO(content))
        values = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {
            _to_text(key): _to_array(value) if isinstance(value, _StoredArray) else value
            for key, value in values.items()
        }
    except ValueError:
        raise
    except Exception as error:  # a damaged pickle raises errors of many kinds
        raise ValueError(f"no pickled arrays: {' '.join(str(error).split())[:200]}") from error


def _to_text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _to_array(stored: _StoredArray) -> UInt8[np.ndarray, "..."]:
    _, shape, dtype, is_fortran, content = stored.state
    if dtype.code not in ("u1", "|u1"):
        raise ValueError(f"an array holds {dtype.code}, not bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")
