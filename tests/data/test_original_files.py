"""Original files in the forms in which people have them: found, read, or refused in one line."""

import dataclasses
import gzip
import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from python2_pickle import dump_python2_pickle

from gankd_jax.data import registry
from gankd_jax.data.originals import original_files, readers
from gankd_jax.data.prepare import prepare_dataset, read_provenance
from gankd_jax.utils.errors import UserError

MNIST_FILES = [
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
]
CIFAR_BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
PARTITION_TXT = "".join(f"{n:06d}.jpg {2 * (n > 17)}\n" for n in range(1, 21))
PARTITION_CSV = "image_id,partition\n" + PARTITION_TXT.replace(" ", ",")


def read_splits(dataset: registry.Dataset, source: Path) -> dict[str, list[dict]]:
    """Returns the examples of each split, as `prepare_dataset` would store them."""
    paths = original_files.find_files(dataset, source)
    with readers.READERS[dataset.name](dataset, paths) as found:
        return {
            name: [split.example(key) for key in split.keys] for name, split in found.splits.items()
        }


# MNIST


def small_mnist() -> tuple[registry.Dataset, dict[str, bytes]]:
    """A data set of 12 and 5 images, and the plain content of its files."""
    counts, rng = {"train": 12, "test": 5}, np.random.default_rng(0)
    files = {}
    for count, (images, labels) in zip(
        counts.values(), (MNIST_FILES[:2], MNIST_FILES[2:]), strict=True
    ):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        files[images] = struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes()
        files[labels] = struct.pack(">2I", 0x801, count) + bytes(range(count % 10))
        files[labels] = files[labels].ljust(8 + count, b"\0")
    return dataclasses.replace(registry.get_dataset("mnist"), counts=counts), files


