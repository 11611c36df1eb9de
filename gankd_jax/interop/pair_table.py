"""Pairs of latents and images, which any program can write, in place of a teacher.

A latent of ours selects a row: its first number has a place in the normal distribution, and the row
has this place in the table.  So latents that are sampled select all rows equally often, and equal
latents the same row.  Students get the row's latent, and the teacher's image is the row's image.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gankd_jax.interop.external_generator import (
    VALUE_RANGES,
    ExternalGenerator,
    has_channels_first,
    infer_value_range,
    normalize_images,
    require_value_range,
)
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

TEST_SHARE = 10  # one of so many pairs is never trained on
MIN_PAIRS = 2
MAX_BYTES = 2**36  # of the arrays in a file
MAX_DEVIATION = 0.1  # of the mean and standard deviation of latents that count as normal
FORM = "latents [n, z] and images [n, s, s, c] or [n, c, s, s]"


@dataclasses.dataclass(unsafe_hash=True)  # as FunctionGenerator
class PairTable(ExternalGenerator):
    """A table in place of a network; its variables are the latents, the images and their order.

    Attributes:
        image_size: Pixels a side of the images.
        channels: 1 for grey images, 3 for colour.
        latent_dim: Numbers in a latent.
        channels_first: Whether the images are `[n, c, s, s]`.
        value_range: Least and greatest value of the images.
        count: Pairs in the table.
        test_count: Pairs at the end of the order that no student trains on.
        is_training: Whether latents select the other pairs, or else these.
    """

    image_size: int
    channels: int
    latent_dim: int
    channels_first: bool
    value_range: tuple[float, float]
    count: int
    test_count: int
    is_training: bool = False

    @property
    def train_count(self) -> int:
        """Pairs that students train on."""
        return self.count - self.test_count

    def apply(
        self, variables: PyTree, latents: Float[Array, "b z"], *, train: bool, mutable: Any = False
    ) -> Float[Array, "b s s c"]:
        """Returns the images of the rows that latents select, in -1..1.

        Args:
            variables: The table.
            latents: `[b, latent_dim]`.
            train: Without meaning here, as `mutable`.
            mutable: See `train`.
        """
        del train, mutable
        images = variables["images"][self._rows(variables, latents)]
        images = normalize_images(images, self.channels_first, self.value_range)
        return images.astype(jnp.float32)

    def row_latents(self, variables: PyTree, latents: Float[Array, "*b z"]) -> Float[Array, "*b z"]:
        """Returns the latents of the rows that latents select."""
        return variables["latents"][self._rows(variables, latents)].astype(latents.dtype)

    def _rows(self, variables: PyTree, latents: Float[Array, "*b z"]) -> Int[Array, "*b"]:
        first = 0 if self.is_training else self.train_count
        count = self.train_count if self.is_training else self.test_count
        place = jax.scipy.special.ndtr(latents[..., 0]) * count
        return variables["order"][first + jnp.minimum(place.astype(jnp.int32), count - 1)]


@dataclasses.dataclass(unsafe_hash=True)  # as FunctionGenerator
class RowGenerator(ExternalGenerator):
    """A student of a table that takes a latent as the table does: as the choice of a row.

    Its variables are the student's, and those of the table.  The attributes behind the first two
    are the student's.
    """

    student: Generator
    table: PairTable
    image_size: int
    channels: int
    latent_dim: int
    width: int
    norm: str
    conv_impl: str

    def apply(
        self, variables: PyTree, latents: Float[Array, "b z"], *, train: bool, mutable: Any = False
    ) -> Float[Array, "b s s c"]:
        """Returns the student's images of the latents of the rows; see `Generator.apply`."""
        row_latents = self.table.row_latents(variables["table"], latents)
        return self.student.apply(variables["student"], row_latents, train=train, mutable=mutable)


