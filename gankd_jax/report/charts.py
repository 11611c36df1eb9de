"""The page's section of charts: each score against parameters, bytes and latency."""

from gankd_jax.report.costs import MEASURE, costs, not_faster
from gankd_jax.report.elements import figures, folded, note
from gankd_jax.report.figures import score_figure
from gankd_jax.report.lines import AXES, lines
from gankd_jax.report.rows import score_keys
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe, is_main

ABOUT = (
    "Lines join the means over seeds; bars are their standard deviation, dots the seeds, the star "
    "the teacher. Filled marks are float32 weights, hollow ones float16, half-filled ones int8."
)


def charts(study: Study) -> str:
    """Return the section; '' before the first student or baseline is scored."""
    keys = [key for key in score_keys(study) if _is_drawn(study, key)]
    if not keys:
        return ""
    main = [(key, axis) for key in keys if is_main(key) for axis in AXES]
    others = [(key, "parameters") for key in keys if not is_main(key)]
    parts = [note(ABOUT), *map(note, _costs_said(study))]
    parts.append(figures(_drawn(study, main)))
    if others:
        parts.append(folded("Further scores", figures(_drawn(study, others))))
    return "\n".join(parts)


def _costs_said(study: Study) -> list[str]:
    """Who is smaller and no faster, and what is not measured."""
    found = costs(study)
    if not any(cost.milliseconds for cost in found):
        return [f"Bytes are 4 for each parameter, and the latency is not measured: {MEASURE}."]
    slow = [
        f"{cost.recipe} d={cost.width} {cost.precision} (than {rival})"
        for cost in found
        if (rival := not_faster(cost, found))
    ]
    return [f"Smaller and yet not faster: {', '.join(slow)}."] if slow else []


def _is_drawn(study: Study, key: str) -> bool:
    return any(line.kind != "teacher" for line in lines(study, key, "parameters"))


def _drawn(study: Study, wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    drawn = []
    for key, axis in wanted:
        found, about = lines(study, key, axis), describe(key)
        if any(line.kind != "teacher" for line in found):
            figure = score_figure(about.title, AXES[axis], found, study.real_scores.get(key))
            drawn.append((f"{about.label} against {AXES[axis].label}", figure))
    return drawn
