"""The paper's table as data, and a study beside it or beside a CSV file of published results.

Source: Aguinaldo, Chiang, Gain, Patil, Pearson, Feizi, "Compressing GANs using Knowledge
Distillation", arXiv 1902.00159 (2019). Its images are 64x64; its "depth d" is called width here.
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from gankd_jax.metrics.registry import CLASSIFIER, FRECHET_DISTANCE, INCEPTION_SCORE, RESNET, Metric
from gankd_jax.report.aggregate import ScoreRow, score_ratio, score_rows
from gankd_jax.report.formatting import (
    Cell,
    Table,
    format_difference,
    format_number,
    format_seeds,
    format_text_table,
    format_with_std,
    model_name,
    wrap_line,
)
from gankd_jax.report.study_results import StudyResults, load_study
from gankd_jax.utils.errors import UserError

CSV_COLUMNS = ("data", "score", "width", "student", "baseline")
HEADER = ("d", "model", "seeds", "ours", "theirs", "difference", "ratio")
AHEAD_HEADER = ("ahead here", "there", "in both")
YES_NO = {True: "yes", False: "no", None: "-"}


@dataclass(frozen=True)
class PaperResult:
    """One cell of the paper's table: a width on a data set.

    Attributes:
        ratio: The teacher's parameters divided by the student's, as printed ("1669:1"); None where
            the paper prints a dash.
        student: The student's score.
        baseline: The score of a generator of that width trained from scratch; None for a dash.
    """

    ratio: int | None
    student: float
    baseline: float | None


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's table: a width, and its result on each data set it was tried on."""

    width: int
    parameters: int
    results: dict[str, PaperResult]


# The metric of `student` and `baseline`. The paper does not name the network that it uses.
PAPER_METRIC = {"mnist": "Inception Score", "cifar10": "FID", "celeb_a": "FID"}

# Our metric that stands for the paper's. Its FID stands beside every Fréchet distance, since the
# layer that it was measured at is not known.
_OUR_METRIC = {"Inception Score": INCEPTION_SCORE, "FID": FRECHET_DISTANCE}

# Derived from the printed ratios.
PAPER_TEACHER_WIDTH = {"mnist": 256, "cifar10": 64, "celeb_a": 128}

# Derived: the student of width 2 (5.80) is said to keep 83 % of it. The others are not given.
PAPER_TEACHER_SCORE = {"mnist": 6.99}

PAPER_ROWS = (
    PaperRow(
        2,
        28_351,
        {
            "mnist": PaperResult(1669, 5.80, 1.86),
            "cifar10": PaperResult(126, 11.76, 38.72),
            "celeb_a": PaperResult(446, 12.15, 45.49),
        },
    ),
    PaperRow(
        4,
        62_077,
        {
            "mnist": PaperResult(762, 6.41, 3.63),
            "cifar10": PaperResult(58, 11.00, 14.28),
            "celeb_a": PaperResult(204, 10.97, 18.72),
        },
    ),
    PaperRow(
        8,
        145_657,
        {
            "mnist": PaperResult(325, 6.60, 4.73),
            "cifar10": PaperResult(25, 9.57, 11.85),
            "celeb_a": PaperResult(87, 8.78, 11.06),
        },
    ),
    PaperRow(
        16,
        377_329,
        {
            "mnist": PaperResult(125, 6.83, 5.07),
            "cifar10": PaperResult(9, 8.39, 9.90),
            "celeb_a": PaperResult(34, 6.29, 9.14),
        },
    ),
    PaperRow(
        32,
        1_098_721,
        {
            "mnist": PaperResult(43, 6.87, 6.08),
            "cifar10": PaperResult(3, 7.80, 7.86),
            "celeb_a": PaperResult(12, 4.84, 5.05),
        },
    ),
    PaperRow(
        48,
        2_164_177,
        {"cifar10": PaperResult(2, 7.58, None), "celeb_a": PaperResult(6, 4.54, None)},
    ),
    PaperRow(64, 3_573_697, {"mnist": PaperResult(None, 6.93, 6.51)}),
    PaperRow(128, 12_652_417, {"mnist": PaperResult(4, 6.97, 6.63)}),
)


def paper_result(dataset: str, width: int) -> PaperResult | None:
    """Returns the paper's result for a data set and a width.

    Args:
        dataset: The name of the data set.
        width: Of the generator.

    Returns:
        The result; None where the paper has none.
    """
    return paper_results_on(dataset).get(width)


def paper_results_on(dataset: str) -> dict[int, PaperResult]:
    """Returns the paper's results for a data set, by width."""
    return {row.width: row.results[dataset] for row in PAPER_ROWS if dataset in row.results}


