"""Reads the original files of each data set, checked, as examples ready to be written."""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """Examples by key; the keys are those of stock TFDS, which orders its records by them."""

    keys: Sequence[int | str]
    example: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class SourceSplits:
    """The splits of a data set and what a person should know about how they came to be."""

    splits: dict[str, ExampleSplit]
    warnings: tuple[str, ...] = ()


@contextmanager
def reading_file(path: Path) -> Iterator[None]:
    """Turns what the decompressors and decoders raise on a bad file into one UserError."""
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
    """The content of a .gz file, checked against its own CRC; UserError above `limit` bytes."""
    with reading_file(path), gzip.open(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} unpacks to more than {limit} bytes: it is not the original file")
    return content


def _png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _labelled(
    pixels: UInt8[np.ndarray, "n h w c"], labels: UInt8[np.ndarray, " n"], ids: str | None = None
) -> ExampleSplit:
    def example(index: int) -> dict[str, Any]:
        made: dict[str, Any] = {"image": _png(pixels[index]), "label": int(labels[index])}
        return made if ids is None else made | {"id": f"{ids}_{index:05d}"}

    return ExampleSplit(range(len(pixels)), example)


def _check_labels(path: Path, labels: UInt8[np.ndarray, " n"], classes: int | None) -> None:
    if classes is not None and labels.max() >= classes:
        raise UserError(f"{path} holds the label {labels.max()}, but there are {classes} classes")


@contextmanager
def _digits(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    from sklearn.datasets import load_digits  # heavy

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    test = np.arange(len(pixels)) % 5 == 4
    yield SourceSplits(
        {
            "train": _labelled(pixels[~test], labels[~test]),
            "test": _labelled(pixels[test], labels[test]),
        }
    )


def _idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """The bytes of an idx file: a magic number, one big-endian length per axis, then the data."""
    header, size = 4 + 4 * len(shape), int(np.prod(shape))
    content = gunzip(path, header + size + (1 << 20))
    expected = np.array([0x0800 + len(shape), *shape], ">u4").tobytes()
    if content[:4] != expected[:4]:
        raise UserError(f"{path} is not an idx file of bytes with {len(shape)} axes")
    if content[4:header] != expected[4:]:
        found = tuple(np.frombuffer(content[4:header], ">u4").tolist())
        raise UserError(f"{path} holds the shape {found}; {shape} is expected")
    if len(content) != header + size:
        raise UserError(f"{path} holds {len(content) - header} bytes of data instead of {size}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


@contextmanager
def _mnist(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        count = dataset.counts[split]
        pixels = _idx(paths[f"{prefix}-images-idx3-ubyte.gz"], (count, 28, 28))
        labels_path = paths[f"{prefix}-labels-idx1-ubyte.gz"]
        labels = _idx(labels_path, (count,))
        _check_labels(labels_path, labels, dataset.classes)
        splits[split] = _labelled(pixels[..., None], labels)
    yield SourceSplits(splits)


def _check_member(path: Path, name: str, *, plain: bool) -> None:
    """UserError for a member that would leave the folder it is unpacked in, or is no plain file."""
    member = PurePosixPath(name)
    if not plain or member.is_absolute() or ".." in member.parts or "\\" in name:
        raise UserError(f"{path} holds the unsafe member {name!r}: it is not the original archive")


def _tar_files(path: Path) -> dict[str, bytes]:
    """The .bin files of a gzipped tar by their last name; nothing is unpacked to disk."""
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


@contextmanager
def _cifar10(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["cifar-10-binary.tar.gz"]
    files = _tar_files(path)
    splits = {}
    for split, names in (("train", _CIFAR_TRAIN), ("test", ("test_batch.bin",))):
        rows = np.concatenate([_cifar_batch(path, files, name) for name in names])
        _check_labels(path, rows[:, 0], dataset.classes)
        pixels = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = _labelled(pixels, rows[:, 0], ids=split)
    yield SourceSplits(splits)


def _celeb_a_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The photographs in the archive, whatever folder they lie in, by name and in name order."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        _check_member(path, info.filename, plain=not link and info.file_size <= _JPEG_LIMIT)
        name = PurePosixPath(info.filename).name
        if re.fullmatch(r"\d{6}\.jpg", name):
            if name in members:
                raise UserError(f"{path} holds {name} twice: it is not the original archive")
            members[name] = info
    return dict(sorted(members.items()))


def _celeb_a_partition(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The names of each split after `list_eval_partition.txt`: lines such as `000001.jpg 0`."""
    with reading_file(path):
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    split_of = {row[0]: _CELEB_A_SPLITS.get(row[-1]) for row in rows if len(row) == 2}
    unknown = [name for name in names if split_of.get(name) is None]
    if unknown:
        raise UserError(f"{path} gives no split for {unknown[0]} and {len(unknown) - 1} others")
    made: dict[str, list[str]] = {split: [] for split in _CELEB_A_SPLITS.values()}
    for name in names:
        made[str(split_of[name])].append(name)
    if not made["train"] or not made["test"]:
        raise UserError(
            f"{path} leaves the given images without a train or a test split:"
            " give all images, or move that file away to make the last tenth the test split"
        )
    return {split: members for split, members in made.items() if members}


def _celeb_a_split(
    names: Sequence[str], total: int, paths: Mapping[str, Path]
) -> tuple[dict[str, list[str]], list[str]]:
    """The names of each split, and warnings."""
    path = paths["img_align_celeba.zip"]
    if len(names) > total or len(names) < 10:
        raise UserError(f"{path} holds {len(names)} images; {total} are expected")
    warnings = []
    if len(names) < total:
        warnings.append(f"{path.name} holds {len(names)} of {total} images")
    if (partition := paths.get("list_eval_partition.txt")) is not None:
        return _celeb_a_partition(partition, names), warnings
    warnings.append("list_eval_partition.txt is absent: the last tenth by name is the test split")
    first = len(names) - len(names) // 10
    return {"train": list(names[:first]), "test": list(names[first:])}, warnings


def _jpeg(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a photograph as they are, after they have been decoded once as a check."""
    with reading_file(path):
        content = archive.read(info)
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
    if image.mode != "RGB":
        raise UserError(f"{path}: {info.filename} is a {image.mode} image; RGB is expected")
    return content


@contextmanager
def _celeb_a(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["img_align_celeba.zip"]
    with reading_file(path):
        archive = zipfile.ZipFile(path)
    with archive:
        members = _celeb_a_members(path, archive)
        names, warnings = _celeb_a_split(list(members), sum(dataset.counts.values()), paths)

        def example(name: str) -> dict[str, Any]:
            return {"image": _jpeg(path, archive, members[name])}

        splits = {split: ExampleSplit(keys, example) for split, keys in names.items()}
        yield SourceSplits(splits, tuple(warnings))


# name -> a context manager over (data set, path of each original file); open while it is read.
READERS = {"digits": _digits, "mnist": _mnist, "cifar10": _cifar10, "celeb_a": _celeb_a}
