"""The tables that a person reads, for a terminal, as Markdown, and as cells for the page."""

import math
import textwrap

from gankd_jax.report import paper_results
from gankd_jax.report.advantage import advantage_table
from gankd_jax.report.cells import Cell, Table, whole
from gankd_jax.report.headline import headline
from gankd_jax.report.limit import limit_table
from gankd_jax.report.rows import Row, disk, groups, in_paper, of_width, ratios, rows, score_keys
from gankd_jax.report.runs import Run, Study, progress
from gankd_jax.report.scores import describe, is_main
from gankd_jax.report.times import time_tables
from gankd_jax.report.wording import difference, model_name, number, percent, ratio, size, spread
from gankd_jax.utils.constants import LOSSY_PRECISIONS, PRECISIONS

TEXT_WIDTH = 100


def tables(study: Study, keys: list[str] | None = None) -> list[Table]:
    """Return sizes, bytes and times, each score (or those of `keys`), and teachers if several."""
    scores = [score_table(study, key) for key in keys or score_keys(study)]
    return [*size_tables(study), *scores, *teachers_tables(study)]


def size_tables(study: Study) -> list[Table]:
    """Return how large each model is, and what of bytes and time was measured."""
    return [_size_table(study), *_disk_table(study), *time_tables(study)]


def notes(study: Study) -> list[str]:
    """Say how the tables are to be read."""
    lines = [
        "± after a score: standard deviation over the training seeds; none with one seed. All runs "
        "share one teacher, so it does not hold the chance of another teacher.",
        "kept: the mean score divided by the teacher's, or the teacher's divided by it where "
        "lower is better.",
        "to baseline: the student's mean minus that of the baseline of its width (the best of them "
        "if there are several), ± half of Welch's 95 % interval of the difference. One is called "
        "ahead only if the difference is larger than that; with one seed nothing is claimed. Each "
        "comparison stands alone: about one in twenty is beyond the interval by chance.",
    ]
    if any(in_paper(study, key) for key in score_keys(study)):
        derived = (
            " Its teacher's score is derived."
            if study.data in paper_results.PAPER_TEACHER_SCORE
            else ""
        )
        lines.append(
            f"paper*: its {paper_results.PAPER_METRIC[study.data]} at that width, {study.data} at"
            f" 64x64, teacher of width {paper_results.PAPER_TEACHER_WIDTH[study.data]}, judged by"
            " ANOTHER network, which it does not name: compare the course over the widths, not the"
            f" values.{derived}"
        )
    return lines + [
        f"{run.name} went on from another seed after it had failed {failure}"
        for run in study.runs
        for failure in run.retried
    ]


def _size_table(study: Study) -> Table:
    in_column = study.data in paper_results.PAPER_METRIC
    header = ["d", "model", "parameters", "ratio", "paper's count", "its ratio", "multiply-adds"]
    header += ["float32", *(["in the paper"] if in_column else [])]
    models: list[tuple[str, int, Run | None]]
    small = sorted({width for _, _, width in groups(study)})
    models = [("small", width, of_width(study, width)) for width in small]
    if study.teacher:
        models.insert(0, ("teacher", study.teacher.key.width, study.teacher))
    lines = (
        (
            whole(width),
            Cell(model),
            *(_size_cells(study, run) if run else [Cell("-")] * 6),
            *([_printed_cell(study, model, width)] if in_column else []),
        )
        for model, width, run in models
    )
    return Table(
        "Sizes",
        "small: students and baselines of that width. parameters: all trained numbers. paper's "
        "count: one output channel, no batch norm. ratio: the teacher's parameters to these. "
        "multiply-adds: for one image."
        + (" in the paper: the ratio it prints for this width." if in_column else ""),
        tuple(header),
        tuple(lines),
        narrow=len(header),
    )


def _disk_table(study: Study) -> list[Table]:
    """Return what the weights take on disk, where that was measured."""
    widths = sorted({width for _, _, width in groups(study)})
    models = [("teacher", study.teacher), *(("small", of_width(study, width)) for width in widths)]
    known = [(model, run) for model, run in models if run and LOSSY_PRECISIONS[-1] in run.stored]
    lines = tuple(
        (whole(run.key.width), Cell(model), *_disk_cells(study, run)) for model, run in known
    )
    columns = [name for precision in PRECISIONS for name in (precision, "ratio")]
    header = ("d", "model", *columns)
    note = (
        "What the weights take in an exported file: kernels in that precision, biases in float32, "
        "int8 with a float32 scale for each output channel; batch norm is folded in. ratio: the "
        "teacher's float32 bytes to these. The scores with such weights stand in each score's "
        "table."
    )
    return [Table("By bytes on disk", note, header, lines, len(header))] if known else []


def _disk_cells(study: Study, run: Run) -> list[Cell]:
    found = [disk(study, run, precision) for precision in PRECISIONS]
    pairs = [(whole(count) if count else Cell("-"), Cell(ratio(r), r)) for count, r in found]
    return [cell for pair in pairs for cell in pair]


def _size_cells(study: Study, run: Run) -> list[Cell]:
    true_ratio, paper_ratio = ratios(study, run)
    return [
        whole(run.parameters),
        Cell(ratio(true_ratio), true_ratio),
        whole(run.paper_parameters),
        Cell(ratio(paper_ratio), paper_ratio),
        whole(run.multiply_adds),
        Cell(size(run.bytes_float32), run.bytes_float32),
    ]


def _printed_cell(study: Study, model: str, width: int) -> Cell:
    result = paper_results.paper_result(study.data, width) if model == "small" else None
    return Cell(f"{result.ratio}:1", result.ratio) if result and result.ratio else Cell("-")


