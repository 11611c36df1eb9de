"""Draws curves as inline SVG that follows the page's colours."""

import io
import math
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from gankd_jax.report.rows import Row
from gankd_jax.report.runs import Run
from gankd_jax.report.scores import describe
from gankd_jax.report.wording import model_name

# Stand-ins that the SVG text is searched for; the page's style sheet says what they look like.
INK = "#010203"
COLOURS = tuple(f"#0a0b0{index}" for index in range(8))
MARKERS = "os^DvPX*"
LINES = ("-", "--", "-.", ":")
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
CURVES = {
    "generator_loss": "generator loss",
    "critic_loss": "critic loss",
    "pixel_error": "pixel error to the teacher",
}
POINTS = 100  # of a training curve; each is the mean of the logged steps around it


CLEANING = (
    (r' (width|height)="[^"]*pt"', ""),  # the page scales the drawing
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would hold for the whole page
    (r" font-family: [^;]*;", ""),  # the page's font
    (r'<g id="[^"]*"', "<g"),  # the same names in every figure
    (r"\n\s*", "\n"),
)


def score_figure(found: list[Row]) -> str:
    """Draw one score against parameters: a line through the means, a dot for each seed.

    Args:
      found: the rows of one score.

    Returns:
      SVG; the teacher and the real images are horizontal lines.
    """
    with _style(found[0].score):
        figure, axes = _axes(describe(found[0].score).title)
        axes.set_xlabel("parameters of the generator")
        axes.set_xscale("log")
        small = [row for row in found if row.kind in ("student", "baseline") and row.run]
        for index, model in enumerate(dict.fromkeys((row.kind, row.recipe) for row in small)):
            series = [row for row in small if (row.kind, row.recipe) == model]
            _series(axes, series, index)
        for row in found:
            if row.width is None:
                axes.axhline(row.summary.mean, color=INK, ls=":", lw=1, label="real images")
            elif row.kind == "teacher" and row.summary.values:
                axes.axhline(row.summary.mean, color=INK, ls="--", lw=1, label="teacher")
        _log_ticks(axes.xaxis)
        _width_axis(axes, small)
        _wide_range(axes, [v for row in found for v in row.summary.values.values()])
        return _svg(figure)


def curve_figure(runs: list[Run], key: str) -> str:
    """Draw a logged quantity of one recipe's runs against the step; a colour is a width.

    Returns:
      SVG, or "" if no run has logged the quantity.
    """
    logged = [run for run in runs if any(key in record for record in run.log)]
    if not logged:
        return ""
    widths = sorted({run.key.width for run in logged})
    with _style(f"{logged[0].name} {key}"):
        figure, axes = _axes(CURVES[key])
        axes.set_xlabel("generator step")
        axes.xaxis.set_major_formatter(lambda step, _: _short(step))
        drawn = []
        for run in sorted(logged, key=lambda run: run.key.width):
            steps, values = thinned(run.log, key)
            index = widths.index(run.key.width)
            first = f"d={run.key.width}" not in axes.get_legend_handles_labels()[1]
            label = f"d={run.key.width}" if first else None
            line = LINES[index // len(COLOURS) % len(LINES)]
            axes.plot(steps, values, line, color=_colour(index), lw=1.2, label=label)
            drawn += list(values)
        _wide_range(axes, drawn)
        return _svg(figure)


def thinned(log: Iterable[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return a logged quantity as at most POINTS points: means of neighbouring steps."""
    pairs = [(r["step"], r[key]) for r in log if r.get(key) is not None]
    parts = np.array_split(np.array(pairs, np.float64), min(POINTS, len(pairs)))
    means = [part.mean(axis=0) for part in parts]
    return [float(step) for step, _ in means], [float(value) for _, value in means]


def _style(name: str) -> AbstractContextManager[None]:
    """Set the style; ids are made from the name, so that no two figures of a page share one."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": name})


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.spines["top"].set_visible(False)
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    axes.set_title(label, fontsize=10.5, loc="left")
    return figure, axes


def _series(axes: Axes, series: list[Row], index: int) -> None:
    colour, marker = _colour(index), MARKERS[index % len(MARKERS)]
    shown = [row for row in series if row.summary.values]
    sizes = [row.run.parameters for row in shown if row.run]
    axes.errorbar(
        sizes,
        [row.summary.mean for row in shown],
        yerr=[row.summary.sd or 0.0 for row in shown],
        color=colour,
        marker=marker,
        ls=LINES[index % len(LINES)],
        lw=1.6,
        ms=5.5,
        capsize=3,
        label=model_name(series[0].kind, series[0].recipe),
    )
    for place, row in zip(sizes, shown, strict=True):
        if row.summary.sd is not None:
            seeds = list(row.summary.values.values())
            axes.plot([place] * len(seeds), seeds, ".", color=colour, ms=3.5, alpha=0.7)


def _width_axis(axes: Axes, small: list[Row]) -> None:
    """Name the widths along the top, where their sizes are."""
    sizes = {row.run.parameters: row.width for row in small if row.run}
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(sizes), [f"d={width}" for width in sizes.values()], fontsize=8)
    top.set_xticks([], minor=True)
    top.spines["top"].set_visible(False)


def _wide_range(axes: Axes, values: list[float]) -> None:
    """Use a log scale where positive values span more than a factor of 30."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
        axes.set_yscale("log")
        _log_ticks(axes.yaxis)


def _log_ticks(axis: Axis) -> None:
    """Mark 1, 3, 10, 30, ...; 1, 2, 5, 10, ... where the axis is short."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0, 3.0)))
    axis.set_major_formatter(lambda value, _: _short(value))
    axis.set_minor_locator(NullLocator())


def _short(value: float) -> str:
    """Write an axis number: 0.03, 300, 30k, 3M."""
    return EngFormatter(sep="")(value) if value >= 1000 else f"{value:.6g}"


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _svg(figure: Figure) -> str:
    """Write a figure as an `<svg>` element in the page's colours and fonts, without fixed size."""
    if figure.axes[0].get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=4)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].strip().replace(INK, "currentColor")
    for index, colour in enumerate(COLOURS):
        drawn = drawn.replace(colour, f"var(--c{index})")
    for pattern, replacement in CLEANING:
        drawn = re.sub(pattern, replacement, drawn, flags=re.DOTALL)
    return re.sub(r' d="[^"]*"', _short_path, drawn)


def _short_path(path: re.Match[str]) -> str:
    """Round a path's coordinates to a tenth of a point."""
    return re.sub(r"(\.\d)\d+", r"\1", re.sub(r"\s*\n", "", path[0]))
