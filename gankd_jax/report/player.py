"""The students that run in the reader's browser: which ones, their weights, and the controls."""

import base64
import json
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

import numpy as np
from jaxtyping import Float

from gankd_jax.report.aggregate import ScoreRow, best_recipe, main_metric, narrowest_row, score_rows
from gankd_jax.report.elements import picture_url
from gankd_jax.report.formatting import format_percent
from gankd_jax.report.study_results import RunResults, StudyResults
from gankd_jax.utils.atomic_io import read_npz

NEAR = 0.95  # of the teacher's score: a student that keeps so much is as good as it
CHARACTERS = 1_600_000  # of weights in the page, at most
PER_PARAMETER = 4  # characters: three bytes in base64
STORED = 16  # latents of which the teacher's pictures are there
SLIDERS = 8
LEVELS = 2**23 - 1  # of a weight in 24 bits, on each side of zero
KEEP = "`gankd evaluate --config=... --workdir=...` keeps them, and `gankd report` shows them"


@dataclass(frozen=True)
class Chosen:
    """The students that the page carries, the one shown first in front."""

    runs: tuple[RunResults, ...]
    reason: str  # why that one, or why there is none


def choose(study: StudyResults) -> Chosen:
    """Choose the smallest student within 5 % of the teacher's score, else the best.

    The score is the study's first that has a better side and that the teacher has. Smaller students
    that fit beside it are carried too.
    """
    found = score_rows(study)
    kept = [(row, run) for row in _students(found) if (run := _kept_run(study, row))]
    small = [(row, run) for row, run in kept if _characters(run) <= CHARACTERS]
    if not small:
        return Chosen((), _why_none(study, too_large=bool(kept)))
    best = _best([row for row, _ in small], best_recipe(study, found))
    first = next(run for row, run in small if row is best)
    others = [run for _, run in small if run is not first]
    return Chosen((first, *_beside(first, others)), _reason(best))


def _beside(first: RunResults, others: list[RunResults]) -> list[RunResults]:
    """Those of the others that the page has room for, small ones first."""
    room, fitting = CHARACTERS - _characters(first), []
    for run in sorted(others, key=lambda run: run.parameters):
        if _characters(run) <= room:
            fitting.append(run)
            room -= _characters(run)
    return fitting


def _students(found: list[ScoreRow]) -> list[ScoreRow]:
    """The students' rows of the main score or, without one, of the first that there is."""
    scored = [row for row in found if row.kind == "student" and row.stats.values]
    metric = main_metric(found) or (scored[0].metric if scored else None)
    return [row for row in scored if row.metric == metric]


def _kept_run(study: StudyResults, row: ScoreRow) -> RunResults | None:
    """The lowest seed of which there are weights."""
    runs = study.runs_of("student", row.recipe, row.width or 0)
    kept = sorted((run for run in runs if run.folded_path), key=lambda run: run.seed)
    return kept[0] if kept else None


def _best(those: list[ScoreRow], leading: str) -> ScoreRow:
    """The smallest near the teacher, else what keeps most, else the leading recipe's widest."""

    def rank(row: ScoreRow) -> tuple[float, bool, int]:
        return _share(row) or 0.0, row.recipe == leading, row.width or 0

    compared = [row for row in those if _share(row)]
    return narrowest_row(compared, NEAR) or max(those, key=rank)


def _share(row: ScoreRow) -> float | None:
    """What a student keeps of the teacher's score, if more of it is better."""
    return row.score_ratio if row.metric.better else None


def _reason(row: ScoreRow) -> str:
    label, share = row.metric.label, _share(row)
    if share is None:
        return f"Shown first is the widest {row.recipe} student: no score compares it with others."
    kept = format_percent(share)
    if share >= NEAR:
        return f"Shown first is the smallest student within 5 % of the teacher's {label} ({kept})."
    return f"No student is within 5 % of the teacher's {label}; shown first is the best ({kept})."


def _why_none(study: StudyResults, *, too_large: bool) -> str:
    if too_large:
        return "The students' weights are too large for a page: see `gankd export`."
    if any(run.kind == "student" and run.scores for run in study.runs):
        return f"No student's weights were kept for this page: {KEEP}."
    return "No student is scored yet, so none runs here."


def _characters(run: RunResults) -> int:
    return run.parameters * PER_PARAMETER


def player(study: StudyResults) -> str:
    """Return the controls and the students' weights; a sentence where there are none."""
    chosen = choose(study)
    if not chosen.runs or study.teacher is None or study.teacher.grid is None:
        return f'<p class="note">{escape(chosen.reason)}</p>'
    data = json.dumps(_data(study, chosen.runs, study.teacher.grid)).replace("<", "\\u003c")
    options = "".join(f"<option>{escape(_label(run))}</option>" for run in chosen.runs)
    controls = Template((files(__package__) / "player.html").read_text(encoding="utf-8"))
    return controls.substitute(reason=escape(chosen.reason), options=options, data=data)


def _label(run: RunResults) -> str:
    return f"{run.name}: {run.parameters:,} parameters"


def _data(
    study: StudyResults, runs: tuple[RunResults, ...], teacher: np.ndarray
) -> dict[str, object]:
    students = [read_npz(run.folded_path) for run in runs if run.folded_path]
    return {
        "size": teacher.shape[1],
        "channels": teacher.shape[3],
        "latents": _text(students[0]["latents"][:STORED].astype("<f4")),
        "teacher": picture_url(teacher[:STORED]),
        "students": [
            {"name": run.name, "layers": packed(arrays), "sliders": _sliders(arrays["kernel0"])}
            for run, arrays in zip(runs, students, strict=True)
        ],
    }


def packed(arrays: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """Return the layers of folded.npz as student.js unpacks them."""
    count = sum(name.startswith("kernel") for name in arrays)
    return [_layer(arrays[f"kernel{k}"], arrays[f"bias{k}"]) for k in range(count)]


def _layer(
    kernel: Float[np.ndarray, "4 4 i o"], bias: Float[np.ndarray, " o"]
) -> dict[str, object]:
    """A layer's weights: whole numbers of 24 bits, times a step for each output channel.

    Pictures keep six digits so; of weights in 16 bits a narrow student keeps three.
    """
    largest = np.abs(kernel).max(axis=(0, 1, 2))
    step = np.where(largest > 0, largest / LEVELS, 1).astype("<f4")
    whole = np.round(kernel / step.astype(np.float64)).clip(-LEVELS, LEVELS).astype("<i4")
    return {
        "inputs": kernel.shape[2],
        "outputs": kernel.shape[3],
        "kernel": _text(whole.reshape(-1, 1).view(np.uint8)[:, :3]),  # the highest byte is the sign
        "step": _text(step),
        "bias": _text(bias.astype("<f4")),
    }


def _sliders(kernel: Float[np.ndarray, "4 4 z o"]) -> list[int]:
    """The latent's coordinates that weigh most in the first layer."""
    weight = np.square(kernel).sum(axis=(0, 1, 3))
    return np.argsort(-weight, kind="stable")[:SLIDERS].tolist()


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
