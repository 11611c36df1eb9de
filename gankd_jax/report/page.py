"""Writes a study's report: tables, a picture, and report.html, one file that needs no network."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from gankd_jax.report import answers
from gankd_jax.report.advantage import advantage_table
from gankd_jax.report.charts import charts
from gankd_jax.report.each_run import each_run
from gankd_jax.report.elements import bullets, details, note, paragraphs, titled
from gankd_jax.report.gallery import Pictures, gallery
from gankd_jax.report.headline import headline
from gankd_jax.report.limit import limit_lines, limit_table
from gankd_jax.report.made import made
from gankd_jax.report.picture import picture
from gankd_jax.report.player import player
from gankd_jax.report.questions import answers as answers_of
from gankd_jax.report.rows import csv_text, score_keys
from gankd_jax.report.runs import Study, progress, read
from gankd_jax.report.scores import is_main
from gankd_jax.report.sheets import Detail
from gankd_jax.report.table import markdown, notes, score_table, size_tables, teachers_tables
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
    study = read(workdir)
    page = workdir / "report.html"
    write_bytes(workdir / "table.md", markdown(study).encode())
    write_bytes(workdir / "table.csv", csv_text(study).encode())
    drawn = picture(study)
    if drawn is not None:
        write_bytes(workdir / "grid.png", drawn)
    found = answers_of(study)
    if found:
        write_bytes(workdir / "answers.md", answers.markdown(study, found).encode())
        write_bytes(workdir / "answers.png", answers.picture(found))
    write_bytes(page, html(study).encode())
    return page


def html(study: Study) -> str:
    """Return the page, in the order in which a person asks."""
    sizes = map(titled, size_tables(study))
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


def _page(study: Study, sections: Iterable[tuple[str, str]]) -> str:
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


def _first(study: Study) -> str:
    """What is seen first: the result in words, and beside it the student at work."""
    return f'<div class="first">{_summary(study)}{player(study)}</div>'


def _summary(study: Study) -> str:
    first, *others = headline(study)
    missing = progress(study)
    warning = f'<div class="warn">Runs without scores{bullets(missing)}</div>' if missing else ""
    lead = f'<p class="lead">{escape(first)}</p>'
    return f"<div>{lead}{paragraphs(others)}{warning}</div>"


def _scores(study: Study) -> str:
    keys = score_keys(study)
    if not keys:
        return note("No run is scored yet.")
    main = [score_table(study, key) for key in keys if is_main(key)]
    others = [score_table(study, key) for key in keys if not is_main(key)]
    parts = [*map(titled, main), *map(titled, teachers_tables(study))]
    if others:
        parts.append(details("Further scores", "\n".join(map(titled, others))))
    parts.append(f"<h3>How to read them</h3>{bullets(notes(study))}")
    return note("A click on a heading sorts.") + "\n".join(parts)


def _limit(study: Study) -> str:
    table, advantage = limit_table(study), advantage_table(study)
    limit = "" if table is None else f"{paragraphs(limit_lines(study))}{titled(table)}"
    return limit + ("" if advantage is None else titled(advantage))
