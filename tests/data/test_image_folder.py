"""Images of a person's own: what is stored of which files, as which split and label."""

import hashlib
import logging
import re
import shutil
import weakref
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gankd_jax.data import image_files, image_folder, prepare, registry
from gankd_jax.data.image_folder import ImageOptions, prepare_images
from gankd_jax.data.loading import load_split
from gankd_jax.data.prepare import read_provenance
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.file_lock import hold_lock, is_locked

SMALL = ImageOptions(image_size=8)
CLASSES = ("daisy", "rose")


def colour_of(number: int) -> tuple[int, int, int]:
    """A colour that says which image it is."""
    return 5 * number, 255 - 5 * number, number


def write_image(path: Path, number: int, size: tuple[int, int] = (12, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour_of(number)).save(path)


def write_images(folder: Path, names: Iterable[str]) -> Path:
    """Writes an image of its own colour for each name."""
    for number, name in enumerate(names):
        write_image(folder / name, number)
    return folder


def names_in(folders: Iterable[str], count: int) -> list[str]:
    """Names of `count` images, in turn in each of the folders."""
    folders = list(folders)
    return [f"{folders[k % len(folders)]}/{k:02d}.png" for k in range(count)]


def read_stored(folder: Path) -> dict[str, list[tuple[int, str | None]]]:
    """Returns number and class of each stored image, by split, read by TFDS."""
    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    label = features["label"] if "label" in list(features) else None
    return {
        split: [
            (int(example["image"][0, 0, 2]), label and label.int2str(example["label"]))
            for example in builder.as_data_source(split)
        ]
        for split in builder.info.splits
    }


def numbers(stored: list[tuple[int, str | None]]) -> set[int]:
    return {number for number, _ in stored}


def assert_rejected(
    source: Path, data_dir: Path, match: str, *, name: str = "flowers", **options: str
) -> None:
    with pytest.raises(UserError, match=match) as error_info:
        prepare_images(name, source, data_dir, ImageOptions(image_size=8, **options))
    assert "\n" not in str(error_info.value)
    assert not data_dir.exists()


def test_a_tenth_by_the_files_hash_is_the_test_split(tmp_path):
    source = write_images(tmp_path / "photos", [f"{k}.png" for k in range(30)])
    hashes = {hashlib.sha256((source / f"{k}.png").read_bytes()).hexdigest(): k for k in range(30)}
    expected = {hashes[digest] for digest in sorted(hashes)[:3]}
    stored = read_stored(prepare_images("flowers", source, tmp_path / "data", SMALL))
    assert numbers(stored["test"]) == expected
    assert numbers(stored["train"]) == set(range(30)) - expected
    for k in range(30):  # neither names nor order decide
        (source / f"{k}.png").rename(source / f"x{(7 * k) % 30}.png")
    again = read_stored(prepare_images("again", source, tmp_path / "data", SMALL))
    assert numbers(again["test"]) == expected


@pytest.mark.parametrize("outer", ["", "photos/all/"])
def test_sub_folders_are_labels(outer, tmp_path):
    names = names_in([f"{outer}rose/2021", f"{outer}daisy"], 20)
    source = write_images(tmp_path / "photos", names)
    folder = prepare_images("flowers", source, tmp_path / "data", SMALL)
    stored = read_stored(folder)
    labels = dict(stored["train"] + stored["test"])
    assert labels == {k: ("rose", "daisy")[k % 2] for k in range(20)}
    dataset = registry.get_dataset("flowers", tmp_path / "data")
    assert dataset.class_names == CLASSES
    assert (dataset.classes, dataset.image_shape) == (2, (8, 8, 3))
    assert dataset.counts == {"train": 18, "test": 2}
    images = load_split("flowers", "test", data_dir=tmp_path / "data", image_size=8, pad=0)
    assert [CLASSES[label] for label in images.labels] == [labels[k] for k, _ in stored["test"]]


def test_without_labels_where_an_image_lies_outside_or_none_are_wanted(tmp_path):
    source = write_images(tmp_path / "photos", [*names_in(CLASSES, 12), "outside.png"])
    folder = prepare_images("flowers", source, tmp_path / "data", SMALL)
    assert {label for _, label in read_stored(folder)["train"]} == {None}
    assert_rejected(source, tmp_path / "new", r"labels=folders.*outside\.png", labels="folders")
    (source / "outside.png").unlink()
    options = ImageOptions(image_size=8, labels="none")
    prepare_images("plain", source, tmp_path / "data", options)
    assert registry.get_dataset("plain", tmp_path / "data").classes is None


def test_split_folders_are_splits_with_the_same_labels(tmp_path):
    folders = ["train/rose", "train/daisy", "Test/rose", "Test/daisy", "validation/rose"]
    source = write_images(tmp_path / "photos", names_in(folders, 25))
    stored = read_stored(prepare_images("flowers", source, tmp_path / "data", SMALL))
    assert numbers(stored["train"]) == {k for k in range(25) if k % 5 in (0, 1)}
    assert numbers(stored["test"]) == {k for k in range(25) if k % 5 in (2, 3)}
    assert numbers(stored["validation"]) == {k for k in range(25) if k % 5 == 4}
    for images in stored.values():
        assert all(label == CLASSES[k % 5 in (0, 2, 4)] for k, label in images)
    write_image(source / "outside.png", 30)
    assert_rejected(source, tmp_path / "new", r"outside\.png and 0 other images lie outside")


def test_without_a_test_folder_a_tenth_of_the_training_images_is_it(tmp_path):
    source = write_images(tmp_path / "photos", names_in(["train", "validation"], 40))
    stored = read_stored(prepare_images("flowers", source, tmp_path / "data", SMALL))
    assert {split: len(images) for split, images in stored.items()} == {
        "train": 18,
        "test": 2,
        "validation": 20,
    }
    assert all(k % 2 == 0 for k in numbers(stored["test"]))


def test_a_zip_gives_the_records_of_its_folder(tmp_path):
    source = write_images(tmp_path / "photos", names_in(CLASSES, 12))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.mkdir("rose")
        archive.writestr("__MACOSX/rose/._00.png", b"x")
        archive.writestr("rose/.hidden.png", b"x")
        for path in sorted(source.rglob("*.png")):
            archive.write(path, path.relative_to(source))
    folders = [
        prepare_images("flowers", origin, tmp_path / origin.suffix.strip("."), SMALL)
        for origin in (source, tmp_path / "photos.zip")
    ]
    contents = [
        {path.name: path.read_bytes() for path in folder.glob("*.array_record*")}
        for folder in folders
    ]
    assert contents[0] == contents[1]


def test_crop_takes_the_centre_and_none_takes_all(tmp_path):
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10], pixels[:, 20:] = 255, 100  # white, black, grey
    source = tmp_path / "photos"
    source.mkdir()
    for k in range(10):
        Image.fromarray(pixels).save(source / f"{k}.png")
    means = {}
    for crop in ("centre", "none"):
        prepare_images(f"crop_{crop}", source, tmp_path, ImageOptions(crop=crop, image_size=9))
        images = load_split(f"crop_{crop}", "train", data_dir=tmp_path, image_size=9, pad=0)
        means[crop] = images.pixels[0, :, 1::3].mean(axis=(0, 2)).round().tolist()
    assert means["centre"] == [0, 0, 0]
    assert means["none"] == [255, 0, 100]


