"""The tables of a report and the summary above them, for a terminal, Markdown, CSV and the page."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable

from gankd_jax.config.constants import LOSSY_PRECISIONS, PRECISIONS, STEADY_SPREAD
from gankd_jax.metrics.registry import FRECHET_DISTANCE, INCEPTION_SCORE, Metric
from gankd_jax.report import paper_results
from gankd_jax.report.aggregate import (
    ScoreRow,
    best_baselines,
    best_students,
    file_size,
    find_baseline,
    find_equally_fast_width,
    find_run_of_width,
    list_models,
    narrowest_row,
    parameter_ratios,
    ranked_ratio,
    score_ratio,
    score_rows,
    scored_metrics,
    speed_up,
    width_advantage,
    width_advantages,
)
from gankd_jax.report.formatting import (
    TEXT_WIDTH,
    Cell,
    Table,
    count_cell,
    format_bytes,
    format_difference,
    format_markdown_table,
    format_number,
    format_percent,
    format_ratio,
    format_seeds,
    format_text_table,
    format_with_std,
    model_name,
    number_cell,
    wrap_line,
)
from gankd_jax.report.headline import student_rows, summarize_study
from gankd_jax.report.study_results import RunResults, StudyResults, describe_unscored_runs

MEASURE_LATENCY_HINT = "`gankd bench --export --workdir=...` measures it"
# Parts of the teacher's score for which the smallest width is reported.
LEVELS = (0.99, 0.95, 0.9, 0.75, 0.5)
CSV_FIELDS = (
    *("score", "better", "kind", "recipe", "width", "parameters", "paper_parameters"),
    *("multiply_adds", "bytes_float32", "ratio", "paper_ratio", "seeds", "seeds_planned", "mean"),
    *("sd", "by_seed", "share_of_teacher", "baseline", "difference", "margin95", "verdict"),
    *("paper", "paper_share_of_teacher"),
    *(f"disk_bytes_{precision}" for precision in PRECISIONS),
    *(f"disk_ratio_{precision}" for precision in PRECISIONS),
    *(f"mean_{precision}" for precision in LOSSY_PRECISIONS),
)


def format_summary(study: StudyResults) -> str:
    """Returns the summary and the main table for a terminal, at most 100 columns wide."""
    parts = ["\n".join(map(wrap_line, summarize_study(study)))]
    if main_table := build_main_table(study):
        parts.append(_fit_to_terminal(main_table, implied=("bytes", "it keeps", "ms")))
    return "\n\n".join(parts) + "\n"


def _fit_to_terminal(table: Table, implied: Iterable[str] = ()) -> str:
    """Returns a table as text; where it is too wide, it lacks implied columns, then the last."""
    for name in implied:
        if _fits_terminal(table):
            break
        kept_columns = [k for k, heading in enumerate(table.header) if heading != name]
        header = tuple(table.header[k] for k in kept_columns)
        rows = tuple(tuple(row[k] for k in kept_columns) for row in table.rows)
        table = dataclasses.replace(table, header=header, rows=rows)
    while table.terminal_columns > 1 and not _fits_terminal(table):
        table = dataclasses.replace(table, terminal_columns=table.terminal_columns - 1)
    return format_text_table(table)


def _fits_terminal(table: Table) -> bool:
    return max(map(len, format_text_table(table).splitlines())) <= TEXT_WIDTH


def format_all_tables(study: StudyResults) -> str:
    """Returns every main table for a terminal, at most 100 columns wide."""
    metrics = scored_metrics(study)
    main_metrics = [metric for metric in metrics if metric.main] or metrics
    parts = [format_summary(study).rstrip()]
    parts += map(_fit_to_terminal, all_tables(study, main_metrics))
    if further := [metric.key for metric in metrics if metric not in main_metrics]:
        parts.append(wrap_line(f"Further scores, in table.md: {', '.join(further)}"))
    if unscored := describe_unscored_runs(study):
        lines = [wrap_line(line, "  ") for line in unscored]
        parts.append("\n".join(["Runs without scores", *lines]))
    parts.append("\n".join(map(wrap_line, table_notes(study))))
    return "\n\n".join(parts) + "\n"


def format_report_markdown(study: StudyResults) -> str:
    """Returns the report as Markdown."""
    parts = [f"# {study.config['name']}", *summarize_study(study)]
    tables = all_tables(study, scored_metrics(study))
    for table in [*filter(None, [build_main_table(study)]), *tables]:
        parts += [f"## {table.title}", table.note, format_markdown_table(table)]
    if unscored := describe_unscored_runs(study):
        parts += ["## Runs without scores", "\n".join(f"- {line}" for line in unscored)]
    parts += ["## How to read it", "\n".join(f"- {line}" for line in table_notes(study))]
    return "\n\n".join(part for part in parts if part) + "\n"


def format_report_csv(study: StudyResults) -> str:
    """Returns every score row as CSV, numbers unrounded; an empty field: no such number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_fields(study, row) for row in score_rows(study))
    return out.getvalue()


