"""What the judges score: trained runs, real images, the teacher's candidates; and its pictures."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax import evaluate, runs, sampling, summaries, workdir
from gankd_jax.export.folded import rounded
from gankd_jax.lab import Lab
from gankd_jax.metrics.features import Extractor, Summary
from gankd_jax.names import LOSSY, PRECISIONS
from gankd_jax.runs import Run
from gankd_jax.runtime import files, stop
from gankd_jax.runtime.progress import tell
from gankd_jax.training.group import Member
from gankd_jax.training.steps import draw

SAMPLES, FOLDED = "samples.npz", "folded.npz"


def choose_teacher(lab: Lab) -> None:
    """Name the candidate whose images lie nearest to the validation images; once, then kept.

    Nobody is named before all have ended, nor if all have failed: baselines need no teacher.
    """
    path = lab.folder / "teacher.json"
    candidates = runs.teachers(lab.config)
    finished = [r for r in candidates if workdir.is_trained(lab.folder, lab.config, r)]
    failed = [r for r in candidates if workdir.has_given_up(lab.folder, lab.config, r)]
    if path.exists() or not finished or len(finished) + len(failed) < len(candidates):
        return
    if len(candidates) == 1:
        files.write_json(path, {"run": finished[0].name, "chosen_by": "the only candidate"})
        return
    distances = {run.name: _validation_distance(lab, run) for run in finished}
    best = min(distances, key=distances.__getitem__)
    chosen = {"run": best, "chosen_by": "fd_classifier on validation", "candidates": distances}
    files.write_json(path, chosen)


def _validation_distance(lab: Lab, run: Run) -> float:
    """fd_classifier between a teacher's images, on latents of their own, and validation images."""
    seed, (judge, _) = lab.config.evaluation.seed + 1, lab.references[0]
    real = [(judge, lab.summary(lab.split("validation"), judge))]
    return _scores(lab, lab.drawer(run), seed, references=real)["fd_classifier"]


def evaluate_runs(lab: Lab, wanted: Sequence[Run]) -> None:
    """Score those of the runs that are trained and not scored; draw what their report lacks."""
    _evaluate_real(lab)
    for run in wanted:
        stop.check()
        if not workdir.is_trained(lab.folder, lab.config, run):
            continue
        if not workdir.is_scored(lab.folder, run):
            tell(f"scoring {run.name}")
            _evaluate_run(lab, run)
        elif not _is_drawn(lab, run):
            tell(f"drawing {run.name}")
            _keep_pictures(lab, run, lab.drawer(run))


def _is_drawn(lab: Lab, run: Run) -> bool:
    """Whether all that the report shows of a run is there; of a student also what draws in it."""
    folder = lab.folder / run.name
    return _has_pictures(lab, folder) and (run.kind != "student" or (folder / FOLDED).exists())


def _has_pictures(lab: Lab, folder: Path) -> bool:
    """Whether a folder has its pictures, with what they are near to if a network can tell."""
    path = folder / SAMPLES
    return path.exists() and (lab.looks is None or "nearest" in files.read_arrays(path))


def _evaluate_real(lab: Lab) -> None:
    """The test set's own scores, the ceiling: of as many images as a generator draws, if it can.

    Every score but the sharpness depends on their number.
    """
    folder = lab.folder / "reference"
    if not _has_pictures(lab, folder):
        grid = np.asarray(lab.split("test").pixels[: sampling.GRID_SIDE**2])
        files.write_arrays(folder / SAMPLES, grid=grid, **lab.nearest(grid))
    if (folder / "scores.json").exists():
        return
    test, evaluation = lab.split("test"), lab.config.evaluation
    places = summaries.chosen(len(test.pixels), evaluation.samples)
    pixels, count = test.pixels[places], len(places)
    batches = functools.partial(evaluate.in_batches, pixels, evaluation.batch_size)
    values = evaluate.scores(batches, lab.references, count=count)
    made = _made(lab, count) | {"images": test.key}
    files.write_json(folder / "scores.json", {"scores": values, "made": made})


