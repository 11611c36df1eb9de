"""Preparation: prepared data equals the original files, and bad files are rejected."""

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import os
import shutil
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from local_server import serve_folder
from PIL import Image
from sklearn.datasets import load_digits
from tensorflow_datasets.core import hashing, shuffle

from gankd_jax.data import registry, tfds_builder
from gankd_jax.data.loading import load_split
from gankd_jax.data.originals import readers
from gankd_jax.data.prepare import prepare_dataset, read_provenance
from gankd_jax.data.stored import prepared_dir
from gankd_jax.utils.errors import UserError

REAL_DATA = Path(
    os.environ.get("GANKD_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
TAR, ZIP, PARTITION = "cifar-10-binary.tar.gz", "img_align_celeba.zip", "list_eval_partition.txt"
CIFAR_BATCHES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuses connections, except to this machine."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        assert address[0] == "127.0.0.1", "preparing data must not open a connection"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def unpack_originals(name: str, folder: Path) -> Path:
    """Writes the original files of a data set as a user downloads them."""
    if not (REAL_DATA / "unpack.py").is_file():
        pytest.skip("no real data: set GANKD_TEST_DATA")
    spec = importlib.util.spec_from_file_location("unpack", REAL_DATA / "unpack.py")
    unpack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unpack)
    folder.mkdir(parents=True)
    getattr(unpack, name)(folder)
    return folder


def tfds_order(split: str, keys: Iterable[int | str]) -> list[int | str]:
    """Returns the order in which stock TFDS stores records, by its own hash."""
    return sorted(keys, key=hashing.Hasher(split).hash_key)


def read_encoded_images(folder: Path, split: str) -> list[bytes]:
    """Returns the encoded images of a prepared split, read by TFDS."""
    skip = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(folder).as_data_source(split, decoders=skip)
    return [example["image"] for example in source]


def assert_nothing_written(data_dir: Path) -> None:
    assert not data_dir.exists() or list(data_dir.iterdir()) == []


def assert_rejected(name: str, source: Path | None, data_dir: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error_info:
        prepare_dataset(name, source, data_dir)
    assert "\n" not in str(error_info.value)
    assert_nothing_written(data_dir)


# Whole data sets


def test_digits_are_prepared_without_files(tmp_path):
    folder = prepare_dataset("digits", None, tmp_path)
    assert folder == tmp_path / "digits" / "1.0.0"
    digits = load_digits()
    is_test = np.arange(1797) % 5 == 4
    for split, in_split in (("train", ~is_test), ("test", is_test)):
        images = load_split("digits", split, data_dir=tmp_path, image_size=8, pad=0)
        order = tfds_order(split, range(in_split.sum()))
        # 0..16 becomes 0..255, so a stored value is within half a step of 15.9375 times it.
        expected = digits.images[in_split][order][..., None] * 15.9375
        assert np.abs(images.pixels - expected).max() <= 0.5
        np.testing.assert_array_equal(images.labels, digits.target[in_split][order])
    assert read_provenance("digits", tmp_path)["source"] == "scikit-learn"


@pytest.mark.slow
def test_prepared_mnist_equals_the_original_files(tmp_path, caplog, capsys):
    source = unpack_originals("mnist", tmp_path / "originals")
    data_dir = tmp_path / "data"
    folder = prepare_dataset("mnist", source, data_dir)
    assert caplog.messages == []
    assert capsys.readouterr().out == ""

    raw = {p.name: gzip.decompress(p.read_bytes()) for p in source.iterdir()}
    for split, images_file, labels_file in (
        ("train", TRAIN_IMAGES, TRAIN_LABELS),
        ("test", TEST_IMAGES, TEST_LABELS),
    ):
        magic, count, height, width = struct.unpack(">4I", raw[images_file][:16])
        assert (magic, height, width) == (2051, 28, 28)
        pixels = np.frombuffer(raw[images_file][16:], np.uint8).reshape(count, 28, 28, 1)
        labels = np.frombuffer(raw[labels_file][8:], np.uint8)
        stored = tfds.builder_from_directory(folder).as_data_source(split)
        assert len(stored) == count
        # Every 37th image and label: all would take a minute.
        for index, original in list(enumerate(tfds_order(split, range(count))))[::37]:
            np.testing.assert_array_equal(stored[index]["image"], pixels[original])
            assert stored[index]["label"] == labels[original]
        if split == "train":  # the tutorials of stock TFDS show these first records
            first_labels = [int(stored[index]["label"]) for index in range(10)]
            assert first_labels == [4, 1, 0, 7, 8, 1, 2, 7, 1, 6]
        else:
            loaded = load_split("mnist", split, data_dir=data_dir, image_size=28, pad=0)
            order = tfds_order(split, range(count))
            np.testing.assert_array_equal(loaded.pixels, pixels[order])
            np.testing.assert_array_equal(loaded.labels, labels[order])

    record = read_provenance("mnist", data_dir)
    assert record["counts"] == {"train": 60_000, "test": 10_000}
    assert {file["name"]: file["bytes"] for file in record["files"]} == {
        path.name: path.stat().st_size for path in source.iterdir()
    }
    # The gzip container of the training images is new, but its content is the original's.
    assert all(file["known"] for file in record["files"])
    assert record["warnings"] == []
    assert sorted(path.name for path in data_dir.iterdir()) == ["gankd_cache", "mnist"]

    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare_dataset("mnist", tmp_path / "nowhere", data_dir) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def write_cifar_tar(
    folder: Path, batches: dict[str, np.ndarray], extra_members: Iterable[tarfile.TarInfo] = ()
) -> Path:
    """Writes an archive like CIFAR-10's, with the given rows in its batch files."""
    folder.mkdir()
    with tarfile.open(folder / TAR, "w:gz", compresslevel=1) as archive:
        for name, rows in batches.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = rows.size
            archive.addfile(entry, io.BytesIO(rows.tobytes()))
        for entry in extra_members:
            archive.addfile(entry)
    return folder


def black_batches(count: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((count, 3073), np.uint8) for name in CIFAR_BATCHES}


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """Returns the archive, and the rows of each batch file as Python's tarfile reads them.

    A row is a label, then the red, green and blue plane of an image.
    """
    path = unpack_originals("cifar10", tmp_path_factory.mktemp("cifar10") / "originals") / TAR
    with tarfile.open(path) as archive:
        files = {Path(entry.name).name: archive.extractfile(entry).read() for entry in archive}
    rows = {name: np.frombuffer(files[name], np.uint8).reshape(-1, 3073) for name in CIFAR_BATCHES}
    return path, rows


def assert_example_equals_row(example: dict, row: np.ndarray) -> None:
    image = np.asarray(Image.open(io.BytesIO(example["image"])))
    planes = np.stack([image[..., channel].ravel() for channel in range(3)])
    np.testing.assert_array_equal(planes.ravel(), row[1:])
    assert example["label"] == row[0]


@pytest.mark.slow
def test_cifar10_reader_yields_every_row(cifar10):
    path, rows = cifar10
    with readers.READERS["cifar10"](registry.get_dataset("cifar10"), {TAR: path}) as source:
        train, test = source.splits["train"], source.splits["test"]
        assert list(train.keys) == list(range(50_000))
        assert list(test.keys) == list(range(10_000))
        for index in range(0, 10_000, 97):
            assert_example_equals_row(test.example(index), rows["test_batch.bin"][index])
            for batch in range(5):
                example = train.example(10_000 * batch + index)
                assert_example_equals_row(example, rows[f"data_batch_{batch + 1}.bin"][index])
        assert train.example(1680)["id"] == "train_01680"
    # The ids of the first records of stock TFDS's cifar10, as its catalogue shows them.
    assert tfds_builder.record_order("train", train.keys)[:5] == [16399, 1680, 47917, 17307, 27051]


def test_prepared_cifar10_equals_the_original_rows(cifar10, tmp_path, monkeypatch, caplog):
    """Uses the first 50 images of each batch; all would take half a minute."""
    batches = {name: rows[:50] for name, rows in cifar10[1].items()}
    source = write_cifar_tar(tmp_path / "originals", batches)
    small = dataclasses.replace(registry.get_dataset("cifar10"), counts={"train": 250, "test": 50})
    monkeypatch.setitem(registry.DATASETS, "cifar10", small)
    monkeypatch.setattr(readers, "_CIFAR_BATCH", 50)
    data_dir = tmp_path / "data"
    folder = prepare_dataset("cifar10", source, data_dir)

    rows = np.concatenate([batches[name] for name in CIFAR_BATCHES[:5]])
    order = tfds_order("train", range(250))
    loaded = load_split("cifar10", "train", data_dir=data_dir, image_size=32, pad=0)
    np.testing.assert_array_equal(loaded.labels, rows[order, 0])
    planes = loaded.pixels.transpose(0, 3, 1, 2).reshape(250, 3072)
    np.testing.assert_array_equal(planes, rows[order, 1:])
    train = tfds.builder_from_directory(folder).as_data_source("train")
    ids = [example["id"].decode() for example in train]
    assert ids == [f"train_{index:05d}" for index in order]

    record = read_provenance("cifar10", data_dir)
    assert record["counts"] == {"train": 250, "test": 50}
    assert [file["known"] for file in record["files"]] == [False]
    assert "unknown hash" in record["warnings"][0]
    assert record["warnings"][0] in caplog.text


def write_small_celeb_a(folder: Path, count: int) -> Path:
    """Writes an archive of the first `count` photographs of the real archive."""
    original_folder = unpack_originals("celeb_a", folder / "original")
    small = folder / "small"
    small.mkdir()
    with zipfile.ZipFile(original_folder / ZIP) as old, zipfile.ZipFile(small / ZIP, "w") as new:
        for name in sorted(old.namelist())[:count]:
            new.writestr(name, old.read(name))
    return small


def test_celeb_a_jpegs_are_stored_unchanged(tmp_path, caplog):
    source = write_small_celeb_a(tmp_path, 205)
    data_dir = tmp_path / "data"
    folder = prepare_dataset("celeb_a", source, data_dir)
    with zipfile.ZipFile(source / ZIP) as archive:
        photographs = {Path(name).name: archive.read(name) for name in archive.namelist()}
    names = sorted(photographs)
    for split, split_names in (("train", names[:185]), ("test", names[185:])):
        expected = [photographs[name] for name in tfds_order(split, split_names)]
        assert read_encoded_images(folder, split) == expected
    record = read_provenance("celeb_a", data_dir)
    assert record["counts"] == {"train": 185, "test": 20}
    assert "205 of 202599 images" in " ".join(record["warnings"])
    assert "last tenth by name" in " ".join(record["warnings"])
    assert all(warning in caplog.text for warning in record["warnings"])
    test = load_split("celeb_a", "test", data_dir=data_dir, image_size=64, pad=0)
    assert test.pixels.shape == (20, 64, 64, 3)
    assert test.labels is None


def test_celeb_a_follows_the_partition_file(tmp_path):
    source = write_small_celeb_a(tmp_path, 12)
    lines = [f"{number:06d}.jpg {number % 3}" for number in range(1, 20)]
    (source / PARTITION).write_text("\n".join(lines) + "\n")
    folder = prepare_dataset("celeb_a", source, tmp_path / "data")
    with zipfile.ZipFile(source / ZIP) as archive:
        validation = {
            archive.read(f"img_align_celeba/0000{n}.jpg") for n in ("01", "04", "07", "10")
        }
    assert set(read_encoded_images(folder, "validation")) == validation
    assert read_provenance("celeb_a", tmp_path / "data")["counts"] == {
        "train": 4,
        "validation": 4,
        "test": 4,
    }
    loaded = load_split("celeb_a", "validation", data_dir=tmp_path / "data", image_size=64, pad=0)
    assert loaded.pixels.shape == (4, 64, 64, 3)


def test_stock_tfds_builders_are_not_replaced(tmp_path):
    prepare_dataset("digits", None, tmp_path)
    assert "tensorflow_datasets" in tfds.builder_cls("mnist").__module__
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.builder_cls("digits")


# Bad files: each raises a UserError of one line, and nothing is written


def write_gz(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 1))


def truncate_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def encode_idx(*shape: int, value: int = 0) -> bytes:
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    return header + bytes([value]) * int(np.prod(shape))


MNIST_MISTAKES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "cut short": (TEST_IMAGES, truncate_file, "damaged or cut short"),
    "damaged": (TEST_IMAGES, flip_byte, "damaged or cut short"),
    "empty": (TEST_IMAGES, lambda path: path.write_bytes(b""), "idx"),
    "too few": (
        TEST_LABELS,
        lambda path: write_gz(path, encode_idx(9_999)),
        r"\(9999,\); \(10000,\)",
    ),
    "too narrow": (TEST_IMAGES, lambda path: write_gz(path, encode_idx(10_000, 28, 27)), "28, 27"),
    "labels as images": (TEST_IMAGES, lambda path: write_gz(path, encode_idx(10_000)), "3 axes"),
    "a class too many": (
        TEST_LABELS,
        lambda path: write_gz(path, encode_idx(10_000, value=10)),
        "label 10",
    ),
    "data left out": (
        TEST_LABELS,
        lambda path: write_gz(path, encode_idx(10_000)[:-1]),
        "9999 bytes",
    ),
    "data to spare": (
        TEST_LABELS,
        lambda path: write_gz(path, encode_idx(10_000) + b"x"),
        "10001 bytes",
    ),
    "far too large": (TEST_LABELS, lambda path: write_gz(path, bytes(1 << 21)), "more than"),
}


