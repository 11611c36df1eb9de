"""Perceptual path length: how far images move in a network's features when their latent does.

Reference: Karras et al. 2019 (arXiv 1812.04948), section 4.1, in the latent space of the generator.
Theirs is a distance of VGG16 features that people's judgements weight (LPIPS).
"""

import numpy as np
from jaxtyping import Float

EPSILON = 1e-4  # the step on the path, as a part of its length
TAIL_PERCENT = 1  # of the lengths at each end, which are left out


def path_steps(
    starts: Float[np.ndarray, "n z"],
    stops: Float[np.ndarray, "n z"],
    places: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "n z"], Float[np.ndarray, "n z"]]:
    """Returns both ends of a small step on each path between two latents.

    Args:
        starts: Latents at which the paths start.
        stops: Latents at which they end.
        places: Where on its path each step begins, 0..1.

    Returns:
        Latents at `places` and at `places + EPSILON`.
    """
    return slerp(starts, stops, places), slerp(starts, stops, places + EPSILON)


def slerp(
    starts: Float[np.ndarray, "n z"],
    stops: Float[np.ndarray, "n z"],
    places: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n z"]:
    """Interpolates between latents at constant angular speed, in float64.

    Generators of ours do not normalize their latents, so neither does this, as torch-fidelity's
    `slerp_any`; that of StyleGAN does.

    Args:
        starts: The latents at place 0; not parallel to `stops`.
        stops: The latents at place 1.
        places: Where on the paths.
    """
    a, b = starts.astype(np.float64), stops.astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    angles, t = np.arccos(np.clip(cosines, -1, 1))[:, None], places[:, None]
    sines = np.maximum(np.sin(angles), np.finfo(np.float64).tiny)
    return (np.sin((1 - t) * angles) * a + np.sin(t * angles) * b) / sines


def step_lengths(
    before: Float[np.ndarray, "n f"], after: Float[np.ndarray, "n f"]
) -> Float[np.ndarray, " n"]:
    """Returns the squared distances of features at both ends of the steps, over EPSILON squared."""
    difference = after.astype(np.float64) - before.astype(np.float64)
    return np.square(difference).sum(axis=1) / EPSILON**2


def mean_path_length(lengths: Float[np.ndarray, " n"]) -> float:
    """Returns the mean of the lengths without those of the tails."""
    low = np.percentile(lengths, TAIL_PERCENT, method="lower")
    high = np.percentile(lengths, 100 - TAIL_PERCENT, method="higher")
    return float(lengths[(low <= lengths) & (lengths <= high)].mean())