def _csv_fields(study: StudyResults, row: ScoreRow) -> dict[str, object]:
    run, comparison = row.run, row.comparison
    paper, paper_ratio = paper_results.paper_score(study.dataset, row)
    fields: dict[str, object] = {
        "score": row.metric.key,
        "better": row.metric.better,
        "kind": row.kind,
        "recipe": row.recipe,
        "width": row.width,
        "parameters": run and run.parameters,
        "paper_parameters": run and run.paper_parameters,
        "multiply_adds": run and run.multiply_adds,
        "bytes_float32": run and run.bytes_float32,
        "ratio": row.size_ratio,
        "paper_ratio": row.paper_size_ratio,
        "seeds": len(row.stats.values),
        "seeds_planned": row.planned_seeds,
        "mean": row.stats.mean if row.stats.values else None,
        "sd": row.stats.std,
        "by_seed": ";".join(f"{seed}={value!r}" for seed, value in row.stats.values.items()),
        "share_of_teacher": row.score_ratio,
        "baseline": comparison and comparison.baseline,
        "difference": comparison and comparison.difference,
        "margin95": comparison and comparison.margin,
        "verdict": comparison and comparison.verdict,
        "paper": paper,
        "paper_share_of_teacher": paper_ratio,
    }
    fields |= {f"mean_{p}": row.precision_means.get(p) for p in LOSSY_PRECISIONS}
    for precision in PRECISIONS:
        size, ratio = file_size(study, run, precision)
        fields |= {f"disk_bytes_{precision}": size, f"disk_ratio_{precision}": ratio}
    return fields


def all_tables(study: StudyResults, metrics: Iterable[Metric]) -> list[Table]:
    """Returns the tables of sizes, of some metrics, of the teachers tried, and of the limits.

    Args:
        study: The results.
        metrics: Those whose scores are shown.
    """
    limits = (build_min_width_table(study), build_width_advantage_table(study))
    return [
        *build_size_tables(study),
        *(build_score_table(study, metric) for metric in metrics),
        *build_teacher_tables(study),
        *filter(None, limits),
    ]


def build_main_table(study: StudyResults) -> Table | None:
    """Returns a row for the teacher and for each width: size, speed, student and baseline.

    At each width stand the student that scores best, and the baseline that it is compared with.

    Args:
        study: The results.

    Returns:
        The table, by the metric that the summary speaks of; None before a student is scored.
    """
    rows = score_rows(study)
    students = student_rows(rows)
    if not students:
        return None
    metric = students[0].metric
    best = best_students(students)
    comparable = any(map(ranked_ratio, students))
    header = ["width", "parameters", "ratio", "bytes", *(["ms"] if study.latency else [])]
    header += ["student", "score", *(["keeps"] if comparable else [])]
    baselines = {width: find_baseline(rows, row) for width, row in best.items()}
    with_baselines = comparable and any(baselines.values())
    header += ["baseline", "it keeps", "verdict"] if with_baselines else []
    cells = [
        (
            *_main_size_cells(study, row.run, row.width or 0),
            Cell(row.recipe),
            *_kept_cells(row, with_ratio=comparable),
            *(_main_baseline_cells(row, baselines[width]) if with_baselines else []),
        )
        for width, row in sorted(best.items(), reverse=True)
    ]
    if study.teacher:
        teacher = _main_teacher_row(study, rows, metric, comparable)
        cells.insert(0, (*teacher, *[Cell("")] * (len(header) - len(teacher))))
    return Table("Result by width", _main_note(study, metric), tuple(header), tuple(cells), 12)


def _main_note(study: StudyResults, metric: Metric) -> str:
    note = (
        f"score: {metric.title}, mean ± standard deviation over seeds. At each width the student"
        " recipe with the best score. ratio: the teacher's parameters to these. bytes: of the"
        " exported float32 weights."
    )
    note += f" ms: for one image ({study.latency_machine})." if study.latency else ""
    return note


