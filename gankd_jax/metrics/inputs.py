"""The checks that all metrics share: of the features before, and of the scores after."""

from collections.abc import Mapping

import numpy as np

from gankd_jax.utils.errors import UserError

# Largest feature.  The kernel distance takes sixth powers, which overflow float64 soon above it.
# Every float32 number is below it.
MAX_FEATURE = 1e50


def check_features(metric: str, *feature_sets: np.ndarray, least: int = 1) -> None:
    """Refuses features that a metric has no score for.

    Args:
        metric: Its name, for the message.
        *feature_sets: The feature vectors `(n, f)` of each set.
        least: The smallest n that the metric needs.

    Raises:
        UserError: A set is too small, the widths f differ or are 0, or a feature is not real and
            finite or above `MAX_FEATURE`.
    """
    shapes = [features.shape for features in feature_sets]
    widths = {shape[1:] for shape in shapes}
    if len(widths) > 1 or any(len(shape) != 2 or shape[1] == 0 for shape in shapes):
        raise UserError(f"{metric}: features of shape {shapes} are not (images, one width)")
    fewest = min(len(features) for features in feature_sets)
    if fewest < least:
        raise UserError(f"{metric}: {fewest} images in a set; {least} or more are needed")
    for features in feature_sets:
        check_values(f"{metric}: a set of features", features)


def check_values(name: str, values: np.ndarray, max_value: float = MAX_FEATURE) -> None:
    """Refuses an array that holds other than real, finite numbers of a usual size.

    Args:
        name: What it holds, for the message.
        values: The array.
        max_value: The largest magnitude that is allowed.

    Raises:
        UserError: It holds another type, NaN, infinity or a larger value.
    """
    if values.dtype.kind not in "fiu":
        raise UserError(f"{name} holds {values.dtype}, not real numbers")
    if not np.isfinite(values).all():
        raise UserError(f"{name} holds values that are not finite")
    if float(np.abs(values).max(initial=0)) > max_value:  # float() for float16
        raise UserError(f"{name} holds values above {max_value:g}")


def check_scores(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns scores by metric key, of which all are finite.

    Raises:
        UserError: A score is NaN or infinite.
    """
    for key, value in scores.items():
        if not np.isfinite(value):
            raise UserError(f"the score {key} is {value}: the images or features are damaged")
    return dict(scores)
