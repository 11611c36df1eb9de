"""Loads a split of a prepared data set as one uint8 array, which is cached ready for training."""

import functools
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Int, UInt8
from tqdm import tqdm

from gankd_jax.data import registry
from gankd_jax.data.image_files import decode_image, preprocess
from gankd_jax.data.prepare import prepare_dataset
from gankd_jax.data.stored import (
    CACHE_FOLDER,
    class_names,
    open_image_builder,
    prepared_dir,
    prepared_versions,
    reporting_damage,
)
from gankd_jax.utils.errors import UserError, suggest
from gankd_jax.utils.paths import write_cache

_CACHE_FORMAT = 2  # raise it with any change of the preprocessing
_RECORDS_PER_READ = 256


@dataclass(frozen=True)
class ImageSplit:
    """The images of a split, in the order of its records.

    Attributes:
        pixels: 0..255, read only; may be mapped from a file.
        labels: Class labels; None without them.
        key: Names data set, version, split, preprocessing and count, and holds a hash of the pixels
            of the stored split.  Usable in file names.  Equal keys mean equal images.
    """

    pixels: UInt8[np.ndarray, "n s s c"]
    labels: Int[np.ndarray, " n"] | None
    key: str


@dataclass(frozen=True)
class _PreprocessedSplit:
    """A whole stored split after preprocessing, as the cache holds it."""

    pixels: UInt8[np.ndarray, "n s s c"]
    labels: Int[np.ndarray, " n"] | None
    sha256: str


@dataclass(frozen=True)
class _Records:
    """The serialised records of a split.

    Attributes:
        source: A TFDS data source, with `len` and `__getitems__`.
        decode: Maps a record to `{"image": bytes, "label": int}`.
        channels: 1 for grey images, 3 for colour.
        has_labels: Whether the records have a class label.
    """

    source: Any
    decode: Callable[[bytes], Mapping[str, Any]]
    channels: int
    has_labels: bool


def load_split(
    name: str, split: str, *, data_dir: Path, image_size: int, pad: int, validation: int = 0
) -> ImageSplit:
    """Loads a split of the newest version of a data set that is stored as array_record.

    The data may have been written by `prepare_dataset` or by TFDS itself; `digits` is prepared at
    first use.  Images are preprocessed by `preprocess`.  The result is cached in
    `data_dir`/gankd_cache, if that can be written.

    Args:
        name: The data set; any that TFDS stored there.
        split: A stored split, such as 'train'; or 'validation', if `validation` is above 0.
        data_dir: The folder of the TFDS data sets.
        image_size: Pixels of an image's side.
        pad: Zero pixels added on each side before the image is resized.
        validation: Images that are cut from the end of 'train' to be the split 'validation'.  0:
            the splits are those stored.

    Returns:
        The images, their labels and a key that identifies them.

    Raises:
        UserError: There is no such data or split, the data is in tfrecord, which only TensorFlow
            reads, it is damaged, or a number is out of range.
    """
    if image_size < 1 or pad < 0 or validation < 0:
        raise UserError(
            "image_size must be at least 1, pad and validation at least 0;"
            f" they are {image_size}, {pad} and {validation}"
        )
    folder = _find_folder(name, data_dir)
    has_held_out = validation > 0 and split in ("train", "validation")
    stored_split = "train" if has_held_out else split
    stored = _load_or_preprocess(folder, stored_split, data_dir, image_size=image_size, pad=pad)
    first, last = 0, len(stored.pixels)
    if has_held_out:
        if validation >= last:
            raise UserError(f"validation={validation} leaves none of {name}'s {last} train images")
        first, last = (0, last - validation) if split == "train" else (last - validation, last)
    return ImageSplit(
        pixels=stored.pixels[first:last],
        labels=None if stored.labels is None else stored.labels[first:last],
        key=f"{_versioned_name(folder, data_dir)}-{split}-{image_size}px-pad{pad}"
        f"-n{last - first}-{stored.sha256[:12]}",
    )


def require_split(name: str, split: str, data_dir: Path) -> None:
    """Checks that a data set is prepared and has a split, without reading its images.

    Args:
        name: The data set.
        split: Of those stored.
        data_dir: The folder of the TFDS data sets.

    Raises:
        UserError: It is not, or has none of that name.
    """
    folder = _find_folder(name, data_dir)
    if split not in registry.get_dataset(name, data_dir).counts:
        _require_stored_split(open_image_builder(folder), folder, split)


def _require_stored_split(builder: Any, folder: Path, split: str) -> None:
    splits = list(builder.info.splits)
    if split not in splits:
        advice = "validation > 0 cuts it from train" if split == "validation" else ""
        advice = advice or suggest(split, splits)
        names = f"only {', '.join(splits)}{'; ' * bool(advice)}{advice}"
        raise UserError(f"{folder} has no split {split!r}, {names}")


