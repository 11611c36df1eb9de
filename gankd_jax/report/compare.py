"""A study's scores beside published ones: the paper's, or those of a CSV file."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from gankd_jax.report import paper_results
from gankd_jax.report.cells import Cell, Table
from gankd_jax.report.rows import Row, in_paper, rows
from gankd_jax.report.runs import Study, read
from gankd_jax.report.scores import describe
from gankd_jax.report.table import text_table, wrap
from gankd_jax.report.wording import difference, model_name, number, spread
from gankd_jax.utils.errors import UserError

COLUMNS = ("data", "score", "width", "student", "baseline")
HEADER = ("d", "model", "seeds", "ours", "theirs", "difference", "ratio")
AHEAD = ("ahead here", "there", "in both")
WORDS = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class Published:
    """What somebody reports of one width on one data set."""

    data: str
    score: str
    width: int
    student: float
    baseline: float | None  # None: not reported


@dataclass(frozen=True)
class Pair:
    """One score of one of our models, and what is published of its width."""

    row: Row
    published: Published

    @property
    def theirs(self) -> float | None:
        """The published score of that kind of model."""
        return self.published.student if self.row.kind == "student" else self.published.baseline


def compare(folder: Path, reference: Path | None) -> str:
    """The study in `folder` beside the paper's table, or beside the file `reference`, as text.

    Such a file is CSV with the columns `data` (mnist, cifar10, ...), `score`, `width`, `student`
    and `baseline` (may be empty); others are ignored. A `score` is the key of one of ours
    (inception_score, fid, fd_768, ...); named as in the paper (`Inception Score` on mnist, `FID` on
    cifar10 and celeb_a) it is set beside each of ours that stands in for the paper's.

    Every student and baseline of a width that both have is a row: ours, theirs, ours - theirs and
    ours / theirs, and for students whether they beat the baseline, here and there.

    Raises:
        UserError: the folder holds no study, the file cannot be read, or no score is in both.
    """
    study = read(folder)
    source = str(reference) if reference else "the paper"
    published = _read_csv(reference) if reference else _of_paper()
    theirs = [p for p in published if p.data == study.data]
    pairs = [Pair(row, p) for row in rows(study) for p in theirs if _belongs(study, row, p)]
    if not any(pair.row.summary.values for pair in pairs):
        raise UserError(f"{folder} has no score to set beside {source}, {_holds(study, theirs)}")
    keys = list(dict.fromkeys(pair.row.score for pair in pairs))
    tables = [_table([pair for pair in pairs if pair.row.score == key]) for key in keys]
    notes = [*_notes(study, source, keys), *_only_here_or_there(study, theirs)]
    return "\n\n".join([*map(text_table, tables), "\n".join(map(wrap, notes))])


def _of_paper() -> list[Published]:
    return [
        Published(
            data, paper_results.PAPER_METRIC[data], row.width, result.student, result.baseline
        )
        for row in paper_results.PAPER_ROWS
        for data, result in row.results.items()
    ]


def _read_csv(path: Path) -> list[Published]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        columns = ",".join(COLUMNS)
        raise UserError(f"{path} has no column {missing[0]}; its first line must be {columns}")
    found: dict[tuple[str, str, int], Published] = {}
    for line in reader:
        one = _read_line(f"{path}, line {reader.line_num}", line)
        if found.setdefault((one.data, one.score, one.width), one) is not one:
            raise UserError(f"{path} has two lines for {one.data}, {one.score}, width {one.width}")
    return list(found.values())


def _read_line(place: str, line: dict[str, str | None]) -> Published:
    data, score, width, student, baseline = ((line[name] or "").strip() for name in COLUMNS)
    try:
        return Published(
            data, score, int(width), float(student), float(baseline) if baseline else None
        )
    except ValueError as error:
        raise UserError(
            f"{place}: width must be a whole number, student a number, baseline one or empty"
        ) from error


def _belongs(study: Study, row: Row, published: Published) -> bool:
    """Whether what is published is of the width and score of a student's or baseline's row."""
    if row.kind not in ("student", "baseline") or row.width != published.width:
        return False
    if published.score == paper_results.PAPER_METRIC.get(study.data):
        return in_paper(study, row.score)
    return published.score == row.score


def _holds(study: Study, theirs: list[Published]) -> str:
    if not theirs:
        return f"which has none on {study.data}; name a table that has by --reference=FILE.csv"
    scores, widths = ({getattr(p, field): "" for p in theirs} for field in ("score", "width"))
    return f"which has {', '.join(scores)} at the widths {', '.join(map(str, widths))}"


def _table(pairs: list[Pair]) -> Table:
    header = HEADER + AHEAD
    title = describe(pairs[0].row.score).title
    return Table(title, "", header, tuple(map(_line, pairs)), narrow=len(header))


def _line(pair: Pair) -> tuple[Cell, ...]:
    row, theirs = pair.row, pair.theirs
    ours, count = row.summary.mean, len(row.summary.values)
    texts = [
        f"{row.width}",
        model_name(row.kind, row.recipe),
        f"{count}" if count == row.planned else f"{count} of {row.planned}",
        spread(ours, row.summary.sd),
        *(["-"] * 3 if theirs is None else _against(ours, theirs)),
        *(_ahead(pair) if row.kind == "student" else [""] * len(AHEAD)),
    ]
    return tuple(map(Cell, texts))


def _against(ours: float, theirs: float) -> list[str]:
    ratio = ours / theirs if theirs else math.nan
    return [number(theirs), difference(ours - theirs, None, theirs), number(ratio)]


def _ahead(pair: Pair) -> list[str]:
    """Whether the student beats the baseline here, there, and in both; '-' where it is unknown."""
    ours, theirs = pair.row.comparison, pair.published
    here = _wins(pair.row.score, ours.difference) if ours else None
    there = None
    if theirs.baseline is not None:
        there = _wins(pair.row.score, theirs.student - theirs.baseline)
    both = None if here is None or there is None else here and there
    doubt = "?" if ours and ours.verdict in ("one seed", "within spread") else ""
    return [WORDS[here] + doubt, WORDS[there], WORDS[both] + (doubt if both else "")]


def _wins(key: str, ahead: float) -> bool | None:
    """Whether a difference from the baseline is for the better; None where neither side is."""
    better = describe(key).better
    if not better or math.isnan(ahead):
        return None
    return ahead > 0 if better == "higher" else ahead < 0


def _notes(study: Study, source: str, keys: list[str]) -> list[str]:
    size = study.config["data"]["image_size"]
    width = f", teacher of width {study.teacher.key.width}" if study.teacher else ""
    judges = "; ".join(f"{describe(key).label} by {_judge(key)}" for key in keys)
    return [
        f"ours: {study.data} at {size}x{size}{width}. In the place of theirs: {judges}.",
        _their_note(study, source),
        "So compare the course over the widths and who is ahead, not the values. difference: ours -"
        " theirs; ratio: ours / theirs. Each of our students stands beside their one.",
        "ahead (here, there): the student's mean is better than the (best) baseline's of its width."
        " ?: by less than the spread over the seeds shows, or from one seed.",
    ]


def _their_note(study: Study, source: str) -> str:
    if source != "the paper":
        return f"theirs: {source}, which does not say what network judged."
    return (
        f"theirs: the paper's {paper_results.PAPER_METRIC[study.data]}, {study.data} at 64x64,"
        f" teacher of width {paper_results.PAPER_TEACHER_WIDTH[study.data]}, judged by ANOTHER"
        " network, which it does not name."
    )


def _judge(key: str) -> str:
    if key.endswith("_mixer"):
        return "the study's second classifier"
    own = key == "inception_score" or key.endswith("_classifier")
    return "the study's own classifier" if own else "the Inception network of FID"


def _only_here_or_there(study: Study, theirs: list[Published]) -> list[str]:
    """Name the widths that are in one of the two alone."""
    here = {key.width for key in study.plan if key.kind != "teacher"}
    there = {published.width for published in theirs}
    sides = (("here", here - there), ("there", there - here))
    return [
        f"widths only {side}: {', '.join(map(str, sorted(widths)))}."
        for side, widths in sides
        if widths
    ]
