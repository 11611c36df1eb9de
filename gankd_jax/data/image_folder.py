"""Prepares images of a person's own, in a folder or zip, as a TFDS data set."""

import hashlib
import io
import itertools
import logging
import operator
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from gankd_jax.data import image_files
from gankd_jax.data.originals.original_files import Advice, Member, open_members, reading_file
from gankd_jax.data.originals.readers import ExampleSplit
from gankd_jax.data.prepare import read_provenance, write_dataset
from gankd_jax.data.registry import Dataset
from gankd_jax.data.stored import CACHE_FOLDER, prepared_dir
from gankd_jax.utils.atomic_io import encode_png
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

MIN_IMAGES = 10
MAX_BROKEN_SHARE = 0.1
MAX_MEMBER_BYTES = 2**28  # of an unpacked image in a zip, so that a small zip cannot fill memory
_TEST_SHARE = 0.1
_VERSION = "1.0.0"
_OWN = Advice("copy or pack it again", "pack it again without links and paths outside its folder")
_RESERVED_NAMES = ("none", "downloads", CACHE_FOLDER)
# The split of each folder of that name at the top.
_SPLIT_FOLDERS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}


@dataclass(frozen=True)
class ImageOptions:
    """How images become examples.

    Attributes:
        crop: 'centre': the short side is resized to `image_size` and the centre square cut out, as
            a study does.  'none': the whole image is resized to the square.
        image_size: Pixels of a stored image's side.
        labels: 'folders': the sub-folders are the classes.  'none': there are no labels.
            'auto': folders, if every image lies in one.
    """

    crop: str = "centre"
    image_size: int = 64
    labels: str = "auto"


@dataclass(frozen=True)
class _Layout:
    """Which images form a split, and which class each has.

    Attributes:
        splits: The paths of the images of each split.
        labels: The class of each image by its path; empty without labels.
    """

    splits: Mapping[str, Sequence[str]]
    labels: Mapping[str, str]


@dataclass
class _ImageReader:
    """Turns the files into examples, and leaves out those that cannot be read.

    Attributes:
        members: The files, by their paths.
        labels: As in `_Layout`.
        options: How images become examples.
        broken: The paths of the files that could not be read so far.
    """

    members: Mapping[str, Member]
    labels: Mapping[str, str]
    options: ImageOptions
    broken: list[str] = field(default_factory=list)

    def example(self, path: str) -> dict[str, Any] | None:
        """Returns the features of an image; None if it cannot be read.

        Raises:
            UserError: More than a tenth of all images cannot be read.
        """
        try:
            stream = io.BytesIO(_read_member(self.members[path]))
            image = image_files.decode_image(stream, path, "RGB", as_shown=True)
        except UserError as error:
            self.broken.append(path)
            logger.warning("left out: %s", error)
            if len(self.broken) > MAX_BROKEN_SHARE * len(self.members):
                raise UserError(
                    f"more than a tenth of the {len(self.members)} images cannot be read;"
                    f" the last: {error}"
                ) from error
            return None
        features: dict[str, Any] = {"image": encode_png(self._resize(image))}
        return features | ({"label": self.labels[path]} if self.labels else {})

    def _resize(self, image: Image.Image) -> np.ndarray:
        size = self.options.image_size
        if self.options.crop == "centre":
            return image_files.preprocess(image, image_size=size, pad=0)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def prepare_images(name: str, source: Path, data_dir: Path, options: ImageOptions) -> Path:
    """Writes the images of a folder or zip as array_record, unless they are prepared already.

    Images are read one after the other, so that any number of them fits in memory.

    Args:
        name: The data set's new name.
        source: A folder or zip; its sub-folders are read too.
        data_dir: The folder of the TFDS data sets.
        options: How images become examples.

    Returns:
        The folder of the prepared data, `data_dir`/NAME/VERSION.

    Raises:
        UserError: The name cannot be used or has other images, there are too few images, more than
            a tenth of them cannot be read, or the folders contradict the options.  Nothing is
            written then.
    """
    _check_name(name)
    record = {"name": name, "version": _VERSION, "source": str(source.resolve()), **asdict(options)}
    folder = prepared_dir(name, data_dir)
    if folder is not None:
        _require_same_origin(record, read_provenance(name, data_dir), folder)
        logger.info("%s is already prepared in %s", name, folder)
        return folder
    with _open_images(source) as members:
        layout = _lay_out(source, members, options)
        reader = _ImageReader(members, layout.labels, options)
        splits = {key: ExampleSplit(paths, reader.example) for key, paths in layout.splits.items()}
        record["broken"] = reader.broken  # filled while the records are written
        class_names = tuple(sorted(set(layout.labels.values())))
        dataset = Dataset(
            name=name,
            image_shape=(options.image_size, options.image_size, 3),
            classes=len(class_names) or None,
            counts={key: len(paths) for key, paths in layout.splits.items()},
            version=_VERSION,
            homepage="",
            class_names=class_names,
        )
        folder = write_dataset(dataset, splits, record, data_dir=data_dir)
    _log_summary(name, read_provenance(name, data_dir), class_names)
    return folder


def _check_name(name: str) -> None:
    if name in _RESERVED_NAMES or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"{name!r} cannot name a data set: use small letters, digits and _, as in my_flowers"
        )


