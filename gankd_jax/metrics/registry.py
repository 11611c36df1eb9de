"""Registry of metrics: the key of each in score files, its label, and which way it is better.

Imports no JAX, so that reports can read it.  Keys are composed here and parsed nowhere.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from gankd_jax.utils.errors import UserError

CLASSIFIER = "classifier"  # the study's own classifier
RESNET = "resnet"  # the second classifier, which nothing is selected by
CLASSIFIERS = (CLASSIFIER, RESNET)
# Pooled layers of the FID network, by width; FID proper is by the first.
INCEPTION_LAYERS = ("2048", "1280", "768", "192", "64")
FID_LAYER = INCEPTION_LAYERS[0]
FRECHET_DISTANCE, INCEPTION_SCORE, KID, SHARPNESS, PATH_LENGTH = (
    "frechet_distance",
    "inception_score",
    "kid",
    "sharpness",
    "ppl",
)
CLASS_DIVERGENCE, UNSURE_SHARE = "class_divergence", "unsure_share"
UNSURE_BELOW = 0.5  # probability of the likeliest class

_FRECHET = "Fréchet distance of the features of the images from those of the reference set"

FeatureFunction = Callable[[np.ndarray, np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of a generator or of a set of images.

    Attributes:
        key: Its name in scores.json, such as `fd_classifier`.
        name: What is measured, whatever the network, such as `frechet_distance` or `kid`.
        network: The feature extractor: one of `CLASSIFIERS` or of `INCEPTION_LAYERS`; "" where no
            network is involved.
        better: "higher", "lower", or "" where neither is better in itself.
        label: Its name in reports.
        about: What it measures, for a note below a table.
        main: Whether summaries speak of it; reports show the others after these.
        students_only: Whether it compares a student with its teacher.
        deviation: Whether it is the standard deviation of another metric over subsets of images.
    """

    key: str
    name: str
    network: str = ""
    better: str = ""
    label: str = ""
    about: str = ""
    main: bool = False
    students_only: bool = False
    deviation: bool = False

    @property
    def title(self) -> str:
        """The label and which way is better."""
        return f"{self.label} ({self.better} is better)" if self.better else self.label


def metric_key(name: str, network: str) -> str:
    """Returns the key of a metric by a network's features in score files.

    The usual networks have the plain names: "fid" and "kid" are by the 2048-wide Inception layer,
    "inception_score" is by the study's classifier.  Other networks are appended: "fd_768",
    "kid_classifier", "inception_score_resnet".  Perceptual path lengths always name the network,
    since the published ones are by another one: "ppl_classifier", "ppl_2048".

    Args:
        name: `Metric.name`, or that of a deviation, such as "kid_sd".
        network: `Metric.network`, or the name of any other layer of a `FeatureExtractor`.
    """
    if name == FRECHET_DISTANCE:
        return "fid" if network == FID_LAYER else f"fd_{network}"
    if name == PATH_LENGTH:
        return f"{name}_{network}"
    plain_network = CLASSIFIER if name in _CLASSIFIER_METRICS else FID_LAYER
    return name if network == plain_network else f"{name}_{network}"


def deviation_name(name: str) -> str:
    """Returns the name of a metric's standard deviation over subsets of images."""
    return f"{name}_sd"


_CLASSIFIER_METRICS = (
    *(INCEPTION_SCORE, deviation_name(INCEPTION_SCORE)),
    *(CLASS_DIVERGENCE, UNSURE_SHARE),
)
# Metrics of a network's features, beside the Fréchet distance.
_FEATURE_METRICS = {
    KID: ("lower", "KID", "kernel distance of the features (cubic, unbiased, may be below 0)"),
    "precision": ("higher", "Precision", "share of generated images that look real"),
    "recall": ("higher", "Recall", "share of real images that the generator can make"),
    "density": ("higher", "Density", "precision, counted by the number of real neighbours"),
    "coverage": ("higher", "Coverage", "share of real images with a generated neighbour"),
}


