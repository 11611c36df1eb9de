"""The blur measure by eye: each model's most blurred and sharpest images."""

import numpy as np

from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.report.formatting import format_number
from gankd_jax.report.sheets import Detail, Strip, shown_models
from gankd_jax.report.study_results import ImageArray, StudyResults


def blur_sheet(study: StudyResults, detail: Detail) -> list[Strip]:
    """Return a strip for each model, blurred ones first; its left half most blurred, then sharpest.

    The models stand by the mean of the images that are at hand.
    """
    found = [("real", study.real_grid)]
    found += [("teacher", study.teacher.grid)] if study.teacher else []
    models = shown_models(study, ("student", "baseline"))
    found += [(model.label, model.run.grid) for model in models if model.run]
    shown = [
        (label, grid, variance_of_laplacian(grid)) for label, grid in found if grid is not None
    ]
    shown.sort(key=lambda one: one[2].mean())
    return [_strip(*one, half=detail.columns // 2) for one in shown]


def _strip(label: str, grid: ImageArray, sharpness: np.ndarray, *, half: int) -> Strip:
    order = np.argsort(sharpness, kind="stable")
    ends = np.concatenate([order[:half], order[-half:]])
    about = f"the most blurred and the sharpest images of {label}"
    return Strip(f"{label} {format_number(float(sharpness.mean()))}", about, grid[ends])
