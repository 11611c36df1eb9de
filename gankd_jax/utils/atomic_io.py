"""Small files, written whole or not at all."""

import io
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.utils.errors import UserError

MAX_NPZ_BYTES = 2**30  # bytes that an .npz may unpack to


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one move, so that no reader sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else the name could outlive the bytes, where the power fails
        # mkstemp's files are private; give this one what the umask allows, as open() would.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def require_absent(out: Path) -> None:
    """Refuse to write over what is there.

    Raises:
      UserError: it exists.
    """
    if out.exists():
        raise UserError(f"{out} exists; name another file or remove it")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text())


def write_png(path: Path, picture: UInt8[np.ndarray, "h w c"]) -> None:
    """Write a picture; one channel is grey."""
    buffer = io.BytesIO()
    pixels = picture[..., 0] if picture.shape[2] == 1 else picture
    Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    write_bytes(path, buffer.getvalue())


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_npz_if_absent(path: Path, **arrays: np.ndarray) -> None:
    """The same, unless another process was first: its file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        own = Path(folder, path.name)
        write_npz(own, **arrays)
        try:
            os.link(own, path)
        except FileExistsError:
            return
        except OSError:  # the file system has no links
            own.replace(path)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz; objects in it are refused, so nothing is unpickled.

    Raises:
      ValueError: it is no .npz, is damaged, or holds more than arrays of at most `LARGEST` bytes.
      OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as members:
            if sum(member.file_size for member in members.infolist()) > MAX_NPZ_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_NPZ_BYTES} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            found = dict(arrays)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, MemoryError) as error:
        raise ValueError(f"it is damaged or no .npz: {error}") from error
    if not all(isinstance(values, np.ndarray) for values in found.values()):
        raise ValueError("it holds more than arrays")
    return found
