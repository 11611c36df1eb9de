"""What each score is called and which way it is better; its mean, spread and comparison."""

import math
import re
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How one score is to be read."""

    label: str
    better: str  # "higher", "lower", or "" where neither is better in itself
    about: str
    students_only: bool = False

    @property
    def title(self) -> str:
        """The label and which way is better."""
        return f"{self.label} ({self.better} is better)" if self.better else self.label


_FRECHET = "Fréchet distance of the features of the images from those of the reference set"

# In the order of the report; the first one that a study has is the one its summary speaks of.
SCORES = {
    "inception_score": Score(
        "Inception Score",
        "higher",
        "exp of the mean divergence of the judge's class probabilities from their average; highest "
        "where each image is sure of its class and the classes are equally frequent",
    ),
    "fid": Score("FID", "lower", f"{_FRECHET}, 2048-wide pool of the Inception network"),
    "fd_classifier": Score(
        "Fréchet distance, classifier features",
        "lower",
        f"{_FRECHET}, last hidden layer of the study's own classifier; not comparable with FID",
    ),
    "inception_score_mixer": Score(
        "Inception Score by the second classifier",
        "higher",
        "the same by an MLP-Mixer that nothing was chosen by",
    ),
    "fd_mixer": Score(
        "Fréchet distance, second classifier's features",
        "lower",
        f"{_FRECHET}, last hidden layer of an MLP-Mixer that nothing was chosen by",
    ),
    "kid": Score(
        "KID", "lower", "kernel distance of the features (cubic, unbiased, may be below 0)"
    ),
    "precision": Score("Precision", "higher", "share of generated images that look real"),
    "recall": Score("Recall", "higher", "share of real images that the generator can make"),
    "density": Score("Density", "higher", "precision, counted by the number of real neighbours"),
    "coverage": Score("Coverage", "higher", "share of real images with a generated neighbour"),
    "pixel_error": Score(
        "Pixel error to the teacher",
        "lower",
        "mean square of the difference from the teacher's image of the same latent, per number of "
        "an image, black -1 and white 1, on latents never trained on",
        students_only=True,
    ),
    "pixel_error_seen": Score(
        "Pixel error on latents of the training",
        "lower",
        "the same on the latents of the last training steps: far below the one on fresh latents, "
        "it would mean that latents were memorised",
        students_only=True,
    ),
    "pixel_error_between": Score(
        "Pixel error between latents",
        "lower",
        "the same along great circles between pairs of fresh latents",
        students_only=True,
    ),
    "sharpness": Score(
        "Sharpness (variance of the Laplacian)",
        "",
        "a blurred generator lies below the real images, a noisy one above them; neither is good",
    ),
}


def describe(key: str) -> Score:
    """Return how to read a score, also one that was not known when this was written."""
    if key in SCORES:
        return SCORES[key]
    layer = re.fullmatch(r"fd_(\d+)", key)
    if layer:
        label = f"Fréchet distance, {layer[1]}-wide layer"
        return Score(label, "lower", f"{_FRECHET}, {layer[1]}-wide layer of the Inception network")
    name, _, network = key.partition("_")
    if name in SCORES and network:  # such as precision_classifier
        known, where = SCORES[name], f"{network} features"
        return Score(f"{known.label}, {where}", known.better, f"{known.about}, by {where}")
    return Score(key, "", "")


def is_main(key: str) -> bool:
    """Whether a score is one of the few that a summary speaks of."""
    return key in SCORES or key.startswith("fd_")


def ordered(keys: set[str]) -> list[str]:
    """Sort score keys as the report shows them; deviations (`_sd`) are no scores of their own."""
    return sorted((k for k in keys if k in SCORES or not re.search(r"_sd(_|$)", k)), key=_place)


def _place(key: str) -> tuple[int, int, str]:
    """As in `SCORES`, the FID network's layers from wide to narrow where FID is, others last."""
    known = list(SCORES)
    if layer := re.fullmatch(r"fd_(\d+)", key):
        return known.index("fid"), -int(layer[1]), key
    return known.index(key) if key in SCORES else len(known), -2048, key


@dataclass(frozen=True)
class Summary:
    """One score over the seeds of a group of runs."""

    values: dict[int, float]  # by seed

    @property
    def mean(self) -> float:
        """The mean over the seeds; not a number without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def sd(self) -> float | None:
        """The standard deviation over the seeds (n - 1); None with fewer than two."""
        if len(self.values) < 2:
            return None
        squares = sum((value - self.mean) ** 2 for value in self.values.values())
        return math.sqrt(squares / (len(self.values) - 1))


@dataclass(frozen=True)
class Comparison:
    """A student against the strongest baseline of its width."""

    baseline: str  # the baseline's recipe
    difference: float  # student - baseline
    margin: float | None  # half of the difference's 95 % interval; None with one seed
    verdict: str


def compare(score: Score, student: Summary, baselines: dict[str, Summary]) -> Comparison | None:
    """Compare with the best of the baselines that have this score; None without any.

    A difference is claimed only if it is larger than the margin of Welch's 95 % interval.
    """
    scored = {name: summary for name, summary in baselines.items() if summary.values}
    if not scored or not student.values:
        return None
    sign = {"higher": 1, "lower": -1, "": 0}[score.better]  # 0: the config's first
    best = max(scored, key=lambda name: _rank(sign * scored[name].mean))
    difference = student.mean - scored[best].mean
    half = margin(student, scored[best])
    return Comparison(best, difference, half, _verdict(score, difference, half))


def _rank(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def margin(a: Summary, b: Summary) -> float | None:
    """Half the width of Welch's 95 % confidence interval of the difference of two means.

    t(0.975, nu) sqrt(va + vb) with va = sd_a^2 / n_a and nu = (va + vb)^2 / (va^2 / (n_a - 1) +
    vb^2 / (n_b - 1)) (Welch 1947).  None if either has a single seed.
    """
    if a.sd is None or b.sd is None:
        return None
    from scipy.special import stdtrit

    n, m = len(a.values), len(b.values)
    va, vb = a.sd**2 / n, b.sd**2 / m
    if va + vb == 0:
        return 0.0
    freedom = (va + vb) ** 2 / (va**2 / (n - 1) + vb**2 / (m - 1))
    return float(stdtrit(freedom, 0.975)) * math.sqrt(va + vb)


def _verdict(score: Score, difference: float, half: float | None) -> str:
    if not math.isfinite(difference):
        return "not finite"
    if half is None:
        return "one seed"
    if abs(difference) <= half:
        return "within spread"
    if not score.better:
        return "student higher" if difference > 0 else "student lower"
    return "student ahead" if (difference > 0) == (score.better == "higher") else "baseline ahead"


def share(score: Score, value: float, teacher: float) -> float | None:
    """Return the part of the teacher's score that a model keeps; 1 is all, above 1 is better.

    value / teacher, or teacher / value where lower is better; None unless both are above 0.
    """
    if not (value > 0 and teacher > 0):
        return None
    return teacher / value if score.better == "lower" else value / teacher