def write_gzipped(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def write_plain(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_as_torchvision(folder: Path, files: dict[str, bytes]) -> None:
    (folder / "MNIST" / "raw").mkdir(parents=True)
    write_gzipped(folder / "MNIST" / "raw", files)
    write_plain(folder / "MNIST" / "raw", files)


def write_as_kaggle(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).mkdir()
        (folder / name / name).write_bytes(content)
        (folder / name.replace("-idx", ".idx")).write_bytes(content)


def write_plain_under_the_name_of_gz(folder: Path, files: dict[str, bytes]) -> None:
    write_plain(folder, {f"{name}.gz": content for name, content in files.items()})


MNIST_FORMS = [
    *(write_plain, write_as_torchvision, write_as_kaggle, write_plain_under_the_name_of_gz)
]


@pytest.mark.parametrize("write", MNIST_FORMS, ids=lambda write: write.__name__)
def test_every_form_of_mnist_gives_the_same_examples(write, tmp_path):
    dataset, files = small_mnist()
    for name in ("published", "other"):
        (tmp_path / name).mkdir()
    write_gzipped(tmp_path / "published", files)
    expected = read_splits(dataset, tmp_path / "published")
    assert [len(examples) for examples in expected.values()] == [12, 5]
    write(tmp_path / "other", files)
    assert read_splits(dataset, tmp_path / "other") == expected


def test_two_data_sets_of_the_same_file_names_are_not_mixed(tmp_path):
    dataset, files = small_mnist()
    for name in ("MNIST", "FashionMNIST"):
        (tmp_path / name / "raw").mkdir(parents=True)
        write_plain(tmp_path / name / "raw", files)
    with pytest.raises(UserError, match=r"FashionMNIST/raw/.* and .*MNIST/raw/.* name the folder"):
        original_files.find_files(dataset, tmp_path)
    paths = original_files.find_files(dataset, tmp_path / "MNIST")
    assert {path.parent for path in paths.values()} == {tmp_path / "MNIST" / "raw"}


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path):
    dataset, files = small_mnist()
    write_gzipped(tmp_path, files)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(UserError, match=rf"{path} is a file; name the folder of train-images"):
        original_files.find_files(dataset, path)


# CIFAR-10


@pytest.fixture
def cifar_rows(monkeypatch) -> dict[str, np.ndarray]:
    """Batches of 5 images: a label and three planes a row."""
    monkeypatch.setattr(readers, "_CIFAR_BATCH", 5)
    rng = np.random.default_rng(0)
    batches = {name: rng.integers(0, 256, (5, 3073), np.uint8) for name in CIFAR_BATCHES}
    for rows in batches.values():
        rows[:, 0] %= 10
    return batches


def binary_files(batches: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {f"{name}.bin": rows.tobytes() for name, rows in batches.items()}


def python_files(batches: dict[str, np.ndarray]) -> dict[str, bytes]:
    files = {
        name: dump_python2_pickle({"labels": rows[:, 0].tolist(), "data": rows[:, 1:].copy()})
        for name, rows in batches.items()
    }
    return files | {"batches.meta": dump_python2_pickle({"label_names": ["airplane"]})}


def write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "form", ["python archive", "python folder", "binary folder", "folder itself", "file itself"]
)
def test_every_form_of_cifar10_gives_the_same_examples(form, cifar_rows, tmp_path):
    dataset = registry.get_dataset("cifar10")
    (tmp_path / "published").mkdir()
    write_tar(
        tmp_path / "published" / "cifar-10-binary.tar.gz",
        "cifar-10-batches-bin",
        binary_files(cifar_rows),
    )
    expected = read_splits(dataset, tmp_path / "published")
    assert [len(examples) for examples in expected.values()] == [25, 5]
    source = tmp_path / "other"
    source.mkdir()
    if form == "binary folder":
        (source / "cifar-10-batches-bin").mkdir()
        write_plain(source / "cifar-10-batches-bin", binary_files(cifar_rows))
    elif "archive" in form or "file" in form:
        name = "cifar-10-python.tar.gz"
        write_tar(source / name, "cifar-10-batches-py", python_files(cifar_rows))
        source = source / name if "file" in form else source
    else:
        (source / "cifar-10-batches-py").mkdir()
        write_plain(source / "cifar-10-batches-py", python_files(cifar_rows))
        source = source / "cifar-10-batches-py" if "itself" in form else source
    assert read_splits(dataset, source) == expected


PICKLE_MISTAKES = {
    "no pickle": (b"text", "test_batch is not a batch of CIFAR-10"),
    "code": (b"cposix\nsystem\n(S'x'\ntR.", r"it refers to posix\.system"),
    "no labels": (dump_python2_pickle({"data": np.zeros((5, 3072), np.uint8)}), "labels"),
    "labels of CIFAR-100": (
        dump_python2_pickle({"labels": [0, 1, 2, 3, 99], "data": np.zeros((5, 3072), np.uint8)}),
        "holds the label 99",
    ),
    "few labels": (
        dump_python2_pickle({"labels": [0], "data": np.zeros((5, 3072), np.uint8)}),
        "holds 1 labels of 5 images",
    ),
    "other images": (
        dump_python2_pickle({"labels": [0] * 5, "data": np.zeros((5, 784), np.uint8)}),
        r"holds \(5, 784\) instead of 5 images",
    ),
    "a list": (dump_python2_pickle({"labels": [0] * 5, "data": [[0] * 3072] * 5}), "instead of 5"),
}


@pytest.mark.parametrize("mistake", PICKLE_MISTAKES)
def test_a_bad_batch_of_python_is_refused(mistake, cifar_rows, tmp_path):
    content, message = PICKLE_MISTAKES[mistake]
    write_plain(tmp_path, python_files(cifar_rows) | {"test_batch": content})
    with pytest.raises(UserError, match=message) as error_info:
        read_splits(registry.get_dataset("cifar10"), tmp_path)
    assert "\n" not in str(error_info.value)


# CelebA


def photographs() -> dict[str, bytes]:
    """Twenty photographs by name."""
    rng, files = np.random.default_rng(0), {}
    for number in range(1, 21):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(buffer, "JPEG")
        files[f"{number:06d}.jpg"] = buffer.getvalue()
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_celeb_a(form: str, folder: Path) -> Path:
    """Writes photographs and a partition in one of the forms; returns what a person names."""
    folder.mkdir(parents=True)
    images = photographs()
    prefix = "img_align_celeba/img_align_celeba"
    nested = {f"{prefix}/{name}": content for name, content in images.items()}
    beside = {"list_attr_celeba.csv": bytes((1 << 24) + 1), "list_bbox_celeba.csv": b"x"}
    sidecars = {f"__MACOSX/{prefix}/._{name}": b"x" for name in images}
    if form == "published":
        write_zip(folder / "img_align_celeba.zip", nested)
        (folder / "list_eval_partition.txt").write_text(PARTITION_TXT)
    elif form == "unpacked":
        (folder / "celeba" / "img_align_celeba").mkdir(parents=True)
        write_plain(folder / "celeba" / "img_align_celeba", images)
        (folder / "celeba" / "list_eval_partition.txt").write_text(PARTITION_TXT)
        (folder / "celeba" / "__MACOSX").mkdir()
        write_plain(folder / "celeba" / "__MACOSX", images)
    elif form == "photographs and partition in one folder":
        write_plain(folder, images)
        (folder / "list_eval_partition.csv").write_text(PARTITION_CSV)
    else:
        partition = {"list_eval_partition.csv": PARTITION_CSV.encode()}
        write_zip(folder / "archive.zip", nested | beside | partition | sidecars)
        return folder / "archive.zip" if form == "kaggle archive itself" else folder
    return folder


CELEB_A_FORMS = [
    *("unpacked", "photographs and partition in one folder"),
    *("kaggle archive", "kaggle archive itself"),
]


@pytest.mark.parametrize("form", CELEB_A_FORMS)
def test_every_form_of_celeb_a_gives_the_same_examples(form, tmp_path):
    dataset = registry.get_dataset("celeb_a")
    expected = read_splits(dataset, write_celeb_a("published", tmp_path / "published"))
    assert {name: len(examples) for name, examples in expected.items()} == {"train": 17, "test": 3}
    assert read_splits(dataset, write_celeb_a(form, tmp_path / "other")) == expected


def test_an_archive_that_is_named_is_read_whatever_lies_beside_it(tmp_path):
    for name in ("archive.zip", "backup.zip"):
        write_zip(tmp_path / name, photographs())
    dataset = registry.get_dataset("celeb_a")
    with pytest.raises(UserError, match=r"archive\.zip and .*backup\.zip could both be"):
        original_files.find_files(dataset, tmp_path)
    paths = original_files.find_files(dataset, tmp_path / "backup.zip")
    assert paths == {"img_align_celeba.zip": tmp_path / "backup.zip"}


PARTITIONS = {
    "list_eval_partition.txt": [
        PARTITION_TXT.encode("utf-8-sig"),
        PARTITION_TXT.replace("\n", "\r\n").encode("utf-8-sig"),
        PARTITION_TXT.replace(" ", "\t  ").encode(),
        PARTITION_CSV.encode(),
    ],
    "list_eval_partition.csv": [
        PARTITION_CSV.encode(),
        PARTITION_CSV.replace("\n", "\r\n").encode("utf-8-sig"),
        PARTITION_CSV.replace(",", ";").encode(),
        PARTITION_CSV.replace(",", '","').replace("\n", '"\n"').encode(),
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in PARTITIONS for content in PARTITIONS[name]]
)
def test_a_partition_is_read_however_it_was_saved(name, content, tmp_path):
    source = write_celeb_a("published", tmp_path / "source")
    (source / "list_eval_partition.txt").unlink()
    (source / name).write_bytes(content)
    splits = read_splits(registry.get_dataset("celeb_a"), source)
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 17, "test": 3}


