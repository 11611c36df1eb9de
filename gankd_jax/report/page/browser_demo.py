"""Teacher and students that generate images in the reader's browser: which, and their weights."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gankd_jax.report.aggregate import (
    GOOD_RATIO,
    ScoreRow,
    best_recipe,
    best_students,
    best_tradeoff,
    parameter_ratios,
    ranked_ratio,
    score_rows,
)
from gankd_jax.report.formatting import format_bytes, format_percent, format_ratio
from gankd_jax.report.headline import student_rows
from gankd_jax.report.page.image_grids import KEEP_ARRAYS_HINT, encode_data_url
from gankd_jax.report.study_results import RunResults, StudyResults
from gankd_jax.utils.atomic_io import read_own_npz

MAX_WEIGHT_CHARS = 1_600_000  # of all students; about half of the page's size limit
MAX_TEACHER_CHARS = 2_000_000  # of the teacher with int8 weights: above it, its stored images serve
MAX_ALL_CHARS = 2_300_000  # of students and teacher; images and charts need the rest of the page
MAX_STUDENTS = 12  # in the page's list; more would crowd out its images
STUDENT_BYTES, TEACHER_BYTES = 3, 1  # per weight
STORED_LATENTS = 16  # latents for which the page has the teacher's images
SLIDERS = 8


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
        teacher_note: How the teacher's images come about.
        labels: The choices of the list of students; empty without a demo.
        data: What demo.js reads as JSON; None without a demo.
    """

    reason: str
    teacher_note: str
    labels: list[str]
    data: dict[str, object] | None


def build_browser_demo(study: StudyResults) -> BrowserDemo:
    """Returns the generators that run in the page, with weights and stored latents."""
    students = choose_demo_students(study)
    if not students.runs or study.teacher is None or study.teacher.grid is None:
        return BrowserDemo(students.reason, "", [], None)
    labels = [f"{run.name}: {run.parameters:,} parameters" for run in students.runs]
    obstacle = find_teacher_obstacle(study.teacher, sum(map(_weight_chars, students.runs)))
    note = obstacle or (
        "So does the teacher, on the same latent, with int8 weights"
        f" ({format_bytes(study.teacher.parameters * TEACHER_BYTES)})."
    )
    data = _pack_demo(study, students.runs, live_teacher=not obstacle)
    return BrowserDemo(students.reason, note, labels, data)


def find_teacher_obstacle(teacher: RunResults, student_chars: int) -> str:
    """Returns why the teacher cannot run in the page; "" if it can.

    Args:
        teacher: The study's teacher.
        student_chars: The size of the students' weights in the page.
    """
    stored = "so the page has its images of stored latents alone"
    if not teacher.parameters:
        return f"The teacher is a function or a table, {stored}."
    if teacher.folded_path is None:
        return f"The teacher's weights were not kept for this page, {stored}: {KEEP_ARRAYS_HINT}."
    if not _has_layers(teacher.folded_path):
        return f"The teacher's layers do not simply follow one another, {stored}."
    chars = base64_length(teacher.parameters * TEACHER_BYTES)
    if chars > min(MAX_TEACHER_CHARS, MAX_ALL_CHARS - student_chars):
        size = format_bytes(teacher.parameters * TEACHER_BYTES)
        return f"The teacher's weights are too large for a page ({size} as int8), {stored}."
    return ""


def choose_demo_students(study: StudyResults) -> DemoStudents:
    """Chooses the smallest student within 5 % of the teacher's score, else the best one.

    Scores are those of the study's main metric. Further students whose weights fit into the page
    follow.
    """
    rows = score_rows(study)
    runs = [(row, run) for row in student_rows(rows) if (run := _find_folded_run(study, row))]
    fitting = [(row, run) for row, run in runs if _weight_chars(run) <= MAX_WEIGHT_CHARS]
    best_row = best_tradeoff([row for row, _ in fitting], best_recipe(study, rows))
    if best_row is None:
        return DemoStudents((), _explain_no_demo(study, too_large=bool(runs)))
    best_of_width = [id(row) for row in best_students(row for row, _ in fitting).values()]
    # The first one, the best student of each width, then those of other recipes; small ones first.
    fitting.sort(
        key=lambda pair: (
            pair[0] is not best_row,
            id(pair[0]) not in best_of_width,
            pair[1].parameters,
        )
    )
    runs_in_page = _fit_runs([run for _, run in fitting])
    return DemoStudents(tuple(runs_in_page), _explain_choice(best_row))


def _fit_runs(runs: list[RunResults]) -> list[RunResults]:
    """Returns the runs whose weights fit into the page, each beside those before it."""
    free_chars = MAX_WEIGHT_CHARS
    fitting: list[RunResults] = []
    for run in runs:
        if _weight_chars(run) <= free_chars and len(fitting) < MAX_STUDENTS:
            fitting.append(run)
            free_chars -= _weight_chars(run)
    return fitting


def _find_folded_run(study: StudyResults, row: ScoreRow) -> RunResults | None:
    """Returns the lowest seed whose folded weights were saved."""
    runs = study.runs_of("student", row.recipe, row.width or 0)
    saved = [run for run in runs if run.folded_path and _has_layers(run.folded_path)]
    return min(saved, key=lambda run: run.seed, default=None)


