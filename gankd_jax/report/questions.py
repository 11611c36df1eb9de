"""Questions that the method raises, each answered by numbers and a panel from a study's results."""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gankd_jax.metrics.registry import (
    CLASSIFIER,
    FRECHET_DISTANCE,
    INCEPTION_LAYERS,
    SHARPNESS,
    Metric,
    get_metric,
)
from gankd_jax.report import paper_results
from gankd_jax.report.aggregate import (
    ScoreRow,
    best_recipe,
    main_metric,
    narrowest_row,
    score_rows,
    width_advantages,
)
from gankd_jax.report.formatting import (
    format_number,
    format_percent,
    format_ratio,
    format_with_std,
    model_name,
)
from gankd_jax.report.study_results import RunResults, StudyResults

DrawPanel = Callable[[Axes], None]
PIXEL_ERRORS = {
    "pixel_error": "fresh latents",
    "pixel_error_between": "between latents",
    "pixel_error_seen": "latents of the training",
}
SHARPNESS_METRIC = get_metric(SHARPNESS)
FRACTION_METRICS = ("precision", "recall", "coverage")
LEVELS = (0.95, 0.99)  # parts of the teacher's score that count as no marked loss

COLUMNS = 3
PANEL_INCHES = (4.6, 3.4)
PIXELS_PER_INCH = 100
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a sentence, and a function that draws its panel."""

    question: str
    text: str
    draw_panel: DrawPanel


@dataclass(frozen=True)
class QuestionContext:
    """A study's results, and what most questions are about.

    Attributes:
        study: The results.
        rows: The rows that have scores.
        metric: The main metric; None before students are compared with the teacher.
        recipe: The students' recipe that keeps most of it.
    """

    study: StudyResults
    rows: list[ScoreRow]
    metric: Metric | None
    recipe: str

    @property
    def teacher_scores(self) -> dict[str, float]:
        """The teacher's scores; empty before it is scored."""
        return self.study.teacher.scores if self.study.teacher else {}

    def select(self, metric: Metric, kind: str = "student") -> list[ScoreRow]:
        """Returns the rows of a metric.

        Args:
            metric: What is scored.
            kind: teacher, student or baseline.
        """
        return [row for row in self.rows if (row.metric, row.kind) == (metric, kind)]

    def select_best(self, metric: Metric) -> list[ScoreRow]:
        """Returns the rows of the best recipe's students."""
        return [row for row in self.select(metric) if row.recipe == self.recipe]


def answer_questions(study: StudyResults) -> list[Answer]:
    """Answers the questions that the results of a study allow.

    Args:
        study: The results, also of an unfinished study.
    """
    rows = [row for row in score_rows(study) if row.stats.values]
    context = QuestionContext(study, rows, main_metric(rows), best_recipe(study, rows))
    answers = [
        _answer_imitation(context),
        _answer_min_width(context),
        _answer_distillation(context),
        _answer_failure_mode(context),
        _answer_sharpness(context),
        _answer_fid_layer(context),
        _answer_memorization(context),
    ]
    return [answer for answer in answers if answer]


def format_answers(study: StudyResults, answers: Iterable[Answer]) -> str:
    """Returns the answers as Markdown, below the image of their panels.

    Args:
        study: The results, for the name of the study.
        answers: The answers, in order.
    """
    lines = [f"# {study.config['name']}: questions and answers", "", "![A panel each](answers.png)"]
    for number, answer in enumerate(answers, 1):
        lines += ["", f"**{number}. {answer.question}** {answer.text}"]
    return "\n".join(lines) + "\n"


def draw_answers(answers: list[Answer]) -> bytes:
    """Returns a PNG with a panel for each answer, numbered as in the text.

    Args:
        answers: The answers, at least one.
    """
    rows = math.ceil(len(answers) / COLUMNS)
    width, height = PANEL_INCHES
    with matplotlib.rc_context(STYLE):
        figure = Figure((width * COLUMNS, height * rows), facecolor="white", layout="constrained")
        for number, answer in enumerate(answers, 1):
            axes = figure.add_subplot(rows, COLUMNS, number)
            answer.draw_panel(axes)
            axes.set_title(f"{number}. {answer.question}", loc="left")
            axes.legend()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=PIXELS_PER_INCH)
    return out.getvalue()


