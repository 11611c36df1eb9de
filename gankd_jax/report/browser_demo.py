"""Students that generate images in the reader's browser: which ones, and their weights as JSON."""

import base64
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gankd_jax.report.aggregate import ScoreRow, best_recipe, main_metric, narrowest_row, score_rows
from gankd_jax.report.formatting import format_percent
from gankd_jax.report.image_grids import KEEP_ARRAYS_HINT, encode_data_url
from gankd_jax.report.study_results import ImageArray, RunResults, StudyResults
from gankd_jax.utils.atomic_io import read_own_npz

GOOD_RATIO = 0.95  # of the teacher's score: a student that keeps it counts as equally good
MAX_WEIGHT_CHARS = 1_600_000  # of all weights in the page; about half of the page's size limit
CHARS_PER_PARAMETER = 4  # three bytes in base64
STORED_LATENTS = 16  # latents for which the page has the teacher's images
SLIDERS = 8
MAX_LEVEL = 2**23 - 1  # largest absolute value of a 24-bit weight


@dataclass(frozen=True)
class DemoStudents:
    """The students whose weights the page has.

    Attributes:
        runs: Their runs, the first shown one first; empty if there are none.
        reason: Why that student is shown first, or why there is none.
    """

    runs: tuple[RunResults, ...]
    reason: str


@dataclass(frozen=True)
class BrowserDemo:
    """What the template of the demo needs.

    Attributes:
        reason: Why a student is shown first, or why there is no demo.
        labels: The choices of the list of students; empty without a demo.
        data: What demo.js reads as JSON; None without a demo.
    """

    reason: str
    labels: list[str]
    data: dict[str, object] | None


def build_browser_demo(study: StudyResults) -> BrowserDemo:
    """Returns the students that run in the page, with weights and stored latents."""
    students = choose_demo_students(study)
    if not students.runs or study.teacher is None or study.teacher.grid is None:
        return BrowserDemo(students.reason, [], None)
    labels = [f"{run.name}: {run.parameters:,} parameters" for run in students.runs]
    return BrowserDemo(students.reason, labels, _pack_demo(students.runs, study.teacher.grid))


def choose_demo_students(study: StudyResults) -> DemoStudents:
    """Chooses the smallest student within 5 % of the teacher's score, else the best one.

    Scores are those of the study's main metric. Smaller students whose weights fit into the page as
    well follow.
    """
    rows = score_rows(study)
    runs = [(row, run) for row in _student_rows(rows) if (run := _find_folded_run(study, row))]
    fitting = [(row, run) for row, run in runs if _weight_chars(run) <= MAX_WEIGHT_CHARS]
    if not fitting:
        return DemoStudents((), _explain_no_demo(study, too_large=bool(runs)))
    best_row = _choose_best_row([row for row, _ in fitting], best_recipe(study, rows))
    first = next(run for row, run in fitting if row is best_row)
    further = _fit_further_runs(first, [run for _, run in fitting if run is not first])
    return DemoStudents((first, *further), _explain_choice(best_row))


def _fit_further_runs(first: RunResults, runs: list[RunResults]) -> list[RunResults]:
    """Returns the runs whose weights fit into the page beside the first one's, small ones first."""
    free_chars, fitting = MAX_WEIGHT_CHARS - _weight_chars(first), []
    for run in sorted(runs, key=lambda run: run.parameters):
        if _weight_chars(run) <= free_chars:
            fitting.append(run)
            free_chars -= _weight_chars(run)
    return fitting


def _student_rows(rows: list[ScoreRow]) -> list[ScoreRow]:
    """Returns the students' rows of the main metric, or without one of the first metric."""
    scored = [row for row in rows if row.kind == "student" and row.stats.values]
    metric = main_metric(rows) or (scored[0].metric if scored else None)
    return [row for row in scored if row.metric == metric]


def _find_folded_run(study: StudyResults, row: ScoreRow) -> RunResults | None:
    """Returns the lowest seed whose folded weights were saved."""
    runs = study.runs_of("student", row.recipe, row.width or 0)
    return min(filter(_has_layers, runs), key=lambda run: run.seed, default=None)


def _has_layers(run: RunResults) -> bool:
    """Returns whether a run's layers were saved, as they are of families that the page knows."""
    return bool(run.folded_path and "kernel0" in read_own_npz(run.folded_path))