def _main_teacher_row(
    study: StudyResults, rows: Iterable[ScoreRow], metric: Metric, comparable: bool
) -> list[Cell]:
    """Returns the first cells of the teacher's row."""
    assert study.teacher
    size = _main_size_cells(study, study.teacher, study.teacher.width)
    teacher = next((r for r in rows if r.kind == "teacher" and r.metric == metric), None)
    scores = _kept_cells(teacher, with_ratio=comparable) if teacher else [Cell("")]
    return [*size, Cell("teacher"), *scores]


def _main_size_cells(study: StudyResults, run: RunResults | None, width: int) -> list[Cell]:
    parameters, size = (run.parameters, run.weight_bytes) if run else (0, 0)
    ratio, _ = parameter_ratios(study, run)
    cells = [
        count_cell(width),
        count_cell(parameters),
        Cell(format_ratio(ratio), ratio),
        Cell(format_bytes(size), size) if size else Cell("-"),
    ]
    if study.latency:
        latency = study.latency.get((width, "float32"))
        cells.append(number_cell(latency.milliseconds if latency else None))
    return cells


def _kept_cells(row: ScoreRow, *, with_ratio: bool) -> list[Cell]:
    mean = row.stats.mean
    score = Cell(format_with_std(mean, row.stats.std), None if math.isnan(mean) else mean)
    kept = Cell(format_percent(row.score_ratio), row.score_ratio)
    return [score, kept] if with_ratio else [score]


def _main_baseline_cells(student: ScoreRow, baseline: ScoreRow | None) -> list[Cell]:
    if baseline is None:
        return [Cell("-"), Cell("-"), Cell("")]
    assert student.comparison
    return [*_kept_cells(baseline, with_ratio=True), Cell(student.comparison.verdict)]


def table_notes(study: StudyResults) -> list[str]:
    """Returns what a reader of the tables needs to know."""
    dataset = study.dataset
    notes = [
        "± after a score: standard deviation over the training seeds; none with one seed. All runs "
        "share one teacher, so it does not include the variation between teachers.",
        "kept: the mean score divided by the teacher's, or the teacher's divided by it where "
        "lower is better.",
        "to baseline: the student's mean minus that of the baseline of its width (the best of them "
        "if there are several), ± half of Welch's 95 % interval of the difference. One is called "
        "ahead only if the difference is larger than that; with one seed nothing is claimed. Each "
        "comparison stands alone: about one in twenty exceeds the interval by chance.",
    ]
    if any(paper_results.has_paper_metric(dataset, metric) for metric in scored_metrics(study)):
        derived = (
            " Its teacher's score is derived."
            if dataset in paper_results.PAPER_TEACHER_SCORE
            else ""
        )
        notes.append(
            f"paper*: its {paper_results.PAPER_METRIC[dataset]} at that width, {dataset} at 64x64,"
            f" teacher of width {paper_results.PAPER_TEACHER_WIDTH[dataset]}, computed with ANOTHER"
            " network, which it does not name: compare the trend over the widths, not the values."
            f"{derived}"
        )
    return notes + [
        f"{run.name} continued with another seed after it had failed {failure}"
        for run in study.runs
        for failure in run.earlier_failures
    ]


def build_size_tables(study: StudyResults) -> list[Table]:
    """Returns the size of each model, and its file sizes and latency where they were measured."""
    return [_parameter_table(study), *_file_size_tables(study), *build_latency_tables(study)]


def _parameter_table(study: StudyResults) -> Table:
    with_paper = study.dataset in paper_results.PAPER_METRIC
    header = ["d", "model", "parameters", "ratio", "paper's count", "its ratio", "multiply-adds"]
    header += ["float32", *(["in the paper"] if with_paper else [])]
    rows = [
        (
            count_cell(width),
            Cell(name),
            *(_size_cells(study, run) if run else [Cell("-")] * 6),
            *([_printed_ratio_cell(study, name, width)] if with_paper else []),
        )
        for name, width, run in _sized_models(study)
    ]
    note = (
        "small: students and baselines of that width. parameters: all trained numbers. paper's "
        "count: one output channel, no batch norm. ratio: the teacher's parameters to these. "
        "multiply-adds: for one image."
    )
    note += " in the paper: the ratio it prints for this width." if with_paper else ""
    return Table("Sizes", note, tuple(header), tuple(rows), terminal_columns=len(header))


def _sized_models(study: StudyResults) -> list[tuple[str, int, RunResults | None]]:
    """Returns name, width and a run of the teacher and of each smaller width."""
    widths = sorted({width for _, _, width in list_models(study)})
    teacher = [("teacher", study.teacher.width, study.teacher)] if study.teacher else []
    return [*teacher, *(("small", width, find_run_of_width(study, width)) for width in widths)]


