"""The page's section of charts: each score against parameters, bytes and latency."""

from gankd_jax.metrics.registry import Metric
from gankd_jax.report.aggregate import (
    COST_AXES,
    ScoreSeries,
    find_equally_fast_width,
    score_series,
    scored_metrics,
)
from gankd_jax.report.elements import details, figure, figures, later, note
from gankd_jax.report.figures import score_figure
from gankd_jax.report.study_results import StudyResults
from gankd_jax.report.tables import MEASURE_LATENCY_HINT

ABOUT = (
    "Lines join the means over seeds; bars are their standard deviation, dots the seeds, the star "
    "the teacher. Filled marks are float32 weights, hollow ones float16, half-filled ones int8; "
    "where no other bytes were measured they are 4 for each parameter."
)


def charts(study: StudyResults) -> str:
    """Return the section; '' before the first student or baseline is scored."""
    metrics = [m for m in scored_metrics(study) if _lines(study, m, "parameters")]
    if not metrics:
        return ""
    main = [_row(study, m, first=m == metrics[0]) for m in metrics if m.main]
    others = [_drawn(study, m, "parameters") for m in metrics if not m.main]
    more = [details("Further scores", figures(others))] if others else []
    return "\n".join([note(ABOUT), *map(note, _slow(study)), *main, *more])


def _lines(study: StudyResults, metric: Metric, axis: str) -> list[ScoreSeries]:
    """A score's lines, if any is a student's or baseline's."""
    found = score_series(study, metric, axis)
    return found if any(line.kind != "teacher" for line in found) else []


def _row(study: StudyResults, metric: Metric, *, first: bool) -> str:
    """A score's charts side by side; the first says what the one of the latency needs."""
    drawn = [_drawn(study, metric, axis) for axis in COST_AXES if _lines(study, metric, axis)]
    if first and len(drawn) < len(COST_AXES):
        drawn.append(later(f"Score against latency: {MEASURE_LATENCY_HINT}."))
    return figures(drawn)


def _drawn(study: StudyResults, metric: Metric, axis: str) -> str:
    found = _lines(study, metric, axis)
    drawing = score_figure(metric.title, COST_AXES[axis], found, study.real_scores.get(metric.key))
    return figure(f"{metric.label} against {COST_AXES[axis]}", drawing)


def _slow(study: StudyResults) -> list[str]:
    """Which widths are smaller than another and yet no faster."""
    slow: dict[tuple[int, int], list[str]] = {}
    for width, precision in study.latency:
        if rival := find_equally_fast_width(study, width, precision):
            slow.setdefault((width, rival), []).append(precision)
    said = [f"d={d} than d={rival} ({', '.join(those)})" for (d, rival), those in slow.items()]
    return [f"Smaller and yet not faster: {'; '.join(said)}."] if said else []
