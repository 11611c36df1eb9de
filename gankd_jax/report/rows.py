"""Every score of every model of a study, with what it is compared with; and the same as CSV."""

import csv
import io
import statistics
from dataclasses import dataclass, field

from gankd_jax.report import paper_results
from gankd_jax.report.runs import Key, Run, Study
from gankd_jax.report.scores import Comparison, Summary, compare, describe, ordered, share
from gankd_jax.utils.constants import LOSSY_PRECISIONS, PRECISIONS


@dataclass(frozen=True)
class Row:
    """One score of one model (a group of runs that differ by seed), with all that belongs to it."""

    score: str
    kind: str  # real, teacher, student, baseline
    recipe: str
    width: int | None  # None: real images
    planned: int  # seeds that the config asks for
    summary: Summary
    run: Run | None = None  # any run of this width, for its size; None before the first
    ratio: float | None = None  # the teacher's parameters to this model's
    paper_ratio: float | None = None  # the same in the paper's count
    share: float | None = None  # of the teacher's score
    comparison: Comparison | None = None  # students only
    paper: float | None = None  # what the paper reports at this width
    paper_share: float | None = None  # of the paper's teacher
    at: dict[str, float] = field(default_factory=dict)  # the mean with weights of a lower precision


def rows(study: Study) -> list[Row]:
    """Return every score of every model: real images, teacher, then by width."""
    return [row for key in score_keys(study) for row in _score_rows(study, key)]


def score_keys(study: Study) -> list[str]:
    """Return the keys of every score that any run or the real images have, in report order."""
    keys = {key for run in study.runs for key in run.scores} | set(study.real_scores)
    return ordered(keys)


def groups(study: Study) -> list[tuple[str, str, int]]:
    """List (kind, recipe, width), narrow before wide, students first, in the config's order."""
    keys: list[Key] = [*study.plan, *(run.key for run in study.runs)]
    found = dict.fromkeys(key[:3] for key in keys if key.kind != "teacher")
    return sorted(found, key=lambda group: (group[2], group[0] != "student"))


def of_width(study: Study, width: int) -> Run | None:
    """Return any student or baseline of a width, a scored one first: all have the same size."""
    small = [r for r in study.runs if r.key.kind != "teacher" and r.key.width == width]
    return min(small, key=lambda run: not run.scores, default=None)


def ratios(study: Study, run: Run | None) -> tuple[float | None, float | None]:
    """Return teacher's to run's parameters, by true and paper's count; None without a teacher."""
    teacher = study.teacher
    if teacher is None or run is None:
        return None, None
    return teacher.parameters / run.parameters, teacher.paper_parameters / run.paper_parameters


def disk(study: Study, run: Run | None, precision: str) -> tuple[int | None, float | None]:
    """Return the bytes of a run's weights in a file, and the teacher's float32 bytes to them."""
    if run is None or precision not in run.stored:
        return None, None
    found, whole = run.stored[precision].bytes, study.teacher and study.teacher.stored
    return found, whole["float32"].bytes / found if whole else None


def _at(runs: tuple[Run, ...], key: str) -> dict[str, float]:
    """Return the mean over the seeds for each lower precision that all of them were scored at."""
    means = {}
    done = [run for run in runs if run.scores]
    for precision in LOSSY_PRECISIONS:
        scored = [run.stored[precision].scores for run in done if precision in run.stored]
        values = [scores[key] for scores in scored if key in scores]
        if values and len(values) == len(done):
            means[precision] = statistics.fmean(values)
    return means


def in_paper(study: Study, key: str) -> bool:
    """Tell whether the paper reports this kind of score on this data set.

    Its FID is set beside every Fréchet distance, since the layer it was measured at is not known.
    """
    theirs = paper_results.PAPER_METRIC.get(study.data)
    if theirs == "FID":
        return key == "fid" or key.startswith("fd_")
    return theirs == "Inception Score" and key == "inception_score"


def _score_rows(study: Study, key: str) -> list[Row]:
    top = []
    if key in study.real_scores:
        real = Summary({0: study.real_scores[key]})
        top.append(Row(key, "real", "real", None, planned=1, summary=real))
    if study.teacher and not describe(key).students_only:
        top.append(_teacher_row(study, study.teacher, key))
    return top + [
        _group_row(study, key, *group)
        for group in groups(study)
        if group[0] == "student" or not describe(key).students_only
    ]