def _answer_imitation(context: QuestionContext) -> Answer | None:
    """Whether the student imitates the teacher's map, or memorizes training latents."""
    recipe = context.recipe
    rows = {key: context.select_best(get_metric(key)) for key in PIXEL_ERRORS}
    if not all(rows.values()):
        return None
    fresh, between, trained = (rows[key][0].stats.mean for key in PIXEL_ERRORS)
    text = (
        f"At d={rows['pixel_error'][0].width} the {recipe} student's mean square error is"
        f" {format_number(fresh)} on fresh latents, {format_number(between)} between latents and"
        f" {format_number(trained)} on those of its last training steps; the ratio of fresh to"
        f" trained latents is {fresh / trained:.2f}."
    )

    def draw_panel(axes: Axes) -> None:
        for key, name in PIXEL_ERRORS.items():
            widths = [row.width or 0 for row in rows[key]]
            means = [row.stats.mean for row in rows[key]]
            axes.plot(widths, means, "o-", ms=4, label=f"{recipe}, {name}")
        _label_axes(axes, rows["pixel_error"], "mean square error")

    return Answer("Does the student copy the teacher's map?", text, draw_panel)


def _answer_min_width(context: QuestionContext) -> Answer | None:
    """The smallest widths within 5 and within 1 percent of the teacher's score."""
    metric = context.metric
    students = [row for row in context.select(metric) if row.score_ratio] if metric else []
    if metric is None or not students:
        return None
    parts = []
    for level in LEVELS:
        row = narrowest_row(students, level)
        model = _describe_size(context.study, row) if row else "no student"
        parts.append(f"within {100 - 100 * level:.0f} %: {model}")

    def draw_panel(axes: Axes) -> None:
        _plot_models(axes, students, lambda row: row.score_ratio or 0.0)
        for level in LEVELS:
            axes.axhline(level, color="grey", ls=":", lw=1)
        _label_axes(axes, students, f"share of the teacher's {metric.label}")

    text = f"By {metric.label}, {'; '.join(parts)}."
    return Answer("How small without a marked loss?", text, draw_panel)


def _describe_size(study: StudyResults, row: ScoreRow) -> str:
    assert row.run
    latency = study.latency.get((row.run.width, "float32"))
    parts = [
        f"{row.run.parameters:,} parameters, {format_ratio(row.size_ratio)}",
        f"{row.run.weight_bytes:,} bytes",
        *([f"{format_number(latency.milliseconds)} ms an image"] if latency else []),
    ]
    return f"d={row.width} ({row.recipe}: {', '.join(parts)})"


def _answer_distillation(context: QuestionContext) -> Answer | None:
    """Distilled students against baselines, and how many times as wide the latter must be."""
    metric, recipe = context.metric, context.recipe
    students = [row for row in context.select_best(metric) if row.comparison] if metric else []
    if metric is None or not students:
        return None
    models = context.select(metric) + context.select(metric, "baseline")
    factors = width_advantages(context.rows, metric, recipe)
    parts = []
    for row in students:
        assert row.comparison
        mean = format_with_std(row.stats.mean, row.stats.std)
        factor, _ = factors[row.width or 0]
        parts.append(f"d={row.width}: {mean}, {row.comparison.verdict}, {factor}")

    def draw_panel(axes: Axes) -> None:
        _plot_models(axes, models, lambda row: row.stats.mean)
        _label_axes(axes, models, metric.label)

    text = (
        f"{metric.label} of the {recipe} student, against the best baseline of its width,"
        f" and how many times as wide that must be to score as well: {'; '.join(parts)}."
    )
    return Answer("Distilled or from scratch?", text, draw_panel)


