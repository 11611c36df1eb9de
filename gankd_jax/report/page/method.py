"""What a reader of the page needs to know of its numbers: how each was made, and from what."""

import importlib.metadata
from dataclasses import dataclass

from gankd_jax.metrics.registry import INCEPTION_LAYERS, PATH_LENGTH, Metric
from gankd_jax.report.aggregate import CONFIDENCE, scored_metrics
from gankd_jax.report.formatting import format_number
from gankd_jax.report.study_results import StudyResults


@dataclass(frozen=True)
class Source:
    """Where a page comes from.

    Attributes:
        date: The day of the newest result.
        version: The version of the package that computed the scores.
        command: The command that trains the study.
    """

    date: str
    version: str
    command: str


def describe_source(study: StudyResults) -> Source:
    """Returns where the page of a study comes from."""
    versions = {run.provenance.get("versions", {}).get("gankd-jax") for run in study.runs}
    scored = ", ".join(sorted(version for version in versions if version))
    return Source(study.date, scored or importlib.metadata.version("gankd-jax"), study.command)


def describe_numbers(study: StudyResults) -> list[tuple[str, str]]:
    """Returns the name of every number of the page with a sentence on how it was made."""
    numbers = {
        "width (d)": "The channels of the generator's last hidden layer.",
        "parameters": "All trained numbers of the generator, those of batch norm included.",
        "ratio": "The teacher's parameters divided by the model's.",
        "bytes": "The bytes of the float32 weights in an exported file, batch norm folded in.",
    }
    precision = study.config.get("model", {}).get("precision")
    if precision in _PRECISIONS:
        numbers["all scores"] = (
            f"Computed in float32; the layers were trained in {_PRECISIONS[precision]}."
        )
    if study.latency:
        numbers["ms"] = f"The time for one image ({study.latency_machine})."
    for metric in scored_metrics(study):
        if metric.main and metric.about:
            numbers[metric.label] = _describe_metric(study, metric)
    return list((numbers | _COMPARISONS).items())


_PRECISIONS = {"float32": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}
_COMPARISONS = {
    "keeps": (
        "The model's mean score divided by the teacher's, or the teacher's divided by the model's"
        " where lower is better."
    ),
    "±": (
        "The standard deviation over training seeds of one teacher, so without the variation"
        " between teachers."
    ),
    "verdict": (
        "One side is called ahead only if the difference of the means exceeds half of Welch's"
        f" {100 * CONFIDENCE:.0f} % interval; with one seed nothing is claimed."
    ),
    "baseline": "A GAN of the student's width, trained on the data without the teacher.",
    "ms an image, below the student's image": (
        "The mean time of the last 60 images in your browser, without the slowest fifth."
    ),
}


def _describe_metric(study: StudyResults, metric: Metric) -> str:
    text = metric.about[:1].upper() + metric.about[1:]
    count = _count_images(study, metric)
    return f"{text}; of {count:,} images of each model." if count else f"{text}."


def _count_images(study: StudyResults, metric: Metric) -> int:
    """Returns how many images of each model a metric is computed from; 0 if it is not recorded."""
    provenance = study.teacher.provenance if study.teacher else {}
    if metric.network in INCEPTION_LAYERS:
        provenance = provenance.get("FID network", {})
    is_recorded = not metric.students_only and metric.name != PATH_LENGTH
    return provenance.get("samples", 0) if is_recorded else 0


def explain_better_than_real(study: StudyResults) -> str:
    """Returns why a teacher's distance can be below that of real images; "" if none is."""
    teacher = study.teacher
    if teacher is None:
        return ""
    for metric in scored_metrics(study):
        score, real = teacher.scores.get(metric.key), study.real_scores.get(metric.key)
        is_lower = metric.main and metric.better == "lower"
        if is_lower and score is not None and real is not None and score < real:
            return (
                f"The teacher's {metric.label} ({format_number(score)}) is below that of real test"
                f" images ({format_number(real)}). Distances are to the training images, which the"
                " teacher was trained to resemble and the test images were not."
                f"{_compare_counts(study)} So real test images are a yardstick, not a bound."
            )
    return ""


def _compare_counts(study: StudyResults) -> str:
    """Says that fewer images have a larger distance, where there are fewer real ones."""
    assert study.teacher
    real, model = study.real_provenance.get("samples"), study.teacher.provenance.get("samples")
    if not (real and model and real < model):
        return ""
    return (
        f" A distance also grows as a set gets smaller: there are {real:,} test images against"
        f" {model:,} of each model."
    )
