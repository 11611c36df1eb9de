"""What a network says of real images, worked out once and kept beside the data set."""

from pathlib import Path

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from gankd_jax import evaluate
from gankd_jax.data.load import Images
from gankd_jax.metrics import statistics
from gankd_jax.metrics.features import Extractor, Summary, summarize


def of_images(
    images: Images, extractor: Extractor, cache: Path, samples: int | None = None
) -> Summary:
    """A network's statistics of a split, or of `samples` of its images, drawn at random.

    They are read from the folder `cache` where they are there, and written to it else.
    """
    places = chosen(len(images.pixels), samples)
    fewer = len(places) < len(images.pixels)
    key = f"{images.key}{f'-{len(places)}-of-them' if fewer else ''}-{extractor.name}"
    cached = statistics.read_cached(cache, key, extractor.distances)
    if cached is not None and extractor.kept in cached.kept:  # not where other layers were asked
        return cached
    pixels, size = images.pixels[places] if fewer else images.pixels, extractor.batch_size
    shown = {"total": -(-len(pixels) // size), "desc": images.key, "unit": "batch", "disable": None}
    batches = tqdm(evaluate.in_batches(pixels, size), **shown)
    found = summarize(iter(batches), extractor, count=len(pixels))
    statistics.write(found, cache, key)
    return found


def chosen(count: int, samples: int | None) -> Int[np.ndarray, " n"]:
    """The places of so many of a set's images (all, if it has fewer), drawn at random, in order."""
    drawn = np.random.default_rng(0).permutation(count)[:samples]
    return np.sort(drawn)