def _evaluate_run(lab: Lab, run: Run) -> None:
    folder, drawer = lab.folder / run.name, lab.drawer(run)
    stored = {precision: rounded(*drawer, precision) for precision in PRECISIONS}
    values, *lossy = values_of(lab, run, [drawer, *(stored[p][:2] for p in LOSSY)])
    if run.kind == "student":
        values |= _pixel_errors_elsewhere(lab, run, drawer)
    precisions: dict[str, dict[str, Any]] = {p: {"bytes": stored[p][2]} for p in PRECISIONS}
    for precision, scores in zip(LOSSY, lossy, strict=True):
        precisions[precision]["scores"] = scores
    _keep_pictures(lab, run, drawer)
    made = _made(lab, lab.config.evaluation.samples)
    made["latents_seed"] = lab.config.evaluation.seed
    # Last, since it marks the run as scored.
    written = {"scores": values, "made": made, "precisions": precisions}
    files.write_json(folder / "scores.json", written)


def _keep_pictures(lab: Lab, run: Run, drawer: evaluate.Drawer) -> None:
    folder, pictures = lab.folder / run.name, evaluate.samples(drawer)
    files.write_arrays(folder / SAMPLES, **pictures, **lab.nearest(pictures["grid"]))
    if run.kind == "student":
        files.write_arrays(folder / FOLDED, **evaluate.folded(drawer))


def values_of(lab: Lab, run: Run, drawers: list[evaluate.Drawer]) -> list[dict[str, float]]:
    """The report's scores of a run's generator in each of its forms, on the same latents."""
    seed = lab.config.evaluation.seed
    # Of lower precisions one judge is told: what changes shows there.
    told = [lab.references, *[lab.references[:1]] * (len(drawers) - 1)]
    values = [_scores(lab, d, seed, references=r) for d, r in zip(drawers, told, strict=True)]
    if run.kind == "student":
        errors = evaluate.pixel_errors(drawers, lab.drawn_teacher.drawer, seed, **_sizes(lab))
        values = [v | {"pixel_error": e} for v, e in zip(values, errors, strict=True)]
    return values


def _pixel_errors_elsewhere(lab: Lab, run: Run, student: evaluate.Drawer) -> dict[str, float]:
    """How well the student copies its teacher on latents of its training, and on paths."""
    teacher, size = lab.drawn_teacher.drawer, lab.config.evaluation.batch_size
    places = {
        "pixel_error_seen": _seen_latents(lab.member(run), sampling.PATH_STEPS * size),
        "pixel_error_between": sampling.path_latents(student[0].latent, paths=size),
    }
    return {
        name: evaluate.pixel_error_on(student, teacher, latents, batch_size=size)
        for name, latents in places.items()
    }


def _seen_latents(member: Member, count: int) -> Float[Array, "n z"]:
    """Latents of a run's last steps."""
    recipe = member.spec.recipe
    sizes = {"critic_steps": recipe.critic_steps, "batch": recipe.batch_size}
    last = [
        draw(
            member.stream,
            jnp.asarray((recipe.steps - 1 - k) % recipe.steps),
            latent=member.spec.generator.latent,
            **sizes,
        ).latents[-1]
        for k in range(-(-count // recipe.batch_size))
    ]
    return jnp.concatenate(last)[:count]


def _scores(
    lab: Lab, drawer: evaluate.Drawer, seed: int, *, references: list[tuple[Extractor, Summary]]
) -> dict[str, float]:
    sizes = _sizes(lab)
    batches = functools.partial(evaluate.drawn, drawer, seed, **sizes)
    return evaluate.scores(batches, references, count=sizes["count"])


def _sizes(lab: Lab) -> dict[str, int]:
    evaluation = lab.config.evaluation
    return {"count": evaluation.samples, "batch_size": evaluation.batch_size}


def _made(lab: Lab, count: int) -> dict[str, object]:
    """How a score was made."""
    made: dict[str, object] = {"samples": count, "versions": evaluate.versions()}
    if lab.references:
        made["reference"] = lab.train.key
        made["reference_samples"] = len(lab.train.pixels)
        made["networks"] = {x.name: x.about for x, _ in lab.references}
    for judge in lab.judges:
        end = "" if judge.kind == "classifier" else f"_{judge.kind}"
        made[f"weights{end}"] = f"sha256:{judge.weights}"
        made[f"{judge.kind}_accuracy"] = judge.accuracy
    return made
