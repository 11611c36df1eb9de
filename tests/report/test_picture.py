import io
from pathlib import Path

import fake_study
import numpy as np
from PIL import Image

from gankd_jax.report.picture import PIXELS_PER_INCH, ROW_INCHES, picture
from gankd_jax.report.study_results import read_study_results


def drawn(folder: Path) -> np.ndarray:
    found = picture(read_study_results(folder))
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(found)).convert("L"))


def test_a_row_for_real_images_teacher_and_every_model(tmp_path):
    fake_study.write_study(tmp_path, widths=(2, 4), students=("mse",))
    # real, teacher, and mse and baseline of two widths
    assert drawn(tmp_path).shape[0] == round(6 * ROW_INCHES * PIXELS_PER_INCH)


def test_a_row_shows_the_samples_of_its_run(tmp_path):
    fake_study.write_study(tmp_path, widths=(2,), students=("mse",))
    before = drawn(tmp_path)
    samples = tmp_path / "baseline-d2-s0" / "samples.npz"
    with np.load(samples) as arrays:
        np.savez(samples, **{k: np.full_like(v, 255) for k, v in arrays.items()})
    after = drawn(tmp_path)
    row = round(3 * ROW_INCHES * PIXELS_PER_INCH)
    np.testing.assert_array_equal(before[: row - 2], after[: row - 2])
    right = after[row + 5 : -5, after.shape[1] // 2 :]
    assert right.min() == 255
    assert before[row + 5 : -5, after.shape[1] // 2 :].min() < 255


def test_nothing_is_drawn_before_there_are_samples(tmp_path):
    fake_study.write_study(tmp_path, widths=(2,), students=("mse",))
    for samples in tmp_path.glob("*/samples.npz"):
        samples.unlink()
    assert picture(read_study_results(tmp_path)) is None
