"""Aggregates scores over seeds and compares models: rows of scores, comparisons, series for charts.

A model is a kind, a recipe and a width: its runs differ by their seed only.
"""

import functools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from gankd_jax.config.constants import FASTER_FACTOR, LOSSY_PRECISIONS, PRECISIONS
from gankd_jax.metrics.registry import METRICS, Metric, get_metric
from gankd_jax.report.study_results import RunResults, StudyResults

GOOD_RATIO = 0.95  # of the teacher's score: a student that keeps it counts as equally good
CONFIDENCE = 0.95  # of the interval around a difference of two models
# What a score is drawn against.
COST_AXES = {
    "parameters": "parameters of the generator",
    "bytes": "bytes of its weights",
    "milliseconds": "milliseconds for one image",
}


@dataclass(frozen=True)
class SeedStats:
    """One score over the seeds of a model."""

    values: dict[int, float]  # by seed

    @property
    def mean(self) -> float:
        """The mean over the seeds; NaN without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None with fewer than two."""
        if len(self.values) < 2:
            return None
        squares = sum((value - self.mean) ** 2 for value in self.values.values())
        return math.sqrt(squares / (len(self.values) - 1))


@dataclass(frozen=True)
class BaselineComparison:
    """A student against the best baseline of its width.

    Attributes:
        baseline: The recipe of the baseline.
        difference: The student's mean minus the baseline's.
        margin: Half of the difference's 95 % interval; None with a single seed.
        verdict: Which of the two is ahead, if the difference exceeds the margin.
    """

    baseline: str
    difference: float
    margin: float | None
    verdict: str


@dataclass(frozen=True)
class ScoreRow:
    """One score of one model, with what it is compared to.

    Attributes:
        metric: What is scored.
        kind: real, teacher, student or baseline.
        recipe: The model's recipe; "real" for real images.
        width: Of the generator; None for real images.
        planned_seeds: How many seeds the config has.
        stats: The score over the seeds.
        run: Any run of this width, for its size; None before the first.
        size_ratio: The teacher's parameters divided by this model's.
        paper_size_ratio: The same in the paper's count.
        score_ratio: How much of the teacher's score the model keeps, see `score_ratio`.
        comparison: With the best baseline; students only.
        precision_means: Mean score with weights of each lower precision.
    """

    metric: Metric
    kind: str
    recipe: str
    width: int | None
    planned_seeds: int
    stats: SeedStats
    run: RunResults | None = None
    size_ratio: float | None = None
    paper_size_ratio: float | None = None
    score_ratio: float | None = None
    comparison: BaselineComparison | None = None
    precision_means: dict[str, float] = field(default_factory=dict)


@functools.lru_cache(maxsize=1)
def score_rows(study: StudyResults) -> tuple[ScoreRow, ...]:
    """Returns every score of every model: real images, the teacher, then models by width."""
    return tuple(row for metric in scored_metrics(study) for row in _metric_rows(study, metric))


def scored_metrics(study: StudyResults) -> list[Metric]:
    """Returns the metrics that any run or the real images have, in the order of the report."""
    keys = {key for run in study.runs for key in run.scores} | set(study.real_scores)
    return sort_metrics(keys)


def sort_metrics(keys: Iterable[str]) -> list[Metric]:
    """Returns the metrics of some keys in the registry's order.

    Args:
        keys: Keys of scores.json, in any order.

    Returns:
        The metrics, unknown ones last; without standard deviations of other metrics.
    """
    positions = {key: position for position, key in enumerate(METRICS)}
    ordered = sorted(keys, key=lambda key: (positions.get(key, len(positions)), key))
    return [metric for metric in map(get_metric, ordered) if not metric.deviation]


def list_models(study: StudyResults) -> list[tuple[str, str, int]]:
    """Returns (kind, recipe, width) of every small model: by width, students before baselines."""
    runs = (*study.planned_runs, *study.runs)
    models = dict.fromkeys((r.kind, r.recipe, r.width) for r in runs if r.kind != "teacher")
    return sorted(models, key=lambda model: (model[2], model[0] != "student"))


def find_run_of_width(study: StudyResults, width: int) -> RunResults | None:
    """Returns any run of a width, for its size, which all students and baselines share.

    Args:
        study: The results.
        width: Of the generator.

    Returns:
        A student or baseline, one with scores if there is any; None before the first.
    """
    runs = [run for run in study.runs if run.kind != "teacher" and run.width == width]
    return min(runs, key=lambda run: not run.scores, default=None)


