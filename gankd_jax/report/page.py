"""Writes a study's report: tables, a picture, and report.html, one file that needs no network."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from gankd_jax.report.aggregate import scored_metrics
from gankd_jax.report.charts import charts
from gankd_jax.report.each_run import each_run
from gankd_jax.report.elements import bullets, details, note, paragraphs, titled
from gankd_jax.report.gallery import Pictures, gallery
from gankd_jax.report.made import made
from gankd_jax.report.picture import picture
from gankd_jax.report.player import player
from gankd_jax.report.questions import answer_questions, draw_answers, format_answers
from gankd_jax.report.sheets import Detail
from gankd_jax.report.study_results import StudyResults, describe_unscored_runs, read_study_results
from gankd_jax.report.tables import (
    build_min_width_table,
    build_score_table,
    build_size_tables,
    build_teacher_tables,
    build_width_advantage_table,
    describe_min_widths,
    format_report_csv,
    format_report_markdown,
    summarize_study,
    table_notes,
)
from gankd_jax.utils.atomic_io import write_bytes

LIMIT = 3_000_000  # bytes of the page
SCRIPTS = ("table.js", "student.js", "player.js")


# The first that keeps the page within its limit is taken.
PICTURES = (
    Pictures(Detail(), lossy=False),
    Pictures(Detail(sheets=1), lossy=False),
    Pictures(Detail(sheets=1), lossy=True),
    Pictures(Detail(columns=4, sheets=1), lossy=True),
)


def write_report(workdir: Path) -> Path:
    """Write the report of a study, finished or not, into its work directory.

    It is table.md, table.csv, grid.png (once there are samples), answers.md and answers.png (once
    there are scores) and report.html.

    Returns:
      The path of report.html.

    Raises:
      UserError: the folder is no work directory, or a file in it cannot be read.
    """
    study = read_study_results(workdir)
    page = workdir / "report.html"
    write_bytes(workdir / "table.md", format_report_markdown(study).encode())
    write_bytes(workdir / "table.csv", format_report_csv(study).encode())
    drawn = picture(study)
    if drawn is not None:
        write_bytes(workdir / "grid.png", drawn)
    answers = answer_questions(study)
    if answers:
        write_bytes(workdir / "answers.md", format_answers(study, answers).encode())
        write_bytes(workdir / "answers.png", draw_answers(answers))
    write_bytes(page, html(study).encode())
    return page


def html(study: StudyResults) -> str:
    """Return the page, in the order in which a person asks."""
    sizes = map(titled, build_size_tables(study))
    before = [
        ("What was compressed", "\n".join([_first(study), *sizes])),
        ("Scores", _scores(study)),
        ("Score against size and time", charts(study)),
        ("Where the limit lies", _limit(study)),
    ]
    after = [("How each number was made", made(study)), ("Each run", each_run(study))]
    for pictures in PICTURES:
        page = _page(study, [*before, *gallery(study, pictures), *after])
        if len(page.encode()) <= LIMIT:
            break
    return page


def _page(study: StudyResults, sections: Iterable[tuple[str, str]]) -> str:
    shown = [section for section in sections if section[1]]
    return Template(_text("page.html")).substitute(
        title=escape(f"{study.config['name']} study"),
        name=escape(study.config["name"]),
        contents=" ".join(f'<a href="#s{k}">{title}</a>' for k, (title, _) in enumerate(shown)),
        style=_text("page.css"),
        script="\n".join(map(_text, SCRIPTS)),
        body="\n".join(
            f'<section id="s{k}"><h2>{title}</h2>\n{content}\n</section>'
            for k, (title, content) in enumerate(shown)
        ),
    )


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _first(study: StudyResults) -> str:
    """What is seen first: the result in words, and beside it the student at work."""
    return f'<div class="first">{_summary(study)}{player(study)}</div>'


def _summary(study: StudyResults) -> str:
    first, *others = summarize_study(study)
    missing = describe_unscored_runs(study)
    warning = f'<div class="warn">Runs without scores{bullets(missing)}</div>' if missing else ""
    lead = f'<p class="lead">{escape(first)}</p>'
    return f"<div>{lead}{paragraphs(others)}{warning}</div>"


def _scores(study: StudyResults) -> str:
    metrics = scored_metrics(study)
    if not metrics:
        return note("No run is scored yet.")
    main = [build_score_table(study, metric) for metric in metrics if metric.main]
    others = [build_score_table(study, metric) for metric in metrics if not metric.main]
    parts = [*map(titled, main), *map(titled, build_teacher_tables(study))]
    if others:
        parts.append(details("Further scores", "\n".join(map(titled, others))))
    parts.append(f"<h3>How to read them</h3>{bullets(table_notes(study))}")
    return note("A click on a heading sorts.") + "\n".join(parts)


def _limit(study: StudyResults) -> str:
    table, advantage = build_min_width_table(study), build_width_advantage_table(study)
    limit = "" if table is None else f"{paragraphs(describe_min_widths(study))}{titled(table)}"
    return limit + ("" if advantage is None else titled(advantage))