def _teacher_row(study: Study, teacher: Run, key: str) -> Row:
    summary = _summary((teacher,), key)
    return Row(
        key,
        "teacher",
        "teacher",
        teacher.key.width,
        planned=1,
        summary=summary,
        run=teacher,
        ratio=1.0,
        paper_ratio=1.0,
        share=1.0 if summary.values else None,
        paper=paper_results.PAPER_TEACHER_SCORE.get(study.data) if in_paper(study, key) else None,
        at=_at((teacher,), key),
    )


def _group_row(study: Study, key: str, kind: str, recipe: str, width: int) -> Row:
    summary = _summary(study.group(kind, recipe, width), key)
    run = of_width(study, width)
    ratio, paper_ratio = ratios(study, run)
    theirs, theirs_share = _paper(study, key, kind, width)
    teacher = study.teacher.scores.get(key) if study.teacher else None
    return Row(
        key,
        kind,
        recipe,
        width,
        planned=sum(planned[:3] == (kind, recipe, width) for planned in study.plan),
        summary=summary,
        run=run,
        ratio=ratio,
        paper_ratio=paper_ratio,
        share=None if teacher is None else share(describe(key), summary.mean, teacher),
        comparison=_compare(study, key, summary, width) if kind == "student" else None,
        paper=theirs,
        paper_share=theirs_share,
        at=_at(study.group(kind, recipe, width), key),
    )


def _summary(runs: tuple[Run, ...], key: str) -> Summary:
    return Summary({run.key.seed: run.scores[key] for run in runs if key in run.scores})


def _compare(study: Study, key: str, student: Summary, width: int) -> Comparison | None:
    names = [recipe for kind, recipe, d in groups(study) if kind == "baseline" and d == width]
    baselines = {name: _summary(study.group("baseline", name, width), key) for name in names}
    return compare(describe(key), student, baselines)


def _paper(study: Study, key: str, kind: str, width: int) -> tuple[float | None, float | None]:
    result = paper_results.paper_result(study.data, width)
    if result is None or not in_paper(study, key):
        return None, None
    value = result.student if kind == "student" else result.baseline
    teacher = paper_results.PAPER_TEACHER_SCORE.get(study.data)
    if value is None or teacher is None:
        return value, None
    return value, share(describe(key), value, teacher)


def csv_text(study: Study) -> str:
    """Return every row with its numbers unrounded; an empty field: there is no such number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(row) | _csv_disk(study, row) for row in rows(study))
    return out.getvalue()


CSV_FIELDS = (
    *("score", "better", "kind", "recipe", "width", "parameters", "paper_parameters"),
    *("multiply_adds", "bytes_float32", "ratio", "paper_ratio", "seeds", "seeds_planned", "mean"),
    *("sd", "by_seed", "share_of_teacher", "baseline", "difference", "margin95", "verdict"),
    *("paper", "paper_share_of_teacher"),
    *(f"disk_bytes_{precision}" for precision in PRECISIONS),
    *(f"disk_ratio_{precision}" for precision in PRECISIONS),
    *(f"mean_{precision}" for precision in LOSSY_PRECISIONS),
)


def _csv_disk(study: Study, row: Row) -> dict[str, object]:
    """Return the columns that speak of the weights' precision."""
    found: dict[str, object] = {f"mean_{p}": row.at.get(p) for p in LOSSY_PRECISIONS}
    for p in PRECISIONS:
        found[f"disk_bytes_{p}"], found[f"disk_ratio_{p}"] = disk(study, row.run, p)
    return found


def _csv_row(row: Row) -> dict[str, object]:
    run, compared = row.run, row.comparison
    return {
        "score": row.score,
        "better": describe(row.score).better,
        "kind": row.kind,
        "recipe": row.recipe,
        "width": row.width,
        "parameters": run and run.parameters,
        "paper_parameters": run and run.paper_parameters,
        "multiply_adds": run and run.multiply_adds,
        "bytes_float32": run and run.bytes_float32,
        "ratio": row.ratio,
        "paper_ratio": row.paper_ratio,
        "seeds": len(row.summary.values),
        "seeds_planned": row.planned,
        "mean": row.summary.mean if row.summary.values else None,
        "sd": row.summary.sd,
        "by_seed": ";".join(f"{seed}={value!r}" for seed, value in row.summary.values.items()),
        "share_of_teacher": row.share,
        "baseline": compared and compared.baseline,
        "difference": compared and compared.difference,
        "margin95": compared and compared.margin,
        "verdict": compared and compared.verdict,
        "paper": row.paper,
        "paper_share_of_teacher": row.paper_share,
    }
