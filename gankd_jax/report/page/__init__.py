"""Writes a study's report: tables, images, and report.html, one file that needs no network."""

import json
import logging
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from gankd_jax.metrics.registry import Metric
from gankd_jax.report.aggregate import scored_metrics
from gankd_jax.report.formatting import Cell, Table, count_cell, format_bytes, number_cell
from gankd_jax.report.headline import build_headline
from gankd_jax.report.page.browser_demo import build_browser_demo
from gankd_jax.report.page.image_grids import (
    GridOptions,
    ShownModel,
    build_headline_strips,
    build_image_sections,
    draw_sample_grid,
    encode_data_url,
    list_lead_models,
)
from gankd_jax.report.page.method import (
    describe_numbers,
    describe_source,
    explain_better_than_real,
)
from gankd_jax.report.page.plots import draw_class_chart, draw_score_charts, draw_training_curves
from gankd_jax.report.questions import answer_questions, draw_answers, format_answers
from gankd_jax.report.study_results import (
    RunResults,
    StudyResults,
    describe_unscored_runs,
    load_study,
)
from gankd_jax.report.tables import (
    all_tables,
    build_main_table,
    build_score_table,
    describe_min_widths,
    format_report_csv,
    format_report_markdown,
    table_notes,
)
from gankd_jax.utils.atomic_io import write_bytes

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 3_000_000
# Best first. The page has the first that keeps it below its maximal size.
GRID_OPTIONS = (
    GridOptions(),
    GridOptions(grids=1),
    GridOptions(grids=1, lossy=True),
    GridOptions(columns=4, grids=1, lossy=True),
)
SCRIPTS = ("tables.js", "generator.js", "demo.js")
COLORED_VERDICTS = ("student ahead", "baseline ahead")  # classes of style.css


def write_report(workdir: Path) -> Path:
    """Writes the report of a study, finished or not, into its work directory.

    The files are table.md, table.csv, grid.png (if there are samples), answers.md and answers.png
    (if there are scores) and report.html.

    Returns:
        The path of report.html.

    Raises:
        UserError: The folder is no work directory, or a file in it is damaged.
    """
    study = load_study(workdir)
    write_bytes(workdir / "table.md", format_report_markdown(study).encode())
    write_bytes(workdir / "table.csv", format_report_csv(study).encode())
    grid = draw_sample_grid(study)
    if grid is not None:
        write_bytes(workdir / "grid.png", grid)
    answers = answer_questions(study)
    if answers:
        write_bytes(workdir / "answers.md", format_answers(study, answers).encode())
        write_bytes(workdir / "answers.png", draw_answers(answers))
    page = workdir / "report.html"
    write_bytes(page, render_page(study).encode())
    return page


def render_page(study: StudyResults) -> str:
    """Returns the page, with as many images as its maximal size allows; warns if none fit."""
    template = _load_template()
    lead_models = list_lead_models(study)
    content = _collect_content(study, lead_models)
    for options in GRID_OPTIONS:
        image_sections = build_image_sections(study, lead_models, options)
        page = template.render(content, image_sections=image_sections)
        size = len(page.encode())
        if size <= MAX_PAGE_BYTES:
            break
    else:
        sizes = format_bytes(size), format_bytes(MAX_PAGE_BYTES)
        logger.warning("the page has %s, more than %s, even with the fewest images", *sizes)
    return page


def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": encode_data_url, "numeric_columns": find_numeric_columns}
    environment.globals["verdicts"] = COLORED_VERDICTS
    return environment.get_template("page.html.jinja")


def find_numeric_columns(table: Table) -> list[bool]:
    """Returns for each column whether any of its cells has a number."""
    return [any(row[k].value is not None for row in table.rows) for k in range(len(table.header))]


