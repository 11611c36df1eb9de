"""One pass of images through a network feeds every score; then the scores of what passes left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from gankd_jax.metrics.fid import Moments, frechet_from_moments
from gankd_jax.metrics.inception_score import InceptionScoreStats, assign_splits
from gankd_jax.metrics.kid import kernel_distance, kernel_sums_within_b
from gankd_jax.metrics.prdc import neighbour_radii, prdc_scores
from gankd_jax.metrics.sharpness import variance_of_laplacian

MAX_FEATURES = 10_000  # feature vectors kept of a set, for the scores that compare pairs of them
INCEPTION_SCORE_SPLITS = 10
KID_SUBSET_SIZE = 1000

Features = Callable[[UInt8[np.ndarray, "n h w c"]], Mapping[str, Float[Array, "n _"]]]


@dataclass(frozen=True)
class FeatureExtractor:
    """A network as the scores use it.

    Attributes:
        name: network and weights, fit for a file name: equal names, equal features.
        about: what a report says of the network and of how images are put to it.
        features: uint8 images to each layer's features, as a device or numpy array.
        distances: the layers of the Fréchet distance.
        kept: the layer of the kernel distance and of precision and recall.
        logits: the layer of the Inception Score; None where there is none.
        batch_size: how many images it is best given at a time.
    """

    name: str
    about: str
    features: Features
    distances: tuple[str, ...]
    kept: str
    logits: str | None
    batch_size: int


@dataclass(frozen=True, eq=False)  # each is its own, so that what is known of it can be kept
class FeatureStats:
    """What the scores need of a set of images; where something is unknown, its scores are left out.

    Attributes:
        count: how many images.
        sharpness: mean variance of the Laplacian.
        moments: by layer.
        kept: by layer, the features of all images or, of more than `KEPT`, of so many of them
            drawn without regard to their order.
        answers: of the logits, `SPLITS` splits.
    """

    count: int | None
    sharpness: float | None
    moments: dict[str, Moments]
    kept: dict[str, Float[np.ndarray, "_ _"]]
    answers: InceptionScoreStats | None


def compute_stats(
    batches: Iterable[UInt8[np.ndarray, "_ _ _ c"]], extractor: FeatureExtractor, *, count: int
) -> FeatureStats:
    """Look at each of `count` images once; memory does not grow with `count` past `KEPT`.

    Raises:
        UserError: fewer images than the Inception Score's splits.
        ValueError: `batches` hold another number of images.
    """
    split = assign_splits(count, splits=INCEPTION_SCORE_SPLITS) if extractor.logits else None
    keep = _drawn(count)
    moments: dict[str, Moments] = {}
    kept: list[np.ndarray] = []
    answers, sharpness, seen = None, 0.0, 0
    for images, found in _one_ahead(batches, extractor.features):
        here = slice(seen, seen + len(images))
        seen += len(images)
        sharpness += float(variance_of_laplacian(images).sum())
        for layer in extractor.distances:
            part = Moments.of(np.asarray(found[layer]))
            moments[layer] = moments[layer].merge(part) if layer in moments else part
        kept.append(np.asarray(found[extractor.kept])[keep[here]])
        if extractor.logits is not None and split is not None:
            logits = np.asarray(found[extractor.logits])
            answers = (
                answers or InceptionScoreStats.empty(INCEPTION_SCORE_SPLITS, logits.shape[1])
            ).add(logits, split[here])
    if seen != count:
        raise ValueError(f"{seen} images instead of {count}")
    features = {extractor.kept: np.concatenate(kept)}
    return FeatureStats(count, sharpness / count, moments, features, answers)


def single_set_scores(summary: FeatureStats) -> dict[str, float]:
    """The scores of one set by itself: `sharpness`, `inception_score`, `inception_score_sd`."""
    scores = {} if summary.sharpness is None else {"sharpness": summary.sharpness}
    if summary.answers is not None:
        mean, deviation = summary.answers.score()
        scores |= {"inception_score": mean, "inception_score_sd": deviation}
    return scores


def compare_stats(fake: FeatureStats, real: FeatureStats) -> dict[str, float]:
    """The scores of a set against real images, for all layers that both know.

    `fd_LAYER` (`fid` for Inception's 2048), then `kid`, `kid_sd`, `precision`, `recall`, `density`
    and `coverage`, with `_LAYER` behind them unless it is 2048. The kernel distance is over 100
    subsets of `SUBSET` images, or of the smaller set's number.
    """
    scores = {}
    for layer in (x for x in fake.moments if x in real.moments):
        name = "fid" if layer == "2048" else f"fd_{layer}"
        scores[name] = frechet_from_moments(fake.moments[layer], real.moments[layer])
    for layer in (x for x in fake.kept if x in real.kept):
        end = "" if layer == "2048" else f"_{layer}"
        found = _pair_scores(fake.kept[layer], real, layer)
        scores |= {f"{name}{end}": value for name, value in found.items()}
    return scores


def _pair_scores(
    fake: Float[np.ndarray, "n f"], summary: FeatureStats, layer: str
) -> dict[str, float]:
    real = summary.kept[layer]
    subset = min(KID_SUBSET_SIZE, len(fake), len(real))
    within = _within(summary, layer, len(fake), subset)
    mean, deviation = kernel_distance(fake, real, subset_size=subset, within_b=within)
    kid = {"kid": mean, "kid_sd": deviation}
    return kid | prdc_scores(fake, real, real_radii=_radii(summary, layer))


# The real images are the same for every run of a study, and the larger set: half of the time.
@functools.lru_cache(maxsize=4)
def _within(real: FeatureStats, layer: str, count: int, subset: int) -> Float[np.ndarray, " k"]:
    return kernel_sums_within_b(count, real.kept[layer], subset_size=subset)


@functools.lru_cache(maxsize=4)
def _radii(real: FeatureStats, layer: str) -> Float[np.ndarray, "n 2"]:
    return neighbour_radii(real.kept[layer])


def _drawn(count: int) -> Bool[np.ndarray, " n"]:
    """Which images' features are kept: drawn, as a set may be sorted by class."""
    keep = np.ones(count, bool)
    if count > MAX_FEATURES:
        keep[np.random.default_rng(0).choice(count, count - MAX_FEATURES, replace=False)] = False
    return keep


def _one_ahead(
    batches: Iterable[np.ndarray], features: Features
) -> Iterator[tuple[np.ndarray, Mapping[str, Array]]]:
    """Each batch and its features, when the device has been given the next one to work on."""
    waiting = None
    for images in batches:
        found = features(images)
        if waiting is not None:
            yield waiting
        waiting = images, found
    if waiting is not None:
        yield waiting
