"""Small files, written whole or not at all; checks of what files of others hold."""

import io
import json
import lzma
import os
import pickletools
import secrets
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.utils.errors import UserError

MAX_NPZ_BYTES = 2**30  # bytes that an .npz may unpack to
_MAX_ZIP_END = 22 + 2**16  # bytes of a zip's last record and its comment
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, MemoryError)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces the file `path` in one move, so that no reader sees half of it.

    Raises:
        OSError: It cannot be written; the error names `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_and_move(path, data)
    except OSError as error:  # the system names a temporary file, or none if the disk is full
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write_and_move(path: Path, data: bytes) -> None:
    # Opened here, it has the usual mode; files of `tempfile` are private.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave the name alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text())


def write_png(path: Path, image: UInt8[np.ndarray, "h w c"]) -> None:
    """Writes an image as small as PNG can be, grey for one channel and RGB for three.

    Args:
        path: The file.
        image: 0..255.
    """
    write_bytes(path, encode_png(image, optimize=True))


def encode_png(image: UInt8[np.ndarray, "h w c"], *, optimize: bool = False) -> bytes:
    """Encodes an image as PNG, grey for one channel and RGB for three.

    Args:
        image: 0..255.
        optimize: Whether to take longer for fewer bytes.
    """
    buffer = io.BytesIO()
    to_pillow(image).save(buffer, format="png", optimize=optimize)
    return buffer.getvalue()


def to_pillow(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Returns an image as Pillow's, grey for one channel and RGB for three.

    Args:
        image: 0..255.
    """
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def write_png_folder(folder: Path, images: Iterator[UInt8[np.ndarray, "h w c"]]) -> None:
    """Writes images as 000000.png and so on into a new or empty folder: all of them or none.

    Args:
        folder: The folder.
        images: 0..255.

    Raises:
        OSError: It cannot be written; the error names `folder`.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
            new = Path(work, "images")  # it gets the mode of any new folder, which `work` has not
            new.mkdir()
            for number, image in enumerate(images):
                (new / f"{number:06d}.png").write_bytes(encode_png(image))
            new.rename(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error


def write_npz(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays as a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_bytes_if_absent(path: Path, data: bytes) -> None:
    """Writes a file as `write_bytes`, unless another process was first, whose file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        temporary = Path(folder, path.name)
        write_bytes(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # the file system has no hard links
            temporary.replace(path)


def read_npz(path: Path, *, max_bytes: int = MAX_NPZ_BYTES) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz; Python objects are refused, so that nothing is unpickled.

    Args:
        path: The file.
        max_bytes: What it may unpack to.

    Raises:
        ValueError: It is no .npz, is damaged, unpacks to more than `max_bytes`, or holds more than
            arrays of finite, real numbers.
        OSError: The file cannot be read.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > max_bytes:
                raise ValueError(f"it unpacks to more than {max_bytes} bytes")
            if _count_members(path) != len(archive.infolist()):
                raise ValueError("its directory is damaged")
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"it holds the array {name} twice")
                arrays[name] = _read_array(archive, member)
    except _DAMAGED as error:
        raise ValueError(f"it is damaged or no .npz: {error}") from error
    for name, values in arrays.items():
        if values.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {values.dtype}, not real numbers")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite")
    return arrays


def read_own_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads an .npz that this program wrote and can write again.

    Raises:
        UserError: It is damaged or cannot be read.
    """
    try:
        return read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from error


def require_dense_memo(file: io.BufferedIOBase) -> None:
    """Refuses a pickle that numbers an object of its memo as no pickler does.

    The unpickler has a place for each smaller number, so that a few bytes would fill all memory.

    Args:
        file: The pickle, which is read to its end.

    Raises:
        ValueError: A number is larger than that of the opcodes before it, or the pickle is damaged.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name.endswith("PUT") and (argument or 0) > count:
            raise ValueError("its memo has holes")


def _count_members(path: Path) -> int:
    """Returns the number of members that the end of a zip states; `zipfile` does not compare it."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _MAX_ZIP_END), os.SEEK_END)
        end = file.read()
    (count,) = struct.unpack_from("<H", end, end.rindex(b"PK\5\6") + 10)
    return int(count)


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array to its end; numpy alone would skip the check sum of one that seems shorter."""
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"{member.filename} holds more than an array")
    return array
