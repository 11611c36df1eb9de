"""Charts as inline SVG in the page's colours and fonts."""

import io
import math
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

# Stand-ins that the SVG text is searched for; the page's style sheet says what they look like.
INK = "#010203"
COLOURS = tuple(f"#0a0b0{index}" for index in range(8))
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "path.simplify_threshold": 0.5,
}
CLEANING = (
    (r' (width|height)="[^"]*pt"', ""),  # the page scales the drawing
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would hold for the whole page
    (r" font-family: [^;]*;", ""),  # the page's font
    (r'<g id="[^"]*"', "<g"),  # the same names in every figure
    (r"<!--.*?-->", ""),
    (r"\n\s*", "\n"),
)


def style(name: str) -> AbstractContextManager[None]:
    """Set the style; ids are made from the name, so that no two figures of a page share one."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": name})


def chart(label: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, of which `label` is the heading."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.spines["top"].set_visible(False)
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    axes.set_title(label, fontsize=10.5, loc="left")
    return figure, axes


def wide_range(axes: Axes, values: list[float]) -> None:
    """Use a log scale where positive values span more than a factor of 10."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale("log")
        log_ticks(axes.yaxis)


def log_ticks(axis: Axis) -> None:
    """Mark 1, 3, 10, 30, ...; 1, 2, 5, 10, ... on a short axis, a few steps on a shorter one."""
    low, high = axis.get_view_interval()
    if high < 5 * low:
        axis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0, 3.0)))
    axis.set_major_formatter(lambda value, _: short(value))
    axis.set_minor_locator(NullLocator())


def short(value: float) -> str:
    """Write an axis number: 0.03, 300, 30k, 3M."""
    return EngFormatter(sep="")(value) if value >= 1000 else f"{value:.6g}"


def colour(index: int) -> str:
    """The stand-in of the page's colour of that number."""
    return COLOURS[index % len(COLOURS)]


def svg(figure: Figure) -> str:
    """Write a figure as an `<svg>` element in the page's colours and fonts, without fixed size."""
    if figure.axes[0].get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=4)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].strip().replace(INK, "currentColor")
    for index, stand_in in enumerate(COLOURS):
        drawn = drawn.replace(stand_in, f"var(--c{index})")
    for pattern, replacement in CLEANING:
        drawn = re.sub(pattern, replacement, drawn, flags=re.DOTALL)
    return re.sub(r' d="[^"]*"', _short_path, drawn)


def _short_path(path: re.Match[str]) -> str:
    """Round a path's coordinates to a tenth of a point."""
    return re.sub(r"(\.\d)\d+", r"\1", re.sub(r"\s*\n", "", path[0]))
