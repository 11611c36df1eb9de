"""Evaluation of a study: teacher selection, scores and samples of runs, Inception layers."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.config.constants import LOSSY_PRECISIONS, PRECISIONS
from gankd_jax.evaluation import inference, reference_stats, scoring
from gankd_jax.interop import pair_table
from gankd_jax.interop.pair_table import PairTable
from gankd_jax.metrics import registry
from gankd_jax.metrics.feature_stats import (
    FeatureExtractor,
    FeatureStats,
    compare_stats,
    compute_stats,
)
from gankd_jax.models import sampling
from gankd_jax.models.family import is_in_family
from gankd_jax.models.folding import quantize_generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import plan, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_step import sample_noise
from gankd_jax.utils import atomic_io, metric_writer, preemption

logger = logging.getLogger(__name__)

SAMPLES_FILE, FOLDED_FILE = "samples.npz", "folded.npz"
KINDS_IN_PAGE = ("teacher", "student")  # their generators run in the report's page
SELECTION_METRIC = registry.metric_key(registry.FRECHET_DISTANCE, registry.CLASSIFIER)


def select_teacher(context: StudyContext) -> None:
    """Selects the teacher with the smallest Fréchet distance to the validation images.

    Writes teacher.json once all candidates have ended; does nothing before, if all have failed, or
    if the file exists.
    """
    path = context.workdir / "teacher.json"
    state = context.workdir, context.config
    candidates = plan.teacher_runs(context.config)
    trained = [run for run in candidates if workdir.is_trained(*state, run)]
    failed = [run for run in candidates if workdir.has_failed_for_good(*state, run)]
    if path.exists() or not trained or len(trained) + len(failed) < len(candidates):
        return
    if len(candidates) == 1:
        atomic_io.write_json(path, {"run": trained[0].name, "chosen_by": "the only candidate"})
        return
    distances = {run.name: _validation_distance(context, run) for run in trained}
    selection = {
        "run": min(distances, key=distances.__getitem__),
        "chosen_by": f"{SELECTION_METRIC} on validation",
        "candidates": distances,
    }
    atomic_io.write_json(path, selection)


def _validation_distance(context: StudyContext, run: Run) -> float:
    """Returns a teacher's `SELECTION_METRIC` against the validation images.

    The latents are other ones than those of the reported scores, which selection would bias.
    """
    classifier, _ = context.compute_reference_stats()[0]
    validation = context.load_or_compute_stats(context.load_split("validation"), classifier)
    seed = context.config.evaluation.seed + 1
    generator = context.load_generator(run)
    scores = _score(context, generator, seed, [(classifier, validation)])
    return scores.values[SELECTION_METRIC]


def evaluate_runs(context: StudyContext, runs: Sequence[Run]) -> None:
    """Scores the runs that are trained and not scored, and generates missing samples.

    Args:
        context: The study.
        runs: Those that are not trained are skipped.
    """
    context.compute_reference_stats()  # trains the classifiers, if this is the first study
    if context.has_data:
        _evaluate_test_images(context)
    for run in runs:
        preemption.raise_if_requested()
        if not workdir.is_trained(context.workdir, context.config, run):
            continue
        if not workdir.is_scored(context.workdir, run):
            logger.info("scoring %s", run.name)
            _evaluate_run(context, run)
        elif not _has_all_samples(context, run):
            logger.info("generating samples of %s", run.name)
            _write_samples(context, run, context.load_generator(run))


def _has_all_samples(context: StudyContext, run: Run) -> bool:
    """Whether the files that the report shows exist: samples, and the weights for the page."""
    folder = context.workdir / run.name
    return _has_samples(context, folder) and (
        run.kind not in KINDS_IN_PAGE or (folder / FOLDED_FILE).exists()
    )


def _has_samples(context: StudyContext, folder: Path) -> bool:
    """Whether the samples exist, with their nearest training images if a network can find them."""
    path = folder / SAMPLES_FILE
    return path.exists() and (
        context.nn_extractor() is None or "nearest" in atomic_io.read_own_npz(path)
    )


def _evaluate_test_images(context: StudyContext) -> None:
    """Scores the test images, the best that a generator could reach.

    As many images are used as are sampled from a generator, if there are so many: every metric but
    the sharpness depends on their number.
    """
    folder, evaluation = context.workdir / "reference", context.config.evaluation
    if not _has_samples(context, folder):
        grid = np.asarray(context.test_images.pixels[: sampling.GRID_SIDE**2])
        nearest = context.find_nearest_training_images(grid)
        atomic_io.write_npz(folder / SAMPLES_FILE, grid=grid, **nearest)
    if (folder / "scores.json").exists():
        return
    test = context.test_images
    indices = reference_stats.subset_indices(len(test.pixels), evaluation.samples)
    pixels, count = test.pixels[indices], len(indices)
    batches = functools.partial(inference.iterate_batches, pixels, evaluation.batch_size)
    scores = scoring.compute_scores(batches, context.compute_reference_stats(), count=count)
    provenance = _describe_provenance(context, count) | {"images": test.key}
    results = {"scores": scores.values, "made": provenance, **_class_shares(scores)}
    atomic_io.write_json(folder / "scores.json", results)


def _evaluate_run(context: StudyContext, run: Run) -> None:
    """Scores a run in every precision and generates its samples."""
    folder, generator = context.workdir / run.name, context.load_generator(run)
    # A given teacher that is a function has no weights that could be rounded.
    precisions_of_run = PRECISIONS if is_in_family(generator.module) else ()
    quantized = {p: quantize_generator(generator, p) for p in precisions_of_run}
    lossy = {p: quantized[p][0] for p in precisions_of_run if p in LOSSY_PRECISIONS}
    image_scores, *lossy_scores = score_generators(context, run, [generator, *lossy.values()])
    scores = image_scores.values
    for extractor, _ in context.compute_reference_stats():
        scores |= _path_length(context, generator, extractor)
    if run.kind == "student":
        scores |= _other_pixel_errors(context, run, generator)
    precisions: dict[str, dict[str, Any]] = {p: {"bytes": b} for p, (_, b) in quantized.items()}
    for precision, lossy_score in zip(lossy, lossy_scores, strict=True):
        precisions[precision]["scores"] = lossy_score.values
    _write_samples(context, run, generator)
    evaluation = context.config.evaluation
    provenance = _describe_provenance(context, evaluation.samples)
    provenance["latents_seed"] = evaluation.seed
    if evaluation.ppl_samples:
        provenance["ppl_samples"] = evaluation.ppl_samples
    # Last, because this file marks the run as scored.
    results = {"scores": scores, "made": provenance, "precisions": precisions}
    atomic_io.write_json(folder / "scores.json", results | _class_shares(image_scores))
    _log_scores(context, run, scores)


def _log_scores(context: StudyContext, run: Run, scores: dict[str, float]) -> None:
    """Gives scores that are in a file to the writers of the run."""
    step = max(workdir.checkpoint_steps(context.workdir, run), default=0)
    settings = context.writer_settings(run)
    metric_writer.write_scores(context.workdir / run.name, settings, step, scores)


def _path_length(
    context: StudyContext, generator: TrainedGenerator, extractor: FeatureExtractor
) -> dict[str, float]:
    """Returns a generator's perceptual path length, if it is asked for; a table has no paths."""
    evaluation = context.config.evaluation
    if not evaluation.ppl_samples or isinstance(generator.module, PairTable):
        return {}
    return scoring.path_length(generator, extractor, evaluation.seed, count=evaluation.ppl_samples)


