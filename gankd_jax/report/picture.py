"""The study in one picture: every generator on the same latents, beside its size."""

import io

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from gankd_jax.report.sheets import Detail, Strip, samples
from gankd_jax.report.study_results import StudyResults

PIXELS_PER_INCH = 120
ROW_INCHES = 0.62
LABEL_INCHES = 2.3


def picture(study: StudyResults) -> bytes | None:
    """A PNG with a row of samples for each model; None where there are no samples yet."""
    sheets = samples(study, Detail(sheets=1))
    strips = [strip for strip in (sheets[0] if sheets else []) if strip.images is not None]
    if not strips:
        return None
    sizes = {f"d={run.width} {run.recipe}": run.parameters for run in study.runs}
    if study.teacher:
        sizes["teacher"] = study.teacher.parameters
    columns = max(len(strip.images) for strip in strips if strip.images is not None)
    width, height = LABEL_INCHES + columns * ROW_INCHES, len(strips) * ROW_INCHES
    figure = Figure(figsize=(width, height), facecolor="white")
    for row, strip in enumerate(strips):
        _draw(figure, strip, sizes.get(strip.label), row=row, rows=len(strips))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=PIXELS_PER_INCH)
    return out.getvalue()


def _draw(figure: Figure, strip: Strip, parameters: int | None, *, row: int, rows: int) -> None:
    assert strip.images is not None
    left, bottom = LABEL_INCHES / figure.get_figwidth(), 1 - (row + 1) / rows
    axes = figure.add_axes((left, bottom, 1 - left, 0.96 / rows))
    axes.axis("off")
    axes.imshow(_strip(strip.images), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    label = strip.label + (f"\n{parameters:,} parameters" if parameters else "")
    figure.text(left - 0.01, bottom + 0.5 / rows, label, ha="right", va="center", fontsize=9)


def _strip(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "h _ c"]:
    """The images side by side, a white line between them."""
    ruled = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    return np.concatenate(list(ruled), axis=1)[:, :-1]
