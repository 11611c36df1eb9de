"""How each number of a report was made: the scoring, the recipes, the whole config."""

import json
from collections import Counter
from html import escape
from typing import Any

from gankd_jax.report.elements import details, titled
from gankd_jax.report.formatting import Cell, Table
from gankd_jax.report.study_results import StudyResults


def made(study: StudyResults) -> str:
    """Return the section."""
    tables = [table for table in (_scored(study), _recipes(study)) if table.rows]
    config = escape(json.dumps(study.config, indent=2))
    return "\n".join(
        [
            *(titled(table, wrap=table.title == "Scores") for table in tables),
            details("The whole config", f"<pre>{config}</pre>"),
        ]
    )


def _scored(study: StudyResults) -> Table:
    """How the scores were made: each fact once, or every value with the number of its runs."""
    facts: dict[str, Counter[str]] = {}
    for run in study.runs:
        for fact, value in _flat(run.provenance) if run.scores else []:
            facts.setdefault(fact, Counter())[value] += 1
    real = dict(_flat(study.real_provenance))
    lines = tuple(
        (Cell(fact), Cell(_values(facts.get(fact, Counter()))), Cell(real.get(fact, "")))
        for fact in {**facts, **real}
    )
    return Table("Scores", "", ("what", "models", "real images"), lines, terminal_columns=3)


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


def _recipes(study: StudyResults) -> Table:
    used = dict.fromkeys(run.recipe for run in study.planned_runs)
    recipes = {name: dict(_flat(study.config["recipes"][name])) for name in used}
    fields = dict.fromkeys(field for recipe in recipes.values() for field in recipe)
    lines = tuple(
        (Cell(field), *(Cell(recipe.get(field, "")) for recipe in recipes.values()))
        for field in fields
    )
    return Table("Recipes", "", ("field", *recipes), lines, terminal_columns=1 + len(recipes))