def _class_shares(scores: scoring.ImageScores) -> dict[str, tuple[float, ...]]:
    """Returns the entry of scores.json with the part of each class; none without classes."""
    return {"class_shares": scores.class_shares} if scores.class_shares else {}


def _write_samples(context: StudyContext, run: Run, generator: TrainedGenerator) -> None:
    folder, given_teacher = context.workdir / run.name, context.load_given_teacher()
    is_student, latents = run.kind == "student", sampling.grid_latents(generator.latent_dim)
    rows = pair_table.take_rows(generator, given_teacher) if is_student else generator
    samples = scoring.report_samples(rows)
    if given_teacher and isinstance(given_teacher.module, PairTable):
        del samples["interpolation"]  # a table has nothing between its rows
        latents = given_teacher.module.row_latents(given_teacher.variables, latents)
    nearest = context.find_nearest_training_images(samples["grid"])
    atomic_io.write_npz(folder / SAMPLES_FILE, **samples, **nearest)
    if run.kind in KINDS_IN_PAGE:
        folded = scoring.folded_arrays(generator) | {"latents": np.asarray(latents)}
        atomic_io.write_npz(folder / FOLDED_FILE, **folded)


def score_generators(
    context: StudyContext, run: Run, generators: list[TrainedGenerator]
) -> list[scoring.ImageScores]:
    """Computes the report's metrics of a run's generator and of its quantized forms.

    Args:
        context: The study.
        run: The run; a student is also compared with its teacher.
        generators: The generator, then its quantized forms.  All get the same latents.

    Returns:
        The scores of each generator.
    """
    references, seed = context.compute_reference_stats(), context.config.evaluation.seed
    if run.kind == "student":
        teacher = context.load_teacher().trained_generator
        generators = [pair_table.take_rows(generator, teacher) for generator in generators]
    # The first classifier is enough to show what quantization changes.
    used_references = [references, *[references[:1]] * (len(generators) - 1)]
    scores = [
        _score(context, generator, seed, used)
        for generator, used in zip(generators, used_references, strict=True)
    ]
    if run.kind == "student":
        errors = scoring.pixel_errors(generators, teacher, seed, **_sample_sizes(context))
        for score, error in zip(scores, errors, strict=True):
            score.values["pixel_error"] = error
    return scores


