"""Scores of generators and of real images, and the images that a report shows of them."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gankd_jax.evaluation.inference import Batches, iterate_batches, latent_batches
from gankd_jax.metrics import feature_stats, ppl, registry
from gankd_jax.metrics.feature_stats import FeatureExtractor, FeatureStats
from gankd_jax.metrics.inputs import check_features, check_scores
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree, family_of, is_in_family
from gankd_jax.models.folding import fold_generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils import VERSION, preemption

NEAREST_PAIRS = 8  # pairs of a sample and its nearest training image that a report shows


@dataclasses.dataclass(frozen=True)
class ImageScores:
    """All metrics of an image set.

    Attributes:
        values: By metric key, see `metrics.registry`.
        class_shares: The part of the images in each class, as the mean probability by the first
            network with classes; empty without one.
    """

    values: dict[str, float]
    class_shares: tuple[float, ...] = ()


def compute_scores(
    batches: Callable[[], Batches],
    references: Iterable[tuple[FeatureExtractor, FeatureStats]],
    *,
    count: int,
) -> ImageScores:
    """Computes all metrics of an image set, in one pass per network.

    Args:
        batches: Starts an iteration over the images; called once per network.
        references: Each network with its statistics of the real images.  Without any, the
            sharpness is the only metric.
        count: Total number of images.

    Raises:
        UserError: A score is not finite.
    """
    scores: dict[str, float] = {}
    class_shares: tuple[float, ...] = ()
    for extractor, reference in references:
        stats = feature_stats.compute_stats(batches(), extractor, count=count)
        scores |= feature_stats.single_set_scores(stats, extractor.pair_layer)
        scores |= feature_stats.compare_stats(stats, reference)
        if extractor.pair_layer in registry.CLASSIFIERS:
            scores |= feature_stats.class_scores(stats, reference, extractor.pair_layer)
        if stats.inception_score_stats and not class_shares:
            class_shares = tuple(stats.inception_score_stats.class_shares().tolist())
    values = scores or {registry.SHARPNESS: _total_sharpness(batches()) / count}
    return ImageScores(values, class_shares)


def _total_sharpness(batches: Batches) -> float:
    return sum(float(variance_of_laplacian(images).sum()) for images in batches)


def path_length(
    generator: TrainedGenerator, extractor: FeatureExtractor, seed: int, *, count: int
) -> dict[str, float]:
    """Computes the perceptual path length of a generator by `extractor.pair_layer`.

    Args:
        generator: Module and variables.
        extractor: The network.
        seed: Of the latents and the places on the paths.
        count: Number of paths; each takes two images.

    Returns:
        The length by its metric key.

    Raises:
        UserError: It is not finite.
    """
    ends = np.asarray(sampling.sample_latents(seed, 2 * count, generator.latent_dim))
    places = np.random.default_rng(seed).uniform(size=count)
    sides = ppl.path_steps(ends[:count], ends[count:], places)
    layer, lengths = extractor.pair_layer, []
    for first in range(0, count, extractor.batch_size):
        preemption.raise_if_requested()
        before, after = (
            _image_features(generator, extractor, side[first : first + extractor.batch_size])
            for side in sides
        )
        lengths.append(ppl.step_lengths(before, after))
    length = ppl.mean_path_length(np.concatenate(lengths))
    return check_scores({registry.metric_key(registry.PATH_LENGTH, layer): length})


def _image_features(
    generator: TrainedGenerator, extractor: FeatureExtractor, latents: Float[np.ndarray, "b z"]
) -> Float[np.ndarray, "b f"]:
    """Returns the features of images that are not rounded, which would hide a small step."""
    module, variables = generator
    images = sampling.sample_images(module, variables, jnp.asarray(latents, jnp.float32))
    scaled = np.asarray(images, np.float32) * 127.5 + 127.5
    return np.asarray(extractor.extract(scaled)[extractor.pair_layer])


def pixel_errors(
    students: Sequence[TrainedGenerator],
    teacher: TrainedGenerator,
    seed: int,
    *,
    count: int,
    batch_size: int,
) -> list[float]:
    """Computes the mean square difference between students' and teacher's images.

    The teacher's images are generated once for all students.

    Args:
        students: Generators to compare with the teacher.
        teacher: Takes the same latents.
        seed: Seed of the latents.
        count: Number of latents.
        batch_size: Latents per batch.

    Returns:
        For each student the mean over latents, pixels and channels, of images in -1..1.

    Raises:
        UserError: An image is not finite.
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
    """Computes one student's pixel error on given latents.

    Args:
        student: The generator to compare with the teacher.
        teacher: Takes the same latents.
        latents: The latents.
        batch_size: Latents per batch; a divisor of their number.
    """
    starts = range(0, len(latents), batch_size)
    batches = ((latents[start : start + batch_size], batch_size) for start in starts)
    [error] = _mean_errors([student], teacher, batches)
    return error


