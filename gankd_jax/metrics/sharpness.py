"""Sharpness of images: the variance of their Laplacian, higher where edges are crisp."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int32, UInt8

_LUMA_WEIGHTS = np.array([9798, 19235, 3735], np.int32)  # 0.299, 0.587, 0.114 in units of 2^-15


def variance_of_laplacian(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Computes the variance over pixels of the Laplacian of each image's grey levels.

    Args:
        images: Images in 0..255 with one channel, used as it is, or three (RGB).

    Returns:
        One variance for each image, >= 0, in squared grey levels.

    Reference: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".  Equal to
    `cv2.Laplacian(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()`: the same kernel
    `[[0, 1, 0], [1, -4, 1], [0, 1, 0]]`, mirrored borders (edge pixel not repeated) and rounded
    grey levels.
    """
    grey = _to_grey(images)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    horizontal = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    vertical = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    return (horizontal + vertical - 4 * grey).var(axis=(1, 2), dtype=np.float64)


def _to_grey(images: UInt8[np.ndarray, "n h w c"]) -> Int32[np.ndarray, "n h w"]:
    """Returns OpenCV's fixed-point grey levels."""
    if images.shape[-1] == 1:
        return images[..., 0].astype(np.int32)
    return (images.astype(np.int32) @ _LUMA_WEIGHTS + (1 << 14)) >> 15
