"""Scores of a generator, and of real images: one pass over the images feeds all of a network's."""

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gankd_jax import sampling
from gankd_jax.export.folded import fold
from gankd_jax.metrics import features
from gankd_jax.metrics.features import Extractor, Summary
from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.models.dcgan import Generator
from gankd_jax.runtime import stop
from gankd_jax.training.state import Tree

Drawer = tuple[Generator, Tree]  # a generator and its variables
Batches = Iterator[UInt8[np.ndarray, "_ s s c"]]
CLOSEST = 8  # pairs of an image and its nearest training image that are kept


def scores(
    batches: Callable[[], Batches], references: Iterable[tuple[Extractor, Summary]], *, count: int
) -> dict[str, float]:
    """All scores of a set of `count` images against the real images of each network.

    `batches` starts the set anew for each network; without any network there is the sharpness.
    """
    values: dict[str, float] = {}
    for extractor, reference in references:
        found = features.summarize(batches(), extractor, count=count)
        own = features.own_scores(found)
        if "inception_score" in values:  # by another network: its name tells them apart
            own = {_by(extractor, name): value for name, value in own.items()}
        values |= own | features.compare(found, reference)
    return values or {"sharpness": _sharpness(batches()) / count}


def _by(extractor: Extractor, name: str) -> str:
    return f"{name}_{extractor.kept}" if name.startswith("inception_score") else name


def _sharpness(batches: Batches) -> float:
    return sum(float(variance_of_laplacian(images).sum()) for images in batches)


def drawn(drawer: Drawer, seed: int, *, count: int, batch_size: int) -> Batches:
    """`count` images of a generator, batch by batch, on the latents of `seed`."""
    generator, variables = drawer
    for latents, wanted in _latents(generator, seed, count=count, batch_size=batch_size):
        yield sampling.to_uint8(sampling.draw(generator, variables, latents))[:wanted]


def pixel_errors(
    students: Sequence[Drawer], teacher: Drawer, seed: int, *, count: int, batch_size: int
) -> list[float]:
    """E ||G_t(z) - G_s(z)||^2 per number of an image, images in -1..1, on the latents of `seed`.

    One value for each student; the teacher draws once for all of them.
    """
    latents = _latents(teacher[0], seed, count=count, batch_size=batch_size)
    return _mean_errors(students, teacher, latents)


def pixel_error_on(
    student: Drawer, teacher: Drawer, latents: Float[Array, "n z"], *, batch_size: int
) -> float:
    """The same on latents that are given; `batch_size` divides their number."""
    firsts = range(0, len(latents), batch_size)
    batches = ((latents[first : first + batch_size], batch_size) for first in firsts)
    [error] = _mean_errors([student], teacher, batches)
    return error


def _mean_errors(
    students: Sequence[Drawer], teacher: Drawer, batches: Iterable[tuple[Array, int]]
) -> list[float]:
    """Over batches of latents, of each of which so many are wanted."""
    generators = tuple(generator for generator, _ in students)
    own = [variables for _, variables in students]
    total, count = np.zeros(len(students)), 0
    for latents, wanted in batches:
        stop.check()
        errors = _errors(generators, teacher[0], own, teacher[1], latents=latents)
        total += np.asarray(errors, np.float64)[:, :wanted].sum(axis=1)
        count += wanted
    return [float(value) for value in total / count]


def _latents(
    generator: Generator, seed: int, *, count: int, batch_size: int
) -> Iterator[tuple[Float[Array, "b z"], int]]:
    """Batches of one size, so that one program serves, and how many of each are wanted."""
    for k in range(-(-count // batch_size)):
        stop.check()
        wanted = min(batch_size, count - k * batch_size)
        key = jax.random.fold_in(jax.random.key(seed), k)
        yield jax.random.normal(key, (batch_size, generator.latent)), wanted


@jax.jit(static_argnums=(0, 1))
def _errors(
    students: tuple[Generator, ...],
    teacher: Generator,
    own: list[Tree],
    theirs: Tree,
    *,
    latents: Float[Array, "b z"],
) -> Float[Array, "k b"]:
    wanted = teacher.apply(theirs, latents, train=False)
    images = [s.apply(v, latents, train=False) for s, v in zip(students, own, strict=True)]
    return jnp.mean(jnp.square(jnp.stack(images) - wanted), axis=(2, 3, 4))


def samples(drawer: Drawer) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The pictures that a report shows, of the same latents for all runs: a grid, and paths."""
    generator, variables = drawer
    grid = sampling.draw(generator, variables, sampling.grid_latents(generator.latent))
    paths = sampling.draw(generator, variables, sampling.path_latents(generator.latent))
    shape = (sampling.PATHS, sampling.PATH_STEPS, *paths.shape[1:])
    return {
        "grid": sampling.to_uint8(grid),
        "interpolation": sampling.to_uint8(paths).reshape(shape),
    }


def features_of(
    images: UInt8[np.ndarray, "n s s c"], extractor: Extractor
) -> Float[np.ndarray, "n f"]:
    """A network's features of every image, in float16: distances keep three digits."""
    parts = [
        np.asarray(extractor.features(batch)[extractor.kept], np.float16)
        for batch in in_batches(images, extractor.batch_size)
    ]
    return np.concatenate(parts)


def nearest(
    images: UInt8[np.ndarray, "n s s c"],
    extractor: Extractor,
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

    own = features_of(images, extractor).astype(np.float32)
    places, distances = pairwise_distances_argmin_min(own, known.astype(np.float32))
    closest = np.argsort(distances, kind="stable")[:CLOSEST]
    found = np.stack([pixels[place] for place in places[closest]])
    return {"distances": distances, "closest": closest, "nearest": found}


def folded(drawer: Drawer) -> dict[str, Float[np.ndarray, "..."]]:
    """What draws the pictures without Flax: `kernel0` [4 4 i o], `bias0` [o] and so on.

    Batch norm is folded in. `latents` [n z] are those of the grid.
    """
    arrays = {"latents": np.asarray(sampling.grid_latents(drawer[0].latent))}
    for k, layer in enumerate(fold(*drawer)):
        arrays |= {f"kernel{k}": layer.kernel, f"bias{k}": layer.bias}
    return arrays


def in_batches(images: UInt8[np.ndarray, "n s s c"], size: int) -> Batches:
    """A set of images, batch by batch."""
    for first in range(0, len(images), size):
        stop.check()
        yield np.asarray(images[first : first + size])


def versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    names = ("gankd-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"backend": jax.default_backend()}
