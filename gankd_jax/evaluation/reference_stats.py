"""What a network says of real images, worked out once and kept beside the data set."""

from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from gankd_jax.data.loading import ImageSplit
from gankd_jax.evaluation import inference
from gankd_jax.metrics import stats_io
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats, compute_stats


def cached_image_stats(
    images: ImageSplit, extractor: FeatureExtractor, cache: Path, samples: int | None = None
) -> FeatureStats:
    """A network's statistics of a split, or of `samples` of its images, drawn at random.

    They are read from the folder `cache` where they are there, and written to it else.
    """
    places = subset_indices(len(images.pixels), samples)
    fewer = len(places) < len(images.pixels)
    key = f"{images.key}{f'-{len(places)}-of-them' if fewer else ''}-{extractor.name}"
    cached = stats_io.read_cached_stats(cache, key, extractor.distances)
    if cached is not None and extractor.kept in cached.kept:  # not where other layers were asked
        return cached
    pixels, size = images.pixels[places] if fewer else images.pixels, extractor.batch_size
    shown = {"total": -(-len(pixels) // size), "desc": images.key, "unit": "batch", "disable": None}
    batches = tqdm(inference.iterate_batches(pixels, size), **shown)
    found = compute_stats(iter(batches), extractor, count=len(pixels))
    stats_io.write_stats(found, cache, key)
    return found


def subset_indices(count: int, samples: int | None) -> Int[np.ndarray, " n"]:
    """The places of so many of a set's images (all, if it has fewer), drawn at random, in order."""
    drawn = np.random.default_rng(0).permutation(count)[:samples]
    return np.sort(drawn)