def _inception_scores() -> list[Metric]:
    texts = {
        CLASSIFIER: (
            "Inception Score",
            "exp of the mean divergence of the classifier's class probabilities from their average;"
            " highest where each image is sure of its class and the classes are equally frequent",
        ),
        RESNET: (
            "Inception Score by the second classifier",
            "the same by a residual network that nothing was selected by",
        ),
    }
    return [
        Metric(
            metric_key(INCEPTION_SCORE, network),
            INCEPTION_SCORE,
            network,
            "higher",
            label,
            about,
            main=True,
        )
        for network, (label, about) in texts.items()
    ]


def _class_metrics() -> list[Metric]:
    """Returns what an Inception Score hides, by each classifier: rare classes, unsure images."""
    texts = {
        CLASS_DIVERGENCE: (
            "Divergence of the classes",
            "divergence of the generated images' class shares from those of the real images; 0 if"
            " the classes are as frequent",
        ),
        UNSURE_SHARE: (
            "Share of unsure images",
            f"part of the images whose likeliest class has a probability below {UNSURE_BELOW}",
        ),
    }
    metrics = []
    for network in CLASSIFIERS:
        of_second = "" if network == CLASSIFIER else " by the second classifier"
        for name, (label, about) in texts.items():
            key = metric_key(name, network)
            label = f"{label}{of_second}"
            metrics.append(Metric(key, name, network, "lower", label, about, main=not of_second))
    return metrics


def _frechet_distances() -> list[Metric]:
    layers = {layer: f"{layer}-wide layer" for layer in INCEPTION_LAYERS[1:]}
    labels = {layer: f"Fréchet distance, {text}" for layer, text in layers.items()}
    about = {layer: f"{text} of the Inception network" for layer, text in layers.items()}
    labels |= {
        FID_LAYER: "FID",
        CLASSIFIER: "Fréchet distance, classifier features",
        RESNET: "Fréchet distance, second classifier's features",
    }
    about |= {
        FID_LAYER: "2048-wide pool of the Inception network",
        CLASSIFIER: "last hidden layer of the study's own classifier; not comparable with FID",
        RESNET: "last hidden layer of a residual network that nothing was selected by",
    }
    return [
        Metric(
            metric_key(FRECHET_DISTANCE, network),
            FRECHET_DISTANCE,
            network,
            "lower",
            labels[network],
            f"{_FRECHET}, {about[network]}",
            main=True,
        )
        for network in (*INCEPTION_LAYERS, *CLASSIFIERS)
    ]


def _feature_metrics(networks: Iterable[str]) -> list[Metric]:
    """Returns the metrics of `_FEATURE_METRICS` by each network; those by FID's layer are main."""
    metrics = []
    for network in networks:
        is_fid = network == FID_LAYER
        for name, (better, label, about) in _FEATURE_METRICS.items():
            key = metric_key(name, network)
            if not is_fid:
                label, about = f"{label}, {network} features", f"{about}, by {network} features"
            metrics.append(Metric(key, name, network, better, label, about, main=is_fid))
    return metrics


def _pixel_errors() -> list[Metric]:
    texts = {
        "pixel_error": (
            "Pixel error to the teacher",
            "mean square of the difference from the teacher's image of the same latent, per number"
            " of an image, black -1 and white 1, on latents never trained on",
        ),
        "pixel_error_seen": (
            "Pixel error on latents of the training",
            "the same on the latents of the last training steps: far below the one on fresh"
            " latents, it would mean that latents were memorised",
        ),
        "pixel_error_between": (
            "Pixel error between latents",
            "the same along great circles between pairs of fresh latents",
        ),
    }
    return [
        Metric(key, key, "", "lower", label, about, main=True, students_only=True)
        for key, (label, about) in texts.items()
    ]


def _path_lengths() -> list[Metric]:
    return [
        Metric(
            metric_key(PATH_LENGTH, network),
            PATH_LENGTH,
            network,
            "lower",
            f"Perceptual path length, {network} features",
            f"mean square of the way in {network} features for a step of the latent on a great"
            " circle; not comparable with lengths by LPIPS",
        )
        for network in (*CLASSIFIERS, *INCEPTION_LAYERS)
    ]


def _deviations() -> list[Metric]:
    return [
        Metric(metric_key(name, network), name, network, label=name, deviation=True)
        for name, networks in (
            (deviation_name(INCEPTION_SCORE), CLASSIFIERS),
            (deviation_name(KID), (*CLASSIFIERS, *INCEPTION_LAYERS)),
        )
        for network in networks
    ]


