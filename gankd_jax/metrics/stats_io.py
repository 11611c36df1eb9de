"""Statistics of image sets as files: pytorch-fid's .npz, with what the other metrics need beside.

There is one file per layer.  It holds `mu` and `sigma`, as pytorch-fid writes and reads them.
Files written here also hold `count`, `sharpness`, the stored `features` and the sums of the
Inception Score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gankd_jax.metrics.feature_stats import MIN_IMAGES, FeatureStats
from gankd_jax.metrics.fid import Moments, check_covariance
from gankd_jax.metrics.inception_score import InceptionScoreStats
from gankd_jax.metrics.inputs import check_features
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

_SCORE_FIELDS = tuple(field.name for field in dataclasses.fields(InceptionScoreStats))
# Of the Inception Score's sums in a file: the name of earlier versions, whose files stay readable.
_SCORE_PREFIX = "answers_"


def write_stats(stats: FeatureStats, folder: Path, key: str) -> None:
    """Writes the statistics of a set as `folder`/`key`-LAYER.npz, one file per layer.

    Args:
        stats: The statistics.
        folder: Where the files go.
        key: Names the images and the network.
    """
    for layer in stats.moments:
        write_layer_stats(folder / f"{key}-{layer}.npz", stats, layer)


def write_layer_stats(path: Path, stats: FeatureStats, layer: str) -> None:
    """Writes the statistics of a set at one layer, as pytorch-fid reads them.

    Args:
        path: The .npz file.
        stats: The statistics.
        layer: One of their layers.
    """
    moments = stats.moments[layer]
    arrays = {"mu": moments.mean, "sigma": moments.covariance}
    if stats.count is not None:
        arrays["count"] = np.array(stats.count)
    if stats.sharpness is not None:
        arrays["sharpness"] = np.array(stats.sharpness)
    if layer in stats.features:
        arrays["features"] = stats.features[layer]
        if stats.inception_score_stats is not None:
            sums = vars(stats.inception_score_stats)
            arrays |= {f"{_SCORE_PREFIX}{name}": sums[name] for name in _SCORE_FIELDS}
    atomic_io.write_npz(path, **arrays)


def read_cached_stats(folder: Path, key: str, layers: Sequence[str]) -> FeatureStats | None:
    """Reads what `write_stats` wrote.

    Args:
        folder: As given to `write_stats`.
        key: As given to `write_stats`.
        layers: Layers to read, at least one.

    Returns:
        The statistics, or None if a layer has no file.

    Raises:
        UserError: A file is damaged.
    """
    paths = [folder / f"{key}-{layer}.npz" for layer in layers]
    if not all(path.exists() for path in paths):
        return None
    try:
        parts = [read_stats(path, layer) for path, layer in zip(paths, layers, strict=True)]
    except UserError as error:
        raise UserError(f"{error}; it is a cache: delete it and run again") from error
    score_stats = [part.inception_score_stats for part in parts]
    return FeatureStats(
        count=parts[0].count,
        sharpness=parts[0].sharpness,
        moments={layer: part.moments[layer] for layer, part in zip(layers, parts, strict=True)},
        features={layer: features for part in parts for layer, features in part.features.items()},
        inception_score_stats=next((stats for stats in score_stats if stats is not None), None),
    )


def read_stats(path: Path, layer: str | None = None) -> FeatureStats:
    """Reads a file of statistics, written by pytorch-fid or by `write_stats`.

    Args:
        path: The .npz file.
        layer: Name of the layer; None names it by its width, as the Inception layers are.

    Raises:
        UserError: The file is missing, or its arrays are no statistics of a set of images.
    """
    try:
        return _parse_stats(atomic_io.read_npz(path), layer)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except KeyError as error:
        raise UserError(f"{path} has no statistics: the array {error} is missing") from error
    except (OSError, UserError, ValueError) as error:
        raise UserError(f"{path} has no statistics: {error}") from error


def _parse_stats(arrays: dict[str, np.ndarray], layer: str | None) -> FeatureStats:
    """Builds statistics from the arrays of a file.

    Raises:
        KeyError, UserError, ValueError: Arrays are missing, do not fit or are no statistics.
    """
    mean = _checked_array(arrays, "mu", "fiu", None).astype(np.float64)
    covariance = _checked_array(arrays, "sigma", "fiu", None, None).astype(np.float64)
    check_features("mu", mean[None])
    check_covariance("sigma", covariance, len(mean))
    count = _parse_count(arrays) if "count" in arrays else None
    layer = layer or str(len(mean))
    features = {}
    if "features" in arrays:
        features[layer] = _checked_array(arrays, "features", "f", None, len(mean))
        check_features("features", features[layer], least=MIN_IMAGES)
        if count is not None and len(features[layer]) > count:
            raise ValueError(f"{len(features[layer])} features of {count} images")
    sharpness = None
    if "sharpness" in arrays:
        sharpness = float(_checked_array(arrays, "sharpness", "f"))
    if sharpness is not None and sharpness < 0:
        raise ValueError(f"sharpness is {sharpness}")
    # pytorch-fid does not write the count; one above the width avoids the warning of few samples.
    assumed_count = count or len(mean) + 1
    return FeatureStats(
        count=count,
        sharpness=sharpness,
        moments={layer: Moments(assumed_count, mean, covariance * (assumed_count - 1))},
        features=features,
        inception_score_stats=_parse_score_stats(arrays, count),
    )


def _parse_count(arrays: dict[str, np.ndarray]) -> int:
    count = _checked_array(arrays, "count", "fiu")
    if count < MIN_IMAGES or count % 1:
        raise ValueError(f"count is {count}, not a whole number of {MIN_IMAGES} or more images")
    return int(count)


def _parse_score_stats(
    arrays: dict[str, np.ndarray], count: int | None
) -> InceptionScoreStats | None:
    if not any(f"{_SCORE_PREFIX}{name}" in arrays for name in _SCORE_FIELDS):
        return None
    counts = _checked_array(arrays, f"{_SCORE_PREFIX}counts", "i", None)
    stats = InceptionScoreStats(
        counts=counts,
        totals=_checked_array(arrays, f"{_SCORE_PREFIX}totals", "f", len(counts), None),
        negentropies=_checked_array(arrays, f"{_SCORE_PREFIX}negentropies", "f", len(counts)),
    )
    stats.check()
    if count not in (None, counts.sum()):
        raise ValueError(f"splits of {counts.sum()} images are not of {count}")
    return stats


def _checked_array(
    arrays: dict[str, np.ndarray], name: str, kinds: str, *shape: int | None
) -> np.ndarray:
    """Returns an array of a file after a check of its type and shape.

    Args:
        arrays: Arrays of the file.
        name: Name of the array.
        kinds: Allowed kinds of numpy's `dtype.kind`.
        *shape: Required size of each axis; None allows any.

    Raises:
        KeyError, ValueError: The array is missing, or has another type or shape.
    """
    array = arrays[name]
    sizes = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or any(required not in (None, size) for size, required in sizes):
        raise ValueError(f"{name} {array.shape} does not fit the other arrays")
    if array.dtype.kind not in kinds or array.dtype.itemsize > 8:  # a longdouble would be rounded
        raise ValueError(f"{name} holds {array.dtype}")
    return array
