"""What the judges score: trained runs, real images, the teacher's candidates; and its pictures."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.evaluation import inference, reference_stats, scoring
from gankd_jax.metrics.feature_stats import (
    FeatureExtractor,
    FeatureStats,
    compare_stats,
    compute_stats,
)
from gankd_jax.models import sampling
from gankd_jax.models.folding import quantize_generator
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_step import sample_noise
from gankd_jax.utils import atomic_io, preemption
from gankd_jax.utils.constants import LOSSY_PRECISIONS, PRECISIONS
from gankd_jax.utils.progress import log_info

SAMPLES, FOLDED = "samples.npz", "folded.npz"


def select_teacher(lab: StudyContext) -> None:
    """Name the candidate whose images lie nearest to the validation images; once, then kept.

    Nobody is named before all have ended, nor if all have failed: baselines need no teacher.
    """
    path = lab.folder / "teacher.json"
    candidates = plan.teacher_runs(lab.config)
    finished = [r for r in candidates if workdir.is_trained(lab.folder, lab.config, r)]
    failed = [r for r in candidates if workdir.has_failed_for_good(lab.folder, lab.config, r)]
    if path.exists() or not finished or len(finished) + len(failed) < len(candidates):
        return
    if len(candidates) == 1:
        atomic_io.write_json(path, {"run": finished[0].name, "chosen_by": "the only candidate"})
        return
    distances = {run.name: _validation_distance(lab, run) for run in finished}
    best = min(distances, key=distances.__getitem__)
    chosen = {"run": best, "chosen_by": "fd_classifier on validation", "candidates": distances}
    atomic_io.write_json(path, chosen)


def _validation_distance(lab: StudyContext, run: Run) -> float:
    """fd_classifier between a teacher's images, on latents of their own, and validation images."""
    seed, (judge, _) = lab.config.evaluation.seed + 1, lab.references[0]
    real = [(judge, lab.summary(lab.split("validation"), judge))]
    return _scores(lab, lab.drawer(run), seed, references=real)["fd_classifier"]


def evaluate_runs(lab: StudyContext, wanted: Sequence[Run]) -> None:
    """Score those of the runs that are trained and not scored; draw what their report lacks."""
    _evaluate_real(lab)
    for run in wanted:
        preemption.raise_if_requested()
        if not workdir.is_trained(lab.folder, lab.config, run):
            continue
        if not workdir.is_scored(lab.folder, run):
            log_info(f"scoring {run.name}")
            _evaluate_run(lab, run)
        elif not _is_drawn(lab, run):
            log_info(f"drawing {run.name}")
            _keep_pictures(lab, run, lab.drawer(run))


def _is_drawn(lab: StudyContext, run: Run) -> bool:
    """Whether all that the report shows of a run is there; of a student also what draws in it."""
    folder = lab.folder / run.name
    return _has_pictures(lab, folder) and (run.kind != "student" or (folder / FOLDED).exists())


def _has_pictures(lab: StudyContext, folder: Path) -> bool:
    """Whether a folder has its pictures, with what they are near to if a network can tell."""
    path = folder / SAMPLES
    return path.exists() and (lab.looks is None or "nearest" in atomic_io.read_npz(path))


def _evaluate_real(lab: StudyContext) -> None:
    """The test set's own scores, the ceiling: of as many images as a generator draws, if it can.

    Every score but the sharpness depends on their number.
    """
    folder = lab.folder / "reference"
    if not _has_pictures(lab, folder):
        grid = np.asarray(lab.split("test").pixels[: sampling.GRID_SIDE**2])
        atomic_io.write_npz(folder / SAMPLES, grid=grid, **lab.nearest(grid))
    if (folder / "scores.json").exists():
        return
    test, evaluation = lab.split("test"), lab.config.evaluation
    places = reference_stats.subset_indices(len(test.pixels), evaluation.samples)
    pixels, count = test.pixels[places], len(places)
    batches = functools.partial(inference.iterate_batches, pixels, evaluation.batch_size)
    values = scoring.compute_scores(batches, lab.references, count=count)
    made = _made(lab, count) | {"images": test.key}
    atomic_io.write_json(folder / "scores.json", {"scores": values, "made": made})


def _evaluate_run(lab: StudyContext, run: Run) -> None:
    folder, drawer = lab.folder / run.name, lab.drawer(run)
    stored = {precision: quantize_generator(drawer, precision) for precision in PRECISIONS}
    values, *lossy = score_generators(lab, run, [drawer, *(stored[p][0] for p in LOSSY_PRECISIONS)])
    if run.kind == "student":
        values |= _pixel_errors_elsewhere(lab, run, drawer)
    precisions: dict[str, dict[str, Any]] = {p: {"bytes": stored[p][1]} for p in PRECISIONS}
    for precision, scores in zip(LOSSY_PRECISIONS, lossy, strict=True):
        precisions[precision]["scores"] = scores
    _keep_pictures(lab, run, drawer)
    made = _made(lab, lab.config.evaluation.samples)
    made["latents_seed"] = lab.config.evaluation.seed
    # Last, since it marks the run as scored.
    written = {"scores": values, "made": made, "precisions": precisions}
    atomic_io.write_json(folder / "scores.json", written)


def _keep_pictures(lab: StudyContext, run: Run, drawer: sampling.TrainedGenerator) -> None:
    folder, pictures = lab.folder / run.name, scoring.report_samples(drawer)
    atomic_io.write_npz(folder / SAMPLES, **pictures, **lab.nearest(pictures["grid"]))
    if run.kind == "student":
        atomic_io.write_npz(folder / FOLDED, **scoring.folded_arrays(drawer))


