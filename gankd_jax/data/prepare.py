"""Turns original files, given by hand or downloaded, into a TFDS data set on disk."""

import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from gankd_jax.data import readers, registry
from gankd_jax.data.registry import Dataset, SourceFile
from gankd_jax.utils.errors import UserError

_PROVENANCE = "provenance.json"
_TIMEOUT = 60  # seconds without an answer from a download site


def prepared_versions(name: str, data_dir: Path) -> list[tuple[Path, frozenset[str]]]:
    """The TFDS folders of a data set, newest version first, each with its file formats."""
    found = []
    for info in (data_dir / name).glob("*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):
            found.append((info.parent, _file_formats(info)))
    return sorted(found, key=lambda pair: [int(n) for n in pair[0].name.split(".")], reverse=True)


def _file_formats(info: Path) -> frozenset[str]:
    try:
        content = json.loads(info.read_text())
        return frozenset([content["fileFormat"], *content.get("alternativeFileFormats", [])])
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


def prepared_dir(name: str, data_dir: Path) -> Path | None:
    """The newest version in `data_dir` that is stored as array_record, or None.

    It may have been written by `prepare` or by TFDS itself.
    """
    found = (
        folder for folder, formats in prepared_versions(name, data_dir) if "array_record" in formats
    )
    return next(found, None)


def read_provenance(name: str, data_dir: Path) -> dict[str, Any]:
    """Where prepared data came from: files, hashes, counts, warnings; {} for stock TFDS data."""
    folder = prepared_dir(name, data_dir)
    if folder is None or not (folder / _PROVENANCE).is_file():
        return {}
    return json.loads((folder / _PROVENANCE).read_text())


def prepare_dataset(name: str, source_dir: Path | None, data_dir: Path) -> Path:
    """Writes the data set under `data_dir`/NAME/VERSION in array_record and gives that folder.

    The original files are taken from `source_dir`, or downloaded to `data_dir`/downloads/NAME
    where that is None. Data that is already prepared is left as it is. Splits and features have
    the names that stock TFDS gives them.

    Raises UserError for an unknown name, a source folder that lacks files, a failed download, and
    a file that is damaged or holds other counts or shapes than the data set; nothing is then
    written. A file given by hand whose hash is unknown is warned about and recorded.
    """
    dataset = registry.get_dataset(name)
    folder = prepared_dir(name, data_dir)
    if folder is not None:
        logging.info("%s is already prepared in %s", name, folder)
        return folder
    paths = _downloaded(dataset, data_dir) if source_dir is None else _given(dataset, source_dir)
    files = [_describe(file, paths[file.name]) for file in dataset.files if file.name in paths]
    with readers.READERS[name](dataset, paths) as source:
        warnings = [
            f"{file['name']} has an unknown hash: it differs from the published file"
            for file in files
            if not file["known"]
        ]
        warnings += source.warnings
        record = {
            "name": name,
            "version": dataset.version,
            "source": _origin(files, source_dir),
            "files": files,
            "counts": {split: len(made.keys) for split, made in source.splits.items()},
            "warnings": warnings,
        }
        folder = _write(dataset, source, record, data_dir=data_dir)
        for warning in warnings:
            logging.warning("%s: %s", name, warning)
        return folder


def _origin(files: list[dict[str, Any]], source_dir: Path | None) -> str:
    if not files:
        return "scikit-learn"
    return "download" if source_dir is None else "by hand"


def _given(dataset: Dataset, source_dir: Path) -> dict[str, Path]:
    """The path of each original file in a folder that a person filled."""
    paths = {file.name: source_dir / file.name for file in dataset.files}
    present = {name: path for name, path in paths.items() if path.is_file()}
    missing = [f.name for f in dataset.files if f.name not in present and not f.optional]
    if missing:
        state = "lacks" if source_dir.is_dir() else "does not exist; it should hold"
        raise UserError(f"{source_dir} {state} {', '.join(missing)} (see {dataset.homepage})")
    return present


def _downloaded(dataset: Dataset, data_dir: Path) -> dict[str, Path]:
    """The path of each original file after it has been downloaded, unless it already was."""
    by_hand = [file.name for file in dataset.files if file.url is None]
    if by_hand:
        raise UserError(
            f"{dataset.name} has no direct download: fetch {' and '.join(by_hand)} from"
            f" {dataset.homepage} by hand and give their folder with --source-dir"
        )
    folder = data_dir / "downloads" / dataset.name
    return {file.name: _download(file, folder) for file in dataset.files}


def _download(file: SourceFile, folder: Path) -> Path:
    target = folder / file.name
    if target.is_file() and _sha256(target) == file.sha256:
        return target
    partial = folder / f".{file.name}.{os.getpid()}.part"
    logging.info("downloading %s to %s", file.url, target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(str(file.url), partial)
        if _sha256(partial) != file.sha256:
            raise UserError(
                f"{file.url} does not give the published file (its hash differs): fetch"
                f" {file.name} by hand and give its folder with --source-dir"
            )
        partial.replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"could not download {file.url} ({error}): fetch {file.name} by hand and give its"
            " folder with --source-dir"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, target.open("wb") as stream:
        shutil.copyfileobj(answer, stream)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe(file: SourceFile, path: Path) -> dict[str, Any]:
    """Name, size and hash of a file, and whether it is the published one."""
    with readers.reading_file(path):
        found = _sha256(path)
    known = found == file.sha256 or _content_is_known(file, path)
    return {"name": file.name, "bytes": path.stat().st_size, "sha256": found, "known": known}


def _content_is_known(file: SourceFile, path: Path) -> bool:
    if file.content_sha256 is None:
        return False
    content = readers.gunzip(path, limit=1 << 28)
    return hashlib.sha256(content).hexdigest() == file.content_sha256


def _write(
    dataset: Dataset, source: readers.SourceSplits, record: Mapping[str, Any], *, data_dir: Path
) -> Path:
    """Writes the data set in a temporary folder beside its place and moves it there whole."""
    from gankd_jax.data.tfds_builder import ArrayRecordBuilder  # imports TFDS: heavy

    target = data_dir / dataset.name / dataset.version
    if target.exists() and prepared_dir(dataset.name, data_dir) != target:
        raise UserError(f"{target} holds something else or is damaged: mend or empty that place")
    existed = data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dataset.name}-", dir=data_dir) as work:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints about a download
                made = ArrayRecordBuilder(dataset, source.splits, Path(work)).write()
            (made / _PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
            target.parent.mkdir(exist_ok=True)
            made.rename(target)
    except OSError as error:
        if prepared_dir(dataset.name, data_dir) == target:  # another process was quicker
            return target
        raise UserError(f"could not write {target} ({error}): mend or empty that place") from error
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty, unless nothing came of it
                data_dir.rmdir()
    return target