def _file_size_tables(study: StudyResults) -> list[Table]:
    """Returns the table of file sizes, if they were measured."""
    columns = [name for precision in PRECISIONS for name in (precision, "ratio")]
    header = ("d", "model", *columns)
    rows = [
        (count_cell(width), Cell(name), *_file_size_cells(study, run))
        for name, width, run in _sized_models(study)
        if run and LOSSY_PRECISIONS[-1] in run.precisions
    ]
    note = (
        "Bytes of the weights in an exported file: kernels in that precision, biases in float32, "
        "int8 with a float32 scale for each output channel; batch norm is folded in. ratio: the "
        "teacher's float32 bytes to these. Each score's table has the scores with such weights."
    )
    return [Table("By bytes on disk", note, header, tuple(rows), len(header))] if rows else []


def _file_size_cells(study: StudyResults, run: RunResults) -> list[Cell]:
    cells = []
    for precision in PRECISIONS:
        size, ratio = file_size(study, run, precision)
        cells += [count_cell(size) if size else Cell("-"), Cell(format_ratio(ratio), ratio)]
    return cells


def _size_cells(study: StudyResults, run: RunResults) -> list[Cell]:
    ratio, paper_ratio = parameter_ratios(study, run)
    return [
        count_cell(run.parameters),
        Cell(format_ratio(ratio), ratio),
        count_cell(run.paper_parameters),
        Cell(format_ratio(paper_ratio), paper_ratio),
        count_cell(run.multiply_adds),
        Cell(format_bytes(run.bytes_float32) if run.bytes_float32 else "-", run.bytes_float32),
    ]


def _printed_ratio_cell(study: StudyResults, name: str, width: int) -> Cell:
    result = paper_results.paper_result(study.dataset, width) if name == "small" else None
    return Cell(f"{result.ratio}:1", result.ratio) if result and result.ratio else Cell("-")


def build_latency_tables(study: StudyResults) -> list[Table]:
    """Returns the latency of each width and precision, if it was measured."""
    teacher_width = study.teacher.width if study.teacher else None
    measured = sorted(
        study.latency,
        key=lambda item: (item[0] != teacher_width, item[0], PRECISIONS.index(item[1])),
    )
    rows = tuple(_latency_row(study, *item) for item in measured)
    note = (
        "ms: for one image; images/s: in batches of 64; MiB: peak memory; measured on "
        f"{study.latency_machine}. times faster: than the teacher with float32 weights. "
        "not faster than: the next wider model is as fast, within 5 %."
    )
    spread = max((result.spread for result in study.latency.values()), default=1)
    if spread > STEADY_SPREAD:
        note += f" The machine was busy: repetitions differ by up to {spread:.1f} times."
    header = (
        *("d", "model", "weights", "file's bytes", "ms", "images/s", "MiB"),
        *("times faster", "not faster than"),
    )
    return [Table("Time", note, header, rows, len(header))] if rows else []


def _latency_row(study: StudyResults, width: int, precision: str) -> tuple[Cell, ...]:
    result = study.latency[width, precision]
    wider = find_equally_fast_width(study, width, precision)
    is_teacher = study.teacher is not None and width == study.teacher.width
    return (
        count_cell(width),
        Cell("teacher" if is_teacher else "small"),
        Cell(precision),
        count_cell(result.file_bytes),
        *map(number_cell, (result.milliseconds, result.images_per_second, result.peak_mib)),
        number_cell(speed_up(study, width, precision)),
        Cell("" if wider is None else f"d={wider}"),
    )


def build_score_table(study: StudyResults, metric: Metric) -> Table:
    """Returns a score of every model, the paper's beside it, and who is ahead.

    Args:
        study: The results.
        metric: What is scored.
    """
    rows = [row for row in score_rows(study) if row.metric == metric]
    with_paper = paper_results.has_paper_metric(study.dataset, metric)
    header = ["d", "model", "seeds", "score"]
    header += [] if metric.students_only else ["kept", "to baseline", "verdict"]
    header += ["paper*"] if with_paper else []
    precisions = LOSSY_PRECISIONS if any(row.precision_means for row in rows) else ()
    cells = [
        (
            *_score_cells(row),
            *([] if metric.students_only else _comparison_cells(row)),
            *([_paper_cell(study, row)] if with_paper else []),
            *(number_cell(row.precision_means.get(precision)) for precision in precisions),
            _seeds_cell(row),
        )
        for row in rows
    ]
    columns = (*header, *(f"{precision} weights" for precision in precisions), "each seed")
    return Table(metric.title, metric.about, columns, tuple(cells), len(header))