def _has_layers(folded_path: Path) -> bool:
    """Returns whether a run's layers were saved, as they are of families that the page knows."""
    return "kernel0" in read_own_npz(folded_path)


def _explain_choice(row: ScoreRow) -> str:
    label, ratio = row.metric.label, ranked_ratio(row)
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
    students = [run for run in study.runs if run.kind == "student"]
    if any(run.folded_path and not _has_layers(run.folded_path) for run in students):
        return "No student runs in a page, since its layers do not simply follow one another."
    if any(run.scores for run in students):
        return f"No student's weights were kept for this page: {KEEP_ARRAYS_HINT}."
    return "No student is scored yet, so none runs here."


def base64_length(count: int) -> int:
    """Returns the characters of so many bytes in base64, without the padding."""
    return 4 * count // 3


def _weight_chars(run: RunResults) -> int:
    return base64_length(run.parameters * STUDENT_BYTES)


def _pack_demo(
    study: StudyResults, runs: tuple[RunResults, ...], *, live_teacher: bool
) -> dict[str, object]:
    teacher = study.teacher
    assert teacher is not None
    assert teacher.grid is not None
    students = [read_own_npz(run.folded_path) for run in runs if run.folded_path]
    teacher_layers = None
    if live_teacher and teacher.folded_path:
        teacher_layers = pack_layers(read_own_npz(teacher.folded_path), TEACHER_BYTES)
    return {
        "size": teacher.grid.shape[1],
        "channels": teacher.grid.shape[3],
        "latents": _to_base64(students[0]["latents"][:STORED_LATENTS].astype("<f4")),
        "teacher": encode_data_url(teacher.grid[:STORED_LATENTS]),
        "teacherLayers": teacher_layers,
        "students": [
            {
                "name": run.name,
                "layers": pack_layers(arrays, STUDENT_BYTES),
                "sliders": _choose_sliders(arrays["kernel0"]),
                "metadata": describe_file(study, run, arrays),
                "size": _describe_size(study, run),
            }
            for run, arrays in zip(runs, students, strict=True)
        ],
    }


def _describe_size(study: StudyResults, run: RunResults) -> str:
    ratio, _ = parameter_ratios(study, run)
    size = f"{run.parameters:,} parameters"
    return f"{size}, {format_ratio(ratio)}" if ratio else size


def describe_file(
    study: StudyResults, run: RunResults, arrays: dict[str, np.ndarray]
) -> dict[str, str]:
    """Returns the metadata of a student's safetensors file, as `gankd export` writes them.

    Args:
        study: The student's study.
        run: The student.
        arrays: Its folded.npz.
    """
    last_kernel = max(name for name in arrays if name.startswith("kernel"))
    sizes = {
        "width": run.width,
        "image_size": study.config["data"]["image_size"],
        "channels": arrays[last_kernel].shape[3],
        "latent": arrays["kernel0"].shape[2],
    }
    card = {
        "study": study.config["name"],
        "run": run.name,
        "precision": "float32",
        "recipe": study.config["recipes"][run.recipe],
        "data": run.provenance.get("reference", study.dataset),
        "scores": run.scores,
        "made": run.provenance,
    }
    family = study.config.get("model", {}).get("student", {}).get("family", "dcgan")
    return {"family": family, "generator": json.dumps(sizes), "card": json.dumps(card)}


def pack_layers(arrays: dict[str, np.ndarray], size: int) -> list[dict[str, object]]:
    """Packs the layers of folded.npz for generator.js.

    Args:
        arrays: `kernel0`, `bias0`, ... with batch norm folded in; kernels are (4, 4, in, out).
        size: Bytes of a weight: with 3, images keep six digits; with 1, they are those of int8.

    Returns:
        The weights of each layer in base64, see `unpackLayer` in generator.js.
    """
    count = sum(name.startswith("kernel") for name in arrays)
    return [_pack_layer(arrays[f"kernel{k}"], arrays[f"bias{k}"], size) for k in range(count)]


def _pack_layer(
    kernel: Float[np.ndarray, "4 4 i o"], bias: Float[np.ndarray, " o"], size: int
) -> dict[str, object]:
    """Quantizes a layer to integers of `size` bytes with a scale for each output channel."""
    max_level = 2 ** (8 * size - 1) - 1
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    scale = np.where(largest > 0, largest / max_level, 1).astype("<f4")
    levels = np.round(kernel / scale.astype(np.float64)).clip(-max_level, max_level).astype("<i4")
    return {
        "inputs": kernel.shape[2],
        "outputs": kernel.shape[3],
        "size": size,
        # The lowest bytes: the higher ones only repeat the sign.
        "kernel": _to_base64(levels.reshape(-1, 1).view(np.uint8)[:, :size]),
        "scale": _to_base64(scale),
        "bias": _to_base64(bias.astype("<f4")),
    }


def _choose_sliders(kernel: Float[np.ndarray, "4 4 z o"]) -> list[int]:
    """Returns the coordinates of the latent with the largest weights in the first layer."""
    norm = np.square(kernel).sum(axis=(0, 1, 3))
    return np.argsort(-norm, kind="stable")[:SLIDERS].tolist()


def _to_base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
