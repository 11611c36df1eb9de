"""Loading of data sets: preprocessing, cache, and rejected files and arguments."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from gankd_jax.data import loading
from gankd_jax.data.image_files import preprocess
from gankd_jax.data.loading import load_split
from gankd_jax.data.prepare import prepare_dataset
from gankd_jax.data.stored import default_data_dir
from gankd_jax.utils.errors import UserError

PLAIN = {"image_size": 8, "pad": 0}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    data_dir = tmp_path_factory.mktemp("prepared")
    prepare_dataset("digits", None, data_dir)
    return data_dir


@pytest.fixture
def data_dir(prepared, tmp_path) -> Path:
    """Returns a new folder with the digits and without a cache."""
    shutil.copytree(prepared / "digits", tmp_path / "digits")
    return tmp_path


def encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def write_tfds(
    data_dir: Path, name: str, version: str, images: list[bytes], *, channels: int
) -> Path:
    """Writes a data set with unused features by TFDS's own sequential writer."""
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=name, version=version, data_dir=str(folder), module_name=""
        ),
        features=tfds.features.FeaturesDict(
            {
                "attributes": {"smiling": np.bool_},
                "image": tfds.features.Image(shape=(None, None, channels)),
                "label": tfds.features.ClassLabel(num_classes=100),
            }
        ),
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2, file_format="array_record")
    writer.initialize_splits(["train"])
    examples = [
        {"attributes": {"smiling": True}, "image": image, "label": 10 + index}
        for index, image in enumerate(images)
    ]
    writer.add_examples({"train": examples})
    writer.close_all()
    return folder


# Preprocessing


def test_padding_adds_zeros_and_changes_no_pixel():
    pixels = np.random.default_rng(0).integers(1, 256, (28, 28), np.uint8)
    framed = preprocess(Image.fromarray(pixels), image_size=32, pad=2)
    np.testing.assert_array_equal(framed, np.pad(pixels, 2)[..., None])


def test_portrait_is_cropped_to_its_centre():
    # 64 wide and 78 high: nothing is resized, and (78 - 64) / 2 = 7 rows go above and below.
    pixels = np.random.default_rng(0).integers(0, 256, (78, 64, 3), np.uint8)
    cropped = preprocess(Image.fromarray(pixels), image_size=64, pad=0)
    np.testing.assert_array_equal(cropped, pixels[7:71])


def test_halving_keeps_a_linear_ramp():
    # A linear ramp stays linear under any symmetric resampling: column j of the half-size image
    # lies at source column 2 j + 0.5, away from the borders.
    ramp = np.tile(np.arange(0, 192, 3, dtype=np.uint8), (64, 1))
    half = preprocess(Image.fromarray(ramp), image_size=32, pad=0)[..., 0]
    expected = 3 * (2 * np.arange(32) + 0.5)
    assert np.abs(half[:, 2:-2] - expected[2:-2]).max() <= 0.5


def test_landscape_is_resized_by_its_short_side_and_cropped():
    # 60 x 30 with a white left half: at 10 pixels height it is 20 x 10, and the cut keeps
    # columns 5 to 14, whose left half is white.
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:, :30] = 255
    cropped = preprocess(Image.fromarray(pixels), image_size=10, pad=0)
    assert cropped.shape == (10, 10, 3)
    assert (cropped[:, :4] == 255).all()
    assert (cropped[:, 6:] == 0).all()


def test_celeb_a_sizes_are_those_of_torchvision():
    # 178 x 218 at 64: the long side is int(64 * 218 / 178) = 78.
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    image = Image.fromarray(pixels)
    resized = np.asarray(image.resize((64, 78), Image.Resampling.BILINEAR))
    cropped = preprocess(image, image_size=64, pad=0)
    np.testing.assert_array_equal(cropped, resized[7:71])


# Reading


def test_digits_are_prepared_on_first_use(tmp_path):
    images = load_split("digits", "test", data_dir=tmp_path, **PLAIN)
    assert images.pixels.shape == (359, 8, 8, 1)
    digits = load_digits()
    expected = np.bincount(digits.target[4::5], minlength=10)
    np.testing.assert_array_equal(np.bincount(images.labels), expected)


