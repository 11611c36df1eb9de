"""Sharpness of images: the variance of their Laplacian, higher where edges are crisp."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int32, UInt8

_GREY = np.array([9798, 19235, 3735], np.int32)  # 0.299, 0.587, 0.114 in units of 2^-15


def variance_of_laplacian(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Variance over the pixels of the Laplacian of each grey image in 0..255, for c = 1 or 3.

    The values of `cv2.Laplacian(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var()`: kernel
    `[[0, 1, 0], [1, -4, 1], [0, 1, 0]]`, borders mirrored without repeating the edge pixel, grey
    weights 0.299, 0.587, 0.114 rounded to whole levels. One-channel images are taken as they are.
    """
    grey = _grey(images)
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    across = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    along = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    return (across + along - 4 * grey).var(axis=(1, 2), dtype=np.float64)


def _grey(images: UInt8[np.ndarray, "n h w c"]) -> Int32[np.ndarray, "n h w"]:
    """OpenCV's fixed-point grey levels."""
    if images.shape[-1] == 1:
        return images[..., 0].astype(np.int32)
    return (images.astype(np.int32) @ _GREY + (1 << 14)) >> 15
