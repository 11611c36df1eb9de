"""Where the limit of compression lies: the smallest width that keeps a part of the teacher."""

from gankd_jax.report import paper_results
from gankd_jax.report.cells import Cell, Table
from gankd_jax.report.rows import Row, in_paper, rows
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe, is_main, share
from gankd_jax.report.wording import model_name, percent, ratio

LEVELS = (0.99, 0.95, 0.9, 0.75, 0.5)


def limit_lines(study: Study) -> list[str]:
    """Say for each main score how far students can shrink; the best of them counts."""
    found: dict[str, list[Row]] = {}
    for row in _compared(study):
        if row.kind == "student" and row.share is not None:
            found.setdefault(row.score, []).append(row)
    return [f"{describe(key).label}: {_line(students)}" for key, students in found.items()]


def _line(students: list[Row]) -> str:
    parts: list[str] = []
    for level in LEVELS:
        least = smallest(students, level)
        if least and not any(_place(least) in part for part in parts):
            parts.append(f"{percent(level)} of the teacher's is kept down to {_place(least)}")
    narrowest = min(row.width or 0 for row in students)
    last = max((row for row in students if row.width == narrowest), key=lambda row: row.share or 0)
    if not parts:
        parts.append(f"no student keeps {percent(LEVELS[-1])} of the teacher's")
    return f"{'; '.join(parts)}. The smallest, {_place(last)}, keeps {percent(last.share)}."


def limit_table(study: Study) -> Table | None:
    """Return the smallest widths of each model for each main score; None without a teacher."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in _compared(study):
        if row.kind in ("student", "baseline") and row.share is not None:
            found.setdefault((row.score, row.kind, row.recipe), []).append(row)
    if not found:
        return None
    lines: list[tuple[Cell, ...]] = []
    for score in dict.fromkeys(score for score, _, _ in found):
        models = {key[1:]: those for key, those in found.items() if key[0] == score}
        lines += [
            (Cell(describe(score).label), Cell(model_name(*model)), *_cells(those))
            for model, those in models.items()
        ]
        lines += _paper_lines(study, score)
    header = ("score", "model", *(f"keeps {percent(level)}" for level in LEVELS))
    note = "The smallest width whose mean score keeps that part of the teacher's, and its ratio."
    return Table("Smallest width", note, header, tuple(lines), narrow=len(header))


def _compared(study: Study) -> list[Row]:
    return [row for row in rows(study) if is_main(row.score) and describe(row.score).better]


def smallest(those: list[Row], level: float) -> Row | None:
    """Return the narrowest model that keeps that part of the teacher's score; None if none does."""
    kept = [row for row in those if (row.share or 0) >= level]
    return min(kept, key=lambda row: (row.width or 0, -(row.share or 0)), default=None)


def _place(row: Row) -> str:
    return f"d={row.width} ({ratio(row.ratio)}, {row.recipe})"


def _cells(those: list[Row]) -> tuple[Cell, ...]:
    found = [smallest(those, level) for level in LEVELS]
    return tuple(
        Cell(f"d={row.width} ({ratio(row.ratio)})", row.width) if row else Cell("none")
        for row in found
    )


def _paper_lines(study: Study, key: str) -> list[tuple[Cell, ...]]:
    """The paper's students, where it has this score and says what its teacher has."""
    teacher = paper_results.PAPER_TEACHER_SCORE.get(study.data)
    if teacher is None or not in_paper(study, key):
        return []
    kept = {
        row.width: share(describe(key), result.student, teacher) or 0.0
        for row in paper_results.PAPER_ROWS
        if (result := row.results.get(study.data))
    }
    least = [min((d for d, part in kept.items() if part >= level), default=0) for level in LEVELS]
    cells = (Cell(_paper_place(study.data, width), width or None) for width in least)
    return [(Cell(describe(key).label), Cell("paper's student*"), *cells)]


def _paper_place(data: str, width: int) -> str:
    result = paper_results.paper_result(data, width)
    times = f" ({result.ratio}:1)" if result and result.ratio else ""
    return f"d={width}{times}" if width else "none"