def test_broken_files_are_named_counted_and_left_out(tmp_path, caplog):
    source = write_images(tmp_path / "photos", [f"{k:02d}.png" for k in range(20)])
    (source / "03.png").write_bytes((source / "03.png").read_bytes()[:-30])
    (source / "notes.txt").write_text("no image")
    (source / ".hidden.png").write_text("hidden")
    with caplog.at_level(logging.INFO):
        folder = prepare_images("flowers", source, tmp_path / "data", SMALL)
    assert "left out: 03.png cannot be read as an image" in caplog.text
    assert "flowers: 1 of 20 images could not be read and are left out" in caplog.text
    assert "20 images; left out: 1 hidden file, 1 .txt file" in caplog.text
    stored = read_stored(folder)
    assert numbers(stored["train"]) | numbers(stored["test"]) == set(range(20)) - {3}
    record = read_provenance("flowers", tmp_path / "data")
    assert record["broken"] == ["03.png"]
    assert sum(record["counts"].values()) == 19


def pack(source: Path) -> Path:
    """Writes the images of a folder as a zip beside it."""
    path = source.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in sorted(source.iterdir()):
            archive.write(image, image.name)
    return path


def test_a_huge_image_in_a_zip_is_left_out_unread(tmp_path, caplog, monkeypatch):
    source = write_images(tmp_path / "photos", [f"{k:02d}.png" for k in range(20)])
    (source / "03.png").write_bytes((source / "03.png").read_bytes() + bytes(10_000))
    monkeypatch.setattr(image_folder, "MAX_MEMBER_BYTES", 9_999)
    folder = prepare_images("flowers", pack(source), tmp_path / "data", SMALL)
    stored = read_stored(folder)
    assert numbers(stored["train"]) | numbers(stored["test"]) == set(range(20)) - {3}
    assert read_provenance("flowers", tmp_path / "data")["broken"] == ["03.png"]
    assert "left out: 03.png has 10" in caplog.text


def test_a_zip_of_own_images_is_to_be_packed_again(tmp_path, caplog):
    archive = pack(write_images(tmp_path / "photos", [f"{k:02d}.png" for k in range(20)]))
    content = archive.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"03.png") + 20] ^= 0xFF
    archive.write_bytes(flipped)
    prepare_images("flowers", archive, tmp_path / "damaged", SMALL)
    assert re.search(r"03\.png is damaged or cut short \(.*\): copy or pack it again", caplog.text)
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as unsafe:
        unsafe.writestr(link, "/etc/passwd")
    match = r"unsafe member 'link\.png': pack it again without links and paths outside its folder"
    assert_rejected(archive, tmp_path / "data", match)


