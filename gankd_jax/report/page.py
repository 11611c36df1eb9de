"""Writes a study's report: tables, a picture, and report.html, one file that needs no network."""

import json
from collections import Counter
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from gankd_jax.report import sheets
from gankd_jax.report.figures import CURVES, curve_figure, score_figure
from gankd_jax.report.headline import headline
from gankd_jax.report.picture import picture
from gankd_jax.report.rows import csv_text, rows, score_keys
from gankd_jax.report.runs import Study, progress, read
from gankd_jax.report.scores import describe
from gankd_jax.report.sheets import Strip, png
from gankd_jax.report.table import Cell, Table, markdown, notes, tables
from gankd_jax.report.wording import model_name
from gankd_jax.runtime.files import write_bytes

VERDICTS = ("student ahead", "baseline ahead")


def write_report(workdir: Path) -> Path:
    """Write the report of a study, finished or not, into its work directory.

    It is table.md, table.csv, grid.png (once there are samples) and report.html.

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
    write_bytes(page, html(study).encode())
    return page


def html(study: Study) -> str:
    """Return the page, in the order in which a person asks."""
    sections = (
        ("", _summary(study)),
        ("Tables", _tables(study)),
        ("Score against size", _score_figures(study)),
        ("Training", _curves(study)),
        ("The same latents through every generator", _samples(study)),
        ("Between latents", _interpolations(study)),
        ("How each number was made", _made(study)),
    )
    body = "\n".join(
        f"<section>{f'<h2>{title}</h2>' if title else ''}\n{content}\n</section>"
        for title, content in sections
        if content
    )
    template = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(f"{study.config['name']} study"), body=body)


def _summary(study: Study) -> str:
    first, *others = headline(study)
    missing = progress(study)
    warning = f'<div class="warn">Runs without scores{_list(missing)}</div>' if missing else ""
    lead = f'<p class="lead">{escape(first)}</p>'
    return f"<h1>{escape(study.config['name'])}</h1>{lead}{_paragraphs(others)}{warning}"


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _tables(study: Study) -> str:
    hint = '<p class="note">A click on a heading sorts.</p>'
    shown = "\n".join(
        f'<h3>{escape(t.title)}</h3><p class="note">{escape(t.note)}</p>{_table(t)}'
        for t in tables(study)
    )
    return f"{hint}{shown}<h3>How to read them</h3>{_list(notes(study))}"


def _table(table: Table) -> str:
    head = "".join(f"<th><button>{escape(title)}</button></th>" for title in table.header)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    sort = "" if cell.value is None else f' data-v="{cell.value!r}"'
    kind = f' class="{cell.text.replace(" ", "-")}"' if cell.text in VERDICTS else ""
    return f"<td{sort}{kind}>{escape(cell.text)}</td>"


def _figures(drawings: Iterable[tuple[str, str]]) -> str:
    """Lay out (what it shows, svg)."""
    shown = "\n".join(
        f'<figure role="img" aria-label="{escape(label)}">{drawing}</figure>'
        for label, drawing in drawings
    )
    return f'<div class="figures">{shown}</div>'


def _score_figures(study: Study) -> str:
    found = {key: [row for row in rows(study) if row.score == key] for key in score_keys(study)}
    drawn = [
        (f"{describe(key).label} against parameters", score_figure(those))
        for key, those in found.items()
        if any(row.run and row.kind != "teacher" and row.summary.values for row in those)
    ]
    if not drawn:
        return ""
    about = "Lines join the means over seeds; bars are their standard deviation, dots the seeds."
    return f'<p class="note">{about}</p>{_figures(drawn)}'


def _curves(study: Study) -> str:
    parts = []
    for kind, recipe in dict.fromkeys(run.key[:2] for run in study.runs):
        runs = [run for run in study.runs if run.key[:2] == (kind, recipe)]
        drawn = [(f"{label} of {recipe}", curve_figure(runs, key)) for key, label in CURVES.items()]
        drawn = [(label, drawing) for label, drawing in drawn if drawing]
        if drawn:
            parts.append(f"<h3>{escape(model_name(kind, recipe))}</h3>{_figures(drawn)}")
    return "\n".join(parts)


def _samples(study: Study) -> str:
    return _sheets(
        sheets.samples(study),
        "Every column is one latent; the teacher's images stay in view. A baseline has a map of "
        "its own: only its quality compares. Of several seeds the lowest is shown.",
    )


def _interpolations(study: Study) -> str:
    return _sheets(
        sheets.interpolations(study),
        "From left to right the latent moves from one point to another, the same way for all.",
    )


def _sheets(shown: list[list[Strip]], about: str) -> str:
    if not shown:
        return ""
    drawn = "\n".join(f"<div>{''.join(map(_strip, strips))}</div>" for strips in shown)
    return f'<p class="note">{escape(about)}</p><div class="sheets">{drawn}</div>'


def _strip(strip: Strip) -> str:
    images = '<span class="note">no pictures yet</span>'
    if strip.images is not None:
        images = f'<img alt="{escape(strip.about)}" src="{png(strip.images)}">'
    kind = "strip pinned" if strip.pinned else "strip first" if strip.first else "strip"
    return f'<div class="{kind}"><span>{escape(strip.label)}</span>{images}</div>'


def _made(study: Study) -> str:
    config = escape(json.dumps(study.config, indent=2))
    return f"""{_scored(study)}
<h3>Recipes</h3><div class="wrap">{_table(_recipes(study))}</div>
<details><summary>The whole config</summary><pre>{config}</pre></details>"""


def _scored(study: Study) -> str:
    """Say how the scores were made: each fact once, or every value with the number of its runs."""
    facts: dict[str, Counter[str]] = {}
    for run in study.runs:
        for fact, value in _flat(run.made) if run.scores else []:
            facts.setdefault(fact, Counter())[value] += 1
    real = dict(_flat(study.real_made))
    lines = tuple(
        (Cell(fact), Cell(_values(facts.get(fact, Counter()))), Cell(real.get(fact, "")))
        for fact in {**facts, **real}
    )
    if not lines:
        return ""
    table = _table(Table("Scores", "", ("what", "models", "real images"), lines, narrow=3))
    return f'<h3>Scores</h3><div class="wrap">{table}</div>'


def _values(values: Counter[str]) -> str:
    if len(values) < 2:
        return "".join(values)
    return "; ".join(f"{value} (in {count})" for value, count in values.most_common())


def _flat(tree: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    pairs = []
    for key, value in tree.items():
        inner = isinstance(value, dict)
        pairs += _flat(value, f"{above}{key} ") if inner else [(f"{above}{key}", str(value))]
    return pairs


def _recipes(study: Study) -> Table:
    used = dict.fromkeys(key.recipe for key in study.plan)
    recipes = {name: dict(_flat(study.config["recipes"][name])) for name in used}
    fields = dict.fromkeys(field for recipe in recipes.values() for field in recipe)
    lines = tuple(
        (Cell(field), *(Cell(recipe.get(field, "")) for recipe in recipes.values()))
        for field in fields
    )
    return Table("Recipes", "", ("field", *recipes), lines, narrow=1 + len(recipes))
