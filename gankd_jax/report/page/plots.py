"""Charts of the report page as inline SVG: scores against cost, and training curves."""

import io
import math
import re
import statistics
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from gankd_jax.metrics.registry import Metric
from gankd_jax.report.aggregate import (
    COST_AXES,
    ScoreSeries,
    best_recipe,
    find_baseline,
    find_equally_fast_width,
    score_rows,
    score_series,
    scored_metrics,
)
from gankd_jax.report.formatting import model_name
from gankd_jax.report.headline import build_headline
from gankd_jax.report.study_results import RunResults, StudyResults
from gankd_jax.report.tables import MEASURE_LATENCY_HINT

# Placeholder colors. matplotlib needs real ones; `_to_svg` replaces them by the variables of
# style.css, so that a chart follows the light and dark mode of the page.
INK = "#010203"
SERIES_COLORS = tuple(f"#0a0b0{index}" for index in range(8))
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # recipe names may hold "$" and "_"
    "svg.fonttype": "none",  # text stays text: smaller, and in the page's font
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "path.simplify_threshold": 0.5,  # larger values: smaller files, coarser curves
}
SVG_CLEANUP = (
    (r' (width|height)="[^"]*pt"', ""),  # the page scales the chart
    (r"<defs>\s*<style.*?</style>\s*</defs>", ""),  # would apply to the whole page
    (r" font-family: [^;]*;", ""),  # the page's font
    (r'<g id="[^"]*"', "<g"),  # the same ids in every figure
    (r"<!--.*?-->", ""),
    (r"\n\s*", "\n"),
)
MARKERS = "os^DvPX*"
FILL_STYLES = {"float32": "full", "float16": "none", "int8": "left"}
LINE_STYLES = ("-", "--", "-.", ":")
CURVES = {
    "generator_loss": "generator loss",
    "critic_loss": "critic loss",
    "pixel_error": "pixel error to the teacher",
}
MAIN_CHARTS = 4
MAX_CLASS_TICKS = 20  # more labels of classes would overlap
LEGEND_CHARACTERS, LEGEND_HANDLE = 72, 6  # in a chart's width; of a handle and the gap beside it
MIN_VALUE_RANGE = 0.3  # of the largest value: what a vertical axis spans at least
# Near copies of the pixel error, which tables and answers compare with it.
REPEATED_METRICS = ("pixel_error_seen", "pixel_error_between")
MIN_LABEL_GAP = 0.1  # of a chart's width: closer labels of widths would overlap
CURVE_POINTS = (
    100  # per training curve, each the mean of neighboring steps; more make a larger page
)
SCORE_CHARTS_NOTE = (
    "Lines join the means over seeds; bars are their standard deviation, dots the seeds, the star "
    "the teacher. Filled markers are float32 weights, hollow ones float16, half-filled ones int8. "
    "Where file sizes were not measured, a parameter counts as 4 bytes."
)


@dataclass(frozen=True)
class Chart:
    """A chart for the page.

    Attributes:
        description: What it shows, for screen readers.
        svg: An `<svg>` element.
    """

    description: str
    svg: str


@dataclass(frozen=True)
class ScoreCharts:
    """All charts of scores against what a generator costs.

    Attributes:
        notes: How to read them.
        main: The charts that are shown at first.
        further: Those that a reader opens.
    """

    notes: list[str]
    main: list[Chart]
    further: list[Chart]


def draw_score_charts(study: StudyResults) -> ScoreCharts | None:
    """Draws scores against parameters, bytes and latency.

    Returns:
        The charts; None before two widths of students or baselines are scored.
    """
    metrics = [
        metric
        for metric in scored_metrics(study)
        if metric.key not in REPEATED_METRICS and _has_widths(study, metric, "parameters")
    ]
    if not metrics:
        return None
    pairs = _rank_charts(metrics)
    charts = [
        _draw_score_chart(study, metric, axis)
        for metric, axis in pairs
        if _has_widths(study, metric, axis)
    ]
    notes = [SCORE_CHARTS_NOTE, *_note_equally_fast_widths(study)]
    notes += [] if study.latency else [f"Score against latency: {MEASURE_LATENCY_HINT}."]
    return ScoreCharts(notes, charts[:MAIN_CHARTS], charts[MAIN_CHARTS:])


