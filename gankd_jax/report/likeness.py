"""Whether a generator repeats training images: its nearest ones, as pictures and as distances."""

import numpy as np

from gankd_jax.report.cells import Cell, Table
from gankd_jax.report.runs import Nearest, Study
from gankd_jax.report.sheets import Detail, Model, Strip, shown_models
from gankd_jax.report.wording import model_name, number

HEADER = ("d", "model", "median distance", "to real", "smallest distance")
DISTANCES = (
    "Of 64 images each, to the nearest training image. to real: divided by the median of real test "
    "images. A generator that repeats its training images lies far below 1, with a smallest "
    "distance near 0; one that draws what no training image looks like lies above 1."
)


def nearest_sheets(study: Study, detail: Detail) -> list[list[Strip]]:
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


def _pair(label: str, grid: np.ndarray, nearest: Nearest, columns: int) -> list[Strip]:
    drawn = grid[nearest.closest[:columns]]
    return [
        Strip(label, f"images of {label} that come nearest to training images", drawn),
        Strip("training image", "the training images they come near to", nearest.images[:columns]),
    ]


def nearest_table(study: Study) -> Table | None:
    """Return how near each model comes; None where none was looked at."""
    models = shown_models(study, ("student", "baseline"))
    found = [("", "real test images", study.real_nearest)]
    found += [(f"{t.key.width}", "teacher", t.nearest) for t in [study.teacher] if t]
    found += [_named(model) for model in models]
    real = study.real_nearest
    lines = tuple(
        (Cell(width), Cell(name), *_cells(nearest, real))
        for width, name, nearest in found
        if nearest
    )
    return Table("Distances", DISTANCES, HEADER, lines, narrow=len(HEADER)) if lines else None


def _named(model: Model) -> tuple[str, str, Nearest | None]:
    run = model.run
    name = model_name(run.key.kind, run.key.recipe) if run else model.recipe
    return f"{model.width}", name, run.nearest if run else None


def _cells(nearest: Nearest, real: Nearest | None) -> tuple[Cell, ...]:
    middle, least = float(np.median(nearest.distances)), float(nearest.distances.min())
    times = middle / float(np.median(real.distances)) if real else None
    return (
        Cell(number(middle), middle),
        Cell("-" if times is None else f"{times:.2f}", times),
        Cell(number(least), least),
    )
