"""The questions that the method raises, each answered by a number and a panel out of a study."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from gankd_jax.report import paper_results
from gankd_jax.report.advantage import advantages
from gankd_jax.report.leading import leading_recipe, main_score
from gankd_jax.report.limit import smallest
from gankd_jax.report.rows import Row, rows
from gankd_jax.report.runs import Run, Study
from gankd_jax.report.scores import describe
from gankd_jax.report.wording import model_name, number, percent, ratio, spread

Panel = Callable[[Axes], None]
COPIES = {
    "pixel_error": "fresh latents",
    "pixel_error_between": "between latents",
    "pixel_error_seen": "latents of the training",
}
FRACTIONS = ("precision", "recall", "coverage")
OWN = "_classifier"  # how the scores by the study's own classifier end
LEVELS = (0.95, 0.99)


@dataclass(frozen=True)
class Answer:
    """A question, what the study says to it, and what shows it."""

    question: str
    text: str
    panel: Panel


@dataclass(frozen=True)
class Asked:
    """A study, and what most of the questions are about."""

    study: Study
    found: list[Row]  # of what is scored
    main: str  # the score that students are compared with the teacher by; "" without any
    leading: str  # the student recipe that keeps most of it

    @property
    def teacher(self) -> dict[str, float]:
        """The teacher's scores; nothing before it is scored, as may be in a share of a study."""
        return self.study.teacher.scores if self.study.teacher else {}

    def of(self, key: str) -> list[Row]:
        """The leading recipe's students by a score."""
        wanted = (key, "student", self.leading)
        return [row for row in self.found if (row.score, row.kind, row.recipe) == wanted]


def answers(study: Study) -> list[Answer]:
    """Return the questions that the study can answer, as far as it has come."""
    found = [row for row in rows(study) if row.summary.values]
    asked = Asked(study, found, main_score(found), leading_recipe(study, found))
    questions = (_copy, _small, _ahead, _breaks, _sharp, _layers, _memory)
    return [answer for ask in questions if (answer := ask(asked))]


def _copy(asked: Asked) -> Answer | None:
    """Whether the student copies the map from latents to images, or remembers latents."""
    recipe, errors = asked.leading, {key: asked.of(key) for key in COPIES}
    if not all(errors.values()):
        return None
    fresh, between, seen = (these[0].summary.mean for these in errors.values())
    text = (
        f"At d={errors['pixel_error'][0].width} the {recipe} student's mean square error is"
        f" {number(fresh)} on fresh latents, {number(between)} between latents and {number(seen)}"
        f" on those of its last training steps: fresh to trained on {fresh / seen:.2f}."
    )

    def panel(axes: Axes) -> None:
        for key, name in COPIES.items():
            _course(axes, errors[key], f"{recipe}, {name}")
        _over_widths(axes, errors["pixel_error"], "mean square error")

    return Answer("Does the student copy the teacher's map?", text, panel)


def _small(asked: Asked) -> Answer | None:
    """The smallest width within 5 and within 1 percent of the teacher's score."""
    key = asked.main
    students = [r for r in asked.found if (r.score, r.kind) == (key, "student") and r.share]
    if not students:
        return None
    parts = []
    for level in LEVELS:
        row = smallest(students, level)
        text = _size(asked.study, row) if row else "no student"
        parts.append(f"within {100 - 100 * level:.0f} %: {text}")

    def panel(axes: Axes) -> None:
        _each_model(axes, students, lambda row: row.share or 0.0)
        for level in LEVELS:
            axes.axhline(level, color="grey", ls=":", lw=1)
        _over_widths(axes, students, f"share of the teacher's {describe(key).label}")

    text = f"By {describe(key).label}, {'; '.join(parts)}."
    return Answer("How small without a marked loss?", text, panel)


def _size(study: Study, row: Row) -> str:
    assert row.run
    timed = study.timed.get((row.run.key.width, "float32"))
    stored = row.run.stored.get("float32")
    parts = [
        f"{row.run.parameters:,} parameters, {ratio(row.ratio)}",
        f"{stored.bytes if stored else row.run.bytes_float32:,} bytes",
        *([f"{number(timed.milliseconds)} ms an image"] if timed else []),
    ]
    return f"d={row.width} ({row.recipe}: {', '.join(parts)})"


