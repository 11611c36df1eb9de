"""The few sentences that stand above a report: what was compressed, by how much, who is ahead."""

from gankd_jax.report.leading import main_score
from gankd_jax.report.rows import Row, ratios, rows
from gankd_jax.report.runs import Study
from gankd_jax.report.scores import describe, is_main
from gankd_jax.report.wording import number, percent, ratio


def headline(study: Study) -> list[str]:
    """Return the sentences, one an item; each is worked out from the scores."""
    found = rows(study)
    lines = [_compression(study), _kept(found), *_tallies(found), _state(study)]
    return [line for line in lines if line]


def _compression(study: Study) -> str:
    size = study.config["data"]["image_size"]
    start = f"Study {study.config['name']}, data {study.data} at {size}x{size}:"
    if study.teacher is None:
        return f"{start} no teacher has been chosen yet, so nothing is compressed."
    teacher = study.teacher
    start += f" a teacher of width {teacher.key.width} with {teacher.parameters:,} parameters"
    students = [run for run in study.runs if run.key.kind == "student" and run.scores]
    if not students:
        return f"{start}; no student has been scored yet."
    small = min(students, key=lambda run: run.key.width)
    return (
        f"{start} was distilled into students down to width {small.key.width} with "
        f"{small.parameters:,} parameters, a compression of {ratio(ratios(study, small)[0])}."
    )


def _kept(found: list[Row]) -> str:
    """Say what is kept of the teacher's main score at the smallest width with a student."""
    key = main_score(found)
    kept = [row for row in found if row.score == key and row.share is not None]
    students = [row for row in kept if row.kind == "student"]
    if not students:
        return ""
    width = min(row.width or 0 for row in students)
    small = [row for row in kept if row.width == width]
    teacher = next(row for row in kept if row.kind == "teacher")
    parts = [f"{row.recipe} {percent(row.share)}" for row in small if row is not teacher]
    return (
        f"Of the teacher's {describe(key).label} ({number(teacher.summary.mean)}) "
        f"width {width} keeps: {', '.join(parts)}."
    )


def _tallies(found: list[Row]) -> list[str]:
    """Count for each main score that has a better side who is ahead, and where."""
    compared: dict[str, list[Row]] = {}
    for row in found:
        if row.comparison and is_main(row.score) and describe(row.score).better:
            compared.setdefault(row.score, []).append(row)
    return [
        f"{describe(key).label}, student against baseline: {_tally(those)}."
        for key, those in compared.items()
    ]


def _tally(those: list[Row]) -> str:
    places: dict[str, list[str]] = {}
    for row in those:
        places.setdefault(_verdict(row), []).append(f"{row.recipe} d={row.width}")
    return "; ".join(f"{verdict} {len(at)} ({', '.join(at)})" for verdict, at in places.items())


def _verdict(row: Row) -> str:
    """Return the verdict; with one seed also whose number is the better one."""
    assert row.comparison
    if row.comparison.verdict != "one seed":
        return row.comparison.verdict
    difference = row.comparison.difference
    if difference == 0:
        return "one seed, no claim, equal"
    student = (difference > 0) == (describe(row.score).better == "higher")
    return f"one seed, no claim, {'student' if student else 'baseline'} better"


def _state(study: Study) -> str:
    scored = sum(bool(run.scores) for run in study.runs)
    failed = sum(bool(run.failure) for run in study.runs)
    said = []
    if scored < len(study.plan):
        said.append(f"Unfinished: {scored} of {len(study.plan)} runs have scores, {failed} failed.")
    if scored == 1:
        said.append("One run has scores, so nothing is compared.")
    return " ".join(said)
