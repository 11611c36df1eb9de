"""Reads a split of a prepared data set as one uint8 array, cached ready for training."""

import functools
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from absl import logging
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from tqdm import tqdm

from gankd_jax.data import registry
from gankd_jax.data.prepare import prepare_dataset, prepared_dir, prepared_versions
from gankd_jax.utils.errors import UserError

_FORMAT = 1  # of the cache; to be raised with any change of the preprocessing
_CHUNK = 256  # records read at a time


@dataclass(frozen=True)
class ImageSplit:
    """The images of a split, in the order of its records.

    `pixels` are 0..255, read only, and may be mapped from a file; `labels` is None without
    class labels. `key` is a short text, fit for a file name, that names data set, version, split,
    preprocessing and count, with a hash of the pixels of the stored split: equal keys, equal
    images.
    """

    pixels: UInt8[np.ndarray, "n s s c"]
    labels: Int[np.ndarray, " n"] | None
    key: str


@dataclass(frozen=True)
class _Stored:
    """A whole stored split after preprocessing, as it lies in the cache."""

    pixels: UInt8[np.ndarray, "n s s c"]
    labels: Int[np.ndarray, " n"] | None
    sha256: str


@dataclass(frozen=True)
class _Records:
    """The serialised records of a split and how one becomes {image: bytes, label: int}."""

    source: Any  # a TFDS data source: `len` and `__getitems__`
    decode: Callable[[bytes], Mapping[str, Any]]
    channels: int
    labelled: bool


