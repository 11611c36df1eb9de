"""Readers of original files: each data set's files, checked, as examples to be stored.

A new reader is a context manager here, registered by `@register_reader(NAME)`.
"""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.data.registry import Dataset
from gankd_jax.utils.errors import UserError

_CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_CIFAR_BATCH, _CIFAR_ROW = 10_000, 1 + 3 * 32 * 32
_CIFAR_LIMIT = 1 << 28  # the archive unpacks to 184 MB
_CELEB_A_SPLITS = {"0": "train", "1": "validation", "2": "test"}
_JPEG_LIMIT = 1 << 24  # a photograph of CelebA takes about 7 kB


@dataclass(frozen=True)
class ExampleSplit:
    """The examples of a split.

    Attributes:
        keys: A key for each example: that of stock TFDS, which orders its records by them.
        example: Maps a key to the example's features, such as `{"image": bytes, "label": int}`.
    """

    keys: Sequence[int | str]
    example: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class SourceSplits:
    """The splits of a data set.

    Attributes:
        splits: The examples of each split by its name.
        warnings: What a person should know about the files, a sentence each.
    """

    splits: dict[str, ExampleSplit]
    warnings: tuple[str, ...] = ()


# Maps a data set and the paths of its original files by name to its splits, which can be read until
# the context manager exits.
Reader = Callable[[Dataset, Mapping[str, Path]], AbstractContextManager[SourceSplits]]
READERS: dict[str, Reader] = {}


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Returns a decorator that adds a reader to `READERS`.

    Args:
        name: The data set that it reads.
    """

    def register(reader: Reader) -> Reader:
        READERS[name] = reader
        return reader

    return register


@contextmanager
def reading_file(path: Path) -> Iterator[None]:
    """Turns the errors that decompressors and decoders raise for a bad file into a UserError."""
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
        message = f"{path} is damaged or cut short ({error}): fetch it again"
        raise UserError(message) from error


def gunzip(path: Path, limit: int) -> bytes:
    """Returns the content of a .gz file, checked against its own CRC.

    Args:
        path: The file.
        limit: Largest size of the content in bytes, so that a malicious file cannot fill memory.

    Raises:
        UserError: The file is damaged or its content is too large.
    """
    with reading_file(path), gzip.open(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} unpacks to more than {limit} bytes: it is not the original file")
    return content


def _encode_png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _labelled_split(
    pixels: UInt8[np.ndarray, "n h w c"],
    labels: UInt8[np.ndarray, " n"],
    id_prefix: str | None = None,
) -> ExampleSplit:
    def example(index: int) -> dict[str, Any]:
        features: dict[str, Any] = {
            "image": _encode_png(pixels[index]),
            "label": int(labels[index]),
        }
        return features if id_prefix is None else features | {"id": f"{id_prefix}_{index:05d}"}

    return ExampleSplit(range(len(pixels)), example)


def _check_labels(path: Path, labels: UInt8[np.ndarray, " n"], classes: int | None) -> None:
    if classes is not None and labels.max() >= classes:
        raise UserError(f"{path} holds the label {labels.max()}, but there are {classes} classes")


@register_reader("digits")
@contextmanager
def _read_digits(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    from sklearn.datasets import load_digits  # heavy

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    is_test = np.arange(len(pixels)) % 5 == 4  # scikit-learn has no split; every fifth is test
    yield SourceSplits(
        {
            "train": _labelled_split(pixels[~is_test], labels[~is_test]),
            "test": _labelled_split(pixels[is_test], labels[is_test]),
        }
    )


def _read_idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file of bytes: a magic number, one big-endian length per axis, then the data."""
    header, size = 4 + 4 * len(shape), int(np.prod(shape))
    content = gunzip(path, header + size + (1 << 20))
    expected = np.array([0x0800 + len(shape), *shape], ">u4").tobytes()
    if content[:4] != expected[:4]:
        raise UserError(f"{path} is not an idx file of bytes with {len(shape)} axes")
    if content[4:header] != expected[4:]:
        actual = tuple(np.frombuffer(content[4:header], ">u4").tolist())
        raise UserError(f"{path} holds the shape {actual}; {shape} is expected")
    if len(content) != header + size:
        raise UserError(f"{path} holds {len(content) - header} bytes of data instead of {size}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


@register_reader("mnist")
@contextmanager
def _read_mnist(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        count = dataset.counts[split]
        pixels = _read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"], (count, 28, 28))
        labels_path = paths[f"{prefix}-labels-idx1-ubyte.gz"]
        labels = _read_idx(labels_path, (count,))
        _check_labels(labels_path, labels, dataset.classes)
        splits[split] = _labelled_split(pixels[..., None], labels)
    yield SourceSplits(splits)


def _check_member(path: Path, name: str, *, plain: bool) -> None:
    """Refuses a member that would be unpacked outside its folder, or is not a plain file."""
    member = PurePosixPath(name)
    if not plain or member.is_absolute() or ".." in member.parts or "\\" in name:
        raise UserError(f"{path} holds the unsafe member {name!r}: it is not the original archive")


def _read_tar(path: Path) -> dict[str, bytes]:
    """Reads the .bin files of a gzipped tar by their base names; unpacks nothing to disk."""
    files = {}
    content = io.BytesIO(gunzip(path, _CIFAR_LIMIT))
    with reading_file(path), tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            _check_member(path, member.name, plain=member.isfile() or member.isdir())
            stream = archive.extractfile(member)
            if stream is not None and member.name.endswith(".bin"):
                files[PurePosixPath(member.name).name] = stream.read()
    return files


def _cifar_batch(path: Path, files: Mapping[str, bytes], name: str) -> UInt8[np.ndarray, "n 3073"]:
    if name not in files:
        raise UserError(f"{path} lacks {name}: it is not the original archive")
    if len(files[name]) != _CIFAR_BATCH * _CIFAR_ROW:
        count = len(files[name]) / _CIFAR_ROW
        raise UserError(f"{path}: {name} holds {count:g} images instead of {_CIFAR_BATCH}")
    return np.frombuffer(files[name], np.uint8).reshape(_CIFAR_BATCH, _CIFAR_ROW)


@register_reader("cifar10")
@contextmanager
def _read_cifar10(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["cifar-10-binary.tar.gz"]
    files = _read_tar(path)
    splits = {}
    for split, names in (("train", _CIFAR_TRAIN), ("test", ("test_batch.bin",))):
        rows = np.concatenate([_cifar_batch(path, files, name) for name in names])
        _check_labels(path, rows[:, 0], dataset.classes)
        pixels = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = _labelled_split(pixels, rows[:, 0], id_prefix=split)
    yield SourceSplits(splits)


def _find_photographs(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the photographs of the archive, in any folder of it, by base name in name order."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        _check_member(path, info.filename, plain=not is_link and info.file_size <= _JPEG_LIMIT)
        name = PurePosixPath(info.filename).name
        if re.fullmatch(r"\d{6}\.jpg", name):
            if name in members:
                raise UserError(f"{path} holds {name} twice: it is not the original archive")
            members[name] = info
    return dict(sorted(members.items()))


def _read_partition(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Splits names by `list_eval_partition.txt`, which has lines such as `000001.jpg 0`."""
    with reading_file(path):
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    split_of = {row[0]: _CELEB_A_SPLITS.get(row[-1]) for row in rows if len(row) == 2}
    unknown = [name for name in names if split_of.get(name) is None]
    if unknown:
        raise UserError(f"{path} gives no split for {unknown[0]} and {len(unknown) - 1} others")
    splits: dict[str, list[str]] = {split: [] for split in _CELEB_A_SPLITS.values()}
    for name in names:
        splits[str(split_of[name])].append(name)
    if not splits["train"] or not splits["test"]:
        raise UserError(
            f"{path} leaves these images without a train or a test split: provide all images,"
            " or remove that file to make the last tenth the test split"
        )
    return {split: members for split, members in splits.items() if members}


def _split_celeb_a(
    names: Sequence[str], total: int, paths: Mapping[str, Path]
) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the names of each split, and warnings."""
    path = paths["img_align_celeba.zip"]
    if len(names) > total or len(names) < 10:
        raise UserError(f"{path} holds {len(names)} images; {total} are expected")
    warnings = []
    if len(names) < total:
        warnings.append(f"{path.name} holds {len(names)} of {total} images")
    if (partition := paths.get("list_eval_partition.txt")) is not None:
        return _read_partition(partition, names), warnings
    warnings.append("list_eval_partition.txt is absent: the last tenth by name is the test split")
    first = len(names) - len(names) // 10
    return {"train": list(names[:first]), "test": list(names[first:])}, warnings


def _read_jpeg(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of a photograph unchanged, after decoding them once as a check."""
    with reading_file(path):
        content = archive.read(info)
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
    if image.mode != "RGB":
        raise UserError(f"{path}: {info.filename} is a {image.mode} image; RGB is expected")
    return content


@register_reader("celeb_a")
@contextmanager
def _read_celeb_a(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["img_align_celeba.zip"]
    with reading_file(path):
        archive = zipfile.ZipFile(path)
    with archive:
        members = _find_photographs(path, archive)
        names, warnings = _split_celeb_a(list(members), sum(dataset.counts.values()), paths)

        def example(name: str) -> dict[str, Any]:
            return {"image": _read_jpeg(path, archive, members[name])}

        splits = {split: ExampleSplit(keys, example) for split, keys in names.items()}
        yield SourceSplits(splits, tuple(warnings))