def _find_folder(name: str, data_dir: Path) -> Path:
    """Returns the folder of the prepared data set, or says in a UserError how to prepare it."""
    folder = prepared_dir(name, data_dir)
    if folder is not None:
        return folder
    if name == "digits":
        return prepare_dataset(name, None, data_dir)
    others = prepared_versions(name, data_dir)
    if others and name in registry.DATASETS:
        raise UserError(
            f"{others[0][0]} is not stored as array_record, so TensorFlow alone could read it:"
            f" run `gankd data prepare {name}` to write a copy beside it"
        )
    registry.get_dataset(name, data_dir)  # refuses an unknown name
    raise UserError(f"{data_dir} holds no {name}: run `gankd data prepare {name}` first")


def _load_or_preprocess(
    folder: Path, split: str, data_dir: Path, *, image_size: int, pad: int
) -> _PreprocessedSplit:
    """Returns a stored split after preprocessing, from the cache if it is there."""
    identity = [_CACHE_FORMAT, PIL.__version__, _file_stamps(folder), pad]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    stem = f"{_versioned_name(folder, data_dir)}-{split}-{image_size}px-{digest}"
    cache = data_dir / CACHE_FOLDER / stem
    cached = _read_cache(cache)
    if cached is not None:
        return cached
    images = _preprocess_split(folder, split, image_size=image_size, pad=pad)
    write_cache(cache, lambda: _write_split(cache, images))
    return _read_cache(cache) or images  # mapped, so that processes share the memory


def _versioned_name(folder: Path, data_dir: Path) -> str:
    """Returns name and version of a data set: `mnist-1.0.0`."""
    return "-".join(folder.relative_to(data_dir).parts)


def _file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Returns name, size and modification time of each file in a folder."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _read_cache(cache: Path) -> _PreprocessedSplit | None:
    """Reads a cache folder; returns None if it is absent or a file in it has changed."""
    try:
        note = json.loads((cache / "note.json").read_text())
        arrays = cache / "arrays"
        if [list(stamp) for stamp in _file_stamps(arrays)] != note["stamps"]:
            return None
        pixels = np.load(arrays / "pixels.npy", mmap_mode="r")
        has_labels = (arrays / "labels.npy").is_file()
        labels = np.load(arrays / "labels.npy") if has_labels else None
        return _PreprocessedSplit(pixels, labels, note["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write_split(cache: Path, images: _PreprocessedSplit) -> None:
    """Writes a cache folder, as a whole or not at all.

    One that another process has written meanwhile stays: that process has mapped its files.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=cache.parent) as work:
        new = Path(work, "new")
        (new / "arrays").mkdir(parents=True)
        np.save(new / "arrays" / "pixels.npy", images.pixels)
        if images.labels is not None:
            np.save(new / "arrays" / "labels.npy", images.labels)
        note = {"sha256": images.sha256, "stamps": _file_stamps(new / "arrays")}
        (new / "note.json").write_text(json.dumps(note))
        if _read_cache(cache) is not None:
            return
        if cache.exists():
            cache.rename(Path(work, "old"))
        new.rename(cache)


def _preprocess_split(folder: Path, split: str, *, image_size: int, pad: int) -> _PreprocessedSplit:
    """Decodes and preprocesses every record of a split."""
    records = _open_records(folder, split)
    count = len(records.source)
    pixels = np.empty((count, image_size, image_size, records.channels), np.uint8)
    labels = np.empty(count, np.int64) if records.has_labels else None
    mode = "L" if records.channels == 1 else "RGB"
    bar = tqdm(total=count, desc=f"reading {folder} {split}", leave=False, disable=None)
    with reporting_damage(folder), bar:
        for index, example in enumerate(_decode_records(records)):
            image = decode_image(io.BytesIO(example["image"]), f"record {index}", mode)
            pixels[index] = preprocess(image, image_size=image_size, pad=pad)
            if labels is not None:
                labels[index] = example["label"]
            bar.update()
    pixels.flags.writeable = False
    return _PreprocessedSplit(pixels, labels, hashlib.sha256(pixels.data).hexdigest())


def _decode_records(records: _Records) -> Iterator[Mapping[str, Any]]:
    # One thread: more threads make small images slower, because they wait for Python's lock.
    count = len(records.source)
    for first in range(0, count, _RECORDS_PER_READ):
        indices = range(first, min(first + _RECORDS_PER_READ, count))
        yield from map(records.decode, records.source.__getitems__(indices))


def _open_records(folder: Path, split: str) -> _Records:
    import tensorflow_datasets as tfds  # slow to import, and not needed once the cache is filled

    builder = open_image_builder(folder)
    _require_stored_split(builder, folder, split)
    features = builder.info.features
    names = ["image", "label"] if class_names(builder) else ["image"]
    part = tfds.features.FeaturesDict({name: features[name] for name in names})
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    with reporting_damage(folder):
        source = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    skip = {"image": tfds.decode.SkipDecoding()}  # the image is decoded by Pillow alone
    return _Records(
        source=source,
        decode=functools.partial(part.deserialize_example_np, decoders=skip),
        channels=features["image"].shape[-1],
        has_labels="label" in names,
    )