def _choose_best_row(rows: list[ScoreRow], preferred_recipe: str) -> ScoreRow:
    """Returns the smallest good student, else the best one, else the widest of a recipe."""

    def rank(row: ScoreRow) -> tuple[float, bool, int]:
        return _ranked_ratio(row) or 0.0, row.recipe == preferred_recipe, row.width or 0

    ranked = [row for row in rows if _ranked_ratio(row)]
    return narrowest_row(ranked, GOOD_RATIO) or max(rows, key=rank)


def _ranked_ratio(row: ScoreRow) -> float | None:
    """Returns how much of the teacher's score a student keeps, if one side of it is better."""
    return row.score_ratio if row.metric.better else None


def _explain_choice(row: ScoreRow) -> str:
    label, ratio = row.metric.label, _ranked_ratio(row)
    if ratio is None:
        return f"Shown first is the widest {row.recipe} student: no score compares it with others."
    percent = format_percent(ratio)
    if ratio >= GOOD_RATIO:
        return (
            f"Shown first is the smallest student within 5 % of the teacher's {label} ({percent})."
        )
    return (
        f"No student is within 5 % of the teacher's {label}; shown first is the best ({percent})."
    )


def _explain_no_demo(study: StudyResults, *, too_large: bool) -> str:
    if too_large:
        return "The students' weights are too large for a page: see `gankd export`."
    if any(run.folded_path and not _has_layers(run) for run in study.runs):
        return "No student runs in a page, since its layers do not simply follow one another."
    if any(run.kind == "student" and run.scores for run in study.runs):
        return f"No student's weights were kept for this page: {KEEP_ARRAYS_HINT}."
    return "No student is scored yet, so none runs here."


def _weight_chars(run: RunResults) -> int:
    return run.parameters * CHARS_PER_PARAMETER


def _pack_demo(runs: tuple[RunResults, ...], teacher_images: ImageArray) -> dict[str, object]:
    students = [read_own_npz(run.folded_path) for run in runs if run.folded_path]
    return {
        "size": teacher_images.shape[1],
        "channels": teacher_images.shape[3],
        "latents": _to_base64(students[0]["latents"][:STORED_LATENTS].astype("<f4")),
        "teacher": encode_data_url(teacher_images[:STORED_LATENTS]),
        "students": [
            {
                "name": run.name,
                "layers": pack_layers(arrays),
                "sliders": _choose_sliders(arrays["kernel0"]),
            }
            for run, arrays in zip(runs, students, strict=True)
        ],
    }


def pack_layers(arrays: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """Packs the layers of folded.npz for generator.js.

    Args:
        arrays: `kernel0`, `bias0`, ... with batch norm folded in; kernels are (4, 4, in, out).

    Returns:
        The weights of each layer in base64, see `unpackLayer` in generator.js.
    """
    count = sum(name.startswith("kernel") for name in arrays)
    return [_pack_layer(arrays[f"kernel{k}"], arrays[f"bias{k}"]) for k in range(count)]


def _pack_layer(
    kernel: Float[np.ndarray, "4 4 i o"], bias: Float[np.ndarray, " o"]
) -> dict[str, object]:
    """Quantizes a layer to 24-bit integers with a scale for each output channel.

    Images keep six digits this way; with 16-bit weights those of a narrow student keep three.
    """
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    scale = np.where(largest > 0, largest / MAX_LEVEL, 1).astype("<f4")
    levels = np.round(kernel / scale.astype(np.float64)).clip(-MAX_LEVEL, MAX_LEVEL).astype("<i4")
    return {
        "inputs": kernel.shape[2],
        "outputs": kernel.shape[3],
        # The lowest three bytes: the highest one only repeats the sign.
        "kernel": _to_base64(levels.reshape(-1, 1).view(np.uint8)[:, :3]),
        "scale": _to_base64(scale),
        "bias": _to_base64(bias.astype("<f4")),
    }


def _choose_sliders(kernel: Float[np.ndarray, "4 4 z o"]) -> list[int]:
    """Returns the coordinates of the latent with the largest weights in the first layer."""
    norm = np.square(kernel).sum(axis=(0, 1, 3))
    return np.argsort(-norm, kind="stable")[:SLIDERS].tolist()


def _to_base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