def _answer_failure_mode(context: QuestionContext) -> Answer | None:
    """What a student loses first as it shrinks: fidelity, modes or sharpness."""
    fractions = _fraction_metrics(context)
    metrics = {metric.name: metric for metric in (*fractions, SHARPNESS_METRIC)}
    rows = {
        name: students
        for name, metric in metrics.items()
        if context.teacher_scores.get(metric.key) and (students := context.select_best(metric))
    }
    widths = [{row.width or 0 for row in students} for students in rows.values()]
    common = set.intersection(*widths) if widths else set()
    if len(rows) < 2 or not common:  # a single score does not say what is lost first
        return None
    ratios = {
        name: {
            row.width or 0: row.stats.mean / context.teacher_scores[row.metric.key]
            for row in students
        }
        for name, students in rows.items()
    }
    at_smallest = {name: by_width[min(common)] for name, by_width in ratios.items()}

    def draw_panel(axes: Axes) -> None:
        for name, by_width in ratios.items():
            axes.plot(list(by_width), list(by_width.values()), "o-", label=name)
        axes.axhline(1.0, color="grey", ls=":", lw=1)
        _label_axes(axes, next(iter(rows.values())), "share of the teacher's")

    parts = ", ".join(f"{name} {format_percent(ratio)}" for name, ratio in at_smallest.items())
    first = min(at_smallest, key=at_smallest.__getitem__)
    text = (
        f"At d={min(common)} the {context.recipe} student keeps these shares of the teacher's"
        f" scores: {parts}; {first} goes first ({_network_phrase(fractions)})."
    )
    return Answer("What breaks at the limit?", text, draw_panel)


def _fraction_metrics(context: QuestionContext) -> list[Metric]:
    """Returns precision, recall and coverage by one network, the study's own classifier first.

    The network has scored the teacher and some of the best recipe's students.
    """
    scored = map(get_metric, context.teacher_scores)
    networks = [m.network for m in scored if m.name == "precision" and context.select_best(m)]
    network = CLASSIFIER if CLASSIFIER in networks else next(iter(networks), None)
    metrics = {m.name: m for m in map(get_metric, context.teacher_scores) if m.network == network}
    return [metrics[name] for name in FRACTION_METRICS if name in metrics]


def _network_phrase(metrics: list[Metric]) -> str:
    if not metrics:
        return "by the images alone"
    network = metrics[0].network
    if network == CLASSIFIER:
        return "by the study's own classifier"
    return f"by the FID network's layer {network}"


def _answer_sharpness(context: QuestionContext) -> Answer | None:
    """How sharp each recipe's students are."""
    students = context.select(SHARPNESS_METRIC)
    if not students or not context.teacher_scores.get(SHARPNESS_METRIC.key):  # 0 of flat images
        return None
    levels = {"teacher": context.teacher_scores[SHARPNESS_METRIC.key]}
    if SHARPNESS_METRIC.key in context.study.real_scores:
        levels["real images"] = context.study.real_scores[SHARPNESS_METRIC.key]
    width = students[0].width
    parts = ", ".join(
        f"{row.recipe} {format_percent(row.stats.mean / levels['teacher'])}"
        for row in students
        if row.width == width
    )

    def draw_panel(axes: Axes) -> None:
        _plot_models(axes, students, lambda row: row.stats.mean)
        for (name, level), line in zip(levels.items(), ("--", ":"), strict=False):
            axes.axhline(level, color="black", ls=line, lw=1, label=name)
        _label_axes(axes, students, "variance of the Laplacian")

    level_texts = ", ".join(f"{name} {format_number(level)}" for name, level in levels.items())
    text = (
        f"Variance of the Laplacian: {level_texts}; share of the teacher's at d={width}: {parts}."
    )
    return Answer("Which recipe stays sharp?", text, draw_panel)