def test_an_unpacked_folder_is_prepared_and_said_to_be_unconfirmed(tmp_path, caplog, monkeypatch):
    source = write_celeb_a("unpacked", tmp_path / "source")
    monkeypatch.chdir(source / "celeba" / "img_align_celeba")
    shutil.copy("../list_eval_partition.txt", ".")
    prepare_dataset("celeb_a", Path(), tmp_path / "data")
    record = read_provenance("celeb_a", tmp_path / "data")
    assert record["counts"] == {"train": 17, "test": 3}
    assert record["files"][0] == {"name": "img_align_celeba/", "known": False}
    assert record["warnings"][:2] == [
        "img_align_celeba/ is an unpacked folder, which no published hash can confirm",
        "list_eval_partition.txt has an unknown hash: it differs from the published file",
    ]
    assert all(warning in caplog.text for warning in record["warnings"])


def test_what_is_missing_is_named_with_its_unpacked_form(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    message = r"lacks img_align_celeba\.zip or its unpacked folder \(see https://mmlab"
    with pytest.raises(UserError, match=message):
        original_files.find_files(registry.get_dataset("celeb_a"), tmp_path)


def test_an_archive_without_photographs_is_refused(tmp_path):
    write_zip(tmp_path / "annotations.zip", {"list_attr_celeba.csv": b"x"})
    with pytest.raises(UserError, match=r"annotations\.zip holds 0 images; 202599 are expected"):
        read_splits(registry.get_dataset("celeb_a"), tmp_path)


def test_a_huge_photograph_is_refused(tmp_path):
    write_zip(tmp_path / "img_align_celeba.zip", {"000001.jpg": bytes((1 << 24) + 1)})
    with pytest.raises(UserError, match=r"000001\.jpg has 16777217 bytes"):
        read_splits(registry.get_dataset("celeb_a"), tmp_path)