def test_more_than_a_tenth_broken_is_an_error(tmp_path):
    source = write_images(tmp_path / "photos", [f"{k:02d}.png" for k in range(20)])
    for k in (3, 9, 15):
        (source / f"{k:02d}.png").write_text("no image")
    match = r"more than a tenth of the 20 images cannot be read; the last: \d\d\.png cannot"
    assert_rejected(source, tmp_path / "data", match)


def test_wrong_sources_and_names_are_one_line(tmp_path):
    data_dir = tmp_path / "data"
    assert_rejected(tmp_path / "nowhere", data_dir, "nowhere does not exist")
    (tmp_path / "file").write_text("no zip")
    assert_rejected(tmp_path / "file", data_dir, "neither a folder of images nor a .zip")
    (tmp_path / "empty").mkdir()
    assert_rejected(tmp_path / "empty", data_dir, "has no images")
    source = write_images(tmp_path / "photos", ["a/1.png", "a/2.png"])
    assert_rejected(source, data_dir, "has 2 images; 10 or more are needed")
    write_images(source, names_in("a", 12))
    assert_rejected(source, data_dir, "needs two or more sub-folders", labels="folders")
    for name in ("My Flowers", "a-b", "none", "../x", ""):
        assert_rejected(source, data_dir, "cannot name a data set", name=name)


def test_prepared_images_are_not_passed_off_as_others(tmp_path, caplog):
    source = write_images(tmp_path / "photos", names_in(CLASSES, 12))
    folder = prepare_images("flowers", source, tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with caplog.at_level(logging.INFO):
        assert prepare_images("flowers", source, tmp_path, SMALL) == folder
    assert "already prepared" in caplog.text
    for other, options in ((tmp_path, SMALL), (source, ImageOptions(image_size=16))):
        with pytest.raises(UserError, match=r"was prepared with .*, not .*: remove that folder"):
            prepare_images("flowers", other, tmp_path, options)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_a_killed_process_left_is_removed(tmp_path):
    source = write_images(tmp_path / "photos", names_in(CLASSES, 12))
    data_dir = tmp_path / "data"
    killed, running = data_dir / ".flowers-killed", data_dir / ".flowers-running"
    for folder in (killed, running):
        (folder / "flowers").mkdir(parents=True)
        (folder / prepare._LOCK).touch()
    with hold_lock(running / prepare._LOCK, "flowers"):
        prepare_images("flowers", source, data_dir, SMALL)
    assert {path.name for path in data_dir.iterdir()} == {running.name, "flowers"}


def test_two_processes_may_remove_what_a_killed_one_left(tmp_path, monkeypatch):
    killed = tmp_path / ".digits-killed"
    killed.mkdir()
    (killed / prepare._LOCK).touch()

    def look_while_another_process_removes(path: Path) -> bool:
        is_held = is_locked(path)
        shutil.rmtree(path.parent)
        return is_held

    monkeypatch.setattr(prepare, "is_locked", look_while_another_process_removes)
    prepare.prepare_dataset("digits", None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


@pytest.mark.slow
def test_images_are_read_one_at_a_time(tmp_path, monkeypatch):
    source = write_images(tmp_path / "photos", [f"{k:02d}.png" for k in range(10)])
    decode, decoded, counts = image_files.decode_image, [], []

    def count_and_decode(*args, **options):
        counts.append(sum(image() is not None for image in decoded))
        image = decode(*args, **options)
        decoded.append(weakref.ref(image))
        return image

    monkeypatch.setattr(image_files, "decode_image", count_and_decode)
    prepare_images("flowers", source, tmp_path / "data", SMALL)
    assert len(counts) == 10
    assert max(counts) <= 1


def test_the_command_prepares_and_refuses(tmp_path, command):
    source = write_images(tmp_path / "photos", names_in(CLASSES, 12))
    words = ["data", "prepare", "flowers", f"--data-dir={tmp_path}"]
    status, out, _ = command(*words, f"--source-dir={source}", "--image-size=16", "--labels=none")
    assert (status, out.strip()) == (0, str(tmp_path / "flowers" / "1.0.0"))
    assert registry.get_dataset("flowers", tmp_path).image_shape == (16, 16, 3)
    assert registry.get_dataset("flowers", tmp_path).classes is None
    assert command(*words)[1].strip() == out.strip()
    status, _, err = command("data", "prepare", "mnist", f"--data-dir={tmp_path}", "--crop=none")
    assert status == 2
    assert "--crop is for images of your own, not for mnist" in err
    status, _, err = command("data", "prepare", "roses", f"--data-dir={tmp_path}")
    assert status == 2
    assert "celeb_a, flowers, or prepare images of your own with" in err