def _require_same_origin(
    record: Mapping[str, Any], previous: Mapping[str, Any], folder: Path
) -> None:
    """Refuses to pass off a prepared data set as one of other images or options."""
    if not previous:
        raise UserError(f"{folder} was prepared by another program: choose another name")
    for key, value in record.items():
        if previous.get(key) != value:
            raise UserError(
                f"{folder} was prepared with {key} {previous.get(key)!r}, not {value!r}: remove"
                " that folder, or choose another name"
            )


@contextmanager
def _open_images(source: Path) -> Iterator[Mapping[str, Member]]:
    """Yields the images of a folder or zip by their paths in it, which are sorted."""
    if source.is_dir():
        files = image_files.find_images(source, recursive=True, min_count=MIN_IMAGES)
        paths = {path.relative_to(source).as_posix(): path for path in files}
        yield {name: Member(name, 0, path.read_bytes) for name, path in paths.items()}
        return
    if not source.exists():
        raise UserError(f"--source-dir={source} does not exist; name a folder of images or a .zip")
    if not zipfile.is_zipfile(source):
        raise UserError(f"--source-dir={source} is neither a folder of images nor a .zip")
    with open_members(source, _OWN) as members:
        packed = {member.name: member for member in members if not member.name.endswith("/")}
        names = image_files.find_packed_images(source, packed, min_count=MIN_IMAGES)
        yield {name: packed[name] for name in names}


def _read_member(member: Member) -> bytes:
    if member.size > MAX_MEMBER_BYTES:
        raise UserError(f"{member.name} has {member.size} bytes, more than {MAX_MEMBER_BYTES}")
    with reading_file(Path(member.name), _OWN):
        return member.read()


def _lay_out(source: Path, members: Mapping[str, Member], options: ImageOptions) -> _Layout:
    """Reads splits and labels off the folders."""
    parents = _strip_common({path: PurePosixPath(path).parts[:-1] for path in members})
    splits = _split_by_folder(source, parents)
    if splits:
        parents = _strip_common({path: parts[1:] for path, parts in parents.items()})
    splits = splits or {"train": list(members)}
    if "test" not in splits:
        splits |= _draw_test_split(members, splits["train"])
    return _Layout(splits, _find_labels(source, parents, options.labels))


def _strip_common(parents: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Cuts off the outer folders that all images share."""
    first, last = min(parents.values()), max(parents.values())  # they share the least
    depth = sum(1 for _ in itertools.takewhile(bool, map(operator.eq, first, last)))
    return {path: parts[depth:] for path, parts in parents.items()}


def _split_by_folder(source: Path, parents: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Returns the images of each split, if train/ and another split's folder are at the top."""
    split_of = {
        path: _SPLIT_FOLDERS.get(parts[0].lower()) if parts else None
        for path, parts in parents.items()
    }
    names = set(split_of.values()) - {None}
    if "train" not in names or len(names) == 1:
        return {}
    outside = [path for path, split in split_of.items() if split is None]
    if outside:
        raise UserError(
            f"{source} has folders of splits, but {outside[0]} and {len(outside) - 1} other images"
            " lie outside them: move these into train/"
        )
    splits: dict[str, list[str]] = {}
    for path, split in split_of.items():
        splits.setdefault(str(split), []).append(path)
    return splits


def _draw_test_split(members: Mapping[str, Member], paths: Sequence[str]) -> dict[str, list[str]]:
    """Cuts a tenth of the training images off as the test split.

    Those whose files have the smallest hashes are it, so that neither names nor order decide.
    """
    bar = tqdm(paths, "drawing the test split", unit="image", leave=False, disable=None)
    digests = {path: _hash_member(members[path]) for path in bar}
    count = max(1, round(_TEST_SHARE * len(paths)))
    test = set(sorted(paths, key=digests.__getitem__)[:count])
    return {"train": [path for path in paths if path not in test], "test": sorted(test)}


def _hash_member(member: Member) -> bytes:
    try:
        return hashlib.sha256(_read_member(member)).digest()
    except UserError:  # it will be left out
        return b"\xff"


def _find_labels(
    source: Path, parents: Mapping[str, tuple[str, ...]], labels: str
) -> dict[str, str]:
    """Returns the sub-folder of each image, if these are the labels."""
    outside = [path for path, parts in parents.items() if not parts]
    if labels == "none" or (outside and labels == "auto"):
        return {}
    classes = {path: parts[0] for path, parts in parents.items() if parts}
    if len(set(classes.values())) > 1 and not outside:
        return classes
    if labels == "folders":
        problem = f"{outside[0]} lies in none" if outside else "there is one"
        raise UserError(
            f"--labels=folders needs two or more sub-folders with every image in one, and in"
            f" {source} {problem}"
        )
    return {}


def _log_summary(name: str, record: Mapping[str, Any], class_names: Sequence[str]) -> None:
    counts = ", ".join(f"{count:,} {split}" for split, count in record["counts"].items())
    classes = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    logger.info("%s: %s images; %s", name, counts, f"labels: {classes}" if classes else "no labels")
    if record["broken"]:
        total = len(record["broken"]) + sum(record["counts"].values())
        logger.warning(
            "%s: %d of %d images could not be read and are left out",
            name,
            len(record["broken"]),
            total,
        )