def parameter_ratios(
    study: StudyResults, run: RunResults | None
) -> tuple[float | None, float | None]:
    """Returns the teacher's parameters divided by a run's.

    Args:
        study: The results.
        run: A run, or None before the first of its width.

    Returns:
        The ratio by true count and by the paper's count; None for both without a teacher or run,
        and for a teacher that is a function, whose parameters nobody can count.
    """
    teacher = study.teacher
    if teacher is None or run is None or not (teacher.parameters and run.parameters):
        return None, None
    return teacher.parameters / run.parameters, teacher.paper_parameters / run.paper_parameters


def file_size(
    study: StudyResults, run: RunResults | None, precision: str
) -> tuple[int | None, float | None]:
    """Returns how many bytes a run's exported weights take.

    Args:
        study: The results.
        run: A run, or None before the first of its width.
        precision: Of the weights: float32, float16 or int8.

    Returns:
        The bytes, and the teacher's float32 bytes divided by them; None where not measured.
    """
    if run is None or precision not in run.precisions:
        return None, None
    size = run.precisions[precision].file_bytes
    if not study.teacher or not study.teacher.precisions:
        return size, None
    return size, study.teacher.precisions["float32"].file_bytes / size


def score_ratio(metric: Metric, value: float, teacher_value: float) -> float | None:
    """Returns how much of the teacher's score a model keeps.

    Args:
        metric: What is scored.
        value: The model's score.
        teacher_value: The teacher's score.

    Returns:
        value / teacher_value, or its inverse where lower is better: 1 is equal, more is better.
        None unless both are positive.
    """
    if not (value > 0 and teacher_value > 0):
        return None
    return teacher_value / value if metric.better == "lower" else value / teacher_value


def _metric_rows(study: StudyResults, metric: Metric) -> list[ScoreRow]:
    """Returns one score of every model, in the order of `score_rows`."""
    rows = []
    if metric.key in study.real_scores:
        real = SeedStats({0: study.real_scores[metric.key]})
        rows.append(ScoreRow(metric, "real", "real", None, planned_seeds=1, stats=real))
    if study.teacher and not metric.students_only:
        rows.append(_teacher_row(study.teacher, metric))
    return rows + [
        _model_row(study, metric, *model)
        for model in list_models(study)
        if model[0] == "student" or not metric.students_only
    ]


def _teacher_row(teacher: RunResults, metric: Metric) -> ScoreRow:
    stats = _seed_stats((teacher,), metric)
    return ScoreRow(
        metric,
        "teacher",
        "teacher",
        teacher.width,
        planned_seeds=1,
        stats=stats,
        run=teacher,
        size_ratio=1.0,
        paper_size_ratio=1.0,
        score_ratio=1.0 if stats.values else None,
        precision_means=_precision_means((teacher,), metric),
    )


def _model_row(study: StudyResults, metric: Metric, kind: str, recipe: str, width: int) -> ScoreRow:
    runs = study.runs_of(kind, recipe, width)
    stats, run_of_width = _seed_stats(runs, metric), find_run_of_width(study, width)
    size_ratio, paper_size_ratio = parameter_ratios(study, run_of_width)
    teacher = study.teacher.scores.get(metric.key) if study.teacher else None
    model = (kind, recipe, width)
    return ScoreRow(
        metric,
        *model,
        planned_seeds=sum((r.kind, r.recipe, r.width) == model for r in study.planned_runs),
        stats=stats,
        run=run_of_width,
        size_ratio=size_ratio,
        paper_size_ratio=paper_size_ratio,
        score_ratio=None if teacher is None else score_ratio(metric, stats.mean, teacher),
        comparison=_compare_student(study, metric, stats, width) if kind == "student" else None,
        precision_means=_precision_means(runs, metric),
    )


def _seed_stats(runs: Iterable[RunResults], metric: Metric) -> SeedStats:
    return SeedStats({run.seed: run.scores[metric.key] for run in runs if metric.key in run.scores})


def _precision_means(runs: tuple[RunResults, ...], metric: Metric) -> dict[str, float]:
    """Returns the mean over the seeds for each lower precision that all of them were scored at."""
    means = {}
    scored_runs = [run for run in runs if run.scores]
    for precision in LOSSY_PRECISIONS:
        scores = [r.precisions[precision].scores for r in scored_runs if precision in r.precisions]
        values = [values[metric.key] for values in scores if metric.key in values]
        if values and len(values) == len(scored_runs):
            means[precision] = statistics.fmean(values)
    return means