@pytest.mark.parametrize("mistake", MNIST_MISTAKES)
def test_bad_mnist_file_is_rejected(mistake, tmp_path):
    file, damage, match = MNIST_MISTAKES[mistake]
    source = unpack_originals("mnist", tmp_path / "originals")
    damage(source / file)
    assert_rejected("mnist", source, tmp_path / "data", f"{file}.*{match}|{match}.*{file}")


def test_each_missing_file_is_named(tmp_path):
    source = unpack_originals("mnist", tmp_path / "originals")
    (source / TRAIN_LABELS).unlink()
    (source / TEST_IMAGES).unlink()
    assert_rejected("mnist", source, tmp_path / "data", f"{TRAIN_LABELS}, {TEST_IMAGES}")
    assert_rejected(
        "mnist", tmp_path / "none", tmp_path / "data", f"none does not exist.*{TEST_IMAGES}"
    )


def test_unknown_data_set_is_rejected(tmp_path):
    assert_rejected("imagenet", tmp_path, tmp_path / "data", "digits, mnist, cifar10, celeb_a")


def symlink_member(target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("cifar-10-batches-bin/link.bin")
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def test_cifar10_archive_with_other_counts_is_rejected(tmp_path):
    source = write_cifar_tar(tmp_path / "originals", black_batches(5))
    assert_rejected("cifar10", source, tmp_path / "data", "data_batch_1.bin holds 5 images")


def test_cifar10_archive_without_a_batch_is_rejected(tmp_path):
    batches = black_batches(10_000)
    del batches["data_batch_3.bin"]
    source = write_cifar_tar(tmp_path / "originals", batches)
    assert_rejected("cifar10", source, tmp_path / "data", "lacks data_batch_3.bin")


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside.bin"),
        tarfile.TarInfo("/etc/outside.bin"),
        symlink_member("/etc/passwd"),
    ],
    ids=["parent", "absolute", "link"],
)
def test_cifar10_archive_with_an_unsafe_member_is_rejected(member, tmp_path):
    source = write_cifar_tar(tmp_path / "originals", black_batches(5), [member])
    assert_rejected("cifar10", source, tmp_path / "data", f"unsafe member '{member.name}'")