def _mean_errors(
    students: Sequence[TrainedGenerator],
    teacher: TrainedGenerator,
    batches: Iterable[tuple[Array, int]],
) -> list[float]:
    """Averages the errors over the first images of each batch, as many as it says."""
    modules = tuple(student.module for student in students)
    variables = [student.variables for student in students]
    total, count = np.zeros(len(students)), 0

    def compute_errors(batch: tuple[Array, int]) -> Float[Array, "k b"]:
        preemption.raise_if_requested()
        return _image_errors(
            modules, teacher.module, variables, teacher.variables, latents=batch[0]
        )

    for (_, size), errors in feature_stats.compute_one_ahead(batches, compute_errors):
        total += np.asarray(errors, np.float64)[:, :size].sum(axis=1)
        count += size
    values = [float(value) for value in total / count]
    for value in values:
        check_scores({"pixel_error": value})
    return values


@jax.jit(static_argnums=(0, 1))
def _image_errors(
    students: tuple[Generator, ...],
    teacher: Generator,
    student_variables: list[PyTree],
    teacher_variables: PyTree,
    *,
    latents: Float[Array, "b z"],
) -> Float[Array, "k b"]:
    teacher_images = sampling.apply_in_float32(teacher, teacher_variables, latents)
    student_images = [
        sampling.apply_in_float32(student, variables, latents)
        for student, variables in zip(students, student_variables, strict=True)
    ]
    return jnp.mean(jnp.square(jnp.stack(student_images) - teacher_images), axis=(2, 3, 4))


def report_samples(generator: TrainedGenerator) -> dict[str, UInt8[np.ndarray, "..."]]:
    """Generates the samples that a report shows, from latents that all runs share.

    Returns:
        `grid` `(n, s, s, c)`, and `interpolation` `(paths, steps, s, s, c)` along paths between
        latents.
    """
    module, variables = generator
    latent_dim = generator.latent_dim
    grid = sampling.sample_images(module, variables, sampling.grid_latents(latent_dim))
    paths = sampling.sample_images(module, variables, sampling.interpolation_latents(latent_dim))
    shape = (sampling.INTERPOLATION_PATHS, sampling.INTERPOLATION_STEPS, *paths.shape[1:])
    return {
        "grid": sampling.to_uint8(grid),
        "interpolation": sampling.to_uint8(paths).reshape(shape),
    }


def extract_features(
    images: UInt8[np.ndarray, "n s s c"], extractor: FeatureExtractor
) -> Float[np.ndarray, "n f"]:
    """Returns the features of every image by `extractor.pair_layer`.

    They are float16, which halves the memory; distances keep three digits.

    Args:
        images: 0..255.
        extractor: The network.

    Raises:
        UserError: A feature is not finite in float16.
    """
    batches = iterate_batches(images, extractor.batch_size)
    parts = [
        np.asarray(layers[extractor.pair_layer], np.float16)
        for _, layers in feature_stats.compute_one_ahead(batches, extractor.extract)
    ]
    features = np.concatenate(parts)
    check_features("nearest training images", features)
    return features


def nearest_neighbours(
    images: UInt8[np.ndarray, "n s s c"],
    extractor: FeatureExtractor,
    reference_features: Float[np.ndarray, "m f"],
    *,
    reference_images: UInt8[np.ndarray, "m s s c"],
) -> dict[str, np.ndarray]:
    """Finds the nearest training image of each image, by Euclidean distance of features.

    Args:
        images: Samples of a generator, say.
        extractor: The network.
        reference_features: `extract_features` of the training images.
        reference_images: The training images.

    Returns:
        `distances` `(n,)` from each image to its nearest training image; `closest` `(k,)`, the
        indices of the `NEAREST_PAIRS` images with the smallest distances, nearest first; `nearest`
        `(k, s, s, c)`, their nearest training images.
    """
    from sklearn.metrics import pairwise_distances_argmin_min  # slow to import

    features = extract_features(images, extractor).astype(np.float32)
    indices, distances = pairwise_distances_argmin_min(
        features, reference_features.astype(np.float32)
    )
    closest = np.argsort(distances, kind="stable")[:NEAREST_PAIRS]
    nearest = np.stack([reference_images[index] for index in indices[closest]])
    return {"distances": distances, "closest": closest, "nearest": nearest}


def folded_arrays(generator: TrainedGenerator) -> dict[str, Float[np.ndarray, "..."]]:
    """Returns what the report's browser demo needs to run a generator without Flax.

    Returns:
        `kernel0` `(4, 4, i, o)`, `bias0` `(o,)` and so on, with batch norm folded in; `latents`
        `(n, z)` of the grid of `report_samples`.  The latents alone for a family that the demo
        does not know, and for a function.
    """
    arrays = {"latents": np.asarray(sampling.grid_latents(generator.latent_dim))}
    if not (is_in_family(generator.module) and family_of(generator.module).is_sequential):
        return arrays
    for k, layer in enumerate(fold_generator(generator)):
        arrays |= {f"kernel{k}": layer.kernel, f"bias{k}": layer.bias}
    return arrays


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that scores depend on, and the JAX backend."""
    libraries = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {library: importlib.metadata.version(library) for library in libraries}
    return {"gankd-jax": VERSION, **versions, "backend": jax.default_backend()}
