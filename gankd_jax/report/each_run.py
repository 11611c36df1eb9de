"""Each run by itself: how far it is, what it scored, and the course of its training."""

from html import escape

from gankd_jax.report.cells import Cell, Table, whole
from gankd_jax.report.elements import figure, figures, titled
from gankd_jax.report.figures import CURVES, curve_figure
from gankd_jax.report.rows import score_keys
from gankd_jax.report.runs import Run, Study
from gankd_jax.report.scores import describe, is_main
from gankd_jax.report.wording import model_name, number


def each_run(study: Study) -> str:
    """Return a table with a line for every run that was begun, and the training curves."""
    return f"{titled(_table(study))}{_curves(study)}" if study.runs else ""


def _table(study: Study) -> Table:
    keys = [key for key in score_keys(study) if is_main(key)]
    header = ("run", "state", "steps", "minutes", "parameters")
    lines = tuple((*_cells(run), *_scores(run, keys)) for run in study.runs)
    note = "minutes: of the group that the run trained in, until its last logged step."
    labels = tuple(describe(key).label for key in keys)
    return Table("Runs", note, (*header, *labels), lines, narrow=len(header))


def _cells(run: Run) -> tuple[Cell, ...]:
    state = "scored" if run.scores else f"failed {run.failure}" if run.failure else "not scored"
    minutes = run.log[-1]["seconds"] / 60 if run.log else None
    return (
        Cell(run.name),
        Cell(state),
        whole(run.step),
        Cell("-" if minutes is None else f"{minutes:.1f}", minutes),
        whole(run.parameters),
    )


def _scores(run: Run, keys: list[str]) -> tuple[Cell, ...]:
    return tuple(
        Cell(number(run.scores[key]), run.scores[key]) if key in run.scores else Cell("-")
        for key in keys
    )


def _curves(study: Study) -> str:
    parts = []
    for kind, recipe in dict.fromkeys(run.key[:2] for run in study.runs):
        runs = [run for run in study.runs if run.key[:2] == (kind, recipe)]
        drawn = [
            figure(f"{label} of {recipe}", drawing)
            for key, label in CURVES.items()
            if (drawing := curve_figure(runs, key))
        ]
        if drawn:
            title = f"Training: {model_name(kind, recipe)}"
            parts.append(f"<h3>{escape(title)}</h3>{figures(drawn)}")
    return "\n".join(parts)
