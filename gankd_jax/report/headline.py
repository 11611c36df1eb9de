"""The result of a study in a few sentences: how small, how good, how fast, and the baselines."""

from collections.abc import Iterable
from dataclasses import dataclass

from gankd_jax.metrics.registry import FRECHET_DISTANCE, KID, Metric
from gankd_jax.report.aggregate import (
    ScoreRow,
    best_recipe,
    best_students,
    best_tradeoff,
    find_baseline,
    ranked_ratio,
    score_rows,
    speed_up,
    summary_metric,
)
from gankd_jax.report.formatting import format_number, format_percent, format_ratio
from gankd_jax.report.study_results import StudyResults

VERDICT_TEXTS = {"within spread": "no clear difference", "one seed": "one seed, no claim"}


@dataclass(frozen=True)
class Headline:
    """What a study shows, in the order of importance.

    Attributes:
        lead: The best trade-off between size and score, or why there is none yet.
        lines: The smallest student, the baselines, the teacher, what is missing; at most four.
        best: The student of the best trade-off; None before one is scored.
        smallest: The best student of the smallest width; None before one is scored.
    """

    lead: str
    lines: tuple[str, ...]
    best: ScoreRow | None
    smallest: ScoreRow | None


def build_headline(study: StudyResults) -> Headline:
    """Returns the headline of a study, finished or not."""
    rows = score_rows(study)
    students = student_rows(rows)
    best = best_tradeoff(students, best_recipe(study, rows))
    by_width = best_students(students)
    smallest = by_width[min(by_width)] if by_width else None
    lines = [
        _describe_smallest(best, smallest),
        _describe_baselines(rows, (best, smallest)),
        _describe_teacher(study, best.metric if best else None),
        _describe_progress(study),
    ]
    lead = _describe_best(study, best) if best else _explain_no_student(study)
    return Headline(lead, tuple(line for line in lines if line), best, smallest)


def summarize_study(study: StudyResults) -> list[str]:
    """Returns the sentences of the headline, five at most."""
    headline = build_headline(study)
    return [headline.lead, *headline.lines]


def student_rows(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    """Returns the scored students' rows of the metric that summaries speak of.

    Args:
        rows: Score rows in the order of the report.
    """
    rows = list(rows)
    metric = summary_metric(rows)
    return [r for r in rows if r.kind == "student" and r.metric == metric and r.stats.values]


def describe_kept(row: ScoreRow) -> str:
    """Returns how a model's score compares with the teacher's: "97% of the teacher's score"."""
    ratio, metric = ranked_ratio(row), row.metric
    if ratio is None:
        label = metric.label
        if metric.students_only:  # a difference to the teacher: a name in the midst of a sentence
            label = label[:1].lower() + label[1:]
        return f"{label} {format_number(row.stats.mean)}"
    if metric.better == "higher":
        return f"{format_percent(ratio)} of the teacher's score"
    return f"{1 / ratio:.2g} times the teacher's {_name_distance(metric)}"


def _describe_best(study: StudyResults, row: ScoreRow) -> str:
    size = f"{format_ratio(row.size_ratio)} smaller"
    if row.size_ratio is None:  # the teacher is a function, whose parameters nobody can count
        size = f"{row.run.parameters:,} parameters" if row.run else f"Width {row.width}"
    parts = [size, describe_kept(row)]
    factor = speed_up(study, row.width)
    parts += [f"{factor:{'.2g' if factor < 100 else '.0f'}} times as fast"] if factor else []
    return f"{', '.join(parts)} ({_name_model(row)})."


def _name_model(row: ScoreRow) -> str:
    return f"d={row.width}, {row.recipe}"


def _explain_no_student(study: StudyResults) -> str:
    if study.teacher is None:
        return "Nothing is compressed yet: no teacher has been chosen yet."
    return "Nothing is compressed yet: no student has been scored yet."


def _describe_smallest(best: ScoreRow | None, smallest: ScoreRow | None) -> str:
    if best is None or smallest is None or smallest.width == best.width:
        return ""
    size = f"{format_ratio(smallest.size_ratio)} smaller"
    size = size if smallest.size_ratio else f"d={smallest.width}"
    verb = "keeps" if smallest.metric.better == "higher" and ranked_ratio(smallest) else "has"
    return f"The smallest, {size}, {verb} {describe_kept(smallest)} ({_name_model(smallest)})."


def _describe_baselines(rows: Iterable[ScoreRow], students: Iterable[ScoreRow | None]) -> str:
    """Says what the baselines of the same widths reach, and who is ahead."""
    pairs = {
        row.width: (row, baseline)
        for row in students
        if row and (baseline := find_baseline(rows, row)) and ranked_ratio(baseline)
    }
    if not pairs:
        return ""
    parts = " and ".join(_describe_baseline(*pair) for pair in pairs.values())
    student, _ = next(iter(pairs.values()))
    if student.metric.better == "higher":
        return f"Baselines of the same size keep {parts}."
    return (
        f"Baselines of the same size have {parts} the teacher's {_name_distance(student.metric)}."
    )


def _describe_baseline(student: ScoreRow, baseline: ScoreRow) -> str:
    assert student.comparison
    ratio, verdict = ranked_ratio(baseline) or 0.0, student.comparison.verdict
    kept = format_percent(ratio) if student.metric.better == "higher" else f"{1 / ratio:.2g} times"
    return f"{kept} (d={student.width}, {VERDICT_TEXTS.get(verdict, verdict)})"


def _name_distance(metric: Metric) -> str:
    return "distance" if metric.name in (FRECHET_DISTANCE, KID) else metric.label


def _describe_teacher(study: StudyResults, metric: Metric | None) -> str:
    teacher = study.teacher
    if teacher is None:
        return ""
    parts = ["Teacher:", f"d={teacher.width}," if teacher.width else "a generator of unknown size,"]
    parts += [f"{teacher.parameters:,} parameters,"] if teacher.parameters else []
    size = study.config["data"]["image_size"]
    data = "" if study.dataset == "none" else f"{study.dataset} at "
    parts.append(f"{data}{size}x{size}")
    text = " ".join(parts)
    if metric and metric.key in teacher.scores:
        text += f"; {metric.label} {format_number(teacher.scores[metric.key])}"
        real = study.real_scores.get(metric.key)
        text += "" if real is None else f", of real images {format_number(real)}"
    return f"{text}."


def _describe_progress(study: StudyResults) -> str:
    scored = sum(bool(run.scores) for run in study.runs)
    failed = sum(bool(run.failure) for run in study.runs)
    planned = len(study.planned_runs)
    sentences = []
    if scored < planned:
        sentences.append(f"Unfinished: {scored} of {planned} runs have scores, {failed} failed.")
    if scored == 1:
        sentences.append("One run has scores, so nothing is compared.")
    return " ".join(sentences)
