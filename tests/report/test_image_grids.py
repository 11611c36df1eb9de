import io
from pathlib import Path

import fake_study
import numpy as np
import pytest
from PIL import Image

from gankd_jax.report.page.image_grids import (
    PIXELS_PER_INCH,
    ROW_INCHES,
    GridOptions,
    build_all_grids,
    build_headline_strips,
    build_lead_grids,
    build_nearest_grids,
    build_nearest_table,
    build_sharpness_grid,
    draw_sample_grid,
    list_lead_models,
)
from gankd_jax.report.study_results import load_study
from gankd_jax.utils import atomic_io


@pytest.fixture
def folder(tmp_path) -> Path:
    return fake_study.write_study(tmp_path, seeds=(0,), widths=(2, 8), students=("mse",))


def change_samples(folder: Path, run: str, **arrays: np.ndarray) -> None:
    path = folder / run / "samples.npz"
    atomic_io.write_npz(path, **(atomic_io.read_npz(path) | arrays))


def draw_grid_pixels(folder: Path) -> np.ndarray:
    png = draw_sample_grid(load_study(folder))
    assert png is not None
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def test_samples_are_shown_above_their_nearest_training_images(folder):
    indices = np.array([60, 3, 5, 7, 9, 11, 13, 15])
    change_samples(folder, "teacher-d32-s0", closest=indices)
    pairs = build_nearest_grids(load_study(folder), GridOptions())
    assert [pair[0].label for pair in pairs] == ["teacher", "mse student d=8", "baseline d=8"]
    arrays = atomic_io.read_npz(folder / "teacher-d32-s0" / "samples.npz")
    np.testing.assert_array_equal(pairs[0][0].images, arrays["grid"][indices])
    np.testing.assert_array_equal(pairs[0][1].images, arrays["nearest"])


def test_nearest_table_divides_distances_by_those_of_real_images(folder):
    change_samples(folder, "reference", distances=np.array([2.0, 4.0, 6.0]))
    change_samples(folder, "student-mse-d2-s0", distances=np.array([0.5, 3.0, 9.0]))
    table = build_nearest_table(load_study(folder))
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts[0] == ["", "real test images", "4.00", "1.00", "2.00"]
    assert ["2", "mse student", "3.00", "0.75", "0.500"] in texts


def test_study_without_nearest_images_has_no_nearest_table(folder):
    for path in folder.glob("*/samples.npz"):
        arrays = atomic_io.read_npz(path)
        atomic_io.write_npz(path, grid=arrays["grid"])
    study = load_study(folder)
    assert build_nearest_table(study) is None
    assert build_nearest_grids(study, GridOptions()) == []


def test_sharpness_grid_is_sorted_from_blurred_to_sharp(folder):
    images = np.full((64, 16, 16, 1), 128, np.uint8)
    checkerboard = np.indices((16, 16)).sum(axis=0) % 2
    for k in range(64):  # checkerboards of decreasing contrast
        images[k, ..., 0] += ((64 - k) * checkerboard).astype(np.uint8)
    change_samples(folder, "student-mse-d2-s0", grid=images)
    strips = build_sharpness_grid(load_study(folder), GridOptions(columns=4))
    [student] = [strip for strip in strips if strip.label.startswith("mse student d=2")]
    np.testing.assert_array_equal(student.images, images[[63, 62, 1, 0]])
    sharpness = [float(strip.label.split()[-1].replace(",", "")) for strip in strips]
    assert sharpness == sorted(sharpness)
    assert len(strips) == 2 + 2 * 2  # real, teacher, two models of two widths


def test_sample_grid_has_a_row_for_real_images_teacher_and_every_model(folder):
    assert draw_grid_pixels(folder).shape[0] == round(6 * ROW_INCHES * PIXELS_PER_INCH)


def test_sample_grid_row_shows_the_samples_of_its_run(folder):
    before = draw_grid_pixels(folder)
    path = folder / "baseline-d2-s0" / "samples.npz"
    change_samples(folder, path.parent.name, grid=np.full((64, 16, 16, 1), 255, np.uint8))
    after = draw_grid_pixels(folder)
    # Real images, the teacher, the best student and its baseline, then those of d=2.
    top, bottom = (round(k * ROW_INCHES * PIXELS_PER_INCH) for k in (5, 6))
    np.testing.assert_array_equal(before[: top - 2], after[: top - 2])
    images = slice(top + 5, bottom - 5), slice(after.shape[1] // 2, None)
    assert after[images].min() == 255
    assert before[images].min() < 255


def test_sample_grid_is_absent_before_there_are_samples(folder):
    for path in folder.glob("*/samples.npz"):
        path.unlink()
    assert draw_sample_grid(load_study(folder)) is None


def test_lead_grid_begins_with_the_best_student_and_the_baseline_of_its_width(tmp_path):
    study = load_study(fake_study.write_study(tmp_path, seeds=(0,)))
    models = list_lead_models(study)
    [grid] = build_lead_grids(study, models, GridOptions())
    assert [strip.label for strip in grid] == [
        *("real images", "teacher", "joint student d=8", "baseline d=8"),
        *("joint student d=4", "baseline d=4", "joint student d=2", "baseline d=2"),
    ]
    # 100 d^2 parameters; the teacher has d=32.
    assert grid[2].caption == "6,400 parameters, 16:1, 26 kB"
    assert grid[1].caption == "102,400 parameters, 410 kB"
    labels = [strip.label for strip in build_headline_strips(study, models)]
    assert labels == ["teacher", "joint student d=8", "baseline d=8", "joint student d=2"]
    assert len(build_all_grids(study, models, GridOptions())[0]) == 2 + 3 * 3


def test_every_model_has_no_grid_of_its_own_if_the_lead_grid_has_them_all(folder):
    study = load_study(folder)
    assert build_all_grids(study, list_lead_models(study), GridOptions()) == ()