def _score_cells(row: ScoreRow) -> tuple[Cell, ...]:
    mean = row.stats.mean
    is_real = row.kind == "real"
    return (
        Cell("") if row.width is None else count_cell(row.width),
        Cell("real images" if is_real else model_name(row.kind, row.recipe)),
        Cell("" if is_real else format_seeds(len(row.stats.values), row.planned_seeds)),
        Cell(format_with_std(mean, row.stats.std), None if math.isnan(mean) else mean),
    )


def _comparison_cells(row: ScoreRow) -> tuple[Cell, ...]:
    """Returns what the model keeps of the teacher's score, and how it compares to the baseline."""
    kept_text = "" if row.kind == "real" else format_percent(row.score_ratio)
    kept_cell = Cell(kept_text, row.score_ratio)
    comparison = row.comparison
    if comparison is None:
        return kept_cell, Cell(""), Cell("")
    text = format_difference(comparison.difference, comparison.margin, row.stats.mean)
    return kept_cell, Cell(text, comparison.difference), Cell(comparison.verdict)


def _paper_cell(study: StudyResults, row: ScoreRow) -> Cell:
    score, ratio = paper_results.paper_score(study.dataset, row)
    if score is None:
        return Cell("")
    kept_text = "" if ratio is None else f" ({format_percent(ratio)})"
    return Cell(f"{score:.2f}{kept_text}", score)


def _seeds_cell(row: ScoreRow) -> Cell:
    if row.kind not in ("student", "baseline"):
        return Cell("")
    values = row.stats.values.items()
    return Cell(", ".join(f"{seed}: {format_number(score)}" for seed, score in values))


def build_teacher_tables(study: StudyResults) -> list[Table]:
    """Returns the table of the teacher candidates, if there are several."""
    candidates = [run for run in study.runs if run.kind == "teacher"]
    if len(candidates) < 2:
        return []
    metrics = [metric for metric in scored_metrics(study) if not metric.students_only]
    selection = study.teacher_choice.get("candidates", {})
    rows = tuple(
        (
            count_cell(run.width),
            Cell(f"{run.seed}"),
            Cell("chosen" if run is study.teacher else "failed" if run.failure else ""),
            number_cell(selection.get(run.name)),
            count_cell(run.parameters),
            *(number_cell(run.scores.get(metric.key)) for metric in metrics),
        )
        for run in candidates
    )
    chosen_by = study.teacher_choice.get("chosen_by")
    note = f"Chosen by {chosen_by}." if study.teacher else "None is chosen yet."
    header = ("d", "seed", "choice", "validation distance", "parameters")
    labels = tuple(metric.label for metric in metrics)
    return [Table("Teachers tried", note, header + labels, rows, terminal_columns=6)]


def build_min_width_table(study: StudyResults) -> Table | None:
    """Returns the smallest widths that keep a part of the teacher's score.

    There is a row for each main metric and model; None without a teacher.
    """
    models: dict[Metric, dict[tuple[str, str], list[ScoreRow]]] = {}
    for row in _limit_rows(study):
        models.setdefault(row.metric, {}).setdefault((row.kind, row.recipe), []).append(row)
    if not models:
        return None
    cells: list[tuple[Cell, ...]] = []
    for metric, by_model in models.items():
        cells += [
            (Cell(metric.label), Cell(model_name(*model)), *_min_width_cells(rows))
            for model, rows in by_model.items()
        ]
        cells += _paper_min_width_rows(study, metric)
    header = ("score", "model", *(f"keeps {format_percent(level)}" for level in LEVELS))
    note = "The smallest width whose mean score keeps that part of the teacher's, and its ratio."
    return Table("Smallest width", note, header, tuple(cells), len(header))


def describe_min_widths(study: StudyResults) -> list[str]:
    """Returns a sentence for each main metric: how far students shrink; the best recipe counts."""
    students: dict[Metric, list[ScoreRow]] = {}
    for row in _limit_rows(study):
        if row.kind == "student":
            students.setdefault(row.metric, []).append(row)
    return [f"{metric.label}: {_describe_limit(rows)}" for metric, rows in students.items()]