@pytest.mark.parametrize("damage", [truncate_file, flip_byte])
def test_damaged_cifar10_archive_is_rejected(damage, tmp_path):
    source = write_cifar_tar(tmp_path / "originals", black_batches(100))
    damage(source / TAR)
    assert_rejected("cifar10", source, tmp_path / "data", "damaged or cut short")


def encode_photograph(mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def write_celeb_a_zip(folder: Path, replacements: dict[str, bytes]) -> Path:
    """Writes an archive of 20 photographs, with members replaced or added."""
    folder.mkdir()
    members = {f"img_align_celeba/{number:06d}.jpg": encode_photograph() for number in range(1, 21)}
    with zipfile.ZipFile(folder / ZIP, "w") as archive:
        for name, content in (members | replacements).items():
            archive.writestr(name, content)
    return folder


SEVENTH = "img_align_celeba/000007.jpg"
CELEB_A_MISTAKES = {
    "a photograph cut short": ({SEVENTH: encode_photograph()[:-50]}, "truncated"),
    "no photograph": ({SEVENTH: b"not a JPEG"}, "damaged or cut short"),
    "another format": ({SEVENTH: b"GIF89a" + bytes(50)}, "damaged or cut short"),
    "a grey photograph": ({SEVENTH: encode_photograph("L")}, "000007.jpg is a L image"),
    "a name twice": ({"other/000007.jpg": encode_photograph()}, "000007.jpg twice"),
    "a way out": ({"../000099.jpg": encode_photograph()}, "unsafe member"),
}


@pytest.mark.parametrize("mistake", CELEB_A_MISTAKES)
def test_bad_celeb_a_archive_is_rejected(mistake, tmp_path):
    replacements, match = CELEB_A_MISTAKES[mistake]
    source = write_celeb_a_zip(tmp_path / "originals", replacements)
    assert_rejected("celeb_a", source, tmp_path / "data", f"{ZIP}.*{match}")


def test_celeb_a_archive_with_a_link_is_rejected(tmp_path):
    source = write_celeb_a_zip(tmp_path / "originals", {})
    entry = zipfile.ZipInfo("img_align_celeba/000099.jpg")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(source / ZIP, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert_rejected("celeb_a", source, tmp_path / "data", "unsafe member")


@pytest.mark.parametrize("damage", [truncate_file, flip_byte])
def test_damaged_celeb_a_archive_is_rejected(damage, tmp_path):
    source = write_celeb_a_zip(tmp_path / "originals", {})
    damage(source / ZIP)
    assert_rejected("celeb_a", source, tmp_path / "data", f"{ZIP} is damaged or cut short")


def test_celeb_a_archive_with_too_many_images_is_rejected(tmp_path, monkeypatch):
    small = dataclasses.replace(registry.get_dataset("celeb_a"), counts={"train": 18, "test": 1})
    monkeypatch.setitem(registry.DATASETS, "celeb_a", small)
    source = write_celeb_a_zip(tmp_path / "originals", {})
    assert_rejected("celeb_a", source, tmp_path / "data", "holds 20 images; 19 are expected")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("000001.jpg 0\n", "gives no split for 000002.jpg and 18 others"),
        ("".join(f"{n:06d}.jpg 7\n" for n in range(1, 21)), "gives no split for 000001.jpg"),
        ("".join(f"{n:06d}.jpg 0\n" for n in range(1, 21)), "without a train or a test split"),
    ],
)
def test_bad_partition_file_is_rejected(text, match, tmp_path):
    source = write_celeb_a_zip(tmp_path / "originals", {})
    (source / PARTITION).write_text(text)
    assert_rejected("celeb_a", source, tmp_path / "data", f"{PARTITION} .*{match}")