def _answer_fid_layer(context: QuestionContext) -> Answer | None:
    """At which layer of the FID network the distances are near those of the paper."""
    scores = {
        metric: context.teacher_scores[metric.key]
        for metric in sorted(map(get_metric, context.teacher_scores), key=_layer_width)
        if metric.name == FRECHET_DISTANCE and metric.network in INCEPTION_LAYERS
    }
    dataset = context.study.dataset
    students = [row for metric in scores for row in context.select(metric)]
    published = [score for row in students if (score := paper_results.paper_score(dataset, row)[0])]
    if not published:
        return None
    best = min(published)
    closest = min(scores, key=lambda metric: abs(math.log(scores[metric] / best)))
    teachers = [row for metric in scores for row in context.select(metric, "teacher")]
    models = teachers + [row for row in students if row.recipe == context.recipe]

    def draw_panel(axes: Axes) -> None:
        for kind, width in sorted({(r.kind, r.width or 0) for r in models}, key=_teacher_first):
            means = {
                row.metric: row.stats.mean
                for row in models
                if (row.kind, row.width) == (kind, width)
            }
            heights = [means.get(metric, math.nan) for metric in scores]
            keys = [metric.key for metric in scores]
            axes.plot(keys, heights, "o-", ms=4, label=f"{kind} d={width}")
        axes.axhspan(best, max(published), color="grey", alpha=0.2, label="the paper's students")
        axes.set_yscale("log")

    listed = ", ".join(f"{metric.label} {format_number(score)}" for metric, score in scores.items())
    text = (
        f"The teacher has {listed}; nearest to the paper's best student of these widths, {best},"
        f" is the {closest.network}-wide layer."
    )
    return Answer("Which layer is the paper's FID near?", text, draw_panel)


def _layer_width(metric: Metric) -> int:
    return int(metric.network) if metric.network in INCEPTION_LAYERS else 0


def _teacher_first(model: tuple[str, int]) -> tuple[bool, int]:
    kind, width = model
    return kind != "teacher", width


def _answer_memorization(context: QuestionContext) -> Answer | None:
    """How near teacher and students come to training images, beside real test images."""
    study, real = context.study, context.study.real_nearest
    students = [run for run in study.runs if run.kind == "student" and run.recipe == context.recipe]
    runs = [run for run in (study.teacher, *students[:1], *students[-1:]) if run and run.nearest]
    if real is None or not runs:
        return None
    distances = {_run_label(run): run.nearest.distances for run in runs if run.nearest}
    real_median = float(np.median(real.distances))
    parts = ", ".join(f"{k} {np.median(v) / real_median:.2f}" for k, v in distances.items())

    def draw_panel(axes: Axes) -> None:
        for name, values in {"real test images": real.distances, **distances}.items():
            axes.plot(np.sort(values), np.linspace(0, 1, len(values)), label=name)
        axes.set_xlabel("distance to the nearest training image")
        axes.set_ylabel("share of images")

    text = (
        f"Median distance to the nearest training image, divided by that of real images: {parts}."
    )
    return Answer("Are training images repeated?", text, draw_panel)


def _run_label(run: RunResults) -> str:
    return f"{model_name(run.kind, run.recipe)} d={run.width}"


def _plot_models(axes: Axes, rows: list[ScoreRow], value: Callable[[ScoreRow], float]) -> None:
    """Plots a line over the widths for each model, with error bars of a standard deviation.

    Args:
        axes: Where to plot.
        rows: Scores of one metric.
        value: What to plot of a row: its mean, or a multiple of it.
    """
    for model in dict.fromkeys((row.kind, row.recipe) for row in rows):
        own_rows = [row for row in rows if (row.kind, row.recipe) == model]
        heights = [value(row) for row in own_rows]
        scales = [value(row) / row.stats.mean if row.stats.mean else 0.0 for row in own_rows]
        bars = [(r.stats.std or 0.0) * abs(k) for r, k in zip(own_rows, scales, strict=True)]
        axes.errorbar(
            [row.width or 0 for row in own_rows],
            heights,
            yerr=bars,
            fmt="o--" if model[0] == "baseline" else "o-",
            ms=4,
            capsize=2,
            label=model_name(*model),
        )


def _label_axes(axes: Axes, rows: list[ScoreRow], label: str) -> None:
    widths = sorted({row.width or 0 for row in rows})
    if len(widths) > 1:  # one width has no scale
        axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [f"d={width}" for width in widths])
    axes.set_ylabel(label)
