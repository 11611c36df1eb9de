"""A study's scores beside published ones: the paper's, or those of a CSV file."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from gankd_jax import paper
from gankd_jax.errors import UserError
from gankd_jax.report.rows import Row, in_paper, rows
from gankd_jax.report.runs import Study, read
from gankd_jax.report.scores import describe
from gankd_jax.report.table import Cell, Table, _text_table, _wrap
from gankd_jax.report.wording import model_name, number, spread

COLUMNS = ("data", "score", "width", "student", "baseline")


@dataclass(frozen=True)
class Published:
    """What somebody reports of one width on one data set."""

    data: str
    score: str
    width: int
    student: float
    baseline: float | None  # None: not reported


def compare(folder: Path, reference: Path | None) -> str:
    """The study in `folder` beside the paper's table, or beside the file `reference`, as text.

    Such a file is CSV with the columns `data` (mnist, cifar10, ...), `score`, `width`, `student`
    and `baseline` (may be empty); others are ignored. A `score` is the key of one of ours
    (inception_score, fid, fd_768, ...); named as in the paper (`Inception Score` on mnist, `FID` on
    cifar10 and celeb_a) it is set beside each of ours that stands in for the paper's.

    Every student and baseline of a width that both have is a row: ours, theirs, ours - theirs and
    ours / theirs, and for students whether they beat the baseline, here and there.

    Raises:
        UserError: the folder holds no study, the file cannot be read, or nothing is in both.
    """
    study = read(folder)
    source = str(reference) if reference else "the paper"
    theirs = [p for p in _published(reference) if p.data == study.data]
    if not theirs:
        raise UserError(
            f"{source} has no scores on {study.data}; name a table that has by --reference=FILE.csv"
        )
    found = [(row, p) for row in rows(study) if (p := _beside(study, row, theirs))]
    if not any(row.summary.values for row, _ in found):
        raise UserError(f"{folder} has no scores to set beside {source}: {_wanted(study, theirs)}")
    keys = dict.fromkeys(row.score for row, _ in found)
    shown = [_table([pair for pair in found if pair[0].score == key]) for key in keys]
    lines = [*map(_text_table, shown), *map(_wrap, _notes(study, source, list(keys)))]
    return "\n\n".join(lines)


def _published(path: Path | None) -> list[Published]:
    return _read_csv(path) if path else _of_paper()


def _of_paper() -> list[Published]:
    return [
        Published(data, paper.SCORE[data], row.width, result.student, result.baseline)
        for row in paper.ROWS
        for data, result in row.results.items()
    ]


def _read_csv(path: Path) -> list[Published]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    lines = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
    if missing:
        wanted = ",".join(COLUMNS)
        raise UserError(f"{path} has no column {missing[0]}; its first line must be {wanted}")
    found = [_read_line(path, lines.line_num, line) for line in lines]
    places = [(p.data, p.score, p.width) for p in found]
    for place in places:
        if places.count(place) > 1:
            raise UserError(f"{path} has two lines for {' '.join(map(str, place))}")
    return found


def _read_line(path: Path, number: int, line: dict[str, str]) -> Published:
    try:
        return Published(
            data=line["data"].strip(),
            score=line["score"].strip(),
            width=int(line["width"]),
            student=float(line["student"]),
            baseline=float(line["baseline"]) if line["baseline"].strip() else None,
        )
    except (ValueError, AttributeError) as error:  # a short line leaves None
        what = "width must be a whole number, student a number, baseline a number or empty"
        raise UserError(f"{path}, line {number}: {what}") from error


def _beside(study: Study, row: Row, theirs: list[Published]) -> Published | None:
    """What is published of the model and score of a row."""
    if row.kind not in ("student", "baseline"):
        return None
    return next((p for p in theirs if p.width == row.width and _same(study, p, row.score)), None)


def _same(study: Study, published: Published, key: str) -> bool:
    if published.score == paper.SCORE.get(study.data):
        return in_paper(study, key)
    return published.score == key


def _wanted(study: Study, theirs: list[Published]) -> str:
    """What there would have to be."""
    scores = dict.fromkeys(p.score for p in theirs)
    widths = dict.fromkeys(str(p.width) for p in theirs)
    return f"it speaks of {', '.join(scores)} at the widths {', '.join(widths)}"


def _table(pairs: list[tuple[Row, Published]]) -> Table:
    about = describe(pairs[0][0].score)
    header = ("d", "model", "seeds", "ours", "theirs", "difference", "ratio")
    header += ("verdict here", "student beats baseline") if about.better else ()
    lines = tuple(_line(row, published) for row, published in pairs)
    return Table(about.title, "", header, lines, narrow=len(header))


def _line(row: Row, published: Published) -> tuple[Cell, ...]:
    ours, count = row.summary.mean, len(row.summary.values)
    theirs = published.student if row.kind == "student" else published.baseline
    cells = (
        f"{row.width}",
        model_name(row.kind, row.recipe),
        f"{count}" if count == row.planned else f"{count} of {row.planned}",
        spread(ours, row.summary.sd),
        "-" if theirs is None else number(theirs),
        "-" if theirs is None or math.isnan(ours) else f"{ours - theirs:+.2f}",
        "-" if not theirs or math.isnan(ours) else f"{ours / theirs:.2f}",
        row.comparison.verdict if row.comparison else "",
        _beats(row, published) if row.kind == "student" else "",
    )
    return tuple(map(Cell, cells if describe(row.score).better else cells[:7]))


def _beats(row: Row, published: Published) -> str:
    """Where the student's mean is the better one; where either has no baseline, that is said."""
    sign = 1 if describe(row.score).better == "higher" else -1
    ours = row.comparison and sign * row.comparison.difference > 0
    theirs = published.baseline and sign * (published.student - published.baseline) > 0
    names = {None: "-", True: "yes", False: "no"}
    if ours is None or theirs is None:
        return f"{names[ours]} / {names[theirs]}"
    return {(True, True): "in both", (True, False): "here only", (False, True): "there only"}.get(
        (ours, theirs), "in neither"
    )