def test_celeb_a_has_no_download(tmp_path):
    assert_rejected("celeb_a", None, tmp_path / "data", f"{ZIP}.*by hand.*--source-dir")


# The data folder


def test_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match="could not write"):
        prepare_dataset("digits", None, tmp_path / "data")


def test_files_in_the_target_folder_are_not_overwritten(tmp_path):
    existing_file = tmp_path / "digits" / "1.0.0" / "precious.txt"
    existing_file.parent.mkdir(parents=True)
    existing_file.write_text("keep")
    with pytest.raises(UserError, match=r"digits/1\.0\.0 holds something else"):
        prepare_dataset("digits", None, tmp_path)
    assert existing_file.read_text() == "keep"
    assert list(tmp_path.iterdir()) == [tmp_path / "digits"]


def test_data_of_a_faster_process_is_used(tmp_path, monkeypatch):
    write = tfds_builder.ArrayRecordBuilder.write

    def write_after_other_process(self) -> tuple[Path, dict[str, int]]:
        monkeypatch.setattr(tfds_builder.ArrayRecordBuilder, "write", write)
        prepare_dataset("digits", None, tmp_path)
        return write(self)

    monkeypatch.setattr(tfds_builder.ArrayRecordBuilder, "write", write_after_other_process)
    assert prepare_dataset("digits", None, tmp_path) == tmp_path / "digits" / "1.0.0"
    assert list(tmp_path.iterdir()) == [tmp_path / "digits"]