def test_data_written_by_tfds_is_read(data_dir):
    rng = np.random.default_rng(0)
    originals = [rng.integers(0, 256, (12, 10, 3), np.uint8) for _ in range(5)]
    write_tfds(
        data_dir, "digits", "3.0.1", [encode_png(original) for original in originals], channels=3
    )
    images = load_split("digits", "train", data_dir=data_dir, image_size=10, pad=0)
    np.testing.assert_array_equal(images.pixels, np.stack(originals)[:, 1:11])
    assert images.labels.tolist() == [10, 11, 12, 13, 14]
    assert images.key.startswith("digits-3.0.1-train-10px-pad0-n5-")


def test_any_tfds_data_set_can_be_loaded(tmp_path):
    original = np.full((6, 6, 1), 7, np.uint8)
    write_tfds(tmp_path, "fashion_mnist", "3.0.1", [encode_png(original)], channels=1)
    images = load_split("fashion_mnist", "train", data_dir=tmp_path, image_size=6, pad=0)
    np.testing.assert_array_equal(images.pixels, original[None])


def test_stored_images_of_16_bits_are_divided_by_257_and_rounded(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 6, 1)).astype(np.uint16)
    write_tfds(tmp_path, "xrays", "1.0.0", [encode_png(values)], channels=1)
    images = load_split("xrays", "train", data_dir=tmp_path, image_size=6, pad=0)
    np.testing.assert_array_equal(images.pixels[0], np.rint(values / 257))


def test_validation_is_the_end_of_train(data_dir):
    unsplit = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    train = load_split("digits", "train", data_dir=data_dir, validation=100, **PLAIN)
    held_out = load_split("digits", "validation", data_dir=data_dir, validation=100, **PLAIN)
    assert (len(unsplit.pixels), len(train.pixels), len(held_out.pixels)) == (1438, 1338, 100)
    np.testing.assert_array_equal(np.concatenate([train.pixels, held_out.pixels]), unsplit.pixels)
    np.testing.assert_array_equal(np.concatenate([train.labels, held_out.labels]), unsplit.labels)
    test = load_split("digits", "test", data_dir=data_dir, validation=100, **PLAIN)
    assert len(test.pixels) == 359


def test_different_images_have_different_keys(data_dir, prepared):
    def load_key(
        split: str = "train", *, image_size: int = 8, pad: int = 0, validation: int = 0
    ) -> str:
        sizes = {"image_size": image_size, "pad": pad, "validation": validation}
        return load_split("digits", split, data_dir=data_dir, **sizes).key

    keys = {
        load_key(),
        load_key("test"),
        load_key(image_size=16),
        load_key(pad=1, image_size=10),
        load_key(pad=2, image_size=10),
        load_key(validation=10),
        load_key("validation", validation=10),
    }
    assert len(keys) == 7
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for key in keys)
    assert load_split("digits", "train", data_dir=prepared, **PLAIN).key == load_key()


# The cache


def cached_file(data_dir: Path, name: str) -> Path:
    (path,) = (data_dir / "gankd_cache").rglob(name)
    return path


def test_second_load_is_memory_mapped_from_the_cache(data_dir, monkeypatch):
    fresh = loading._preprocess_split(data_dir / "digits" / "1.0.0", "train", **PLAIN)
    first = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    monkeypatch.setattr(loading, "_preprocess_split", None)  # a call would fail
    second = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    assert isinstance(second.pixels, np.memmap)
    for images in (first, second):
        np.testing.assert_array_equal(images.pixels, fresh.pixels)
        np.testing.assert_array_equal(images.labels, fresh.labels)
    assert first.key == second.key
    with pytest.raises(ValueError, match="read-only"):
        second.pixels[0] = 0


def truncate_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["pixels.npy", "labels.npy", "note.json"])
@pytest.mark.parametrize(
    "damage", [truncate_file, flip_byte, Path.unlink], ids=["cut", "flip", "unlink"]
)
def test_damaged_cache_is_rewritten(file, damage, data_dir):
    before = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    expected, labels = np.array(before.pixels), before.labels
    damage(cached_file(data_dir, file))
    for _ in range(2):
        after = load_split("digits", "train", data_dir=data_dir, **PLAIN)
        np.testing.assert_array_equal(after.pixels, expected)
        np.testing.assert_array_equal(after.labels, labels)
        assert after.key == before.key
    np.testing.assert_array_equal(np.load(cached_file(data_dir, "pixels.npy")), expected)
    assert len(list((data_dir / "gankd_cache").iterdir())) == 1