def default_data_dir() -> Path:
    """Where TFDS keeps its data: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_split(
    name: str, split: str, *, data_dir: Path, image_size: int, pad: int, validation: int = 0
) -> ImageSplit:
    """A split of the newest version of the data set stored as array_record in `data_dir`.

    The data may have been prepared by `prepare` or by TFDS itself; `digits` is prepared on first
    use. With `validation` > 0 the last `validation` images of the stored `train` are the split
    `validation`, and `train` is without them; with 0 the splits are those stored.

    Each image is framed by `pad` zero pixels, resized to `image_size` pixels on its short side
    and cut to the centre square (see `preprocess`). The result is cached in
    `data_dir`/gankd_cache, if that can be written.

    Raises UserError where there is no such data or split, where the data is in tfrecord, which
    only TensorFlow reads, where it is damaged, and for sizes out of range.
    """
    if image_size < 1 or pad < 0 or validation < 0:
        raise UserError(
            "image_size must be at least 1, pad and validation at least 0;"
            f" they are {image_size}, {pad} and {validation}"
        )
    folder = _folder(name, data_dir)
    held_out = validation > 0 and split in ("train", "validation")
    stored_split = "train" if held_out else split
    stored = _cached(folder, stored_split, data_dir, image_size=image_size, pad=pad)
    first, last = 0, len(stored.pixels)
    if held_out:
        if validation >= last:
            raise UserError(f"validation={validation} leaves none of {name}'s {last} train images")
        first, last = (0, last - validation) if split == "train" else (last - validation, last)
    return ImageSplit(
        pixels=stored.pixels[first:last],
        labels=None if stored.labels is None else stored.labels[first:last],
        key=f"{_slug(folder, data_dir)}-{split}-{image_size}px-pad{pad}"
        f"-n{last - first}-{stored.sha256[:12]}",
    )


def preprocess(
    image: Image.Image, *, image_size: int, pad: int
) -> UInt8[np.ndarray, "{image_size} {image_size} c"]:
    """Frames an image with zeros, resizes its short side and cuts out the centre square.

    `pad` counts source pixels on each side. The long side and the offset of the cut are rounded
    as torchvision's `Resize` and `CenterCrop` do; the resampling is Pillow's antialiased
    bilinear, none where the short side already fits. Grey images keep one channel.
    """
    if pad:
        image = ImageOps.expand(image, border=pad, fill=0)
    short = min(image.size)
    if short != image_size:
        width, height = (image_size * side // short for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - image_size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + image_size, top + image_size)))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _folder(name: str, data_dir: Path) -> Path:
    """The folder of the prepared data set; UserError that says how to get it."""
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
    if name in registry.DATASETS:
        raise UserError(f"{data_dir} holds no {name}: run `gankd data prepare {name}` first")
    raise UserError(
        f"{data_dir} holds no {name} as array_record: prepare it there with TFDS, or choose one"
        f" of {', '.join(registry.DATASETS)}"
    )


def _cached(folder: Path, split: str, data_dir: Path, *, image_size: int, pad: int) -> _Stored:
    """A stored split after preprocessing: from the cache, else read and put there."""
    identity = [_FORMAT, PIL.__version__, _stamps(folder), pad]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    stem = f"{_slug(folder, data_dir)}-{split}-{image_size}px-{digest}"
    place = data_dir / "gankd_cache" / stem
    found = _read_cache(place)
    if found is not None:
        return found
    made = _read(folder, split, image_size=image_size, pad=pad)
    _write_cache(place, made)
    return _read_cache(place) or made  # mapped, so that processes share the memory


def _slug(folder: Path, data_dir: Path) -> str:
    """Name and version of a data set: `mnist-1.0.0`."""
    return "-".join(folder.relative_to(data_dir).parts)


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file in a folder."""
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _read_cache(place: Path) -> _Stored | None:
    """What lies in a cache folder; None where nothing does or a file changed since."""
    try:
        note = json.loads((place / "note.json").read_text())
        arrays = place / "arrays"
        if [list(stamp) for stamp in _stamps(arrays)] != note["stamps"]:
            return None
        pixels = np.load(arrays / "pixels.npy", mmap_mode="r")
        has_labels = (arrays / "labels.npy").is_file()
        labels = np.load(arrays / "labels.npy") if has_labels else None
        return _Stored(pixels, labels, note["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write_cache(place: Path, stored: _Stored) -> None:
    """Puts a split into the cache, whole or not at all, in place of what lies there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=place.parent) as work:
            new = Path(work, "new")
            (new / "arrays").mkdir(parents=True)
            np.save(new / "arrays" / "pixels.npy", stored.pixels)
            if stored.labels is not None:
                np.save(new / "arrays" / "labels.npy", stored.labels)
            note = {"sha256": stored.sha256, "stamps": _stamps(new / "arrays")}
            (new / "note.json").write_text(json.dumps(note))
            if place.exists():
                place.rename(Path(work, "old"))
            new.rename(place)
    except OSError as error:
        logging.warning("%s cannot be written (%s): going on without a cache", place, error)


def _read(folder: Path, split: str, *, image_size: int, pad: int) -> _Stored:
    """Decodes and preprocesses every record of a split."""
    records = _open(folder, split)
    count = len(records.source)
    pixels = np.empty((count, image_size, image_size, records.channels), np.uint8)
    labels = np.empty(count, np.int64) if records.labelled else None
    mode = "L" if records.channels == 1 else "RGB"
    bar = tqdm(total=count, desc=f"reading {folder} {split}", leave=False, disable=None)
    with _damaged(folder), bar:
        for index, example in enumerate(_examples(records)):
            with Image.open(io.BytesIO(example["image"])) as image:
                pixels[index] = preprocess(image.convert(mode), image_size=image_size, pad=pad)
            if labels is not None:
                labels[index] = example["label"]
            bar.update()
    pixels.flags.writeable = False
    return _Stored(pixels, labels, hashlib.sha256(pixels.data).hexdigest())


def _examples(records: _Records) -> Iterator[Mapping[str, Any]]:
    # One thread: with more, small images take longer, since they wait for each other in Python.
    count = len(records.source)
    for first in range(0, count, _CHUNK):
        chunk = range(first, min(first + _CHUNK, count))
        yield from map(records.decode, records.source.__getitems__(chunk))


def _open(folder: Path, split: str) -> _Records:
    import tensorflow_datasets as tfds  # heavy, and not needed where the cache is filled

    with _damaged(folder):
        builder = tfds.builder_from_directory(folder)
        features = builder.info.features
        splits = list(builder.info.splits)
    if split not in splits:
        held_out = "; validation > 0 holds images of train out" if split == "validation" else ""
        raise UserError(f"{folder} has no split {split!r}, only {', '.join(splits)}{held_out}")
    if "image" not in features or features["image"].shape[-1] not in (1, 3):
        raise UserError(f"{folder} has no grey or colour images under the name 'image'")
    wanted = [feature for feature in ("image", "label") if feature in features]
    part = tfds.features.FeaturesDict({feature: features[feature] for feature in wanted})
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    with _damaged(folder):
        source = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    skip = {"image": tfds.decode.SkipDecoding()}  # decoded here, by Pillow alone
    return _Records(
        source=source,
        decode=functools.partial(part.deserialize_example_np, decoders=skip),
        channels=features["image"].shape[-1],
        labelled="label" in wanted,
    )


@contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    """Names the folder where reading fails.

    Every library on the way (JSON, protocol buffers, array_record, Pillow) has errors of its own
    for damaged bytes, hence the catch of all but what is no matter of the bytes.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the data set in {folder} is damaged ({reason}): remove that folder and run"
            f" `gankd data prepare {folder.parent.name}`"
        ) from error
