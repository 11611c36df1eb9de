"""One pass of images through a network feeds every score; then the scores of what passes left."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from gankd_jax.metrics.frechet import Moments, frechet_between
from gankd_jax.metrics.inception_score import Answers, split_of
from gankd_jax.metrics.kernel import kernel_distance, within_b
from gankd_jax.metrics.manifold import manifold_scores, radii
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models.inception import FidInception, prepare

KEPT = 10_000  # feature vectors kept of a set, for the scores that compare pairs of them
SPLITS = 10
SUBSET = 1000

Features = Callable[[UInt8[np.ndarray, "n h w c"]], Mapping[str, Float[Array, "n _"]]]


@dataclass(frozen=True)
class Extractor:
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
class Summary:
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
    answers: Answers | None


def summarize(
    batches: Iterable[UInt8[np.ndarray, "_ _ _ c"]], extractor: Extractor, *, count: int
) -> Summary:
    """Look at each of `count` images once; memory does not grow with `count` past `KEPT`.

    Raises:
        UserError: fewer images than the Inception Score's splits.
        ValueError: `batches` hold another number of images.
    """
    split = split_of(count, splits=SPLITS) if extractor.logits else None
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
            answers = (answers or Answers.empty(SPLITS, logits.shape[1])).add(logits, split[here])
    if seen != count:
        raise ValueError(f"{seen} images instead of {count}")
    features = {extractor.kept: np.concatenate(kept)}
    return Summary(count, sharpness / count, moments, features, answers)


def own_scores(summary: Summary) -> dict[str, float]:
    """The scores of one set by itself: `sharpness`, `inception_score`, `inception_score_sd`."""
    scores = {} if summary.sharpness is None else {"sharpness": summary.sharpness}
    if summary.answers is not None:
        mean, deviation = summary.answers.score()
        scores |= {"inception_score": mean, "inception_score_sd": deviation}
    return scores


def compare(fake: Summary, real: Summary) -> dict[str, float]:
    """The scores of a set against real images, for all layers that both know.

    `fd_LAYER` (`fid` for Inception's 2048), then `kid`, `kid_sd`, `precision`, `recall`, `density`
    and `coverage`, with `_LAYER` behind them unless it is 2048. The kernel distance is over 100
    subsets of `SUBSET` images, or of the smaller set's number.
    """
    scores = {}
    for layer in (x for x in fake.moments if x in real.moments):
        name = "fid" if layer == "2048" else f"fd_{layer}"
        scores[name] = frechet_between(fake.moments[layer], real.moments[layer])
    for layer in (x for x in fake.kept if x in real.kept):
        end = "" if layer == "2048" else f"_{layer}"
        found = _pair_scores(fake.kept[layer], real, layer)
        scores |= {f"{name}{end}": value for name, value in found.items()}
    return scores


def _pair_scores(fake: Float[np.ndarray, "n f"], summary: Summary, layer: str) -> dict[str, float]:
    real = summary.kept[layer]
    subset = min(SUBSET, len(fake), len(real))
    within = _within(summary, layer, len(fake), subset)
    mean, deviation = kernel_distance(fake, real, subset_size=subset, within_b=within)
    kid = {"kid": mean, "kid_sd": deviation}
    return kid | manifold_scores(fake, real, real_radii=_radii(summary, layer))


# The real images are the same for every run of a study, and the larger set: half of the time.
@functools.lru_cache(maxsize=4)
def _within(real: Summary, layer: str, count: int, subset: int) -> Float[np.ndarray, " k"]:
    return within_b(count, real.kept[layer], subset_size=subset)


@functools.lru_cache(maxsize=4)
def _radii(real: Summary, layer: str) -> Float[np.ndarray, "n 2"]:
    return radii(real.kept[layer])


def _drawn(count: int) -> Bool[np.ndarray, " n"]:
    """Which images' features are kept: drawn, as a set may be sorted by class."""
    keep = np.ones(count, bool)
    if count > KEPT:
        keep[np.random.default_rng(0).choice(count, count - KEPT, replace=False)] = False
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


def inception_features(
    params: Mapping[str, Mapping[str, np.ndarray]], layers: Sequence[str], *, batch_size: int
) -> Features:
    """The FID network's features of uint8 images, grey or colour, of any size and number.

    The network sees batches of one size, the last one padded, and so is compiled once.
    """
    network = FidInception(tuple(layers))
    variables = jax.device_put({"params": params})
    resized = jax.jit(prepare)  # apart from the network, which is slow to compile, for each size
    apply = jax.jit(network.apply)

    def features(images: UInt8[np.ndarray, "n h w c"]) -> dict[str, Array]:
        parts = []
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            padding = (batch_size - len(part), *images.shape[1:])
            whole = np.concatenate([part, np.zeros(padding, np.uint8)])
            colour = np.repeat(whole, 3, axis=3) if whole.shape[3] == 1 else whole
            parts.append(apply(variables, resized(colour)))
        joined = jax.tree.map(lambda *x: jnp.concatenate(x)[: len(images)], *parts)
        return {layer: joined[layer] for layer in layers}

    return features
