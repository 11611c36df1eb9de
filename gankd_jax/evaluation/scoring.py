"""Scores of a generator, and of real images: one pass over the images feeds all of a network's."""

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gankd_jax.evaluation.inference import Batches, iterate_batches, latent_batches
from gankd_jax.metrics import feature_stats
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.folding import fold_generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils import preemption

CLOSEST = 8  # pairs of an image and its nearest training image that are kept


def compute_scores(
    batches: Callable[[], Batches],
    references: Iterable[tuple[FeatureExtractor, FeatureStats]],
    *,
    count: int,
) -> dict[str, float]:
    """All scores of a set of `count` images against the real images of each network.

    `batches` starts the set anew for each network; without any network there is the sharpness.
    """
    values: dict[str, float] = {}
    for extractor, reference in references:
        found = feature_stats.compute_stats(batches(), extractor, count=count)
        own = feature_stats.single_set_scores(found)
        if "inception_score" in values:  # by another network: its name tells them apart
            own = {_by(extractor, name): value for name, value in own.items()}
        values |= own | feature_stats.compare_stats(found, reference)
    return values or {"sharpness": _sharpness(batches()) / count}


def _by(extractor: FeatureExtractor, name: str) -> str:
    return f"{name}_{extractor.kept}" if name.startswith("inception_score") else name


def _sharpness(batches: Batches) -> float:
    return sum(float(variance_of_laplacian(images).sum()) for images in batches)


def pixel_errors(
    students: Sequence[TrainedGenerator],
    teacher: TrainedGenerator,
    seed: int,
    *,
    count: int,
    batch_size: int,
) -> list[float]:
    """E ||G_t(z) - G_s(z)||^2 per number of an image, images in -1..1, on the latents of `seed`.

    One value for each student; the teacher draws once for all of them.
    """
    latents = latent_batches(teacher.module, seed, count=count, batch_size=batch_size)
    return _mean_errors(students, teacher, latents)


def pixel_error_on(
    student: TrainedGenerator,
    teacher: TrainedGenerator,
    latents: Float[Array, "n z"],
    *,
    batch_size: int,
) -> float:
    """The same on latents that are given; `batch_size` divides their number."""
    firsts = range(0, len(latents), batch_size)
    batches = ((latents[first : first + batch_size], batch_size) for first in firsts)
    [error] = _mean_errors([student], teacher, batches)
    return error


def _mean_errors(
    students: Sequence[TrainedGenerator],
    teacher: TrainedGenerator,
    batches: Iterable[tuple[Array, int]],
) -> list[float]:
    """Over batches of latents, of each of which so many are wanted."""
    generators = tuple(generator for generator, _ in students)
    own = [variables for _, variables in students]
    total, count = np.zeros(len(students)), 0
    for latents, wanted in batches:
        preemption.raise_if_requested()
        errors = _errors(generators, teacher.module, own, teacher.variables, latents=latents)
        total += np.asarray(errors, np.float64)[:, :wanted].sum(axis=1)
        count += wanted
    return [float(value) for value in total / count]


@jax.jit(static_argnums=(0, 1))
def _errors(
    students: tuple[Generator, ...],
    teacher: Generator,
    own: list[PyTree],
    theirs: PyTree,
    *,
    latents: Float[Array, "b z"],
) -> Float[Array, "k b"]:
    wanted = teacher.apply(theirs, latents, train=False)
    images = [s.apply(v, latents, train=False) for s, v in zip(students, own, strict=True)]
    return jnp.mean(jnp.square(jnp.stack(images) - wanted), axis=(2, 3, 4))


def report_samples(drawer: TrainedGenerator) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The pictures that a report shows, of the same latents for all runs: a grid, and paths."""
    generator, variables = drawer
    grid = sampling.sample_images(generator, variables, sampling.grid_latents(generator.latent_dim))
    paths = sampling.sample_images(
        generator, variables, sampling.interpolation_latents(generator.latent_dim)
    )
    shape = (sampling.INTERPOLATION_PATHS, sampling.INTERPOLATION_STEPS, *paths.shape[1:])
    return {
        "grid": sampling.to_uint8(grid),
        "interpolation": sampling.to_uint8(paths).reshape(shape),
    }


def extract_features(
    images: UInt8[np.ndarray, "n s s c"], extractor: FeatureExtractor
) -> Float[np.ndarray, "n f"]:
    """A network's features of every image, in float16: distances keep three digits."""
    parts = [
        np.asarray(extractor.features(batch)[extractor.kept], np.float16)
        for batch in iterate_batches(images, extractor.batch_size)
    ]
    return np.concatenate(parts)


def nearest_neighbours(
    images: UInt8[np.ndarray, "n s s c"],
    extractor: FeatureExtractor,
    known: Float[np.ndarray, "m f"],
    *,
    pixels: UInt8[np.ndarray, "m s s c"],
) -> dict[str, np.ndarray]:
    """How near images come to training images `pixels`, whose features are `known`.

    Returns:
      `distances` [n], Euclidean in the network's features, from each image to its nearest training
      image; `closest` [k], the places of the `CLOSEST` images that come nearest, nearest first;
      `nearest` [k s s c], the training images that they come near to.
    """
    from sklearn.metrics import pairwise_distances_argmin_min  # slow to import

    own = extract_features(images, extractor).astype(np.float32)
    places, distances = pairwise_distances_argmin_min(own, known.astype(np.float32))
    closest = np.argsort(distances, kind="stable")[:CLOSEST]
    found = np.stack([pixels[place] for place in places[closest]])
    return {"distances": distances, "closest": closest, "nearest": found}


def folded_arrays(drawer: TrainedGenerator) -> dict[str, Float[np.ndarray, "..."]]:
    """What draws the pictures without Flax: `kernel0` [4 4 i o], `bias0` [o] and so on.

    Batch norm is folded in. `latents` [n z] are those of the grid.
    """
    arrays = {"latents": np.asarray(sampling.grid_latents(drawer.latent_dim))}
    for k, layer in enumerate(fold_generator(drawer)):
        arrays |= {f"kernel{k}": layer.kernel, f"bias{k}": layer.bias}
    return arrays


def library_versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    names = ("gankd-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"backend": jax.default_backend()}
