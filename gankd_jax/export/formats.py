"""The registry of export formats, and export itself: every file is run before it is written.

A new format is a module in this folder that ends with `register_format(ExportFormat(...))` and is
imported in `export/__init__.py`.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.metrics.registry import source_of
from gankd_jax.models import sampling
from gankd_jax.models.family import Family, FoldedLayer, Generator, family_of, is_in_family
from gankd_jax.models.folding import KERNEL_DTYPES, fold_generator, quantize, unfold_generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

# Latents on which a file is compared with the model; no run trains on this seed.
CHECK_SEED, CHECK_COUNT = 4_000_000, 64
# Largest difference allowed between images in -1..1.  float32 rounding alone reaches 1.7e-5 in
# students of width 1 with large weights, which are refused; a larger bound would let a file with a
# real fault pass.
MAX_DIFFERENCE = 1e-5


def require_precision(precision: str) -> None:
    """Refuses a precision of exported weights that does not exist.

    Args:
        precision: One of `KERNEL_DTYPES`.

    Raises:
        UserError: It is none of them.
    """
    if precision not in KERNEL_DTYPES:
        allowed = ", ".join(KERNEL_DTYPES)
        raise UserError(f"--precision={precision} is not known; it can be {allowed}")


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """A file format for generators.

    Attributes:
        name: Key in `FORMATS`, the value of `gankd export --format`.
        suffixes: Endings of its files' names, such as `.onnx`.
        write: Maps a generator module and its folded layers to the bytes of a file.
        run: Maps the bytes of a file and latents `[n, z]` to images `[n, s, s, c]` in -1..1.
        packages: Packages that writing and running need beside those of gankd-jax.
        extra: The extra of gankd-jax that installs these packages.
        add_card: Maps a file and a JSON object to the file with the object in it; None if the
          format has no place for it.
        sequential_only: Whether only generators of a family with `is_sequential` can be written.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[Generator, list[FoldedLayer]], bytes]
    run: Callable[[bytes, np.ndarray], np.ndarray]
    packages: tuple[str, ...] = ()
    extra: str = ""
    add_card: Callable[[bytes, dict[str, Any]], bytes] | None = None
    sequential_only: bool = False


FORMATS: dict[str, ExportFormat] = {}


