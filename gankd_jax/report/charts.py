"""The page's section of charts: each score against parameters, bytes and latency."""

from gankd_jax.report.elements import details, figure, figures, later, note
from gankd_jax.report.figures import score_figure
from gankd_jax.report.lines import AXES, Line, lines
from gankd_jax.report.rows import score_keys
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe, is_main
from gankd_jax.report.times import MEASURE, not_faster

ABOUT = (
    "Lines join the means over seeds; bars are their standard deviation, dots the seeds, the star "
    "the teacher. Filled marks are float32 weights, hollow ones float16, half-filled ones int8; "
    "where no other bytes were measured they are 4 for each parameter."
)


def charts(study: Study) -> str:
    """Return the section; '' before the first student or baseline is scored."""
    keys = [key for key in score_keys(study) if _lines(study, key, "parameters")]
    if not keys:
        return ""
    main = [_row(study, key, first=key == keys[0]) for key in keys if is_main(key)]
    others = [_drawn(study, key, "parameters") for key in keys if not is_main(key)]
    more = [details("Further scores", figures(others))] if others else []
    return "\n".join([note(ABOUT), *map(note, _slow(study)), *main, *more])


def _lines(study: Study, key: str, axis: str) -> list[Line]:
    """A score's lines, if any is a student's or baseline's."""
    found = lines(study, key, axis)
    return found if any(line.kind != "teacher" for line in found) else []


def _row(study: Study, key: str, *, first: bool) -> str:
    """A score's charts side by side; the first says what the one of the latency needs."""
    drawn = [_drawn(study, key, axis) for axis in AXES if _lines(study, key, axis)]
    if first and len(drawn) < len(AXES):
        drawn.append(later(f"Score against latency: {MEASURE}."))
    return figures(drawn)


def _drawn(study: Study, key: str, axis: str) -> str:
    found, about = _lines(study, key, axis), describe(key)
    drawing = score_figure(about.title, AXES[axis], found, study.real_scores.get(key))
    return figure(f"{about.label} against {AXES[axis]}", drawing)


def _slow(study: Study) -> list[str]:
    """Which widths are smaller than another and yet no faster."""
    slow: dict[tuple[int, int], list[str]] = {}
    for width, precision in study.timed:
        if rival := not_faster(study, width, precision):
            slow.setdefault((width, rival), []).append(precision)
    said = [f"d={d} than d={rival} ({', '.join(those)})" for (d, rival), those in slow.items()]
    return [f"Smaller and yet not faster: {'; '.join(said)}."] if said else []
