"""The file formats of an exported generator; each file is run before it is handed out."""

import dataclasses
import importlib.util
from collections.abc import Callable

import numpy as np

from gankd_jax.export import onnx, safetensors, stablehlo, torch
from gankd_jax.models import sampling
from gankd_jax.models.family import FoldedLayer, Generator
from gankd_jax.models.folding import fold_generator, quantize, unfold_generator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.utils.errors import UserError

SEED, COUNT = 4_000_000, 64  # of the latents that a file is tried on


BOUND = 1e-5  # of a difference between images in -1..1


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """How a file is written and run, and what must be installed for it."""

    write: Callable[[Generator, list[FoldedLayer]], bytes]
    run: Callable[[bytes, np.ndarray], np.ndarray]
    needs: tuple[str, ...] = ()


FORMATS = {
    "onnx": ExportFormat(
        lambda _, layers: onnx.write_onnx(layers), onnx.run_onnx, ("onnx", "onnxruntime")
    ),
    "stablehlo": ExportFormat(stablehlo.write_stablehlo, stablehlo.run_stablehlo),
    "torch": ExportFormat(lambda _, layers: torch.write_torch(layers), torch.run_torch, ("torch",)),
    "safetensors": ExportFormat(safetensors.write_safetensors, safetensors.run_safetensors),
}


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that was tried, and the generator that draws as it does."""

    file: bytes
    stored: TrainedGenerator
    difference: float  # the largest, to the model's images


def export_generator(
    drawer: TrainedGenerator, kind: str, precision: str, *, what: str
) -> ExportedFile:
    """A generator as the bytes of a file, which was run on fresh latents.

    Raises:
      UserError: it does not draw what the generator draws with its weights in that precision; in
        float32 the generator is the one that was given, its batch norm not folded.
    """
    generator, variables = drawer
    layers = [quantize(layer, precision) for layer in fold_generator(drawer)]
    stored = unfold_generator(generator, layers)
    file = FORMATS[kind].write(generator, layers)
    latents = sampling.sample_latents(SEED, COUNT, generator.latent_dim)
    drawn = FORMATS[kind].run(file, np.asarray(latents))
    difference = _largest(drawn, sampling.sample_images(generator, variables, latents))
    rounded = _largest(drawn, sampling.sample_images(*stored, latents))
    error = difference if precision == "float32" else rounded
    if not error <= BOUND:
        told = f"by {error:.1e} where {BOUND:.0e} is allowed"
        raise UserError(f"no {kind} file: it draws other images than {what}, {told}")
    return ExportedFile(file, stored, difference)


def require_packages(kind: str) -> None:
    """Refuse a format whose packages are missing.

    Raises:
      UserError: naming the extra that brings them.
    """
    for package in FORMATS[kind].needs:
        if importlib.util.find_spec(package) is None:
            extra = "torch" if package == "torch" else "export"
            raise UserError(f"{kind} files need {package}: pip install 'gankd-jax[{extra}]'")


def _largest(a: np.ndarray, b: object) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())