def score_table(study: Study, key: str) -> Table:
    """Return a score of every model, the paper's beside it, and who is ahead."""
    about, with_paper = describe(key), in_paper(study, key)
    header = ["d", "model", "seeds", "score"]
    header += [] if about.students_only else ["kept", "to baseline", "verdict"]
    header += ["paper*"] if with_paper else []
    lossy = LOSSY_PRECISIONS if any(row.at for row in rows(study) if row.score == key) else ()
    lines = [
        (
            *_score_cells(row),
            *([] if about.students_only else _against_cells(row)),
            *([_paper_cell(row)] if with_paper else []),
            *(_number_cell(row.at, precision) for precision in lossy),
            _seeds_cell(row),
        )
        for row in rows(study)
        if row.score == key
    ]
    wide = (*header, *(f"{precision} weights" for precision in lossy), "each seed")
    return Table(about.title, about.about, wide, tuple(lines), len(header))


def _score_cells(row: Row) -> tuple[Cell, ...]:
    mean, seeds = row.summary.mean, len(row.summary.values)
    counted = f"{seeds}" if seeds == row.planned else f"{seeds} of {row.planned}"
    return (
        Cell("") if row.width is None else whole(row.width),
        Cell("real images" if row.kind == "real" else model_name(row.kind, row.recipe)),
        Cell("" if row.kind == "real" else counted),
        Cell(spread(mean, row.summary.sd), None if math.isnan(mean) else mean),
    )


def _against_cells(row: Row) -> tuple[Cell, ...]:
    """Return what is kept of the teacher's score, and how the baseline compares."""
    kept = Cell("" if row.kind == "real" else percent(row.share), row.share)
    against = row.comparison
    if against is None:
        return kept, Cell(""), Cell("")
    written = difference(against.difference, against.margin, row.summary.mean)
    return kept, Cell(written, against.difference), Cell(against.verdict)


def _paper_cell(row: Row) -> Cell:
    if row.paper is None:
        return Cell("")
    kept = "" if row.paper_share is None else f" ({percent(row.paper_share)})"
    return Cell(f"{row.paper:.2f}{kept}", row.paper)


def _seeds_cell(row: Row) -> Cell:
    if row.kind not in ("student", "baseline"):
        return Cell("")
    return Cell(", ".join(f"{seed}: {number(score)}" for seed, score in row.summary.values.items()))


def teachers_tables(study: Study) -> list[Table]:
    """Return the teachers that were tried, where there are several."""
    tried = [run for run in study.runs if run.key.kind == "teacher"]
    if len(tried) < 2:
        return []
    keys = [key for key in score_keys(study) if not describe(key).students_only]
    judged = study.choice.get("candidates", {})
    lines = tuple(
        (
            whole(run.key.width),
            Cell(f"{run.key.seed}"),
            Cell("chosen" if run is study.teacher else "failed" if run.failure else ""),
            _number_cell(judged, run.name),
            whole(run.parameters),
            *(_number_cell(run.scores, key) for key in keys),
        )
        for run in tried
    )
    note = f"Chosen by {study.choice['chosen_by']}." if study.teacher else "None is chosen yet."
    header = (
        "d",
        "seed",
        "choice",
        "chosen by",
        "parameters",
        *(describe(key).label for key in keys),
    )
    return [Table("Teachers tried", note, header, lines, narrow=6)]


def _number_cell(values: dict[str, float], key: str) -> Cell:
    return Cell(number(values[key]), values[key]) if key in values else Cell("-")


def text(study: Study) -> str:
    """Return the report for a terminal, at most 100 columns wide, with the main scores."""
    keys = score_keys(study)
    shown = [key for key in keys if is_main(key)] or keys
    parts = ["\n".join(wrap(line) for line in headline(study))]
    parts += [text_table(table) for table in tables(study, shown)]
    if len(shown) < len(keys):
        others = ", ".join(key for key in keys if key not in shown)
        parts.append(wrap(f"Further scores, in table.md: {others}"))
    missing = progress(study)
    if missing:
        parts.append("\n".join(["Runs without scores", *(wrap(line, "  ") for line in missing)]))
    parts += ["\n".join(wrap(line) for line in notes(study))]
    return "\n\n".join(parts) + "\n"


def wrap(line: str, indent: str = "") -> str:
    """Break a line to the terminal's width."""
    return textwrap.fill(line, TEXT_WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def text_table(table: Table) -> str:
    """Return a table for a terminal."""
    lines = [table.header, *(tuple(cell.text for cell in row) for row in table.rows)]
    cells = [[_cut(cell) for cell in line[: table.narrow]] for line in lines]
    sizes = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    drawn = [
        "  ".join(cell.rjust(size) for cell, size in zip(line, sizes, strict=True))
        for line in cells
    ]
    return "\n".join([table.title, drawn[0], "-" * len(drawn[0]), *drawn[1:]])


def _cut(cell: str) -> str:
    """Shorten a cell that would break the terminal's width."""
    return cell if len(cell) <= 16 else f"{cell[:15]}…"


def markdown(study: Study) -> str:
    """Return the report as Markdown."""
    parts = [f"# {study.config['name']}", *headline(study)]
    limits = [table for table in (limit_table(study), advantage_table(study)) if table]
    for table in [*tables(study), *limits]:
        parts += [f"## {table.title}", table.note, _markdown_table(table)]
    missing = progress(study)
    if missing:
        parts += ["## Runs without scores", "\n".join(f"- {line}" for line in missing)]
    parts += ["## How to read it", "\n".join(f"- {line}" for line in notes(study))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header)]
    lines += [tuple(cell.text for cell in row) for row in table.rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