def test_a_cache_that_another_process_has_mapped_is_not_replaced(data_dir):
    folder = data_dir / "digits" / "1.0.0"
    load_split("digits", "train", data_dir=data_dir, **PLAIN)
    (cache,) = (data_dir / "gankd_cache").iterdir()
    inode = cached_file(data_dir, "pixels.npy").stat().st_ino
    loading._write_split(cache, loading._preprocess_split(folder, "train", **PLAIN))
    assert cached_file(data_dir, "pixels.npy").stat().st_ino == inode


def test_cache_is_replaced_when_the_data_changes(data_dir):
    before = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    shutil.rmtree(data_dir / "digits")
    write_tfds(data_dir, "digits", "1.0.0", [encode_png(np.full((8, 8), 9, np.uint8))], channels=1)
    after = load_split("digits", "train", data_dir=data_dir, **PLAIN)
    assert (after.pixels == 9).all()
    assert after.key != before.key


def test_unwritable_cache_is_a_warning(data_dir, caplog):
    (data_dir / "gankd_cache").write_text("in the way")
    images = load_split("digits", "test", data_dir=data_dir, **PLAIN)
    assert images.pixels.shape == (359, 8, 8, 1)
    assert not images.pixels.flags.writeable
    assert "continuing without a cache" in caplog.text


# Bad data and arguments


def test_missing_data_names_the_command_that_prepares_it(tmp_path):
    with pytest.raises(UserError, match="`gankd data prepare mnist`"):
        load_split("mnist", "train", data_dir=tmp_path / "none", **PLAIN)
    with pytest.raises(UserError, match="digits, mnist, cifar10, celeb_a"):
        load_split("imagenet", "train", data_dir=tmp_path, **PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_tfrecord_data_names_the_command_that_converts_it(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    with pytest.raises(UserError, match=r"TensorFlow.*`gankd data prepare mnist`"):
        load_split("mnist", "train", data_dir=tmp_path, **PLAIN)


def first_train_shard(folder: Path) -> Path:
    return next(folder.glob("*train*"))


def claim_more_records(folder: Path) -> None:
    """Makes the folder's info claim more records than its file holds."""
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["2000"]
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: truncate_file(first_train_shard(folder)),
        lambda folder: flip_byte(first_train_shard(folder)),
        lambda folder: first_train_shard(folder).write_bytes(b""),
        lambda folder: first_train_shard(folder).unlink(),
        lambda folder: (folder / "features.json").write_text("{"),
        claim_more_records,
    ],
    ids=["cut", "flip", "empty", "missing", "features", "more records"],
)
def test_damaged_data_is_a_user_error_that_names_the_folder(damage, data_dir):
    folder = data_dir / "digits" / "1.0.0"
    damage(folder)
    match = rf"{folder} is damaged \(.*\): remove that folder and prepare it again as it was"
    with pytest.raises(UserError, match=match) as error_info:
        load_split("digits", "train", data_dir=data_dir, **PLAIN)
    assert "\n" not in str(error_info.value)


def test_truncated_image_inside_a_record_is_a_user_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    folder = write_tfds(tmp_path, "mnist", "3.0.1", [encode_png(noise)[:-40]], channels=3)
    match = f"the data set in {folder}: record 0 cannot be read as an image"
    with pytest.raises(UserError, match=match):
        load_split("mnist", "train", data_dir=tmp_path, **PLAIN)


def test_unknown_split_lists_the_splits(data_dir):
    with pytest.raises(UserError, match="no split 'trian', only train, test"):
        load_split("digits", "trian", data_dir=data_dir, **PLAIN)
    with pytest.raises(UserError, match=r"no split 'validation'.*validation > 0"):
        load_split("digits", "validation", data_dir=data_dir, **PLAIN)


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"image_size": 0, "pad": 0}, "image_size"),
        ({"image_size": 8, "pad": -1}, "pad"),
        ({"image_size": 8, "pad": 0, "validation": -1}, "validation"),
        ({"image_size": 8, "pad": 0, "validation": 1438}, "leaves none of digits's 1438"),
    ],
)
def test_sizes_out_of_range_are_rejected(sizes, match, data_dir):
    with pytest.raises(UserError, match=match):
        load_split("digits", "train", data_dir=data_dir, **sizes)


def test_default_folder_is_that_of_tfds(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "tensorflow_datasets"