def _limit_rows(study: StudyResults) -> list[ScoreRow]:
    """Returns the rows of students and baselines by main metrics that have a better side."""
    return [
        row
        for row in score_rows(study)
        if row.metric.main and row.metric.better and row.score_ratio is not None
        if row.kind in ("student", "baseline")
    ]


def _describe_limit(students: list[ScoreRow]) -> str:
    levels: dict[str, float] = {}  # by model: the largest part that it is the narrowest to keep
    for level in LEVELS:
        if row := narrowest_row(students, level):
            levels.setdefault(_describe_model(row), level)
    parts = [
        f"students keep {format_percent(level)} of the teacher's score down to {model}"
        for model, level in levels.items()
    ]
    if not parts:
        parts.append(f"no student keeps {format_percent(LEVELS[-1])} of the teacher's score")
    by_width = best_students(students)
    smallest = by_width[min(by_width)]
    ratio = format_percent(smallest.score_ratio)
    return f"{'; '.join(parts)}. The smallest, {_describe_model(smallest)}, keeps {ratio}."


def _describe_model(row: ScoreRow) -> str:
    return f"d={row.width} ({format_ratio(row.size_ratio)}, {row.recipe})"


def _min_width_cells(rows: list[ScoreRow]) -> list[Cell]:
    narrowest = [narrowest_row(rows, level) for level in LEVELS]
    return [
        Cell(f"d={row.width} ({format_ratio(row.size_ratio)})", row.width) if row else Cell("none")
        for row in narrowest
    ]


def _paper_min_width_rows(study: StudyResults, metric: Metric) -> list[tuple[Cell, ...]]:
    """Returns the row of the paper's students, where its teacher's score is known."""
    teacher = paper_results.PAPER_TEACHER_SCORE.get(study.dataset)
    if teacher is None or not paper_results.has_paper_metric(study.dataset, metric):
        return []
    results = paper_results.paper_results_on(study.dataset)
    ratios = {d: score_ratio(metric, result.student, teacher) for d, result in results.items()}
    cells = []
    for level in LEVELS:
        width = min((d for d, ratio in ratios.items() if (ratio or 0.0) >= level), default=None)
        printed = results[width].ratio if width else None
        size_ratio = f" ({printed}:1)" if printed else ""
        cells.append(Cell(f"d={width}{size_ratio}", width) if width else Cell("none"))
    return [(Cell(metric.label), Cell("paper's student*"), *cells)]


def build_width_advantage_table(study: StudyResults) -> Table | None:
    """Returns the width advantage of each student recipe at each width; None without baselines."""
    rows = [row for row in score_rows(study) if _has_width_advantage(row)]
    students = [row for row in rows if row.kind == "student"]
    widths = sorted({row.width or 0 for row in students})
    cells: list[tuple[Cell, ...]] = []
    for metric in dict.fromkeys(row.metric for row in rows):
        if not best_baselines(rows, metric):
            continue
        for recipe in dict.fromkeys(row.recipe for row in students):
            factors = width_advantages(rows, metric, recipe)
            cells.append(
                (
                    Cell(metric.label),
                    Cell(model_name("student", recipe)),
                    *(Cell(*factors[d]) if d in factors else Cell("-") for d in widths),
                )
            )
        cells += _paper_width_advantage_rows(study, metric, widths)
    header = ("score", "model", *(f"d={width}" for width in widths))
    note = (
        "How many times as wide the baseline (the best of them, if there are several) must be to "
        "score as well. The logarithm of its score is interpolated linearly between two widths, on "
        "a logarithmic scale of widths. Below 1 the baseline is ahead. Means over the seeds, "
        "without a statement on significance."
    )
    return Table("Width advantage", note, header, tuple(cells), len(header)) if cells else None


def _has_width_advantage(row: ScoreRow) -> bool:
    ranked = row.metric.name in (INCEPTION_SCORE, FRECHET_DISTANCE)
    return ranked and row.kind in ("student", "baseline") and row.stats.mean > 0


def _paper_width_advantage_rows(
    study: StudyResults, metric: Metric, widths: Iterable[int]
) -> list[tuple[Cell, ...]]:
    """Returns the same for the paper's table, where it has this metric."""
    if not paper_results.has_paper_metric(study.dataset, metric):
        return []
    results = paper_results.paper_results_on(study.dataset)
    baselines = {d: result.baseline for d, result in results.items() if result.baseline}
    cells = [
        Cell(*width_advantage(results[d].student, d, baselines, metric.better))
        if d in results
        else Cell("-")
        for d in widths
    ]
    return [(Cell(metric.label), Cell("paper's student*"), *cells)]
