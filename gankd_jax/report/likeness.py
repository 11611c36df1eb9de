"""Whether a generator repeats training images: its nearest ones, as pictures and as distances."""

import numpy as np

from gankd_jax.report.formatting import Cell, Table, count_cell, format_number, model_name
from gankd_jax.report.sheets import Detail, Strip, shown_models
from gankd_jax.report.study_results import NearestImages, RunResults, StudyResults

HEADER = ("d", "model", "median distance", "to real", "smallest distance")
DISTANCES = (
    "Of 64 images each, to the nearest training image. to real: divided by the median of real test "
    "images. A generator that repeats its training images lies far below 1, with a smallest "
    "distance near 0; one that draws what no training image looks like lies above 1."
)


def nearest_sheets(study: StudyResults, detail: Detail) -> list[list[Strip]]:
    """Return pairs of strips, the images that come nearest to training images above those.

    They are the teacher's and those of the widest width's students and baselines.
    """
    models = [model for model in shown_models(study, ("student", "baseline")) if model.run]
    widest = max((model.width for model in models), default=0)
    found = [("teacher", study.teacher)] if study.teacher else []
    found += [(model.label, model.run) for model in models if model.width == widest and model.run]
    return [
        _pair(label, run.grid, run.nearest, detail.columns)
        for label, run in found
        if run.nearest is not None and run.grid is not None
    ]


def _pair(label: str, grid: np.ndarray, nearest: NearestImages, columns: int) -> list[Strip]:
    drawn = grid[nearest.closest_indices[:columns]]
    return [
        Strip(label, f"images of {label} that come nearest to training images", drawn),
        Strip(
            "training image",
            "the training images they come near to",
            nearest.training_images[:columns],
        ),
    ]


def nearest_table(study: StudyResults) -> Table | None:
    """Return how near each model comes; None where none was looked at."""
    models = shown_models(study, ("student", "baseline"))
    runs = [study.teacher, *(model.run for model in models)]
    lines = [_line(run, study.real_nearest) for run in runs if run and run.nearest]
    if study.real_nearest:
        numbers = _numbers(study.real_nearest, study.real_nearest)
        lines.insert(0, (Cell(""), Cell("real test images"), *numbers))
    return Table("Distances", DISTANCES, HEADER, tuple(lines), len(HEADER)) if lines else None


def _line(run: RunResults, real: NearestImages | None) -> tuple[Cell, ...]:
    assert run.nearest
    name = model_name(run.kind, run.recipe)
    return (count_cell(run.width), Cell(name), *_numbers(run.nearest, real))


def _numbers(nearest: NearestImages, real: NearestImages | None) -> tuple[Cell, ...]:
    middle, least = float(np.median(nearest.distances)), float(nearest.distances.min())
    times = middle / float(np.median(real.distances)) if real else None
    return (
        Cell(format_number(middle), middle),
        Cell("-" if times is None else f"{times:.2f}", times),
        Cell(format_number(least), least),
    )