def _compare_student(
    study: StudyResults, metric: Metric, student: SeedStats, width: int
) -> BaselineComparison | None:
    recipes = [recipe for kind, recipe, d in list_models(study) if (kind, d) == ("baseline", width)]
    baselines = {
        recipe: _seed_stats(study.runs_of("baseline", recipe, width), metric) for recipe in recipes
    }
    return compare_with_baselines(metric, student, baselines)


def compare_with_baselines(
    metric: Metric, student: SeedStats, baselines: dict[str, SeedStats]
) -> BaselineComparison | None:
    """Compares a student with the best of the baselines.

    A difference counts only if it exceeds the margin of Welch's 95 % interval.

    Args:
        metric: What is scored.
        student: The student's scores.
        baselines: The scores of each baseline recipe.

    Returns:
        The comparison; None unless the student and a baseline have scores.
    """
    scored = {recipe: stats for recipe, stats in baselines.items() if stats.values}
    if not scored or not student.values:
        return None
    sign = {"higher": 1, "lower": -1, "": 0}[metric.better]  # 0: the first of the config

    def rank(recipe: str) -> float:
        mean = scored[recipe].mean
        return -math.inf if math.isnan(mean) else sign * mean

    best = max(scored, key=rank)
    difference = student.mean - scored[best].mean
    margin = welch_margin(student, scored[best])
    return BaselineComparison(best, difference, margin, _verdict(metric, difference, margin))