def _ahead(asked: Asked) -> Answer | None:
    """Distilled against from scratch, and how many times as wide the latter must be."""
    found, key, recipe = asked.found, asked.main, asked.leading
    students = [row for row in asked.of(key) if row.comparison]
    models = [r for r in found if r.score == key and r.kind in ("student", "baseline")]
    if not students:
        return None
    factors = advantages(found, key, recipe)
    parts = []
    for row in students:
        assert row.comparison
        mean = spread(row.summary.mean, row.summary.sd)
        parts.append(f"d={row.width}: {mean}, {row.comparison.verdict}, {factors[row.width or 0]}")

    def panel(axes: Axes) -> None:
        _each_model(axes, models, lambda row: row.summary.mean)
        _over_widths(axes, models, describe(key).label)

    text = (
        f"{describe(key).label} of the {recipe} student, against the best baseline of its width,"
        f" and how many times as wide that must be to score as well: {'; '.join(parts)}."
    )
    return Answer("Distilled or from scratch?", text, panel)


def _breaks(asked: Asked) -> Answer | None:
    """What is lost first as the student shrinks: modes, detail or sharpness."""
    network = _network(asked)
    keys = {name: f"{name}{network}" for name in FRACTIONS if network is not None}
    found = {name: asked.of(key) for name, key in (keys | {"sharpness": "sharpness"}).items()}
    courses = {
        k: those for k, those in found.items() if those and asked.teacher.get(those[0].score)
    }
    common = _common_widths(courses.values())
    if len(courses) < 2 or not common:  # one alone tells nothing of what goes first
        return None
    shares = {name: _kept(asked, those) for name, those in courses.items()}
    least = {name: kept[min(common)] for name, kept in shares.items()}

    def panel(axes: Axes) -> None:
        for name, kept in shares.items():
            axes.plot(list(kept), list(kept.values()), "o-", label=name)
        axes.axhline(1.0, color="grey", ls=":", lw=1)
        _over_widths(axes, next(iter(courses.values())), "share of the teacher's")

    parts = ", ".join(f"{name} {percent(part)}" for name, part in least.items())
    first = min(least, key=least.__getitem__)
    text = (
        f"At d={min(common)} the {asked.leading} student keeps of the teacher's {parts}:"
        f" {first} goes first ({_judged(network)})."
    )
    return Answer("What breaks at the limit?", text, panel)


def _network(asked: Asked) -> str | None:
    """How the scores end of a network that knows teacher and students; the study's own first."""
    known = [key for key in asked.teacher if key.split("_")[0] == "precision" and asked.of(key)]
    ends = [key.removeprefix("precision") for key in known]
    return OWN if OWN in ends else next(iter(ends), None)


def _judged(network: str | None) -> str:
    if network == OWN:
        return "by the study's own classifier"
    layer = (network or "").lstrip("_") or "2048"
    return "by the images alone" if network is None else f"by the FID network's layer {layer}"


def _common_widths(courses: Iterable[list[Row]]) -> set[int]:
    widths = [{row.width or 0 for row in those} for those in courses]
    return set.intersection(*widths) if widths else set()


def _kept(asked: Asked, those: list[Row]) -> dict[int, float]:
    """By width, the part of the teacher's score."""
    return {row.width or 0: row.summary.mean / asked.teacher[row.score] for row in those}


def _sharp(asked: Asked) -> Answer | None:
    """How sharp each recipe's students are."""
    students = [r for r in asked.found if r.score == "sharpness" and r.kind == "student"]
    if not students or "sharpness" not in asked.teacher:
        return None
    levels = {"teacher": asked.teacher["sharpness"]}
    if "sharpness" in asked.study.real_scores:
        levels["real images"] = asked.study.real_scores["sharpness"]
    width = students[0].width
    parts = ", ".join(
        f"{row.recipe} {percent(row.summary.mean / levels['teacher'])}"
        for row in students
        if row.width == width
    )

    def panel(axes: Axes) -> None:
        _each_model(axes, students, lambda row: row.summary.mean)
        for (name, level), line in zip(levels.items(), ("--", ":"), strict=False):
            axes.axhline(level, color="black", ls=line, lw=1, label=name)
        _over_widths(axes, students, "variance of the Laplacian")

    told = ", ".join(f"{name} {number(level)}" for name, level in levels.items())
    text = f"Variance of the Laplacian: {told}; at d={width}, of the teacher's: {parts}."
    return Answer("Which recipe stays sharp?", text, panel)


