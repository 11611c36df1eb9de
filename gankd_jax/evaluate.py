"""Scores of a generator, and of real images: one pass over the images feeds every score."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gankd_jax import sampling
from gankd_jax.judge import Judge
from gankd_jax.metrics.frechet import Moments, frechet_between
from gankd_jax.metrics.inception_score import inception_score
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models.dcgan import Generator
from gankd_jax.training.state import Tree

Drawer = tuple[Generator, Tree]  # a generator and its variables


@dataclasses.dataclass(frozen=True)
class Judged:
    """What one pass over a set of images leaves."""

    count: int
    sharpness: float
    moments: Moments | None  # of the judge's features; None without a judge
    logits: Float[np.ndarray, "n k"] | None


def judge_images(batches: Iterable[UInt8[np.ndarray, "_ s s c"]], judge: Judge | None) -> Judged:
    """Look at every image once, with memory for one batch (and the logits)."""
    sharpness, logits, moments, count = 0.0, [], None, 0
    for images in batches:
        count += len(images)
        sharpness += float(variance_of_laplacian(images).sum())
        if judge is not None:
            scores, features = judge(images)
            logits.append(np.asarray(scores))
            part = Moments.of(np.asarray(features))
            moments = part if moments is None else moments.merge(part)
    return Judged(count, sharpness / count, moments, np.concatenate(logits) if logits else None)


def scores(judged: Judged, reference: Moments | None) -> dict[str, float]:
    """The scores of a set of images; those of the judge only where there is one."""
    values = {"sharpness": judged.sharpness}
    if judged.logits is not None:
        mean, deviation = inception_score(judged.logits)
        values |= {"inception_score": mean, "inception_score_sd": deviation}
    if judged.moments is not None and reference is not None:
        values["fd_classifier"] = frechet_between(judged.moments, reference)
    return values


def drawn(
    drawer: Drawer, seed: int, *, count: int, batch_size: int
) -> Iterator[UInt8[np.ndarray, "_ s s c"]]:
    """`count` images of a generator, batch by batch, on the latents of `seed`."""
    generator, tree = drawer
    for latents, wanted in _latents(generator, seed, count=count, batch_size=batch_size):
        yield sampling.to_uint8(sampling.draw(generator, tree, latents))[:wanted]


def pixel_error(
    student: Drawer, teacher: Drawer, seed: int, *, count: int, batch_size: int
) -> float:
    """E ||G_t(z) - G_s(z)||^2 per number of an image, images in -1..1, on the latents of `seed`."""
    total = 0.0
    for latents, wanted in _latents(student[0], seed, count=count, batch_size=batch_size):
        errors = _errors(student[0], teacher[0], student[1], teacher[1], latents=latents)
        total += float(np.asarray(errors, np.float64)[:wanted].sum())
    return total / count


def _latents(
    generator: Generator, seed: int, *, count: int, batch_size: int
) -> Iterator[tuple[Float[Array, "b z"], int]]:
    """Batches of one size, so that one program serves, and how many of each are wanted."""
    for k in range(-(-count // batch_size)):
        wanted = min(batch_size, count - k * batch_size)
        key = jax.random.fold_in(jax.random.key(seed), k)
        yield jax.random.normal(key, (batch_size, generator.latent)), wanted


@jax.jit(static_argnums=(0, 1))
def _errors(
    student: Generator, teacher: Generator, own: Tree, theirs: Tree, *, latents: Array
) -> Float[Array, " b"]:
    images = student.apply(own, latents, train=False)
    wanted = teacher.apply(theirs, latents, train=False)
    return jnp.mean(jnp.square(images - wanted), axis=(1, 2, 3))


def samples(drawer: Drawer) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The pictures that a report shows, of the same latents for all runs: a grid, and paths."""
    generator, tree = drawer
    grid = sampling.draw(generator, tree, sampling.grid_latents(generator.latent))
    paths = sampling.draw(generator, tree, sampling.path_latents(generator.latent))
    shape = (sampling.PATHS, sampling.PATH_STEPS, *paths.shape[1:])
    return {
        "grid": sampling.to_uint8(grid),
        "interpolation": sampling.to_uint8(paths).reshape(shape),
    }


def in_batches(
    images: UInt8[np.ndarray, "n s s c"], size: int
) -> Iterator[UInt8[np.ndarray, "_ s s c"]]:
    """A set of images, batch by batch."""
    for first in range(0, len(images), size):
        yield np.asarray(images[first : first + size])


def versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    import importlib.metadata as metadata

    names: Any = ("gankd-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {name: metadata.version(name) for name in names} | {"backend": jax.default_backend()}