def test_large_splits_need_no_tensorflow(tmp_path, monkeypatch):
    # TFDS's shuffler moves splits above this size (1 GB, less than CelebA) through TensorFlow.
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 0)
    prepare_dataset("digits", None, tmp_path)
    assert read_provenance("digits", tmp_path)["counts"] == {"train": 1438, "test": 359}


def test_newest_array_record_version_is_used(tmp_path):
    def write_info(version: str, file_format: str) -> None:
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(f'{{"fileFormat": "{file_format}"}}')

    assert prepared_dir("mnist", tmp_path) is None
    write_info("9.0.0", "tfrecord")
    assert prepared_dir("mnist", tmp_path) is None
    write_info("3.0.1", "array_record")
    write_info("10.0.0", "array_record")
    assert prepared_dir("mnist", tmp_path) == tmp_path / "mnist" / "10.0.0"
    assert read_provenance("mnist", tmp_path) == {}


# Downloads


def use_download_site(address: str, monkeypatch) -> None:
    """Redirects the downloads of `mnist` to an address."""
    mnist = registry.get_dataset("mnist")
    files = tuple(
        dataclasses.replace(
            file,
            url=f"{address}/{file.name}",
            sha256=hashlib.sha256((REAL_DATA / "mnist" / file.name).read_bytes()).hexdigest(),
        )
        for file in mnist.files
    )
    monkeypatch.setitem(registry.DATASETS, "mnist", dataclasses.replace(mnist, files=files))