def has_paper_metric(dataset: str, metric: Metric) -> bool:
    """Returns whether the paper reports this kind of score on this data set.

    Args:
        dataset: The name of the data set.
        metric: One of ours. A score by the second classifier never stands for the paper's
            Inception Score.
    """
    name = _OUR_METRIC.get(PAPER_METRIC.get(dataset, ""))
    return metric.name == name and (name == FRECHET_DISTANCE or metric.network == CLASSIFIER)


def paper_score(dataset: str, row: ScoreRow) -> tuple[float | None, float | None]:
    """Returns the paper's score for a model of ours, and how much of its teacher's score that is.

    Args:
        dataset: The name of the data set.
        row: A score of one of our models.

    Returns:
        The score and the ratio; None for what the paper does not report.
    """
    if not has_paper_metric(dataset, row.metric) or row.width is None:
        return None, None
    teacher = PAPER_TEACHER_SCORE.get(dataset)
    if row.kind == "teacher":
        return teacher, None
    result = paper_result(dataset, row.width)
    if result is None:
        return None, None
    value = result.student if row.kind == "student" else result.baseline
    if value is None or teacher is None:
        return value, None
    return value, score_ratio(row.metric, value, teacher)


@dataclass(frozen=True)
class PublishedResult:
    """A published score of one width on one data set.

    Attributes:
        dataset: The name of the data set.
        metric: A metric's key, or its name in the paper.
        width: Of the generators.
        student: The student's score.
        baseline: The baseline's score; None if it is not reported.
    """

    dataset: str
    metric: str
    width: int
    student: float
    baseline: float | None


@dataclass(frozen=True)
class ResultPair:
    """One score of one of our models, and the published result for its width."""

    row: ScoreRow
    published: PublishedResult

    @property
    def published_score(self) -> float | None:
        """The published score of that kind of model."""
        return self.published.student if self.row.kind == "student" else self.published.baseline


def compare_with_published(workdir: Path, reference: Path | None) -> str:
    """Compares a study with the paper's table, or with a CSV file of published results.

    The file has the columns `data` (mnist, cifar10, ...), `score`, `width`, `student` and
    `baseline` (may be empty); others are ignored. A `score` is the key of one of our metrics
    (inception_score, fid, fd_768, ...). Named as in the paper (`Inception Score` on mnist, `FID` on
    cifar10 and celeb_a) it is compared with each of our metrics that stands for the paper's.

    Args:
        workdir: The study's work directory.
        reference: The CSV file; None for the paper's table.

    Returns:
        A table for each metric, as text. Every student and baseline of a width that both have is a
        row: our score, theirs, difference, ratio, and for students whether they beat the baseline.

    Raises:
        UserError: The folder holds no study, the file cannot be read, or no score is in both.
    """
    study = load_study(workdir)
    source = str(reference) if reference else "the paper"
    published = _read_csv(reference) if reference else _paper_as_published()
    results = [result for result in published if result.dataset == study.dataset]
    pairs = [
        ResultPair(row, result)
        for row in score_rows(study)
        for result in results
        if _is_comparable(study, row, result)
    ]
    if not any(pair.row.stats.values for pair in pairs):
        contents = _describe_results(study, results)
        raise UserError(f"{workdir} has no score to set beside {source}, {contents}")
    metrics = list(dict.fromkeys(pair.row.metric for pair in pairs))
    tables = [_comparison_table([p for p in pairs if p.row.metric == metric]) for metric in metrics]
    notes = [*_comparison_notes(study, source, metrics), *_unmatched_widths(study, results)]
    return "\n\n".join([*map(format_text_table, tables), "\n".join(map(wrap_line, notes))])


def _paper_as_published() -> list[PublishedResult]:
    return [
        PublishedResult(dataset, PAPER_METRIC[dataset], row.width, result.student, result.baseline)
        for row in PAPER_ROWS
        for dataset, result in row.results.items()
    ]


