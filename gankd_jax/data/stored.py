"""Data sets as TFDS stores them: where they lie, and their shapes, classes and counts."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import expand_path

CACHE_FOLDER = "gankd_cache"  # beside the data sets: their decoded images, and what is computed


def default_data_dir() -> Path:
    """Returns the folder of the TFDS data sets: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return expand_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def prepared_versions(name: str, data_dir: Path) -> list[tuple[Path, frozenset[str]]]:
    """Lists the TFDS folders of a data set.

    Args:
        name: The data set, as `NAME` or, where TFDS has several configurations, `NAME/CONFIG`.
        data_dir: The folder of the TFDS data sets.

    Returns:
        Each version's folder and file formats, such as "array_record"; the newest version first.
    """
    versions = []
    for info in (data_dir / name).glob("*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
            versions.append((info.parent, _file_formats(info)))
    return sorted(
        versions, key=lambda version: [int(n) for n in version[0].name.split(".")], reverse=True
    )


def _file_formats(info: Path) -> frozenset[str]:
    try:
        content = json.loads(info.read_text())
        return frozenset([content["fileFormat"], *content.get("alternativeFileFormats", [])])
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


def prepared_dir(name: str, data_dir: Path) -> Path | None:
    """Returns the newest version of a data set that is stored as array_record, or None.

    It may have been written by `gankd data prepare` or by TFDS itself.

    Args:
        name: The data set.
        data_dir: The folder of the TFDS data sets.
    """
    for folder, formats in prepared_versions(name, data_dir):
        if "array_record" in formats:
            return folder
    return None


def prepared_names(data_dir: Path) -> list[str]:
    """Returns the names of the data sets in a folder that are stored as array_record."""
    names = {
        info.parents[1].relative_to(data_dir).as_posix()
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for info in data_dir.glob(pattern)
    }
    return sorted(name for name in names if name[0] != "." and prepared_dir(name, data_dir))


def open_image_builder(folder: Path) -> Any:
    """Opens a stored data set of images.

    Args:
        folder: Of a version.

    Returns:
        Its TFDS builder, which knows features and splits.

    Raises:
        UserError: It is damaged, or has no grey or colour images.
    """
    import tensorflow_datasets as tfds  # slow to import

    with reporting_damage(folder):
        builder = tfds.builder_from_directory(folder)
        features = builder.info.features
        _ = list(builder.info.splits)
    has_images = "image" in features and isinstance(features["image"], tfds.features.Image)
    if not has_images or features["image"].shape[-1] not in (1, 3):
        raise UserError(f"{folder} has no grey or colour images under the name 'image'")
    return builder


def class_names(builder: Any) -> tuple[str, ...]:
    """Returns the names of a stored data set's classes; () without labels.

    Args:
        builder: Of `open_image_builder`.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    is_labelled = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    return tuple(features["label"].names) if is_labelled else ()


@contextmanager
def reporting_damage(folder: Path) -> Iterator[None]:
    """Turns any error of reading into a UserError that names the folder.

    JSON, protocol buffers, array_record and Pillow each have errors of their own for damaged bytes,
    hence the broad `except`.  A UserError says itself what is wrong, which may be no damage.

    Args:
        folder: Of the data set's version.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except UserError as error:
        raise UserError(f"the data set in {folder}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the data set in {folder} is damaged ({reason}): remove that folder and prepare it"
            " again as it was prepared"
        ) from error
