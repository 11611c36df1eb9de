"""Which pictures show memorising and blur."""

import fake_study
import numpy as np
import pytest

from gankd_jax.report.blur import blur_sheet
from gankd_jax.report.likeness import nearest_sheets, nearest_table
from gankd_jax.report.sheets import Detail
from gankd_jax.report.study_results import read_study_results
from gankd_jax.utils import atomic_io


@pytest.fixture
def folder(tmp_path):
    return fake_study.write_study(tmp_path, seeds=(0,), widths=(2, 8), students=("mse",))


def change(folder, run: str, **arrays: np.ndarray) -> None:
    path = folder / run / "samples.npz"
    atomic_io.write_npz(path, **(atomic_io.read_npz(path) | arrays))


def test_images_stand_above_the_training_images_they_come_near_to(folder):
    places = np.array([60, 3, 5, 7, 9, 11, 13, 15])
    change(folder, "teacher-d32-s0", closest=places)
    pairs = nearest_sheets(read_study_results(folder), Detail())
    assert [pair[0].label for pair in pairs] == ["teacher", "d=8 mse", "d=8 baseline"]
    arrays = atomic_io.read_npz(folder / "teacher-d32-s0" / "samples.npz")
    np.testing.assert_array_equal(pairs[0][0].images, arrays["grid"][places])
    np.testing.assert_array_equal(pairs[0][1].images, arrays["nearest"])


def test_distances_are_set_beside_those_of_real_images(folder):
    change(folder, "reference", distances=np.array([2.0, 4.0, 6.0]))
    change(folder, "student-mse-d2-s0", distances=np.array([0.5, 3.0, 9.0]))
    texts = [[cell.text for cell in row] for row in nearest_table(read_study_results(folder)).rows]
    assert texts[0] == ["", "real test images", "4.00", "1.00", "2.00"]
    assert ["2", "mse student", "3.00", "0.75", "0.500"] in texts


def test_a_study_that_kept_no_nearest_images_has_no_table(folder):
    for path in folder.glob("*/samples.npz"):
        arrays = atomic_io.read_npz(path)
        atomic_io.write_npz(path, grid=arrays["grid"])
    assert nearest_table(read_study_results(folder)) is None
    assert nearest_sheets(read_study_results(folder), Detail()) == []


def test_the_most_blurred_stand_left_and_first(folder):
    flat = np.full((64, 16, 16, 1), 128, np.uint8)
    board = np.indices((16, 16)).sum(axis=0) % 2
    for k in range(64):  # ever starker checkerboards, the starkest first
        flat[k, ..., 0] += ((64 - k) * board).astype(np.uint8)
    change(folder, "student-mse-d2-s0", grid=flat)
    strips = blur_sheet(read_study_results(folder), Detail(columns=4))
    [ours] = [strip for strip in strips if strip.label.startswith("d=2 mse")]
    np.testing.assert_array_equal(ours.images, flat[[63, 62, 1, 0]])
    sharpness = [float(strip.label.split()[-1].replace(",", "")) for strip in strips]
    assert sharpness == sorted(sharpness)
    assert len(strips) == 2 + 2 * 2  # real, teacher, two models of two widths