def _other_pixel_errors(
    context: StudyContext, run: Run, student: TrainedGenerator
) -> dict[str, float]:
    """Computes a student's pixel errors on latents of its training and between latents."""
    teacher = context.load_teacher().trained_generator
    size = context.config.evaluation.batch_size
    teacher = TrainedGenerator(pair_table.for_training(teacher.module), teacher.variables)
    count = sampling.INTERPOLATION_STEPS * size
    latents_by_metric = {
        "pixel_error_seen": _last_training_latents(context.make_run_spec(run), count)
    }
    if not isinstance(teacher.module, PairTable):  # which has nothing between its rows
        between = sampling.interpolation_latents(student.latent_dim, paths=size)
        latents_by_metric["pixel_error_between"] = between
    student = pair_table.take_rows(student, teacher)
    return {
        name: scoring.pixel_error_on(student, teacher, latents, batch_size=size)
        for name, latents in latents_by_metric.items()
    }


def _last_training_latents(run_spec: RunSpec, count: int) -> Float[Array, "n z"]:
    """Returns `count` latents of a run's last steps, the last step's first."""
    recipe = run_spec.spec.recipe
    sizes = {"critic_steps": recipe.critic_steps, "batch_size": recipe.batch_size}
    batches = [
        sample_noise(
            run_spec.data_seed,
            jnp.asarray((recipe.steps - 1 - k) % recipe.steps),
            latent_dim=run_spec.spec.generator.latent_dim,
            **sizes,
        ).latents[-1]
        for k in range(-(-count // recipe.batch_size))
    ]
    return jnp.concatenate(batches)[:count]


def _score(
    context: StudyContext,
    generator: TrainedGenerator,
    seed: int,
    references: list[tuple[FeatureExtractor, FeatureStats]],
) -> scoring.ImageScores:
    sizes = _sample_sizes(context)
    batches = functools.partial(inference.sample_batches, generator, seed, **sizes)
    return scoring.compute_scores(batches, references, count=sizes["count"])


def _sample_sizes(context: StudyContext) -> dict[str, int]:
    evaluation = context.config.evaluation
    return {"count": evaluation.samples, "batch_size": evaluation.batch_size}


def _describe_provenance(context: StudyContext, count: int) -> dict[str, object]:
    """Returns how scores are computed: number of images, versions, reference set, classifiers."""
    provenance: dict[str, object] = {"samples": count, "versions": scoring.library_versions()}
    references = context.compute_reference_stats()
    if references:
        provenance["reference"] = context.train_images.key
        provenance["reference_samples"] = len(context.train_images.pixels)
        provenance["networks"] = {x.name: x.description for x, _ in references}
    for classifier in context.load_or_train_classifiers():
        suffix = "" if classifier.kind == registry.CLASSIFIER else f"_{classifier.kind}"
        provenance[f"weights{suffix}"] = f"sha256:{classifier.weights_sha256}"
        provenance[f"{classifier.kind}_accuracy"] = classifier.accuracy
    return provenance


def evaluate_inception_layers(context: StudyContext, runs: Sequence[Run]) -> None:
    """Computes the metrics at `evaluation.layers` of the FID network that are missing.

    Args:
        context: The study.
        runs: Those that are not trained are skipped.
    """
    if not workdir.has_layer_scores(context.workdir / "reference", context.config):
        logger.info("scoring the test images by the FID network")
        _write_layer_scores(context, "reference", _inception_stats_of_test_images(context), {})
    for run in runs:
        preemption.raise_if_requested()
        is_trained = workdir.is_trained(context.workdir, context.config, run)
        if is_trained and not workdir.has_layer_scores(context.workdir / run.name, context.config):
            logger.info("scoring %s by the FID network", run.name)
            assert context.inception_extractor
            generator = context.load_generator(run)
            stats = _inception_stats_of_run(context, run, generator)
            length = _path_length(context, generator, context.inception_extractor)
            _log_scores(context, run, _write_layer_scores(context, run.name, stats, length))


def _inception_stats_of_test_images(context: StudyContext) -> FeatureStats:
    assert context.inception_extractor
    return context.load_or_compute_stats(
        context.test_images, context.inception_extractor, _layer_samples(context)
    )


def _inception_stats_of_run(
    context: StudyContext, run: Run, generator: TrainedGenerator
) -> FeatureStats:
    assert context.inception_extractor
    if run.kind == "student":
        generator = pair_table.take_rows(generator, context.load_given_teacher())
    evaluation, extractor = context.config.evaluation, context.inception_extractor
    count = _layer_samples(context) or evaluation.samples
    images = inference.sample_batches(
        generator, evaluation.seed, count=count, batch_size=extractor.batch_size
    )
    return compute_stats(images, extractor, count=count)


def _layer_samples(context: StudyContext) -> int | None:
    """Returns the number of images of each set; None for all."""
    return context.config.evaluation.layer_samples or None


def _write_layer_scores(
    context: StudyContext, name: str, stats: FeatureStats, path_length: dict[str, float]
) -> dict[str, float]:
    """Writes metrics against the training images; keeps those of other layers, and returns all."""
    assert context.inception_extractor
    evaluation, path = context.config.evaluation, context.workdir / name / workdir.LAYERS_FILE
    reference = context.load_or_compute_stats(
        context.train_images, context.inception_extractor, _layer_samples(context)
    )
    provenance: dict[str, Any] = {
        "samples": stats.count,
        "reference": context.train_images.key,
        "reference_samples": reference.count,
        "layer_samples": evaluation.layer_samples,
        "network": context.inception_extractor.description,
        "versions": scoring.library_versions(),
    }
    scores = compare_stats(stats, reference) | path_length
    layers = set(evaluation.layers)
    previous = atomic_io.read_json(path) if path.exists() else {"made": {}}
    if provenance == {k: v for k, v in previous["made"].items() if k != "layers"}:
        scores, layers = previous["scores"] | scores, layers | set(previous["made"]["layers"])
    provenance["layers"] = sorted(layers, key=int)
    atomic_io.write_json(path, {"scores": scores, "made": provenance})
    return scores
