"""Prepares data sets: original files, downloaded or fetched by hand, are stored as TFDS data."""

import contextlib
import hashlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gankd_jax.data import registry
from gankd_jax.data.originals import original_files, readers
from gankd_jax.data.registry import Dataset, SourceFile
from gankd_jax.data.stored import prepared_dir
from gankd_jax.utils.download import download_file
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.file_lock import hold_lock, is_locked

logger = logging.getLogger(__name__)

_PROVENANCE = "provenance.json"
_LOCK = "lock"  # in a folder that is being written
_MAX_CONTENT = 1 << 28  # bytes of a gunzipped original file; the largest has 47 MB


def read_provenance(name: str, data_dir: Path) -> dict[str, Any]:
    """Reads where prepared data came from.

    Args:
        name: The data set.
        data_dir: The folder of the TFDS data sets.

    Returns:
        Its original files with their hashes, its counts and its warnings; {} for stock TFDS data.
    """
    folder = prepared_dir(name, data_dir)
    if folder is None or not (folder / _PROVENANCE).is_file():
        return {}
    return json.loads((folder / _PROVENANCE).read_text())


def prepare_dataset(name: str, source_dir: Path | None, data_dir: Path) -> Path:
    """Writes a data set as array_record, unless it is prepared already.

    Splits and features have the names that stock TFDS gives them.  A file from `source_dir` with an
    unknown hash is accepted with a warning, which is recorded.

    Args:
        name: A key of `registry.DATASETS`.
        source_dir: The folder of the original files, packed or unpacked.  None: they are
            downloaded to `data_dir`/downloads/NAME.
        data_dir: The folder of the TFDS data sets.

    Returns:
        The folder of the prepared data, `data_dir`/NAME/VERSION.

    Raises:
        UserError: The name is unknown, files are missing, a download fails, or a file is damaged or
            holds other counts or shapes than the data set has.  Nothing is written then.
    """
    dataset = registry.get_dataset(name)
    folder = prepared_dir(name, data_dir)
    if folder is not None:
        logger.info("%s is already prepared in %s", name, folder)
        return folder
    if name not in readers.READERS:
        raise UserError(f"{name} has no reader here: prepare it in {data_dir} with TFDS")
    if source_dir is None:
        paths = _download_files(dataset, data_dir)
    else:
        paths = original_files.find_files(dataset, source_dir)
    files = [_describe(file, paths[file.name]) for file in dataset.files if file.name in paths]
    with readers.READERS[name](dataset, paths) as source:
        warnings = [*_hash_warnings(files), *source.warnings]
        record = {
            "name": name,
            "version": dataset.version,
            "source": _origin(files, source_dir),
            "files": files,
            "warnings": warnings,
        }
        folder = write_dataset(dataset, source.splits, record, data_dir=data_dir)
        for warning in warnings:
            logger.warning("%s: %s", name, warning)
        return folder


def _origin(files: list[dict[str, Any]], source_dir: Path | None) -> str:
    if not files:
        return "scikit-learn"
    return "download" if source_dir is None else "by hand"


def _download_files(dataset: Dataset, data_dir: Path) -> dict[str, Path]:
    """Downloads the original files that are not there yet, and returns the path of each."""
    by_hand = [file.name for file in dataset.files if file.url is None]
    if by_hand:
        raise UserError(
            f"{dataset.name} has no direct download: fetch {' and '.join(by_hand)} from"
            f" {dataset.homepage} by hand and name their folder with --source-dir"
        )
    folder = data_dir / "downloads" / dataset.name
    for file in dataset.files:
        _download_file(file, folder / file.name)
    return {file.name: folder / file.name for file in dataset.files}


def _download_file(file: SourceFile, target: Path) -> None:
    if target.is_file() and _sha256(target) == file.sha256:
        return
    try:
        download_file(str(file.url), target, sha256=file.sha256)
    except UserError as error:
        raise UserError(
            f"{error}: fetch {file.name} by hand and name its folder with --source-dir"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe(file: SourceFile, path: Path) -> dict[str, Any]:
    """Returns name, size and hash of a file, and whether it is a published one."""
    if path.is_dir():
        return {"name": f"{path.name}/", "known": False}
    with original_files.reading_file(path):
        sha256 = _sha256(path)
    is_known = sha256 in (file.sha256, *file.other_sha256) or _has_known_content(file, path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256, "known": is_known}


def _has_known_content(file: SourceFile, path: Path) -> bool:
    if file.content_sha256 is None:
        return False
    content = original_files.read_content(path, limit=_MAX_CONTENT)
    return hashlib.sha256(content).hexdigest() == file.content_sha256


def _hash_warnings(files: list[dict[str, Any]]) -> list[str]:
    """Returns a sentence for each file that is not known to be the published one."""
    texts = {
        True: "{name} is an unpacked folder, which no published hash can confirm",
        False: "{name} has an unknown hash: it differs from the published file",
    }
    return [
        texts[file["name"].endswith("/")].format(name=file["name"])
        for file in files
        if not file["known"]
    ]


def write_dataset(
    dataset: Dataset,
    splits: Mapping[str, readers.ExampleSplit],
    record: Mapping[str, Any],
    *,
    data_dir: Path,
) -> Path:
    """Writes a data set to a temporary folder and renames that: whole or not at all.

    Args:
        dataset: What it is.
        splits: Its examples.
        record: Where they come from; it is stored beside them with their counts.
        data_dir: The folder of the TFDS data sets.

    Returns:
        The folder of the prepared data, `data_dir`/NAME/VERSION.

    Raises:
        UserError: It cannot be written, or a split has no examples.
    """
    target = data_dir / dataset.name / dataset.version
    if target.exists() and prepared_dir(dataset.name, data_dir) != target:
        raise UserError(f"{target} holds something else or is damaged: move it away")
    is_new_dir = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _open_work_dir(dataset.name, data_dir) as work:
            folder = _write_records(dataset, splits, record, work)
            target.parent.mkdir(exist_ok=True)
            folder.rename(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: array_record's, of a full disk
        if prepared_dir(dataset.name, data_dir) == target:  # another process was faster
            return target
        reason = str(error).split(";")[0]
        raise UserError(f"could not write {target} ({reason})") from error
    finally:
        if is_new_dir:
            with contextlib.suppress(OSError):  # not empty, unless writing failed
                data_dir.rmdir()
    return target


@contextlib.contextmanager
def _open_work_dir(name: str, data_dir: Path) -> Iterator[Path]:
    """Yields a new temporary folder, after removing those that killed processes have left."""
    for folder in data_dir.glob(f".{name}-*"):
        if (folder / _LOCK).exists() and not is_locked(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)  # another process may be removing it too
    work_dir = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=data_dir)
    with work_dir as work, hold_lock(Path(work, _LOCK), name):
        yield Path(work)


def _write_records(
    dataset: Dataset,
    splits: Mapping[str, readers.ExampleSplit],
    record: Mapping[str, Any],
    work: Path,
) -> Path:
    """Writes a data set and its provenance below a folder, and returns its own folder."""
    from gankd_jax.data.tfds_builder import ArrayRecordBuilder  # imports TFDS, which is slow

    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints a message about a download
        folder, counts = ArrayRecordBuilder(dataset, splits, work).write()
    for name, count in counts.items():
        if not count:
            raise UserError(f"{dataset.name} would have no {name} images: more are needed")
    content = json.dumps({**record, "counts": counts}, indent=2) + "\n"
    (folder / _PROVENANCE).write_text(content)
    return folder