def _rank_charts(metrics: list[Metric]) -> list[tuple[Metric, str]]:
    """Returns metric and axis of every chart, the most telling first."""
    quality = [m for m in metrics if m.main and m.better and not m.students_only][:2]
    others = [metric for metric in metrics if metric not in quality]
    pairs = [(metric, axis) for metric in quality for axis in ("parameters", "milliseconds")]
    pairs += [(metric, "parameters") for metric in others if metric.main]
    pairs += [(metric, "bytes") for metric in quality]
    return pairs + [(metric, "parameters") for metric in others if not metric.main]


def _has_widths(study: StudyResults, metric: Metric, axis: str) -> bool:
    """Whether models of two or more widths have the score: one point is no line."""
    small = [s for s in score_series(study, metric, axis) if s.kind != "teacher"]
    return len({point.width for series in small for point in series.points}) > 1


def _draw_score_chart(study: StudyResults, metric: Metric, axis: str) -> Chart:
    series = score_series(study, metric, axis)
    if axis == "bytes":  # every model at every precision would be lines over each other
        best = ("student", best_recipe(study, score_rows(study)))
        series = [s for s in series if s.kind == "teacher" or (s.kind, s.recipe) == best]
    svg = plot_scores(metric, COST_AXES[axis], series, study.real_scores.get(metric.key))
    return Chart(f"{metric.label} against {COST_AXES[axis]}", svg)


def draw_class_chart(study: StudyResults) -> Chart | None:
    """Draws the part of each class in real images and in those of teacher, student and baseline.

    Returns:
        The chart of the student of the best trade-off; None where no class shares are stored.
    """
    shares = {"real images": study.real_class_shares}
    if study.teacher:
        shares["teacher"] = study.teacher.class_shares
    rows, best = score_rows(study), build_headline(study).best
    for row in (best, find_baseline(rows, best) if best else None):
        runs = study.runs_of(row.kind, row.recipe, row.width or 0) if row else ()
        run = next((run for run in runs if run.class_shares), None)
        if run:
            shares[f"{model_name(run.kind, run.recipe)} d={run.width}"] = run.class_shares
    shares = {label: values for label, values in shares.items() if values}
    if not shares:
        return None
    return Chart("Part of the images in each class", plot_class_shares(shares))


def plot_class_shares(shares: dict[str, tuple[float, ...]]) -> str:
    """Plots the part of each class as bars side by side.

    Args:
        shares: By the name of the set of images, the part of each class.

    Returns:
        An `<svg>` element.
    """
    with _svg_style("classes"):
        figure, axes = _new_figure("Part of the images in each class", "percent of the images")
        for index, (label, values) in enumerate(shares.items()):
            positions = np.arange(len(values)) + (index - (len(shares) - 1) / 2) * 0.8 / len(shares)
            color = INK if label == "real images" else _series_color(index - 1)
            heights = 100 * np.array(values)
            axes.bar(positions, heights, 0.8 / len(shares), color=color, label=label)
        axes.set_xlabel("class")
        axes.xaxis.set_major_locator(MaxNLocator(MAX_CLASS_TICKS, integer=True))
        return _to_svg(figure)


def _note_equally_fast_widths(study: StudyResults) -> list[str]:
    """Says which widths are smaller than another one without being faster."""
    precisions: dict[tuple[int, int], list[str]] = {}
    for width, precision in study.latency:
        if wider := find_equally_fast_width(study, width, precision):
            precisions.setdefault((width, wider), []).append(precision)
    pairs = [f"d={d} than d={wider} ({', '.join(p)})" for (d, wider), p in precisions.items()]
    return [f"Smaller but not faster: {'; '.join(pairs)}."] if pairs else []


def plot_scores(
    metric: Metric, axis_label: str, all_series: list[ScoreSeries], real_score: float | None
) -> str:
    """Plots one metric: a line through the means of each model, a dot for each seed.

    Args:
        metric: What is scored.
        axis_label: Label of the horizontal axis.
        all_series: The scores of each model in each precision; the teacher's is a single point.
        real_score: The score of real images; None if unknown.

    Returns:
        An `<svg>` element. The scores of the teacher and of real images are horizontal lines too.
    """
    model_series = [series for series in all_series if series.kind != "teacher"]
    models = list(dict.fromkeys((series.kind, series.recipe) for series in model_series))
    with _svg_style(f"{metric.key} {axis_label}"):
        figure, axes = _new_figure(metric.title, metric.label)
        axes.set_xlabel(axis_label)
        axes.set_xscale("log")
        for series in all_series:
            if series.kind == "teacher":
                _plot_teacher(axes, series)
            else:
                _plot_series(axes, series, models.index((series.kind, series.recipe)))
        if real_score is not None:
            axes.axhline(real_score, color=INK, ls=":", lw=1, label="real images")
        _set_log_ticks(axes.xaxis)
        _label_widths(axes, model_series)
        points = [point for series in all_series for point in series.points]
        values = [value for point in points for value in point.stats.values.values()]
        _scale_to_values(axes, [*values, *([] if real_score is None else [real_score])])
        return _to_svg(figure)