def _layers(asked: Asked) -> Answer | None:
    """At which layer of the FID network the distances are near those that the paper gives."""
    keys = sorted((key for key in asked.teacher if key == "fid" or key[3:].isdigit()), key=_layer)
    students = [r for r in asked.found if r.kind == "student" and r.score in keys]
    theirs = [row.paper for row in students if row.paper]
    if not theirs or paper_results.PAPER_METRIC.get(asked.study.data) != "FID":
        return None
    scores, least = {key: asked.teacher[key] for key in keys}, min(theirs)
    closest = min(scores, key=lambda key: abs(math.log(scores[key] / least)))
    teacher = [r for r in asked.found if r.kind == "teacher" and r.score in keys]
    shown = teacher + [row for row in students if row.recipe == asked.leading]

    def panel(axes: Axes) -> None:
        for kind, width in dict.fromkeys((row.kind, row.width) for row in shown):
            those = {r.score: r.summary.mean for r in shown if (r.kind, r.width) == (kind, width)}
            heights = [those.get(key, math.nan) for key in scores]
            axes.plot(list(scores), heights, "o-", ms=4, label=f"{kind} d={width}")
        axes.axhspan(least, max(theirs), color="grey", alpha=0.2, label="the paper's students")
        axes.set_yscale("log")

    told = ", ".join(f"{describe(key).label} {number(score)}" for key, score in scores.items())
    text = (
        f"The teacher has {told}; nearest to the paper's best student of these widths, {least}, is"
        f" the {_layer(closest)}-wide layer."
    )
    return Answer("Which layer is the paper's FID near?", text, panel)


def _layer(key: str) -> int:
    """How wide the layer of a distance is."""
    return 2048 if key == "fid" else int(key[3:])


def _memory(asked: Asked) -> Answer | None:
    """How near teacher and students come to training images, beside real test images."""
    study, recipe, real = asked.study, asked.leading, asked.study.real_nearest
    those = [r for r in study.runs if r.key.recipe == recipe and r.key.kind == "student"]
    shown = [run for run in (study.teacher, *those[:1], *those[-1:]) if run and run.nearest]
    if real is None or not shown:
        return None
    drawn = {_name(run): run.nearest.distances for run in shown if run.nearest}
    middle = float(np.median(real.distances))
    parts = ", ".join(f"{k} {np.median(v) / middle:.2f}" for k, v in drawn.items())

    def panel(axes: Axes) -> None:
        for name, distances in {"real test images": real.distances, **drawn}.items():
            axes.plot(np.sort(distances), np.linspace(0, 1, len(distances)), label=name)
        axes.set_xlabel("distance to the nearest training image")
        axes.set_ylabel("share of images")

    text = f"Median distance to the nearest training image, of that of real test images: {parts}."
    return Answer("Are training images repeated?", text, panel)


def _name(run: Run) -> str:
    return f"{model_name(run.key.kind, run.key.recipe)} d={run.key.width}"


def _each_model(axes: Axes, those: list[Row], value: Callable[[Row], float]) -> None:
    models = dict.fromkeys((row.kind, row.recipe) for row in those)
    for model in models:
        same = [row for row in those if (row.kind, row.recipe) == model]
        scale = [value(row) / row.summary.mean if row.summary.mean else 0.0 for row in same]
        bars = [(row.summary.sd or 0.0) * abs(k) for row, k in zip(same, scale, strict=True)]
        places, heights = [row.width or 0 for row in same], [value(row) for row in same]
        line = "--" if model[0] == "baseline" else "-"
        label = model_name(*model)
        axes.errorbar(places, heights, yerr=bars, fmt=f"o{line}", ms=4, capsize=2, label=label)


def _course(axes: Axes, those: list[Row], label: str) -> None:
    places = [row.width or 0 for row in those]
    axes.plot(places, [row.summary.mean for row in those], "o-", ms=4, label=label)


def _over_widths(axes: Axes, those: list[Row], label: str) -> None:
    widths = sorted({row.width or 0 for row in those})
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"d={width}" for width in widths])
    axes.set_ylabel(label)