def register_format(export_format: ExportFormat) -> None:
    """Adds a format to `FORMATS` under its name, which `gankd export --format` then offers.

    Args:
        export_format: Its name must be new.

    Raises:
        UserError: The name is taken, by another module's format.

    Example:
        >>> import dataclasses
        >>> import gankd_jax
        >>> from gankd_jax.export.formats import FORMATS
        >>> plain = dataclasses.replace(FORMATS["safetensors"], name="plain", add_card=None)
        >>> gankd_jax.register_format(plain)
    """
    previous = FORMATS.get(export_format.name)
    if previous and source_of(previous.write) != source_of(export_format.write):
        raise UserError(
            f"an export format named {export_format.name!r} is registered already; choose another"
            " name"
        )
    FORMATS[export_format.name] = export_format


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that was run and compared with the model.

    Attributes:
        content: The bytes of the file.
        generator: The generator whose weights are rounded as the file stores them.
        difference: The largest difference to the images of the original model.
    """

    content: bytes
    generator: TrainedGenerator
    difference: float


def export_generator(
    generator: TrainedGenerator, format_name: str, precision: str, *, run_name: str
) -> ExportedFile:
    """Exports a generator to the bytes of a file, and runs the file on fresh latents.

    Args:
        generator: Any trained generator; its batch norm is folded into the layers.
        format_name: A key of `FORMATS`.
        precision: One of `KERNEL_DTYPES`.
        run_name: The generator's name in an error.

    Raises:
        UserError: There is no such precision, the format has no place for the generator's family,
          or the file's images differ from the model's by more than `MAX_DIFFERENCE`.  A float32
          file is compared with the original model, any other with that of rounded weights.
    """
    require_precision(precision)
    if not is_in_family(generator.module):
        raise UserError(
            f"no {format_name} file: {run_name} is a function or file, and only the layers of a"
            " registered network family can be written"
        )
    require_family(format_name, family_of(generator.module), run_name)
    layers = [quantize(layer, precision) for layer in fold_generator(generator)]
    rounded = unfold_generator(generator.module, layers)
    content = FORMATS[format_name].write(generator.module, layers)
    latents = sampling.sample_latents(CHECK_SEED, CHECK_COUNT, generator.latent_dim)
    images = FORMATS[format_name].run(content, np.asarray(latents))
    difference = _max_difference(images, generator, latents)
    error = difference if precision == "float32" else _max_difference(images, rounded, latents)
    if not error <= MAX_DIFFERENCE:
        raise UserError(
            f"no {format_name} file: its images differ from those of {run_name} by {error:.1e},"
            f" where {MAX_DIFFERENCE:.0e} is allowed"
        )
    return ExportedFile(content, rounded, difference)


def write_generator(
    out: Path,
    generator: TrainedGenerator,
    format_name: str,
    precision: str,
    *,
    run_name: str,
    card: dict[str, Any],
) -> ExportedFile:
    """Exports a generator to a file, with its card if the format has a place for it.

    Args:
        out: The file to write.
        generator: As `export_generator` takes it.
        format_name: See `export_generator`.
        precision: See `export_generator`.
        run_name: See `export_generator`.
        card: What is known of the generator, as JSON values.

    Raises:
        UserError: See `export_generator`; nothing is written then.
    """
    exported = export_generator(generator, format_name, precision, run_name=run_name)
    add_card = FORMATS[format_name].add_card
    if add_card:
        exported = dataclasses.replace(exported, content=add_card(exported.content, card))
    atomic_io.write_bytes(out, exported.content)
    return exported


def format_of(out: Path) -> str:
    """Returns the format whose files end as a file's name does.

    Raises:
        UserError: There is none.
    """
    by_suffix = {suffix: name for name, format_ in FORMATS.items() for suffix in format_.suffixes}
    if out.suffix not in by_suffix:
        raise UserError(f"--out={out}: the name of the file must end in {', '.join(by_suffix)}")
    return by_suffix[out.suffix]


def require_suffix(out: Path, format_name: str) -> None:
    """Checks that a file's name ends as files of its format do.

    Args:
        out: The file to write.
        format_name: A key of `FORMATS`.

    Raises:
        UserError: It ends otherwise.
    """
    suffixes = FORMATS[format_name].suffixes
    if out.suffix not in suffixes:
        endings = " or ".join(suffixes)
        raise UserError(f"--out={out}: the name of a {format_name} file ends in {endings}")


def require_packages(format_name: str) -> None:
    """Checks that the packages of a format are installed.

    Args:
        format_name: A key of `FORMATS`.

    Raises:
        UserError: One is not; names the extra that installs it.
    """
    export_format = FORMATS[format_name]
    for package in export_format.packages:
        if importlib.util.find_spec(package) is None:
            extra = f"pip install 'gankd-jax[{export_format.extra}]'"
            raise UserError(f"{format_name} files need {package}: {extra}")


def require_family(format_name: str, family: Family, run_name: str) -> None:
    """Checks that a format has a place for the generators of a family.

    Args:
        format_name: A key of `FORMATS`.
        family: The generator's.
        run_name: The generator's name in an error.

    Raises:
        UserError: It has none; names the formats that have.
    """
    if FORMATS[format_name].sequential_only and not family.is_sequential:
        formats = ", ".join(name for name in FORMATS if not FORMATS[name].sequential_only)
        raise UserError(
            f"no {format_name} file: {run_name} is a {family.name} generator, whose layers do not"
            f" simply follow one another; formats for it are {formats}"
        )


def _max_difference(
    images: Float[np.ndarray, "n s s c"], generator: TrainedGenerator, latents: Float[Array, "n z"]
) -> float:
    expected = jax.device_get(sampling.sample_images(*generator, latents))
    return float(np.abs(images - expected).max())