def score_generators(
    lab: StudyContext, run: Run, drawers: list[sampling.TrainedGenerator]
) -> list[dict[str, float]]:
    """The report's scores of a run's generator in each of its forms, on the same latents."""
    seed = lab.config.evaluation.seed
    # Of lower precisions one judge is told: what changes shows there.
    told = [lab.references, *[lab.references[:1]] * (len(drawers) - 1)]
    values = [_scores(lab, d, seed, references=r) for d, r in zip(drawers, told, strict=True)]
    if run.kind == "student":
        errors = scoring.pixel_errors(drawers, lab.drawn_teacher.drawer, seed, **_sizes(lab))
        values = [v | {"pixel_error": e} for v, e in zip(values, errors, strict=True)]
    return values


def _pixel_errors_elsewhere(
    lab: StudyContext, run: Run, student: sampling.TrainedGenerator
) -> dict[str, float]:
    """How well the student copies its teacher on latents of its training, and on paths."""
    teacher, size = lab.drawn_teacher.drawer, lab.config.evaluation.batch_size
    places = {
        "pixel_error_seen": _seen_latents(lab.member(run), sampling.INTERPOLATION_STEPS * size),
        "pixel_error_between": sampling.interpolation_latents(student.latent_dim, paths=size),
    }
    return {
        name: scoring.pixel_error_on(student, teacher, latents, batch_size=size)
        for name, latents in places.items()
    }


def _seen_latents(member: RunSpec, count: int) -> Float[Array, "n z"]:
    """Latents of a run's last steps."""
    recipe = member.spec.recipe
    sizes = {"critic_steps": recipe.critic_steps, "batch": recipe.batch_size}
    last = [
        sample_noise(
            member.stream,
            jnp.asarray((recipe.steps - 1 - k) % recipe.steps),
            latent=member.spec.generator.latent_dim,
            **sizes,
        ).latents[-1]
        for k in range(-(-count // recipe.batch_size))
    ]
    return jnp.concatenate(last)[:count]


def _scores(
    lab: StudyContext,
    drawer: sampling.TrainedGenerator,
    seed: int,
    *,
    references: list[tuple[FeatureExtractor, FeatureStats]],
) -> dict[str, float]:
    sizes = _sizes(lab)
    batches = functools.partial(inference.sample_batches, drawer, seed, **sizes)
    return scoring.compute_scores(batches, references, count=sizes["count"])


def _sizes(lab: StudyContext) -> dict[str, int]:
    evaluation = lab.config.evaluation
    return {"count": evaluation.samples, "batch_size": evaluation.batch_size}


def _made(lab: StudyContext, count: int) -> dict[str, object]:
    """How a score was made."""
    made: dict[str, object] = {"samples": count, "versions": scoring.library_versions()}
    if lab.references:
        made["reference"] = lab.train.key
        made["reference_samples"] = len(lab.train.pixels)
        made["networks"] = {x.name: x.about for x, _ in lab.references}
    for judge in lab.judges:
        end = "" if judge.kind == "classifier" else f"_{judge.kind}"
        made[f"weights{end}"] = f"sha256:{judge.weights}"
        made[f"{judge.kind}_accuracy"] = judge.accuracy
    return made


def evaluate_inception_layers(lab: StudyContext, wanted: Sequence[Run]) -> None:
    """Score those of the runs that are trained, and the test set, at the layers asked for."""
    if not workdir.has_layer_scores(lab.folder / "reference", lab.config):
        log_info("scoring the test images by the FID network")
        _write_layers(lab, "reference", _test_stats(lab))
    for run in wanted:
        preemption.raise_if_requested()
        trained = workdir.is_trained(lab.folder, lab.config, run)
        if trained and not workdir.has_layer_scores(lab.folder / run.name, lab.config):
            log_info(f"scoring {run.name} by the FID network")
            _write_layers(lab, run.name, _run_stats(lab, run))


def _test_stats(lab: StudyContext) -> FeatureStats:
    assert lab.inception
    return lab.summary(lab.split("test"), lab.inception, _layer_samples(lab))


def _run_stats(lab: StudyContext, run: Run) -> FeatureStats:
    assert lab.inception
    evaluation = lab.config.evaluation
    count = _layer_samples(lab) or evaluation.samples
    size = lab.inception.batch_size
    images = inference.sample_batches(
        lab.drawer(run), evaluation.seed, count=count, batch_size=size
    )
    return compute_stats(images, lab.inception, count=count)


def _layer_samples(lab: StudyContext) -> int | None:
    """Images of each side; None: all."""
    return lab.config.evaluation.layer_samples or None


def _write_layers(lab: StudyContext, name: str, found: FeatureStats) -> None:
    """Against the training images, with how it was made; other layers' scores stay."""
    assert lab.inception
    asked, path = lab.config.evaluation, lab.folder / name / workdir.LAYERS_FILE
    reference = lab.summary(lab.train, lab.inception, _layer_samples(lab))
    made = {
        "samples": found.count,
        "reference": lab.train.key,
        "reference_samples": reference.count,
        "layer_samples": asked.layer_samples,
        "network": lab.inception.about,
        "versions": scoring.library_versions(),
    }
    scores, layers = compare_stats(found, reference), set(asked.layers)
    before = atomic_io.read_json(path) if path.exists() else {"made": {}}
    if made == {k: v for k, v in before["made"].items() if k != "layers"}:
        scores, layers = before["scores"] | scores, layers | set(before["made"]["layers"])
    made["layers"] = sorted(layers, key=int)
    atomic_io.write_json(path, {"scores": scores, "made": made})