def _collect_content(study: StudyResults, lead_models: list[ShownModel]) -> dict[str, Any]:
    """Returns the variables of page.html.jinja, except for the images of samples."""
    metrics = scored_metrics(study)
    return {
        "name": study.config["name"],
        "style": _read_asset("style.css"),
        "script": "\n".join(map(_read_asset, SCRIPTS)),
        "headline": build_headline(study),
        "headline_strips": build_headline_strips(study, lead_models),
        "unscored_runs": describe_unscored_runs(study),
        "demo": build_browser_demo(study),
        "main_table": build_main_table(study),
        "score_tables": all_tables(study, [metric for metric in metrics if metric.main]),
        "further_score_tables": [build_score_table(study, m) for m in metrics if not m.main],
        "table_notes": table_notes(study),
        "min_width_lines": describe_min_widths(study),
        "score_charts": draw_score_charts(study),
        "class_chart": draw_class_chart(study),
        "answers": answer_questions(study),
        "numbers": describe_numbers(study),
        "better_than_real": explain_better_than_real(study),
        "source": describe_source(study),
        "provenance_tables": build_provenance_tables(study),
        "config": json.dumps(study.config, indent=2),
        "run_table": build_run_table(study),
        "training_curves": draw_training_curves(study),
    }


def _read_asset(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def build_provenance_tables(study: StudyResults) -> list[Table]:
    """Returns how the scores were computed, and the recipes; tables without rows are left out."""
    tables = [_scoring_table(study), _recipe_table(study)]
    return [table for table in tables if table.rows]


def _scoring_table(study: StudyResults) -> Table:
    """Returns how scores were computed: if runs differ, each value with its number of runs."""
    values: dict[str, Counter[str]] = {}
    for run in study.runs:
        for field, value in _flatten(run.provenance) if run.scores else []:
            values.setdefault(field, Counter())[value] += 1
    real = dict(_flatten(study.real_provenance))
    rows = tuple(
        (Cell(field), Cell(_format_counts(values.get(field, Counter()))), Cell(real.get(field, "")))
        for field in {**values, **real}
    )
    return Table("Scores", "", ("field", "models", "real images"), rows, terminal_columns=3)


def _format_counts(values: Counter[str]) -> str:
    if len(values) < 2:
        return "".join(values)
    return "; ".join(f"{value} (in {count})" for value, count in values.most_common())


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns the leaves of nested dicts as text, each with its keys joined by spaces."""
    leaves = []
    for key, value in tree.items():
        is_dict = isinstance(value, dict)
        leaves += (
            _flatten(value, f"{prefix}{key} ") if is_dict else [(f"{prefix}{key}", str(value))]
        )
    return leaves


def _recipe_table(study: StudyResults) -> Table:
    names = dict.fromkeys(run.recipe for run in study.planned_runs)
    recipes = {name: dict(_flatten(study.config["recipes"][name])) for name in names}
    fields = dict.fromkeys(field for recipe in recipes.values() for field in recipe)
    rows = tuple(
        (Cell(field), *(Cell(recipe.get(field, "")) for recipe in recipes.values()))
        for field in fields
    )
    return Table("Recipes", "", ("field", *recipes), rows, terminal_columns=1 + len(recipes))


def build_run_table(study: StudyResults) -> Table | None:
    """Returns the state and the main scores of every started run; None before the first."""
    if not study.runs:
        return None
    metrics = [metric for metric in scored_metrics(study) if metric.main]
    header = ("run", "state", "steps", "minutes", "parameters")
    rows = tuple(_run_cells(run, metrics) for run in study.runs)
    note = "minutes: training time until the last logged step, of all runs trained together."
    labels = tuple(metric.label for metric in metrics)
    return Table("Runs", note, (*header, *labels), rows, terminal_columns=len(header))


def _run_cells(run: RunResults, metrics: list[Metric]) -> tuple[Cell, ...]:
    state = "scored" if run.scores else f"failed {run.failure}" if run.failure else "not scored"
    minutes = run.log[-1]["seconds"] / 60 if run.log else None
    return (
        Cell(run.name),
        Cell(state),
        count_cell(run.step),
        Cell("-" if minutes is None else f"{minutes:.1f}", minutes),
        count_cell(run.parameters),
        *(number_cell(run.scores.get(metric.key)) for metric in metrics),
    )
