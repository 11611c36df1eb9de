"""How many times as wide as a student a baseline must be to score as well."""

import math

from gankd_jax.report import paper_results
from gankd_jax.report.cells import Cell, Table
from gankd_jax.report.rows import Row, in_paper, rows
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe
from gankd_jax.report.wording import model_name

Scores = dict[int, float]  # by width


def advantage_table(study: Study) -> Table | None:
    """Return the advantage of each student recipe at each width; None without baselines."""
    found = [row for row in rows(study) if _is_ranked(row)]
    widths = sorted({row.width or 0 for row in found if row.kind == "student"})
    lines: list[tuple[Cell, ...]] = []
    for key in dict.fromkeys(row.score for row in found):
        better = describe(key).better
        baselines = _best(found, key, better)
        if not baselines:
            continue
        for recipe in dict.fromkeys(r.recipe for r in found if r.kind == "student"):
            scores = _scores(found, key, "student", recipe)
            cells = [_cell(scores.get(width), width, baselines, better=better) for width in widths]
            lines.append((Cell(describe(key).label), Cell(model_name("student", recipe)), *cells))
        lines += _paper_line(study, key, widths)
    header = ("score", "model", *(f"d={width}" for width in widths))
    note = (
        "How many times as wide the baseline (the best of them, if there are several) must be to "
        "score as well, its score taken as a straight line of its logarithm between two widths, on "
        "logarithms of both; below 1 the baseline is ahead. Means over the seeds, without a claim "
        "about chance."
    )
    return Table("Width advantage", note, header, tuple(lines), len(header)) if lines else None


def advantages(found: list[Row], key: str, recipe: str) -> dict[int, str]:
    """Return the factor of a student recipe at each width, as text; nothing without baselines."""
    better = describe(key).better
    baselines = _best(found, key, better)
    scores = _scores(found, key, "student", recipe) if baselines else {}
    return {width: advantage(score, width, baselines, better)[0] for width, score in scores.items()}


def _is_ranked(row: Row) -> bool:
    ranked = row.score.startswith(("inception_score", "fid", "fd_"))
    return ranked and row.kind in ("student", "baseline") and row.summary.mean > 0


def _scores(found: list[Row], key: str, kind: str, recipe: str) -> Scores:
    those = [row for row in found if (row.score, row.kind, row.recipe) == (key, kind, recipe)]
    return {row.width or 0: row.summary.mean for row in those}


def _best(found: list[Row], key: str, better: str) -> Scores:
    best: Scores = {}
    for recipe in {row.recipe for row in found if row.kind == "baseline"}:
        for width, score in _scores(found, key, "baseline", recipe).items():
            pick = max if better == "higher" else min
            best[width] = pick(score, best.get(width, score))
    return best


def advantage(score: float, width: int, baselines: Scores, better: str) -> tuple[str, float]:
    """Return the factor as text ("above 4" where no baseline is as good) and as a number."""
    sign = 1 if better == "higher" else -1
    curve = [(math.log(d), sign * math.log(baselines[d])) for d in sorted(baselines)]
    wanted, before = sign * math.log(score), None
    for place, value in curve:
        if value >= wanted:
            if before is None:
                factor = math.exp(place) / width
                return f"at most {factor:.2g}", factor
            part = (wanted - before[1]) / (value - before[1])
            factor = math.exp(before[0] + part * (place - before[0])) / width
            return f"{factor:.2g}", factor
        before = place, value
    factor = math.exp(curve[-1][0]) / width
    return f"above {factor:.2g}", factor


def _cell(score: float | None, width: int, baselines: Scores, *, better: str) -> Cell:
    return Cell("-") if score is None else Cell(*advantage(score, width, baselines, better))


def _paper_line(study: Study, key: str, widths: list[int]) -> list[tuple[Cell, ...]]:
    """The same of the paper's table, where it has this score."""
    if not in_paper(study, key):
        return []
    results = {
        row.width: row.results[study.data]
        for row in paper_results.PAPER_ROWS
        if study.data in row.results
    }
    baselines = {d: result.baseline for d, result in results.items() if result.baseline}
    students = {d: result.student for d, result in results.items()}
    better = describe(key).better
    cells = [_cell(students.get(width), width, baselines, better=better) for width in widths]
    return [(Cell(describe(key).label), Cell("paper's student*"), *cells)]
