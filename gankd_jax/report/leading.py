"""Which score a study is judged by first, and which of its students' recipes is spoken of."""

import statistics

from gankd_jax.report.rows import Row
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe


def main_score(found: list[Row]) -> str:
    """Return the first score by which students are compared with the teacher; "" without any."""
    shared = (row.score for row in found if row.kind == "student" and row.share is not None)
    return next((key for key in shared if describe(key).better), "")


def leading_recipe(study: Study, found: list[Row]) -> str:
    """Return the students' recipe that keeps most of the teacher's main score.

    At the widths that all of them have, so that a narrow run that failed or is not scored yet is no
    advantage; if there are none, the recipe with the most.  Without a score, the config's last.
    """
    key = main_score(found)
    kept: dict[str, dict[int, float]] = {}
    for row in found:
        if row.score == key and row.kind == "student" and row.share is not None:
            kept.setdefault(row.recipe, {})[row.width or 0] = row.share
    if not kept:
        return next(iter(reversed(study.config["study"]["students"])), "")
    common = set.intersection(*(set(shares) for shares in kept.values()))
    if not common:
        return max(kept, key=lambda name: len(kept[name]))
    return max(kept, key=lambda name: statistics.fmean(kept[name][width] for width in common))
