"""The metrics that a study reports, as objects: label, network and which way each is better.

Imports no JAX, so that reports can read it.
"""

import dataclasses
from collections.abc import Iterable

CLASSIFIER = "classifier"  # the study's own classifier
MIXER = "mixer"  # the second classifier, which nothing is selected by
INCEPTION_LAYERS = ("2048", "768", "192", "64")  # pooled layers of the FID network, by width

_FRECHET = "Fréchet distance of the features of the images from those of the reference set"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of a generator or of a set of images.

    Attributes:
        key: Its name in scores.json, such as `fd_classifier`.
        name: What is measured, whatever the network, such as `frechet_distance` or `kid`.
        network: The feature extractor: `CLASSIFIER`, `MIXER` or one of `INCEPTION_LAYERS`; "" where
            no network is involved.
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


# What is measured on the features of a network, beside the Fréchet distance.
_FEATURE_METRICS = {
    "kid": ("lower", "KID", "kernel distance of the features (cubic, unbiased, may be below 0)"),
    "precision": ("higher", "Precision", "share of generated images that look real"),
    "recall": ("higher", "Recall", "share of real images that the generator can make"),
    "density": ("higher", "Density", "precision, counted by the number of real neighbours"),
    "coverage": ("higher", "Coverage", "share of real images with a generated neighbour"),
}


def _inception_scores() -> list[Metric]:
    name = "inception_score"
    return [
        Metric(
            name,
            name,
            CLASSIFIER,
            "higher",
            "Inception Score",
            "exp of the mean divergence of the classifier's class probabilities from their average;"
            " highest where each image is sure of its class and the classes are equally frequent",
            main=True,
        ),
        Metric(
            f"{name}_{MIXER}",
            name,
            MIXER,
            "higher",
            "Inception Score by the second classifier",
            "the same by an MLP-Mixer that nothing was selected by",
            main=True,
        ),
    ]


def _frechet_distances() -> list[Metric]:
    layers = {layer: f"{layer}-wide layer" for layer in INCEPTION_LAYERS[1:]}
    labels = {layer: f"Fréchet distance, {text}" for layer, text in layers.items()}
    about = {layer: f"{text} of the Inception network" for layer, text in layers.items()}
    labels |= {
        "2048": "FID",
        CLASSIFIER: "Fréchet distance, classifier features",
        MIXER: "Fréchet distance, second classifier's features",
    }
    about |= {
        "2048": "2048-wide pool of the Inception network",
        CLASSIFIER: "last hidden layer of the study's own classifier; not comparable with FID",
        MIXER: "last hidden layer of an MLP-Mixer that nothing was selected by",
    }
    return [
        Metric(
            "fid" if network == "2048" else f"fd_{network}",
            "frechet_distance",
            network,
            "lower",
            labels[network],
            f"{_FRECHET}, {about[network]}",
            main=True,
        )
        for network in (*INCEPTION_LAYERS, CLASSIFIER, MIXER)
    ]


def _feature_metrics(networks: Iterable[str]) -> list[Metric]:
    """Returns the metrics of `_FEATURE_METRICS` by each network; those by FID's layer are main."""
    metrics = []
    for network in networks:
        is_fid = network == "2048"
        for name, (better, label, about) in _FEATURE_METRICS.items():
            key = name if is_fid else f"{name}_{network}"
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


def _deviations() -> list[Metric]:
    names = ("inception_score_sd", "kid_sd")
    networks = (CLASSIFIER, MIXER, *INCEPTION_LAYERS)
    plain = [Metric(name, name, label=name, deviation=True) for name in names]
    return plain + [
        Metric(f"{name}_{network}", name, network, label=f"{name}_{network}", deviation=True)
        for name in names
        for network in networks
    ]


def _all_metrics() -> list[Metric]:
    """Returns the metrics in the order of a report: the main ones, then the others by key."""
    inception_score, *other_scores = _inception_scores()
    frechet = _frechet_distances()
    fid, classifier, mixer = frechet[: len(INCEPTION_LAYERS)], *frechet[len(INCEPTION_LAYERS) :]
    sharpness = Metric(
        "sharpness",
        "sharpness",
        label="Sharpness (variance of the Laplacian)",
        about="a blurred generator lies below the real images, a noisy one above them; neither is"
        " good",
        main=True,
    )
    main = [inception_score, *fid, classifier, *other_scores, mixer, *_feature_metrics(["2048"])]
    others = _feature_metrics((CLASSIFIER, MIXER, *INCEPTION_LAYERS[1:]))
    return [
        *main,
        *_pixel_errors(),
        sharpness,
        *sorted(others, key=lambda metric: metric.key),
        *_deviations(),
    ]


METRICS = {metric.key: metric for metric in _all_metrics()}  # in the order of a report


def get_metric(key: str) -> Metric:
    """Returns the metric of that key; a plain one, of which neither way is better, if unknown."""
    return METRICS.get(key) or Metric(key, key, label=key)
