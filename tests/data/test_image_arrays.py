"""Arrays of images: what is read exactly, and what is refused by its name and shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankd_jax.data import image_arrays
from gankd_jax.utils.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)


def save(path: Path, images: Any, **arrays: Any) -> Path:
    if path.suffix.lower() == ".npy":
        with path.open("wb") as file:  # np.save would add .npy to .NPY
            np.save(file, images)
    else:
        np.savez(path, images, **arrays)
    return path


@pytest.mark.parametrize("name", ["a.npy", "a.NPY", "a.npz"])
@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., :1], np.asfortranarray(IMAGES)])
def test_images_are_read_as_they_are(tmp_path, name, images):
    array = image_arrays.read_image_array(save(tmp_path / name, images))
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, images)


def test_grey_images_get_a_channel(tmp_path):
    array = image_arrays.read_image_array(save(tmp_path / "a.npy", IMAGES[..., 0]))
    np.testing.assert_array_equal(array, IMAGES[..., :1])


def test_an_npy_is_mapped_and_not_read(tmp_path):
    assert isinstance(image_arrays.read_image_array(save(tmp_path / "a.npy", IMAGES)), np.memmap)


def test_an_npz_of_statistics_holds_no_images_even_with_images_beside(tmp_path):
    assert image_arrays.holds_images(save(tmp_path / "a.npz", IMAGES, arr_1=np.arange(5)))
    assert not image_arrays.holds_images(save(tmp_path / "b.npz", IMAGES, mu=np.zeros(3)))
    (tmp_path / "c.npz").write_bytes(b"text")
    assert not image_arrays.holds_images(tmp_path / "c.npz")
    assert not image_arrays.holds_images(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (IMAGES / 255, "holds float64; images must be uint8, from 0 to 255"),
        (IMAGES.astype(np.int64), "holds int64; images must be uint8"),
        (IMAGES.transpose(0, 3, 1, 2), r"\(5, 3, 8, 6\): put the channels last"),
        (IMAGES[0], r"\(8, 6, 3\); images must be \(n, h, w, c\)"),
        (IMAGES[..., :2], r"\(5, 8, 6, 2\); images must be"),
        (IMAGES[:, :0], r"\(5, 0, 6, 3\); images must be"),
        (IMAGES[0, 0, 0], r"\(3,\); images must be"),
        (np.array([None]), "has no array of images"),
    ],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_other_arrays_are_refused_with_the_file_and_the_reason(tmp_path, name, images, reason):
    path = save(tmp_path / name, images)
    with pytest.raises(UserError, match=rf"{name} .*{reason}"):
        image_arrays.read_image_array(path)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_missing_and_damaged_files_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        image_arrays.read_image_array(tmp_path / name)
    content = save(tmp_path / name, IMAGES).read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name} has no array of images: "):
            image_arrays.read_image_array(tmp_path / name)
