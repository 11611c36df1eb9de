"""Each run by itself: how far it is, what it scored, and the course of its training."""

from html import escape

from gankd_jax.metrics.registry import Metric
from gankd_jax.report.aggregate import scored_metrics
from gankd_jax.report.elements import figure, figures, titled
from gankd_jax.report.figures import CURVES, curve_figure
from gankd_jax.report.formatting import Cell, Table, count_cell, model_name, number_cell
from gankd_jax.report.study_results import RunResults, StudyResults


def each_run(study: StudyResults) -> str:
    """Return a table with a line for every run that was begun, and the training curves."""
    return f"{titled(_table(study))}{_curves(study)}" if study.runs else ""


def _table(study: StudyResults) -> Table:
    metrics = [metric for metric in scored_metrics(study) if metric.main]
    header = ("run", "state", "steps", "minutes", "parameters")
    lines = tuple((*_cells(run), *_scores(run, metrics)) for run in study.runs)
    note = "minutes: of the group that the run trained in, until its last logged step."
    labels = tuple(metric.label for metric in metrics)
    return Table("Runs", note, (*header, *labels), lines, terminal_columns=len(header))


def _cells(run: RunResults) -> tuple[Cell, ...]:
    state = "scored" if run.scores else f"failed {run.failure}" if run.failure else "not scored"
    minutes = run.log[-1]["seconds"] / 60 if run.log else None
    return (
        Cell(run.name),
        Cell(state),
        count_cell(run.step),
        Cell("-" if minutes is None else f"{minutes:.1f}", minutes),
        count_cell(run.parameters),
    )


def _scores(run: RunResults, metrics: list[Metric]) -> tuple[Cell, ...]:
    return tuple(number_cell(run.scores.get(metric.key)) for metric in metrics)


def _curves(study: StudyResults) -> str:
    parts = []
    for kind, recipe in dict.fromkeys((run.kind, run.recipe) for run in study.runs):
        runs = [run for run in study.runs if (run.kind, run.recipe) == (kind, recipe)]
        drawn = [
            figure(f"{label} of {recipe}", drawing)
            for key, label in CURVES.items()
            if (drawing := curve_figure(runs, key))
        ]
        if drawn:
            title = f"Training: {model_name(kind, recipe)}"
            parts.append(f"<h3>{escape(title)}</h3>{figures(drawn)}")
    return "\n".join(parts)