def welch_margin(a: SeedStats, b: SeedStats) -> float | None:
    """Returns half the width of Welch's 95 % confidence interval of the difference of two means.

    Args:
        a: Scores of the first model.
        b: Scores of the second, for seeds of its own.

    Returns:
        The margin; 0 if neither varies; None if either has a single seed.

    Reference: Welch 1947; equal to the interval of `scipy.stats.ttest_ind(equal_var=False)`.
    """
    if a.std is None or b.std is None:
        return None
    from scipy.special import stdtrit  # slow to import

    n, m = len(a.values), len(b.values)
    variance_a, variance_b = a.std**2 / n, b.std**2 / m  # of the means
    variance = variance_a + variance_b
    if variance == 0:
        return 0.0
    # Not scipy.stats.ttest_ind, which warns where one of the two never varies.
    dof = variance**2 / (variance_a**2 / (n - 1) + variance_b**2 / (m - 1))
    return float(stdtrit(dof, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)


def _verdict(metric: Metric, difference: float, margin: float | None) -> str:
    if not math.isfinite(difference):
        return "not finite"
    if margin is None:
        return "one seed"
    if abs(difference) <= margin:
        return "within spread"
    if not metric.better:
        return "student higher" if difference > 0 else "student lower"
    return "student ahead" if (difference > 0) == (metric.better == "higher") else "baseline ahead"


def main_metric(rows: Iterable[ScoreRow]) -> Metric | None:
    """Returns the metric that summaries speak of.

    Args:
        rows: Score rows in the order of the report.

    Returns:
        The first metric with a better side by which a student is compared with the teacher; None
        if there is none yet.
    """
    compared = (row.metric for row in rows if row.kind == "student" and row.score_ratio is not None)
    return next((metric for metric in compared if metric.better), None)


def best_recipe(study: StudyResults, rows: Iterable[ScoreRow]) -> str:
    """Returns the students' recipe that keeps most of the teacher's main score.

    Without such a score it is the recipe with the best score of the summary.

    Only widths that all recipes have count, so that a recipe gains nothing from a narrow run that
    failed or is not scored yet.

    Args:
        study: The results.
        rows: Its score rows.

    Returns:
        The recipe's name. Without a common width it is the recipe with the most scores; without
        any score, the last of the config.
    """
    rows = list(rows)
    metric = summary_metric(rows)
    ratios: dict[str, dict[int, float]] = {}
    for row in rows:
        rank = rank_of(row)
        if row.metric == metric and row.kind == "student" and rank and math.isfinite(rank):
            ratios.setdefault(row.recipe, {})[row.width or 0] = rank
    if not ratios:
        return next(iter(reversed(study.config["study"]["students"])), "")
    common = set.intersection(*(set(by_width) for by_width in ratios.values()))
    if not common:
        return max(ratios, key=lambda recipe: len(ratios[recipe]))
    return max(ratios, key=lambda recipe: statistics.fmean(ratios[recipe][d] for d in common))


def narrowest_row(rows: Iterable[ScoreRow], level: float) -> ScoreRow | None:
    """Returns the narrowest model that keeps a part of the teacher's score.

    Args:
        rows: Scores of one metric.
        level: The part to keep, such as 0.95.

    Returns:
        The row; of equal widths the one that keeps most. None if none keeps so much.
    """
    enough = [row for row in rows if (row.score_ratio or 0) >= level]
    return min(enough, key=lambda row: (row.width or 0, -(row.score_ratio or 0)), default=None)


def best_tradeoff(rows: Iterable[ScoreRow], preferred_recipe: str) -> ScoreRow | None:
    """Returns the smallest student within 5 % of the teacher's score, else the best one.

    Args:
        rows: Students' rows of one metric.
        preferred_recipe: Chosen among equals.

    Returns:
        The row; without a metric that has a better side, the widest student of the recipe. None
        without rows.
    """
    rows = list(rows)

    def rank(row: ScoreRow) -> tuple[float, bool, int]:
        return rank_of(row), row.recipe == preferred_recipe, row.width or 0

    ranked = [row for row in rows if ranked_ratio(row)]
    return narrowest_row(ranked, GOOD_RATIO) or max(rows, key=rank, default=None)


def best_students(students: Iterable[ScoreRow]) -> dict[int, ScoreRow]:
    """Returns the student that keeps most at each width.

    Args:
        students: Students' rows of one metric; among equals the first is chosen.
    """
    best: dict[int, ScoreRow] = {}
    for row in students:
        width = row.width or 0
        best[width] = max(best.get(width, row), row, key=rank_of)
    return best


def ranked_ratio(row: ScoreRow) -> float | None:
    """Returns how much of the teacher's score a model keeps, if one side of it is better."""
    return row.score_ratio if row.metric.better else None


def rank_of(row: ScoreRow) -> float:
    """Returns a number that is higher for a better model; 0 for a metric without a better side.

    Args:
        row: Compared with rows of the same metric alone.
    """
    if (ratio := ranked_ratio(row)) is not None:
        return ratio
    mean = row.stats.mean if row.metric.better == "higher" else -row.stats.mean
    return (-math.inf if math.isnan(mean) else mean) if row.metric.better else 0.0


def summary_metric(rows: Iterable[ScoreRow]) -> Metric | None:
    """Returns the metric of the main table: `main_metric`, else the first that students have.

    Args:
        rows: Score rows in the order of the report.
    """
    rows = list(rows)
    scored = [row for row in rows if row.kind == "student" and row.stats.values]
    ranked = [row for row in scored if row.metric.better]
    first = next(iter(ranked or scored), None)
    return main_metric(rows) or (first.metric if first else None)


def find_baseline(rows: Iterable[ScoreRow], student: ScoreRow) -> ScoreRow | None:
    """Returns the row of the baseline that a student is compared with; None without one.

    Args:
        rows: Score rows of the study.
        student: A student's row.
    """
    if student.comparison is None:
        return None
    model = ("baseline", student.comparison.baseline, student.width, student.metric)
    return next((r for r in rows if (r.kind, r.recipe, r.width, r.metric) == model), None)


def speed_up(study: StudyResults, width: int | None, precision: str = "float32") -> float | None:
    """Returns how many times as fast as the float32 teacher a width is; None if not measured.

    Args:
        study: The results.
        width: Of the generator.
        precision: Of its weights.
    """
    teacher = study.latency.get((study.teacher.width, "float32")) if study.teacher else None
    result = study.latency.get((width or 0, precision))
    return teacher.milliseconds / result.milliseconds if teacher and result else None


def width_advantage(
    score: float, width: int, baselines: dict[int, float], better: str
) -> tuple[str, float]:
    """Computes how many times as wide as a student a baseline must be to score as well.

    The logarithm of the baseline's score is interpolated linearly in the logarithm of the width.

    Args:
        score: The student's score, positive.
        width: The student's width.
        baselines: Positive scores of the best baseline, by width.
        better: "higher" or "lower".

    Returns:
        The factor as text and as a number. The text is "above 4" if no baseline is as good as the
        student, and "at most 2" if the narrowest one already is.
    """
    sign = 1 if better == "higher" else -1
    curve = [(math.log(d), sign * math.log(baselines[d])) for d in sorted(baselines)]
    target, previous = sign * math.log(score), None
    for log_width, value in curve:
        if value >= target:
            if previous is None:
                factor = math.exp(log_width) / width
                return f"at most {factor:.2g}", factor
            fraction = (target - previous[1]) / (value - previous[1])
            factor = math.exp(previous[0] + fraction * (log_width - previous[0])) / width
            return f"{factor:.2g}", factor
        previous = log_width, value
    factor = math.exp(curve[-1][0]) / width
    return f"above {factor:.2g}", factor


def width_advantages(
    rows: Iterable[ScoreRow], metric: Metric, recipe: str
) -> dict[int, tuple[str, float]]:
    """Computes the width advantage of a student recipe at each width.

    Args:
        rows: Score rows of students and baselines.
        metric: What is scored; positive.
        recipe: The students' recipe.

    Returns:
        The result of `width_advantage` by width; {} without baselines.
    """
    rows = [row for row in rows if row.metric == metric]
    baselines = best_baselines(rows, metric)
    if not baselines:
        return {}
    return {
        row.width or 0: width_advantage(row.stats.mean, row.width or 0, baselines, metric.better)
        for row in rows
        if (row.kind, row.recipe) == ("student", recipe)
    }


def best_baselines(rows: Iterable[ScoreRow], metric: Metric) -> dict[int, float]:
    """Returns the best baseline's mean score at each width.

    Args:
        rows: Score rows.
        metric: What is scored; means that are not positive are left out.
    """
    best: dict[int, float] = {}
    choose = max if metric.better == "higher" else min
    for row in rows:
        if row.metric == metric and row.kind == "baseline" and row.stats.mean > 0:
            width, mean = row.width or 0, row.stats.mean
            best[width] = choose(mean, best.get(width, mean))
    return best


def find_equally_fast_width(study: StudyResults, width: int, precision: str) -> int | None:
    """Returns the next wider width if it is as fast, so that nothing is gained by this width.

    Args:
        study: The results.
        width: Of the generator.
        precision: Of the weights.

    Returns:
        The wider width; None if it is slower by more than `FASTER_FACTOR`, or was not measured.
    """
    wider = [d for d, p in study.latency if p == precision and d > width]
    if not wider or (width, precision) not in study.latency:
        return None
    narrow_ms = study.latency[width, precision].milliseconds
    wide_ms = study.latency[min(wider), precision].milliseconds
    return None if wide_ms > FASTER_FACTOR * narrow_ms else min(wider)


@dataclass(frozen=True)
class SeriesPoint:
    """A score of the runs of one width.

    Attributes:
        width: Of the generators.
        x: Their mean cost, in the unit of the axis.
        stats: Their scores by seed.
    """

    width: int
    x: float
    stats: SeedStats


@dataclass(frozen=True)
class ScoreSeries:
    """A score of one recipe over the widths, with weights in one precision."""

    kind: str
    recipe: str
    precision: str
    points: tuple[SeriesPoint, ...]  # in order of widths


def score_series(study: StudyResults, metric: Metric, axis: str) -> list[ScoreSeries]:
    """Returns a score against what generators cost.

    Args:
        study: The results.
        metric: What is scored.
        axis: A key of `COST_AXES`.

    Returns:
        The teacher's single point, then a series for each recipe and precision with scores.
    """
    teacher = [study.teacher] if study.teacher else []
    runs = [*teacher, *(run for run in study.runs if run.kind != "teacher")]
    series: dict[tuple[str, str, str], dict[int, list[tuple[int, float, float]]]] = {}
    for run in runs:
        for precision in PRECISIONS:
            x = _cost(study, run, precision, axis=axis)
            score = _scores_at(run, precision).get(metric.key)
            if x is not None and score is not None:
                widths = series.setdefault((run.kind, run.recipe, precision), {})
                widths.setdefault(run.width, []).append((run.seed, x, score))
    return [
        ScoreSeries(
            *model,
            tuple(
                SeriesPoint(
                    width,
                    statistics.fmean(x for _, x, _ in points),
                    SeedStats({seed: score for seed, _, score in points}),
                )
                for width, points in sorted(widths.items())
            ),
        )
        for model, widths in series.items()
    ]


def _scores_at(run: RunResults, precision: str) -> dict[str, float]:
    if precision == "float32":
        return run.scores
    return run.precisions[precision].scores if precision in run.precisions else {}


def _cost(study: StudyResults, run: RunResults, precision: str, *, axis: str) -> int | float | None:
    """Returns a run's cost on an axis; a precision changes its bytes only."""
    if precision != "float32":
        return file_size(study, run, precision)[0] if axis == "bytes" else None
    if axis == "bytes":
        return run.weight_bytes
    if axis == "parameters":
        return run.parameters
    latency = study.latency.get((run.width, precision))
    return latency.milliseconds if latency else None
