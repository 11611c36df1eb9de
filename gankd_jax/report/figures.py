"""The page's charts: a score against what a model costs, and the training's course."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gankd_jax.report.aggregate import ScoreSeries
from gankd_jax.report.drawing import INK, chart, colour, log_ticks, short, style, svg, wide_range
from gankd_jax.report.formatting import model_name
from gankd_jax.report.study_results import RunResults

MARKERS = "os^DvPX*"
FILLS = {"float32": "full", "float16": "none", "int8": "left"}
LINES = ("-", "--", "-.", ":")
CURVES = {
    "generator_loss": "generator loss",
    "critic_loss": "critic loss",
    "pixel_error": "pixel error to the teacher",
}
APART = 0.1  # of a chart's width: names that lie closer would overlap
POINTS = 100  # of a training curve; each is the mean of the logged steps around it


def score_figure(title: str, axis: str, lines: list[ScoreSeries], real: float | None) -> str:
    """Draw one score: a line through the means of each model, a dot for each seed.

    Args:
      title: the heading.
      axis: what stands along the bottom.
      lines: each model in each precision; the teacher's is one point.
      real: the real images' score; None: unknown.

    Returns:
      SVG; the teacher's and the real images' scores are horizontal lines too.
    """
    small = [line for line in lines if line.kind != "teacher"]
    models = list(dict.fromkeys((line.kind, line.recipe) for line in small))
    with style(f"{title} {axis}"):
        figure, axes = chart(title)
        axes.set_xlabel(axis)
        axes.set_xscale("log")
        for line in lines:
            if line.kind == "teacher":
                _teacher(axes, line)
            else:
                _line(axes, line, models.index((line.kind, line.recipe)))
        if real is not None:
            axes.axhline(real, color=INK, ls=":", lw=1, label="real images")
        log_ticks(axes.xaxis)
        _name_widths(axes, small)
        seeds = [value for line in lines for p in line.points for value in p.stats.values.values()]
        wide_range(axes, [*seeds, *([] if real is None else [real])])
        return svg(figure)


def _teacher(axes: Axes, line: ScoreSeries) -> None:
    [point] = line.points
    fill = FILLS.get(line.precision, "full")
    axes.plot(point.x, point.stats.mean, "*", color=INK, ms=9, fillstyle=fill)
    if line.precision == "float32":
        axes.axhline(point.stats.mean, color=INK, ls="--", lw=1, label="teacher")


def _line(axes: Axes, line: ScoreSeries, index: int) -> None:
    means = [point.stats.mean for point in line.points]
    axes.errorbar(
        [point.x for point in line.points],
        means,
        yerr=[point.stats.std or 0.0 for point in line.points],
        color=colour(index),
        marker=MARKERS[index % len(MARKERS)],
        fillstyle=FILLS.get(line.precision, "full"),
        ls=LINES[index % len(LINES)],
        lw=1.6,
        ms=5.5,
        capsize=3,
        label=model_name(line.kind, line.recipe) if line.precision == "float32" else None,
    )
    for point in line.points:
        if point.stats.std is not None:
            seeds = list(point.stats.values.values())
            axes.plot([point.x] * len(seeds), seeds, ".", color=colour(index), ms=3.5, alpha=0.7)


def _name_widths(axes: Axes, lines: list[ScoreSeries]) -> None:
    """Name the widths along the top; those that lie close together share a name."""
    places: dict[int, list[float]] = {}
    for point in (p for line in lines if line.precision == "float32" for p in line.points):
        places.setdefault(point.width, []).append(point.x)
    means = {width: statistics.fmean(xs) for width, xs in places.items()}
    low, high = axes.get_xlim()
    shared = together(means, APART * math.log(high / low))
    top = axes.secondary_xaxis("top")
    names = [f"d={', '.join(map(str, widths))}" for widths in shared]
    middles = [math.exp(statistics.fmean(math.log(means[d]) for d in ds)) for ds in shared]
    top.set_xticks(middles, names, fontsize=8)
    top.set_xticks([], minor=True)
    top.spines["top"].set_visible(False)


def together(places: dict[int, float], apart: float) -> list[list[int]]:
    """Group widths by their places: within a group neighbours are no further apart, in logs."""
    groups: list[list[int]] = []
    for width in sorted(places, key=places.__getitem__):
        if groups and math.log(places[width] / places[groups[-1][-1]]) <= apart:
            groups[-1].append(width)
        else:
            groups.append([width])
    return [sorted(group) for group in groups]


def curve_figure(runs: list[RunResults], key: str) -> str:
    """Draw a logged quantity of one recipe's runs against the step; colour and dashes are a width.

    Returns:
      SVG, or "" if no run has logged the quantity.
    """
    logged = [run for run in runs if any(key in record for record in run.log)]
    if not logged:
        return ""
    widths = sorted({run.width for run in logged})
    with style(f"{logged[0].name} {key}"):
        figure, axes = chart(CURVES[key])
        axes.set_xlabel("generator step")
        axes.xaxis.set_major_formatter(lambda step, _: short(step))
        drawn = []
        for run in sorted(logged, key=lambda run: run.width):
            steps, values = thinned(run.log, key)
            index = widths.index(run.width)
            first = f"d={run.width}" not in axes.get_legend_handles_labels()[1]
            label = f"d={run.width}" if first else None
            line = LINES[index % len(LINES)]
            axes.plot(steps, values, line, color=colour(index), lw=1.2, label=label)
            drawn += list(values)
        wide_range(axes, drawn)
        return svg(figure)


def thinned(log: Iterable[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return a logged quantity as at most POINTS points: means of neighbouring steps."""
    pairs = [(r["step"], r[key]) for r in log if r.get(key) is not None]
    parts = np.array_split(np.array(pairs, np.float64), min(POINTS, len(pairs)))
    means = [part.mean(axis=0) for part in parts]
    return [float(step) for step, _ in means], [float(value) for _, value in means]