def _read_csv(path: Path) -> list[PublishedResult]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    reader = csv.DictReader(text.splitlines())
    missing = [name for name in CSV_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        columns = ",".join(CSV_COLUMNS)
        raise UserError(f"{path} has no column {missing[0]}; its first line must be {columns}")
    results: dict[tuple[str, str, int], PublishedResult] = {}
    for line in reader:
        result = _parse_line(f"{path}, line {reader.line_num}", line)
        key = (result.dataset, result.metric, result.width)
        if results.setdefault(key, result) is not result:
            raise UserError(f"{path} has two lines for {key[0]}, {key[1]}, width {key[2]}")
    return list(results.values())


def _parse_line(location: str, line: dict[str, str | None]) -> PublishedResult:
    dataset, metric, width, student, baseline = ((line[name] or "").strip() for name in CSV_COLUMNS)
    try:
        return PublishedResult(
            dataset, metric, int(width), float(student), float(baseline) if baseline else None
        )
    except ValueError as error:
        raise UserError(
            f"{location}: width must be a whole number, student a number, baseline one or empty"
        ) from error


def _is_comparable(study: StudyResults, row: ScoreRow, published: PublishedResult) -> bool:
    """Returns whether a published result is of the same width and metric as a row."""
    if row.kind not in ("student", "baseline") or row.width != published.width:
        return False
    if published.metric == PAPER_METRIC.get(study.dataset):
        return has_paper_metric(study.dataset, row.metric)
    return published.metric == row.metric.key


def _describe_results(study: StudyResults, results: list[PublishedResult]) -> str:
    if not results:
        return f"which has none on {study.dataset}; name a table that has by --reference=FILE.csv"
    metrics = dict.fromkeys(result.metric for result in results)
    widths = dict.fromkeys(str(result.width) for result in results)
    return f"which has {', '.join(metrics)} at the widths {', '.join(widths)}"


def _comparison_table(pairs: list[ResultPair]) -> Table:
    header = HEADER + AHEAD_HEADER
    rows = tuple(map(_comparison_row, pairs))
    return Table(pairs[0].row.metric.title, "", header, rows, terminal_columns=len(header))


def _comparison_row(pair: ResultPair) -> tuple[Cell, ...]:
    row, published = pair.row, pair.published_score
    mean = row.stats.mean
    texts = [
        f"{row.width}",
        model_name(row.kind, row.recipe),
        format_seeds(len(row.stats.values), row.planned_seeds),
        format_with_std(mean, row.stats.std),
        *(["-"] * 3 if published is None else _difference_texts(mean, published)),
        *(_ahead_texts(pair) if row.kind == "student" else [""] * len(AHEAD_HEADER)),
    ]
    return tuple(map(Cell, texts))


def _difference_texts(mean: float, published: float) -> list[str]:
    ratio = mean / published if published else math.nan
    return [
        format_number(published),
        format_difference(mean - published, None, published),
        format_number(ratio),
    ]


def _ahead_texts(pair: ResultPair) -> list[str]:
    """Returns whether the student beats the baseline here, there and in both; "-" if unknown."""
    metric, comparison, published = pair.row.metric, pair.row.comparison, pair.published
    ahead_here = _is_ahead(metric, comparison.difference) if comparison else None
    ahead_there = None
    if published.baseline is not None:
        ahead_there = _is_ahead(metric, published.student - published.baseline)
    both = None if ahead_here is None or ahead_there is None else ahead_here and ahead_there
    doubtful = comparison and comparison.verdict in ("one seed", "within spread")
    mark = "?" if doubtful else ""
    return [YES_NO[ahead_here] + mark, YES_NO[ahead_there], YES_NO[both] + (mark if both else "")]


def _is_ahead(metric: Metric, difference: float) -> bool | None:
    """Returns whether a difference from the baseline is an improvement; None if undecidable."""
    if not metric.better or math.isnan(difference):
        return None
    return difference > 0 if metric.better == "higher" else difference < 0


def _comparison_notes(study: StudyResults, source: str, metrics: list[Metric]) -> list[str]:
    size = study.config["data"]["image_size"]
    width = f", teacher of width {study.teacher.width}" if study.teacher else ""
    networks = "; ".join(f"{metric.label} by {_network_name(metric)}" for metric in metrics)
    return [
        f"ours: {study.dataset} at {size}x{size}{width}. In the place of theirs: {networks}.",
        _source_note(study, source),
        "So compare the trend over the widths and who is ahead, not the values. difference: ours -"
        " theirs; ratio: ours / theirs. Each of our students stands beside their one.",
        "ahead (here, there): the student's mean is better than that of the (best) baseline of its"
        " width. ?: by less than the margin of Welch's interval, or from one seed.",
    ]


def _source_note(study: StudyResults, source: str) -> str:
    if source != "the paper":
        return f"theirs: {source}, which does not say what network the scores are computed with."
    return (
        f"theirs: the paper's {PAPER_METRIC[study.dataset]}, {study.dataset} at 64x64, teacher of"
        f" width {PAPER_TEACHER_WIDTH[study.dataset]}, computed with ANOTHER network, which it does"
        " not name."
    )


def _network_name(metric: Metric) -> str:
    names = {CLASSIFIER: "the study's own classifier", RESNET: "the study's second classifier"}
    return names.get(metric.network, "the Inception network of FID")


def _unmatched_widths(study: StudyResults, results: list[PublishedResult]) -> list[str]:
    """Names the widths that only one side has."""
    study_widths = {run.width for run in study.planned_runs if run.kind != "teacher"}
    published_widths = {result.width for result in results}
    unmatched = {"here": study_widths - published_widths, "there": published_widths - study_widths}
    return [
        f"widths only {side}: {', '.join(map(str, sorted(widths)))}."
        for side, widths in unmatched.items()
        if widths
    ]