def _plot_teacher(axes: Axes, series: ScoreSeries) -> None:
    [point] = series.points
    fill_style = FILL_STYLES.get(series.precision, "full")
    if point.x:  # the size of a teacher that is a function is not known
        axes.plot(point.x, point.stats.mean, "*", color=INK, ms=9, fillstyle=fill_style)
    if series.precision == "float32":
        axes.axhline(point.stats.mean, color=INK, ls="--", lw=1, label="teacher")


def _plot_series(axes: Axes, series: ScoreSeries, index: int) -> None:
    axes.errorbar(
        [point.x for point in series.points],
        [point.stats.mean for point in series.points],
        yerr=[point.stats.std or 0.0 for point in series.points],
        color=_series_color(index),
        marker=MARKERS[index % len(MARKERS)],
        fillstyle=FILL_STYLES.get(series.precision, "full"),
        ls=LINE_STYLES[index % len(LINE_STYLES)],
        lw=1.6,
        ms=5.5,
        capsize=3,
        label=model_name(series.kind, series.recipe) if series.precision == "float32" else None,
    )
    for point in series.points:
        if point.stats.std is not None:
            values = list(point.stats.values.values())
            color = _series_color(index)
            axes.plot([point.x] * len(values), values, ".", color=color, ms=3.5, alpha=0.7)


def _label_widths(axes: Axes, all_series: list[ScoreSeries]) -> None:
    """Labels the widths along the top; close neighbors share a label."""
    positions: dict[int, list[float]] = {}
    for series in all_series:
        for point in series.points if series.precision == "float32" else ():
            positions.setdefault(point.width, []).append(point.x)
    means = {width: statistics.fmean(xs) for width, xs in positions.items()}
    low, high = axes.get_xlim()
    groups = group_close_widths(means, MIN_LABEL_GAP * math.log(high / low))
    top = axes.secondary_xaxis("top")
    labels = [f"d={', '.join(map(str, widths))}" for widths in groups]
    centers = [math.exp(statistics.fmean(math.log(means[d]) for d in widths)) for widths in groups]
    top.set_xticks(centers, labels, fontsize=8)
    top.set_xticks([], minor=True)
    top.spines["top"].set_visible(False)


def group_close_widths(positions: dict[int, float], min_gap: float) -> list[list[int]]:
    """Groups widths whose neighbors on a logarithmic axis are close to each other.

    Args:
        positions: The position of each width on the axis, > 0.
        min_gap: The difference of logarithms from which two neighbors are apart.

    Returns:
        The widths of each group in ascending order; groups by position.
    """
    groups: list[list[int]] = []
    for width in sorted(positions, key=positions.__getitem__):
        if groups and math.log(positions[width] / positions[groups[-1][-1]]) <= min_gap:
            groups[-1].append(width)
        else:
            groups.append([width])
    return [sorted(group) for group in groups]


def draw_training_curves(study: StudyResults) -> dict[str, list[Chart]]:
    """Draws the logged losses of every model's runs; {} before the first log line.

    Returns:
        Charts by model name. Recipes that logged nothing are left out.
    """
    charts = {}
    for kind, recipe in dict.fromkeys((run.kind, run.recipe) for run in study.runs):
        runs = [run for run in study.runs if (run.kind, run.recipe) == (kind, recipe)]
        curves = {label: plot_training_curve(runs, field) for field, label in CURVES.items()}
        of_model = [Chart(f"{label} of {recipe}", svg) for label, svg in curves.items() if svg]
        if of_model:
            charts[model_name(kind, recipe)] = of_model
    return charts