def for_training(teacher: Generator) -> Generator:
    """Returns a teacher as it teaches: of a table, the pairs for training."""
    if not isinstance(teacher, PairTable):
        return teacher
    return dataclasses.replace(teacher, is_training=True)


def take_rows(student: TrainedGenerator, teacher: TrainedGenerator | None) -> TrainedGenerator:
    """Returns a student as it is compared with its teacher, on the same latents.

    Args:
        student: The student.
        teacher: Its teacher.  If that is a table, latents select rows.
    """
    if teacher is None or not isinstance(teacher.module, PairTable):
        return student
    names = [field.name for field in dataclasses.fields(RowGenerator)][2:]
    attributes = {name: getattr(student.module, name) for name in names}
    module = RowGenerator(student.module, teacher.module, **attributes)
    variables = {"student": student.variables, "table": teacher.variables}
    return TrainedGenerator(module, variables, student.card)


def has_normal_latents(table: TrainedGenerator) -> bool:
    """Returns whether the latents of a table seem to be standard normal numbers."""
    latents = np.asarray(table.variables["latents"])
    return bool(max(abs(latents.mean()), abs(latents.std() - 1)) < MAX_DEVIATION)


def load_pairs(path: Path, value_range: str = "") -> TrainedGenerator:
    """Loads a table of pairs.

    A tenth of the pairs, drawn by their number alone, is for evaluation.

    Args:
        path: An .npz with the arrays `latents`, `[n, z]` or `[n, z, 1, 1]`, and `images`,
            `[n, s, s, c]` or `[n, c, s, s]`.
        value_range: A key of `VALUE_RANGES`; '' takes 0..255 for uint8 images and infers it from
            others.

    Raises:
        UserError: The file is damaged, an array is missing or has another shape, the arrays have
            different counts or a single pair, or a value is not finite or out of the range.
    """
    require_value_range(value_range)
    latents, images = _read_arrays(path)
    default = "0..255" if images.dtype == np.uint8 else infer_value_range(images)
    low, high = VALUE_RANGES[value_range or default]
    margin = (high - low) / 100
    if images.min() < low - margin or images.max() > high + margin:
        raise UserError(
            f"{path}: images are in {images.min():.4g}..{images.max():.4g}; they must be in"
            f" {value_range or default}"
        )
    channels_first = bool(has_channels_first(images.shape))
    table = PairTable(
        image_size=images.shape[2],
        channels=images.shape[1 if channels_first else 3],
        latent_dim=latents.shape[1],
        channels_first=channels_first,
        value_range=(low, high),
        count=len(images),
        test_count=max(1, len(images) // TEST_SHARE),
    )
    arrays = {
        "latents": latents,
        "images": images,
        "order": np.random.default_rng(0).permutation(len(images)).astype(np.int32),
    }
    return TrainedGenerator(table, jax.tree.map(jnp.asarray, arrays))


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns latents `[n, z]` in float32, and images in uint8 or float32."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        arrays = atomic_io.read_npz(path, max_bytes=MAX_BYTES)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for name in ("latents", "images"):
        if name not in arrays:
            names = ", ".join(arrays) or "no array"
            raise UserError(f"{path} has no array {name}; a file of pairs has {FORM}, this {names}")
    latents, images = arrays["latents"], arrays["images"]
    if latents.ndim == 4 and latents.shape[2:] == (1, 1):
        latents = latents[:, :, 0, 0]
    if latents.ndim != 2 or has_channels_first(images.shape) is None or 0 in latents.shape:
        shapes = f"latents {latents.shape} and images {images.shape}"
        raise UserError(f"{path} has {shapes}; a file of pairs has {FORM} of 1 or 3 channels")
    if len(latents) != len(images):
        raise UserError(f"{path} has {len(latents)} latents and {len(images)} images")
    if len(images) < MIN_PAIRS:
        raise UserError(f"{path} has one pair; two or more are needed, to train on and to score on")
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    return latents.astype(np.float32), images.astype(dtype, copy=False)
