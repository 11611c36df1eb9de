"""Statistics of a data set's images by a network, computed once and cached beside the data set."""

from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from gankd_jax.data.loading import ImageSplit
from gankd_jax.evaluation import inference
from gankd_jax.metrics import stats_io
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats, compute_stats
from gankd_jax.utils.paths import write_cache


def load_or_compute_stats(
    images: ImageSplit, extractor: FeatureExtractor, cache_dir: Path, samples: int | None = None
) -> FeatureStats:
    """Returns the statistics of a split, from the cache if they are there.

    Args:
        images: The split.
        extractor: The network.
        cache_dir: Where the statistics are read, or written after they are computed.
        samples: Size of a fixed random subset to use; None for all images.
    """
    indices = subset_indices(len(images.pixels), samples)
    is_subset = len(indices) < len(images.pixels)
    subset_name = f"-{len(indices)}-of-them" if is_subset else ""
    key = f"{images.key}{subset_name}-{extractor.name}"
    cached = stats_io.read_cached_stats(cache_dir, key, extractor.fd_layers)
    # Another choice of layers may have cached the moments of these without the features.
    if cached is not None and extractor.pair_layer in cached.features:
        return cached
    pixels, size = images.pixels[indices] if is_subset else images.pixels, extractor.batch_size
    bar = {"total": -(-len(pixels) // size), "desc": images.key, "unit": "batch", "disable": None}
    batches = tqdm(inference.iterate_batches(pixels, size), **bar)
    stats = compute_stats(iter(batches), extractor, count=len(pixels))
    write_cache(cache_dir / key, lambda: stats_io.write_stats(stats, cache_dir, key))
    return stats


def subset_indices(count: int, samples: int | None) -> Int[np.ndarray, " n"]:
    """Returns sorted indices of a fixed random subset of a set.

    Args:
        count: Size of the set.
        samples: Size of the subset; None, or `count` and more, for all.
    """
    shuffled = np.random.default_rng(0).permutation(count)[:samples]
    return np.sort(shuffled)