def _all_metrics() -> list[Metric]:
    """Returns the metrics in the order of a report: the main ones, then the others by key."""
    inception_score, *other_scores = _inception_scores()
    frechet = _frechet_distances()
    fid, classifier, resnet = frechet[: len(INCEPTION_LAYERS)], *frechet[len(INCEPTION_LAYERS) :]
    sharpness = Metric(
        SHARPNESS,
        SHARPNESS,
        label="Sharpness (variance of the Laplacian)",
        about="a blurred generator lies below the real images, a noisy one above them; neither is"
        " good",
        main=True,
    )
    class_metrics = _class_metrics()
    main_class_metrics = [metric for metric in class_metrics if metric.main]
    main = [
        *(inception_score, *fid, classifier, *main_class_metrics, *other_scores, resnet),
        *_feature_metrics([FID_LAYER]),
    ]
    others = [
        *(metric for metric in class_metrics if not metric.main),
        *_feature_metrics((*CLASSIFIERS, *INCEPTION_LAYERS[1:])),
    ]
    return [
        *main,
        *_pixel_errors(),
        sharpness,
        *sorted(others, key=lambda metric: metric.key),
        *_path_lengths(),
        *_deviations(),
    ]


METRICS: dict[str, Metric] = {}  # by key, in the order of a report
# Metrics that users register, by `Metric.name`: functions of the features of generated images and
# of those of real ones.
FEATURE_FUNCTIONS: dict[str, FeatureFunction] = {}


def register_metric(
    name: str, *, better: str = "", label: str = "", about: str = ""
) -> Callable[[FeatureFunction], FeatureFunction]:
    """Registers a function of features as a metric: every evaluation computes it and shows it.

    It is computed for the widest layer of each evaluation network.  Its keys are `NAME_classifier`
    for the study's classifier, `NAME_resnet`, `NAME_768` and the like, and `NAME` for the layer of
    FID.  The function takes the features `[n, f]` of generated images and `[m, f]` of real ones, at
    most 10,000 of each, as NumPy arrays; it returns a number.

    Args:
        name: A new name.
        better: "higher", "lower", or "" where neither is better in itself.
        label: Its name in reports; "": `name`.
        about: What it measures, for a note below a table.

    Returns:
        A decorator, which leaves the function as it is.

    Raises:
        UserError: The name, or one of its keys, is taken.

    Example:
        >>> import gankd_jax
        >>> import numpy as np
        >>> @gankd_jax.register_metric("distance_of_means", better="lower")
        ... def distance_of_means(fake_features, real_features):
        ...     return np.linalg.norm(fake_features.mean(axis=0) - real_features.mean(axis=0))
    """
    keys = {metric_key(name, network): network for network in (*CLASSIFIERS, *INCEPTION_LAYERS)}
    names = {name, *(METRICS[key].name for key in keys if key in METRICS)}
    taken = names & {metric.name for metric in METRICS.values()}

    def register(function: FeatureFunction) -> FeatureFunction:
        if any(source_of(FEATURE_FUNCTIONS.get(n)) != source_of(function) for n in taken):
            raise UserError(f"a metric named {name!r} is registered already; choose another name")
        FEATURE_FUNCTIONS[name] = function
        for key, network in keys.items():
            text = f"{label or name}, {network} features"
            add_metric(Metric(key, name, network, better, text, about, main=network == CLASSIFIER))
        return function

    return register


def source_of(function: object) -> tuple[object, object]:
    """Returns where a function is defined; the same when its file or cell is executed again.

    Args:
        function: A function, or None.
    """
    return getattr(function, "__module__", None), getattr(function, "__qualname__", function)


def add_metric(metric: Metric) -> Metric:
    """Adds a metric to `METRICS`, behind the others; replaces the one of the same key.

    Registered metrics have a label, a better side and a place in reports.  Others are shown too, by
    their key alone.

    Args:
        metric: Its `key` is the one under which scores.json holds the values.

    Returns:
        The metric.
    """
    METRICS[metric.key] = metric
    return metric


def get_metric(key: str) -> Metric:
    """Returns the metric of that key; a plain one, of which neither way is better, if unknown."""
    return METRICS.get(key) or Metric(key, key, label=key)


for _metric in _all_metrics():
    add_metric(_metric)