def plot_training_curve(runs: list[RunResults], field: str) -> str:
    """Plots a logged quantity against the training step; color and line style show the width.

    Args:
        runs: The runs of one recipe, of all widths and seeds.
        field: A key of `CURVES`.

    Returns:
        An `<svg>` element; "" if no run has logged the quantity.
    """
    logged_runs = [run for run in runs if any(field in record for record in run.log)]
    if not logged_runs:
        return ""
    widths = sorted({run.width for run in logged_runs})
    with _svg_style(f"{logged_runs[0].name} {field}"):
        figure, axes = _new_figure(CURVES[field], CURVES[field])
        axes.set_xlabel("generator step")
        axes.xaxis.set_major_formatter(lambda step, _: _format_tick(step))
        plotted: list[float] = []
        for run in sorted(logged_runs, key=lambda run: run.width):
            steps, values = average_log(run.log, field)
            index = widths.index(run.width)
            is_first = f"d={run.width}" not in axes.get_legend_handles_labels()[1]
            label = f"d={run.width}" if is_first else None
            line_style = LINE_STYLES[index % len(LINE_STYLES)]
            axes.plot(steps, values, line_style, color=_series_color(index), lw=1.2, label=label)
            plotted += values
        _scale_to_values(axes, plotted)
        return _to_svg(figure)


def average_log(log: Iterable[dict[str, Any]], field: str) -> tuple[list[float], list[float]]:
    """Averages a logged quantity over neighboring steps.

    Args:
        log: The records of a run; those without the quantity are skipped.
        field: The quantity.

    Returns:
        Mean steps and mean values, at most `CURVE_POINTS` each.
    """
    pairs = [(record["step"], record[field]) for record in log if record.get(field) is not None]
    parts = np.array_split(np.array(pairs, np.float64), min(CURVE_POINTS, len(pairs)))
    means = [part.mean(axis=0) for part in parts]
    return [float(step) for step, _ in means], [float(value) for _, value in means]


def _svg_style(name: str) -> AbstractContextManager[None]:
    """Sets the style. Ids are hashed with the name, so that no two figures of a page share one."""
    return matplotlib.rc_context({**STYLE, "svg.hashsalt": name})


def _new_figure(title: str, value_label: str) -> tuple[Figure, Axes]:
    """Returns a transparent figure with one pair of axes; `value_label` names the vertical one."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.spines["top"].set_visible(False)
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_ylabel(value_label, fontsize=9)
    axes.yaxis.set_major_formatter(lambda value, _: _format_tick(value))
    return figure, axes


def _scale_to_values(axes: Axes, values: list[float]) -> None:
    """Uses a logarithmic scale for positive values that span more than a factor of 10.

    A narrow range is widened, so that noise does not look like a trend.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        _set_log_ticks(axes.yaxis)
    elif high - low < MIN_VALUE_RANGE * max(abs(low), abs(high)):
        center, half = (low + high) / 2, MIN_VALUE_RANGE * max(abs(low), abs(high)) / 2
        axes.set_ylim(center - half, center + half)


def _set_log_ticks(axis: Axis) -> None:
    """Puts ticks at 1, 3, 10, 30, ...; at 1, 2, 5, 10, ... below a factor of 30."""
    low, high = axis.get_view_interval()
    if high < 5 * low:
        axis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0, 3.0)))
    axis.set_major_formatter(lambda value, _: _format_tick(value))
    axis.set_minor_locator(NullLocator())


def _format_tick(value: float) -> str:
    """Writes a tick label: 0.03, 300, 30k, 3M."""
    return EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:.6g}"


def _series_color(index: int) -> str:
    return SERIES_COLORS[index % len(SERIES_COLORS)]


def _to_svg(figure: Figure) -> str:
    """Returns an `<svg>` element in the page's colors and font, without a fixed size."""
    if labels := figure.axes[0].get_legend_handles_labels()[1]:
        columns = LEGEND_CHARACTERS // (max(map(len, labels)) + LEGEND_HANDLE)
        figure.legend(loc="outside lower center", ncols=min(4, max(1, columns)))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip().replace(INK, "currentColor")
    for index, color in enumerate(SERIES_COLORS):
        svg = svg.replace(color, f"var(--c{index})")
    for pattern, replacement in SVG_CLEANUP:
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return re.sub(r' d="[^"]*"', _round_path, svg)


def _round_path(path: re.Match[str]) -> str:
    """Rounds the coordinates of a path to a tenth of a point."""
    return re.sub(r"(\.\d)\d+", r"\1", re.sub(r"\s*\n", "", path[0]))
