"""Statistics of sets of images as files: pytorch-fid's .npz, and beside it what other scores need.

One file a layer: `mu` and `sigma`, as pytorch-fid writes and reads them, and, in files written
here, `count`, `sharpness`, the kept `features` and the sums of the Inception Score.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gankd_jax.metrics.feature_stats import FeatureStats
from gankd_jax.metrics.fid import Moments
from gankd_jax.metrics.inception_score import InceptionScoreStats
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

_ANSWERS = ("counts", "totals", "negentropies")


def write_stats(summary: FeatureStats, folder: Path, key: str) -> None:
    """Write a set's statistics as `folder`/`key`-LAYER.npz, one file a layer."""
    for layer, moments in summary.moments.items():
        arrays = {"mu": moments.mean, "sigma": moments.covariance, "count": np.array(moments.count)}
        if summary.sharpness is not None:
            arrays["sharpness"] = np.array(summary.sharpness)
        if layer in summary.kept:
            arrays["features"] = summary.kept[layer]
            if summary.answers is not None:
                arrays |= {f"answers_{x}": getattr(summary.answers, x) for x in _ANSWERS}
        atomic_io.write_npz(folder / f"{key}-{layer}.npz", **arrays)


def read_cached_stats(folder: Path, key: str, layers: Sequence[str]) -> FeatureStats | None:
    """What `write` wrote for these layers, or None if it did not."""
    paths = [folder / f"{key}-{layer}.npz" for layer in layers]
    if not all(path.exists() for path in paths):
        return None
    parts = [read_stats(path, layer) for path, layer in zip(paths, layers, strict=True)]
    return FeatureStats(
        count=parts[0].count,
        sharpness=parts[0].sharpness,
        moments={layer: part.moments[layer] for layer, part in zip(layers, parts, strict=True)},
        kept={layer: kept for part in parts for layer, kept in part.kept.items()},
        answers=next((part.answers for part in parts if part.answers is not None), None),
    )


def read_stats(path: Path, layer: str | None = None) -> FeatureStats:
    """The statistics in a file, pytorch-fid's or ours; the layer is its width unless it is given.

    Raises:
        UserError: the file is missing, or its arrays are no statistics of a set of images.
    """
    try:
        return _summary(atomic_io.read_npz(path), layer)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except KeyError as error:
        raise UserError(f"{path} has no statistics: the array {error} is missing") from error
    except (OSError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path} has no statistics: {error}") from error


def _summary(arrays: dict[str, np.ndarray], layer: str | None) -> FeatureStats:
    """What arrays say.

    Raises:
        KeyError, OverflowError, TypeError, ValueError: some are missing or do not fit.
    """
    mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError(f"mu {mean.shape} and sigma {covariance.shape} do not fit")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mu and sigma hold values that are not finite")
    count = int(arrays["count"]) if "count" in arrays else None
    layer = layer or str(len(mean))
    kept = {layer: _array(arrays, "features", "f", None, len(mean))} if "features" in arrays else {}
    return FeatureStats(
        count=count,
        sharpness=float(arrays["sharpness"]) if "sharpness" in arrays else None,
        moments={layer: _moments(count, mean, covariance)},
        kept=kept,
        answers=_answers(arrays),
    )


def _answers(arrays: dict[str, np.ndarray]) -> InceptionScoreStats | None:
    if not any(f"answers_{name}" in arrays for name in _ANSWERS):
        return None
    counts = _array(arrays, "answers_counts", "i", None)
    totals = _array(arrays, "answers_totals", "f", len(counts), None)
    return InceptionScoreStats(
        counts, totals, _array(arrays, "answers_negentropies", "f", len(counts))
    )


def _array(arrays: dict[str, np.ndarray], name: str, kind: str, *shape: int | None) -> np.ndarray:
    """The array of that name, found to be of numpy's kind and the shape; None: any size.

    Raises:
        KeyError, ValueError: it is missing, or another.
    """
    found = arrays[name]
    sizes = zip(found.shape, shape, strict=False)
    if found.ndim != len(shape) or any(ours not in (None, size) for size, ours in sizes):
        raise ValueError(f"{name} {found.shape} does not fit the other arrays")
    if found.dtype.kind != kind:
        raise ValueError(f"{name} holds {found.dtype}")
    return found


def _moments(count: int | None, mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """Of a file that does not say of how many images it is, they are taken to be enough."""
    count = count or len(mean) + 1
    return Moments(count, mean, covariance * max(count - 1, 1))
