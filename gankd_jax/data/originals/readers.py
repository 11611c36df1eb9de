"""Readers of original files: each data set's files, checked, as examples to be stored.

A new reader is a context manager here, registered by `@register_reader(NAME)`.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.data.originals.array_pickle import load_byte_arrays
from gankd_jax.data.originals.original_files import Member, open_members, read_content, reading_file
from gankd_jax.data.registry import Dataset
from gankd_jax.utils.atomic_io import encode_png
from gankd_jax.utils.errors import UserError

_CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_BATCH, _CIFAR_ROW = 10_000, 1 + 3 * 32 * 32
_CELEB_A_SPLITS = {"0": "train", "1": "validation", "2": "test"}
_JPEG_LIMIT = 1 << 24  # a photograph of CelebA takes about 7 kB


@dataclass(frozen=True)
class ExampleSplit:
    """The examples of a split.

    Attributes:
        keys: A key for each example: that of stock TFDS, which orders its records by them.
        example: Maps a key to the example's features, such as `{"image": bytes, "label": int}`;
            to None, to leave it out.
    """

    keys: Sequence[int | str]
    example: Callable[[Any], dict[str, Any] | None]


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


def _labelled_split(
    pixels: UInt8[np.ndarray, "n h w c"],
    labels: UInt8[np.ndarray, " n"],
    id_prefix: str | None = None,
) -> ExampleSplit:
    def example(index: int) -> dict[str, Any]:
        features: dict[str, Any] = {
            "image": encode_png(pixels[index]),
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
    content = read_content(path, header + size + (1 << 20))
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


def _cifar_batch(path: Path, files: Mapping[str, Member], name: str) -> UInt8[np.ndarray, "n 3073"]:
    """Reads a batch of the binary or the Python archive: rows of a label and three planes."""
    if name not in files:
        raise UserError(f"{path} lacks {name}: it is not the original archive")
    if files[name].size > 2 * _CIFAR_BATCH * _CIFAR_ROW:
        raise UserError(f"{path}: {name} has {files[name].size} bytes: it is not the original")
    with reading_file(path):
        content = files[name].read()
    if not name.endswith(".bin"):
        return _unpickle_batch(path, name, content)
    if len(content) != _CIFAR_BATCH * _CIFAR_ROW:
        count = len(content) / _CIFAR_ROW
        raise UserError(f"{path}: {name} holds {count:g} images instead of {_CIFAR_BATCH}")
    return np.frombuffer(content, np.uint8).reshape(_CIFAR_BATCH, _CIFAR_ROW)


def _unpickle_batch(path: Path, name: str, content: bytes) -> UInt8[np.ndarray, "n 3073"]:
    try:
        values = load_byte_arrays(content)
        labels, pixels = np.frombuffer(bytes(values["labels"]), np.uint8), values["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {name} is not a batch of CIFAR-10: {error}") from error
    if not isinstance(pixels, np.ndarray) or pixels.shape != (_CIFAR_BATCH, _CIFAR_ROW - 1):
        shape = getattr(pixels, "shape", None)
        raise UserError(f"{path}: {name} holds {shape} instead of {_CIFAR_BATCH} images")
    if len(labels) != len(pixels):
        raise UserError(f"{path}: {name} holds {len(labels)} labels of {len(pixels)} images")
    return np.concatenate([labels[:, None], pixels], axis=1)


@register_reader("cifar10")
@contextmanager
def _read_cifar10(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["cifar-10-binary.tar.gz"]
    splits = {}
    with open_members(path) as members:
        files = {PurePosixPath(member.name).name: member for member in members}
        suffix = "" if "data_batch_1" in files else ".bin"
        for split, names in (("train", _CIFAR_TRAIN), ("test", ("test_batch",))):
            rows = np.concatenate([_cifar_batch(path, files, name + suffix) for name in names])
            _check_labels(path, rows[:, 0], dataset.classes)
            pixels = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            splits[split] = _labelled_split(pixels, rows[:, 0], id_prefix=split)
    yield SourceSplits(splits)


def _find_photographs(path: Path, members: Sequence[Member]) -> dict[str, Member]:
    """Returns the photographs of an archive or folder by base name, in name order."""
    photographs: dict[str, Member] = {}
    for member in members:
        name = PurePosixPath(member.name).name
        if re.fullmatch(r"\d{6}\.jpg", name):
            if name in photographs:
                raise UserError(f"{path} holds {name} twice: it is not the original archive")
            if member.size > _JPEG_LIMIT:
                raise UserError(f"{path}: {member.name} has {member.size} bytes: it is no original")
            photographs[name] = member
    return dict(sorted(photographs.items()))


def _read_partition(path: Path, text: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Splits names by a file of lines such as `000001.jpg 0`, or Kaggle's `000001.jpg,0`."""
    rows = [re.split(r"[\s,;]+", line.strip()) for line in text.replace('"', "").splitlines()]
    split_of = {row[0]: _CELEB_A_SPLITS.get(row[1]) for row in rows if len(row) == 2}
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


def _find_partition(path: Path | None, members: Sequence[Member]) -> tuple[Path, bytes] | None:
    """Returns the partition file and its content: one that lies alone, or one in the archive."""
    if path is not None:
        with reading_file(path):
            return path, path.read_bytes()
    for member in members:
        name = Path(member.name)
        if re.fullmatch(r"list_eval_partition\.(txt|csv)", name.name):
            with reading_file(name):
                return name, member.read()
    return None


def _split_celeb_a(
    path: Path, names: Sequence[str], total: int, partition: tuple[Path, bytes] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the names of each split, and warnings."""
    if len(names) > total or len(names) < 10:
        raise UserError(f"{path} holds {len(names)} images; {total} are expected")
    warnings = []
    if len(names) < total:
        warnings.append(f"{path.name} holds {len(names)} of {total} images")
    if partition is not None:
        partition_path, content = partition
        with reading_file(partition_path):
            text = content.decode("utf-8-sig")  # Windows writes a byte order mark
        return _read_partition(partition_path, text, names), warnings
    warnings.append(
        "list_eval_partition.txt or .csv is absent: the last tenth by name is the test split"
    )
    first = len(names) - len(names) // 10
    return {"train": list(names[:first]), "test": list(names[first:])}, warnings


def _read_jpeg(path: Path, member: Member) -> bytes:
    """Returns the bytes of a photograph unchanged, after decoding them once as a check."""
    with reading_file(path):
        content = member.read()
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            image.load()
    if image.mode != "RGB":
        raise UserError(f"{path}: {member.name} is a {image.mode} image; RGB is expected")
    return content


@register_reader("celeb_a")
@contextmanager
def _read_celeb_a(dataset: Dataset, paths: Mapping[str, Path]) -> Iterator[SourceSplits]:
    path = paths["img_align_celeba.zip"]
    with open_members(path) as members:
        photographs = _find_photographs(path, members)
        partition = _find_partition(paths.get("list_eval_partition.txt"), members)
        total = sum(dataset.counts.values())
        names, warnings = _split_celeb_a(path, list(photographs), total, partition)

        def example(name: str) -> dict[str, Any]:
            return {"image": _read_jpeg(path, photographs[name])}

        splits = {split: ExampleSplit(keys, example) for split, keys in names.items()}
        yield SourceSplits(splits, tuple(warnings))
