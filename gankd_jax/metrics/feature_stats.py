"""Statistics of an image set from one pass of a network, and the metrics computed from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Bool, Float, Num, UInt8
from scipy.special import rel_entr

from gankd_jax.metrics import registry
from gankd_jax.metrics.fid import Moments, frechet_from_moments
from gankd_jax.metrics.inception_score import InceptionScoreStats, assign_splits, count_unsure
from gankd_jax.metrics.inputs import check_scores
from gankd_jax.metrics.kid import kernel_distance, kernel_sums_within_b
from gankd_jax.metrics.prdc import NEIGHBOURS, neighbour_radii, prdc_scores
from gankd_jax.metrics.registry import metric_key
from gankd_jax.metrics.sharpness import variance_of_laplacian

# Feature vectors stored of a set, for the metrics that compare pairs of them.  Memory and file size
# grow linearly with it, the time of precision and recall quadratically: 10,000 x 2048 is 80 MB.
MAX_FEATURES = 10_000
INCEPTION_SCORE_SPLITS = 10  # as torch-fidelity and the original code
KID_SUBSET_SIZE = 1000  # as torch-fidelity; smaller subsets give larger deviations, not a bias
MIN_IMAGES = 2  # of a set; fewer have no covariance
MIN_NEIGHBOUR_IMAGES = max(NEIGHBOURS) + 1  # for precision, recall, density and coverage

Batch = TypeVar("Batch")
Result = TypeVar("Result")
ExtractFn = Callable[[Num[np.ndarray, "n h w c"]], Mapping[str, Float[Array, "n _"]]]


@dataclass(frozen=True)
class FeatureExtractor:
    """An evaluation network, and which of its layers each metric uses.

    Attributes:
        name: Network and weights, usable in file names.  Equal names mean equal features.
        description: The network and its preprocessing, for reports.
        extract: Maps images in 0..255, whole numbers or not, to `{layer: features}`, as device or
            numpy arrays.
        fd_layers: Layers of the Fréchet distance.
        pair_layer: Layer of KID, precision, recall, density, coverage and the nearest neighbours.
        logit_layer: Layer of the Inception Score; None to leave that out.
        batch_size: Images per call at which the network is fastest.
    """

    name: str
    description: str
    extract: ExtractFn
    fd_layers: tuple[str, ...]
    pair_layer: str
    logit_layer: str | None
    batch_size: int


@dataclass(frozen=True, eq=False)  # hashed by identity, for the caches below
class FeatureStats:
    """Sufficient statistics of an image set; a metric is left out where its part is missing.

    Attributes:
        count: Number of images; None if unknown.
        sharpness: Mean variance of the Laplacian.
        moments: Feature mean and scatter by layer, for the Fréchet distance.
        features: Feature vectors by layer, in the order of the images.  A set of more than
            `MAX_FEATURES` images keeps a random subset of that size.
        inception_score_stats: Sums over the class probabilities of each split.
        unsure_share: Part of the images whose likeliest class is below `registry.UNSURE_BELOW`.
    """

    count: int | None
    sharpness: float | None
    moments: dict[str, Moments]
    features: dict[str, Float[np.ndarray, "_ _"]]
    inception_score_stats: InceptionScoreStats | None
    unsure_share: float | None = None


def compute_stats(
    batches: Iterable[UInt8[np.ndarray, "_ _ _ c"]], extractor: FeatureExtractor, *, count: int
) -> FeatureStats:
    """Computes the statistics of an image set in one pass.

    Memory does not grow with `count` beyond `MAX_FEATURES` images.  Of fewer images than
    `INCEPTION_SCORE_SPLITS` there are no sums for the Inception Score.

    Args:
        batches: Batches of images; their sizes may differ.
        extractor: The network.
        count: Total number of images.

    Raises:
        UserError: A feature is not finite.
        ValueError: `batches` hold another number of images than `count`.
    """
    logit_layer = extractor.logit_layer if count >= INCEPTION_SCORE_SPLITS else None
    splits = assign_splits(count, splits=INCEPTION_SCORE_SPLITS) if logit_layer else None
    is_stored = _select_stored(count)
    moments: dict[str, Moments] = {}
    stored_features: list[np.ndarray] = []
    score_stats, sharpness, unsure, position = None, 0.0, 0, 0
    for images, features in compute_one_ahead(batches, extractor.extract):
        batch = slice(position, position + len(images))
        position += len(images)
        sharpness += float(variance_of_laplacian(images).sum())
        for layer in extractor.fd_layers:
            batch_moments = Moments.of(np.asarray(features[layer]))
            moments[layer] = (
                moments[layer].merge(batch_moments) if layer in moments else batch_moments
            )
        stored_features.append(np.asarray(features[extractor.pair_layer])[is_stored[batch]])
        if logit_layer is not None and splits is not None:
            logits = np.asarray(features[logit_layer])
            score_stats = (
                score_stats or InceptionScoreStats.empty(INCEPTION_SCORE_SPLITS, logits.shape[1])
            ).add(logits, splits[batch])
            unsure += count_unsure(logits)
    if position != count:
        raise ValueError(f"{position} images instead of {count}")
    return FeatureStats(
        count=count,
        sharpness=sharpness / count,
        moments=moments,
        features={extractor.pair_layer: np.concatenate(stored_features)},
        inception_score_stats=score_stats,
        unsure_share=None if score_stats is None else unsure / count,
    )


def single_set_scores(stats: FeatureStats, network: str = registry.CLASSIFIER) -> dict[str, float]:
    """Computes the metrics of one image set that need no reference set.

    Args:
        stats: The statistics of the set.
        network: `Metric.network` of the Inception Score.  The default gives the plain key, for
            studies with one classifier and for the Inception network alike.

    Returns:
        Sharpness, the Inception Score and its standard deviation over splits, by metric key.

    Raises:
        UserError: A score is not finite.
    """
    scores = {} if stats.sharpness is None else {registry.SHARPNESS: stats.sharpness}
    if stats.inception_score_stats is not None:
        name = registry.INCEPTION_SCORE
        mean, deviation = stats.inception_score_stats.score()
        scores[metric_key(name, network)] = mean
        scores[metric_key(registry.deviation_name(name), network)] = deviation
    return check_scores(scores)


def class_scores(fake: FeatureStats, real: FeatureStats, network: str) -> dict[str, float]:
    """Computes what the Inception Score hides: classes that are too rare, images between classes.

    Args:
        fake: Statistics of the generated images.
        real: Statistics of the reference images.
        network: `Metric.network`, a classifier of the data set's own classes.

    Returns:
        By metric key the divergence `sum_k p_k log(p_k / q_k)` of the generated images' class
        shares `p` from the real ones `q`, and the share of unsure images; {} without classes.
    """
    fake_classes, real_classes = fake.inception_score_stats, real.inception_score_stats
    if fake_classes is None or real_classes is None or fake.unsure_share is None:
        return {}
    divergence = rel_entr(fake_classes.class_shares(), real_classes.class_shares()).sum()
    return check_scores(
        {
            metric_key(registry.CLASS_DIVERGENCE, network): float(divergence),
            metric_key(registry.UNSURE_SHARE, network): fake.unsure_share,
        }
    )


def compare_stats(fake: FeatureStats, real: FeatureStats) -> dict[str, float]:
    """Computes the metrics of an image set against a reference set.

    Args:
        fake: Statistics of the generated images.
        real: Statistics of the reference images, by the same network.

    Returns:
        For each layer of both sets the Fréchet distance; for each layer with features of both KID
        and its deviation, precision, recall, density and coverage.  Keys are those of
        `metric_key`.  KID is over 100 subsets of `KID_SUBSET_SIZE` images, or of the smaller set.
        Sets of fewer than `MIN_NEIGHBOUR_IMAGES` have no precision, recall, density and coverage.

    Raises:
        UserError: A score is not finite, or a covariance is not valid.
    """
    scores = {
        metric_key(registry.FRECHET_DISTANCE, layer): frechet_from_moments(
            fake.moments[layer], real.moments[layer]
        )
        for layer in fake.moments
        if layer in real.moments
    }
    for layer in fake.features:
        if layer in real.features:
            pair_scores = _pair_scores(fake.features[layer], real, layer)
            scores |= {metric_key(name, layer): value for name, value in pair_scores.items()}
    return check_scores(scores)


def _pair_scores(
    fake_features: Float[np.ndarray, "n f"], real: FeatureStats, layer: str
) -> dict[str, float]:
    """Returns the metrics that compare pairs of features, by `Metric.name`."""
    real_features = real.features[layer]
    subset_size = min(KID_SUBSET_SIZE, len(fake_features), len(real_features))
    mean, deviation = kernel_distance(
        fake_features,
        real_features,
        subset_size=subset_size,
        within_b=_real_kernel_sums(real, layer, len(fake_features), subset_size),
    )
    scores = {registry.KID: mean, registry.deviation_name(registry.KID): deviation}
    for name, function in registry.FEATURE_FUNCTIONS.items():
        scores[name] = float(function(fake_features, real_features))
    if min(len(fake_features), len(real_features)) < MIN_NEIGHBOUR_IMAGES:
        return scores
    return scores | prdc_scores(fake_features, real_features, real_radii=_real_radii(real, layer))


# The reference images are the same for every run of a study and the larger set, so caching their
# part halves the time.  A study has few networks, so four entries suffice.
@functools.lru_cache(maxsize=4)
def _real_kernel_sums(
    real: FeatureStats, layer: str, fake_count: int, subset_size: int
) -> Float[np.ndarray, " k"]:
    return kernel_sums_within_b(fake_count, real.features[layer], subset_size=subset_size)


@functools.lru_cache(maxsize=4)
def _real_radii(real: FeatureStats, layer: str) -> Float[np.ndarray, "n 2"]:
    return neighbour_radii(real.features[layer])


def _select_stored(count: int) -> Bool[np.ndarray, " n"]:
    """Returns which images' features are stored; random, because a set may be sorted by class."""
    is_stored = np.ones(count, bool)
    if count > MAX_FEATURES:
        dropped = np.random.default_rng(0).choice(count, count - MAX_FEATURES, replace=False)
        is_stored[dropped] = False
    return is_stored


def compute_one_ahead(
    batches: Iterable[Batch], compute: Callable[[Batch], Result]
) -> Iterator[tuple[Batch, Result]]:
    """Yields each batch with its result after the next one is dispatched to the device.

    Args:
        batches: Any objects.
        compute: Dispatches the work on a batch, such as a jitted function or an `ExtractFn`.
    """
    previous = None
    for batch in batches:
        result = compute(batch)
        if previous is not None:
            yield previous
        previous = batch, result
    if previous is not None:
        yield previous
