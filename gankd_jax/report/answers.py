"""The answers of a study as text and as one picture."""

import io
import math
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gankd_jax.report.questions import Answer
from gankd_jax.report.runs import Study

COLUMNS = 3
PANEL_INCHES = (4.6, 3.4)
PIXELS_PER_INCH = 100
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
}


def markdown(study: Study, found: list[Answer]) -> str:
    """Write the answers under the picture that shows them."""
    lines = [f"# {study.config['name']}: questions and answers", "", "![A panel each](answers.png)"]
    for place, answer in enumerate(found, 1):
        lines += ["", f"**{place}. {answer.question}** {answer.text}"]
    return "\n".join(lines) + "\n"


def picture(found: list[Answer]) -> bytes:
    """Draw a PNG with a panel for each answer, numbered alike."""
    rows, out = math.ceil(len(found) / COLUMNS), io.BytesIO()
    width, height = PANEL_INCHES
    with matplotlib.rc_context(STYLE):
        figure = Figure((width * COLUMNS, height * rows), facecolor="white", layout="constrained")
        for place, answer in enumerate(found, 1):
            axes = figure.add_subplot(rows, COLUMNS, place)
            answer.panel(axes)
            axes.set_title(f"{place}. {answer.question}", loc="left")
            axes.legend()
        figure.savefig(out, format="png", dpi=PIXELS_PER_INCH)
    return out.getvalue()
