"""Original files as people have them: found in folders, read from archives or unpacked folders."""

import contextlib
import functools
import gzip
import io
import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from gankd_jax.data.image_files import is_hidden
from gankd_jax.data.registry import Dataset, SourceFile
from gankd_jax.utils.errors import UserError

_MAX_DEPTH = 3  # of a file below the folder that a person names, such as MNIST/raw
_GZIP_MAGIC = b"\x1f\x8b"
_TAR_LIMIT = 1 << 28  # bytes of an unpacked tar; CIFAR-10's has 184 MB


@dataclass(frozen=True)
class Member:
    """A file of a folder or archive.

    Attributes:
        name: Its path there.
        size: In bytes.
        read: Returns its content.
    """

    name: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Advice:
    """What the messages about a file say that its user can do.

    Attributes:
        if_damaged: About one that cannot be read.
        if_unsafe: About an archive with a link, or a member outside its folder.
    """

    if_damaged: str
    if_unsafe: str


PUBLISHED = Advice("fetch it again", "it is not the original archive")


@contextmanager
def reading_file(path: Path, advice: Advice = PUBLISHED) -> Iterator[None]:
    """Turns the errors that decompressors and decoders raise for a bad file into a UserError.

    Args:
        path: The file, for the message.
        advice: What the message says to do.
    """
    try:
        yield
    except (
        OSError,
        EOFError,
        RuntimeError,  # what zipfile raises for an encrypted member
        ValueError,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        Image.DecompressionBombError,
    ) as error:
        message = f"{path} is damaged or cut short ({error}): {advice.if_damaged}"
        raise UserError(message) from error


def find_files(dataset: Dataset, source: Path) -> dict[str, Path]:
    """Finds the original files of a data set, in the forms in which people have them.

    A file may lie up to `_MAX_DEPTH` folders deep.  The shallowest counts.

    Args:
        dataset: The data set.
        source: The folder that a person named; or the file, if the data set needs only one.

    Returns:
        The path of each file, or of the folder that it was unpacked to, by its published name.

    Raises:
        UserError: A file is missing, or there are several of them.
    """
    required = [file for file in dataset.files if not file.optional]
    if source.is_file() and len(required) == 1:
        others = [file for file in dataset.files if file is not required[0]]
        beside = {file.name: _find_file(file, source.parent, depth=0) for file in others}
        paths = beside | {required[0].name: source}
    else:
        paths = {file.name: _find_file(file, source, depth=_MAX_DEPTH) for file in dataset.files}
    missing = [file for file in required if paths[file.name] is None]
    if missing:
        names = ", ".join(
            f"{file.name}{' or its unpacked folder' if file.unpacked else ''}" for file in missing
        )
        problem = "does not exist; it should hold"
        if source.exists():
            problem = "lacks" if source.is_dir() else "is a file; name the folder of"
        raise UserError(f"{source} {problem} {names} (see {dataset.homepage})")
    return {name: path for name, path in paths.items() if path is not None}


def _find_file(file: SourceFile, folder: Path, *, depth: int) -> Path | None:
    """Returns a file, or the folder that it was unpacked to."""
    for names, is_unpacked in (((file.name,), False), (file.unpacked, True), (file.aliases, False)):
        for name, level in itertools.product(names, range(depth + 1)):
            files = (path for path in folder.glob("*/" * level + name) if path.is_file())
            matches = {path.parent if is_unpacked else path for path in files}
            visible = sorted(path for path in matches if not _is_hidden_below(folder, path))
            if len(visible) > 1:
                raise UserError(
                    f"{visible[0]} and {visible[1]} could both be {file.name}: name the folder of"
                    " one"
                )
            if visible:
                return visible[0].resolve() if is_unpacked else visible[0]
    return None


def _is_hidden_below(folder: Path, path: Path) -> bool:
    return any(map(is_hidden, path.relative_to(folder).parts))


def read_content(path: Path, limit: int) -> bytes:
    """Returns the content of a file, unpacked and checked against its CRC if it is gzipped.

    Args:
        path: The file.
        limit: Largest size of the content in bytes, so that a malicious file cannot fill memory.

    Raises:
        UserError: The file is damaged or its content is too large.
    """
    with reading_file(path), path.open("rb") as file:
        is_gzipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if is_gzipped else file as stream:
            content = stream.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} unpacks to more than {limit} bytes: it is not the original file")
    return content


@contextmanager
def open_members(path: Path, advice: Advice = PUBLISHED) -> Iterator[list[Member]]:
    """Lists the files of a folder, a zip or a tar; unpacks nothing to disk.

    Args:
        path: The folder, without its sub-folders; or the archive.
        advice: What messages about an archive say to do.

    Yields:
        The files, which can be read until the context manager exits.

    Raises:
        UserError: The archive is damaged, or a member would be unpacked outside its folder.
    """
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            members = _folder_members(path)
        elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
            with reading_file(path, advice):
                archive = stack.enter_context(zipfile.ZipFile(path))
                members = _zip_members(path, archive, advice)
        else:
            content = io.BytesIO(read_content(path, _TAR_LIMIT))
            with reading_file(path, advice):
                tar = stack.enter_context(tarfile.open(fileobj=content, mode="r:"))
                members = _tar_members(path, tar, advice)
        yield members


def _folder_members(folder: Path) -> list[Member]:
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return [Member(path.name, path.stat().st_size, path.read_bytes) for path in files]


def _zip_members(path: Path, archive: zipfile.ZipFile, advice: Advice) -> list[Member]:
    infos = archive.infolist()
    for info in infos:
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        _check_member(path, info.filename, advice, plain=not is_link)
    return [
        Member(info.filename, info.file_size, functools.partial(archive.read, info))
        for info in infos
    ]


def _tar_members(path: Path, archive: tarfile.TarFile, advice: Advice) -> list[Member]:
    def read(info: tarfile.TarInfo) -> bytes:
        stream = archive.extractfile(info)
        assert stream is not None  # it is a file
        return stream.read()

    infos = archive.getmembers()
    for info in infos:
        _check_member(path, info.name, advice, plain=info.isfile() or info.isdir())
    return [
        Member(info.name, info.size, functools.partial(read, info))
        for info in infos
        if info.isfile()
    ]


def _check_member(path: Path, name: str, advice: Advice, *, plain: bool) -> None:
    """Refuses a member that would be unpacked outside its folder, or is not a plain file."""
    member = PurePosixPath(name)
    if not plain or member.is_absolute() or ".." in member.parts or "\\" in name:
        raise UserError(f"{path} holds the unsafe member {name!r}: {advice.if_unsafe}")