def read_real_files() -> dict[str, bytes]:
    if not (REAL_DATA / "mnist").is_dir():
        pytest.skip("no real data: set GANKD_TEST_DATA")
    return {path.name: path.read_bytes() for path in (REAL_DATA / "mnist").iterdir()}


def test_downloads_are_checked_and_each_file_is_fetched_once(tmp_path, monkeypatch):
    site, data_dir = tmp_path / "site", tmp_path / "data"
    site.mkdir()
    for name, content in (read_real_files() | {TEST_LABELS: b"something else"}).items():
        (site / name).write_bytes(content)
    with serve_folder(site) as address:
        use_download_site(address, monkeypatch)
        with pytest.raises(UserError, match=f"{TEST_LABELS} is not the published file.*by hand"):
            prepare_dataset("mnist", None, data_dir)
        downloads = data_dir / "downloads" / "mnist"
        expected = {TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES}
        assert {path.name for path in downloads.iterdir()} == expected

        shutil.rmtree(site)
        with pytest.raises(UserError, match=f"{TEST_LABELS} cannot be downloaded.*--source-dir"):
            prepare_dataset("mnist", None, data_dir)
        assert {path.name for path in downloads.iterdir()} == expected
        assert prepared_dir("mnist", data_dir) is None

        # Only the missing file is on offer, so a second download of another would fail.
        site.mkdir()
        (site / TEST_LABELS).write_bytes(read_real_files()[TEST_LABELS])
        (tmp_path / "dataset").mkdir()
        monkeypatch.setattr(
            "gankd_jax.data.prepare.write_dataset", lambda *args, **kwargs: tmp_path / "dataset"
        )
        assert prepare_dataset("mnist", None, data_dir) == tmp_path / "dataset"
        assert {path.name: path.read_bytes() for path in downloads.iterdir()} == read_real_files()


def test_registered_data_set_without_a_reader_is_left_to_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))
    registry.register_dataset(
        registry.Dataset("fashion_mnist", (28, 28, 1), 10, {"train": 60_000}, "1.0.0", "")
    )
    assert_rejected("fashion_mnist", None, tmp_path / "data", "fashion_mnist has no reader.*TFDS")
