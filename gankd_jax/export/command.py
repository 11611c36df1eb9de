"""What `gankd export` does: fold, store, run the file, compare, and only then write it."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from gankd_jax import runs, sampling, score_runs, workdir
from gankd_jax.errors import UserError
from gankd_jax.evaluate import Drawer
from gankd_jax.export import onnx_file, safetensors_file, stablehlo_file, torch_file
from gankd_jax.export.folded import Layer, as_flax, fold, store
from gankd_jax.lab import Lab
from gankd_jax.models.dcgan import Generator
from gankd_jax.names import PRECISIONS
from gankd_jax.runs import Run
from gankd_jax.runtime import files

SEED, COUNT = 4_000_000, 64  # of the latents that a file is tried on
BOUND = 1e-5  # of a difference between images in -1..1


@dataclasses.dataclass(frozen=True)
class Format:
    """How a file is written and run, and what must be installed for it."""

    write: Callable[[Generator, list[Layer]], bytes]
    run: Callable[[bytes, np.ndarray], np.ndarray]
    needs: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(
        lambda _, layers: onnx_file.write(layers), onnx_file.run, ("onnx", "onnxruntime")
    ),
    "stablehlo": Format(stablehlo_file.write, stablehlo_file.run),
    "torch": Format(lambda _, layers: torch_file.write(layers), torch_file.run, ("torch",)),
    "safetensors": Format(safetensors_file.write, safetensors_file.run),
}


def export(
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    run: str,
    kind: str,
    precision: str,
    out: Path,
) -> str:
    """Write a trained run's generator as a file of that kind; what was measured of it, as text.

    Raises:
      UserError: no such run, format or precision, the run is not trained, `out` exists, a package
        is missing, or the file does not draw what the model draws (it is not written then).
    """
    chosen = _check(config, folder, run=run, kind=kind, precision=precision, out=out)
    lab = Lab(config, folder)
    made = make(lab.drawer(chosen), kind, precision, what=run)
    file = made.file
    if kind == "safetensors":
        file = safetensors_file.with_card(file, _card(lab, chosen, precision))
    files.write_bytes(out, file)
    lines = [
        f"{out}: {len(file):,} bytes; largest difference to {run} on {COUNT} fresh latents"
        f" {made.difference:.1e} (images in -1..1)"
    ]
    if precision != "float32":
        lines += _changes(lab, chosen, made.stored)
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Made:
    """A file that was tried, and the generator that draws as it does."""

    file: bytes
    stored: Drawer
    difference: float  # the largest, to the model's images


def make(drawer: Drawer, kind: str, precision: str, *, what: str) -> Made:
    """A generator as the bytes of a file, which was run on fresh latents.

    Raises:
      UserError: it does not draw what the generator draws with its weights in that precision; in
        float32 the generator is the one that was given, its batch norm not folded.
    """
    generator, variables = drawer
    layers = [store(layer, precision) for layer in fold(generator, variables)]
    stored = as_flax(generator, layers)
    file = FORMATS[kind].write(generator, layers)
    latents = sampling.latents(SEED, COUNT, generator.latent)
    drawn = FORMATS[kind].run(file, np.asarray(latents))
    difference = _largest(drawn, sampling.draw(generator, variables, latents))
    rounded = _largest(drawn, sampling.draw(*stored, latents))
    error = difference if precision == "float32" else rounded
    if not error <= BOUND:
        told = f"by {error:.1e} where {BOUND:.0e} is allowed"
        raise UserError(f"no {kind} file: it draws other images than {what}, {told}")
    return Made(file, stored, difference)


def _card(lab: Lab, run: Run, precision: str) -> dict[str, Any]:
    """How a run was made, and where it is scored its scores with weights of that precision."""
    card = {
        "study": lab.config.name,
        "run": run.name,
        "precision": precision,
        "recipe": lab.config.recipes[run.recipe].to_dict(),
        "data": lab.train.key,
    }
    path = lab.folder / run.name / "scores.json"
    if not path.exists():
        return card
    scored = files.read_json(path)
    stored = scored.get("precisions", {}).get(precision, {})
    return card | scored | ({"scores": stored["scores"]} if "scores" in stored else {})


def need(kind: str) -> None:
    """Refuse a format whose packages are missing.

    Raises:
      UserError: naming the extra that brings them.
    """
    for package in FORMATS[kind].needs:
        if importlib.util.find_spec(package) is None:
            extra = "torch" if package == "torch" else "export"
            raise UserError(f"{kind} files need {package}: pip install 'gankd-jax[{extra}]'")


def _check(
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    run: str,
    kind: str,
    precision: str,
    out: Path,
) -> Run:
    if kind not in FORMATS:
        raise UserError(f"--format={kind} is not known; it can be {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise UserError(f"--precision={precision} is not known; it can be {allowed}")
    chosen = runs.find(config, run)
    workdir.need_trained(folder, config, chosen)
    files.need_free(out)
    need(kind)
    return chosen


def _largest(a: np.ndarray, b: object) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def _changes(lab: Lab, run: Run, stored: Drawer) -> list[str]:
    """Each of the report's scores with the weights as they were, and as they are stored."""
    before, after = score_runs.values_of(lab, run, [lab.drawer(run), stored])
    width = max(map(len, before))
    lines = (
        f"  {name:{width}}  {value:10.4g} -> {after[name]:<10.4g} ({after[name] - value:+.2g})"
        for name, value in before.items()
        if name in after
    )
    return [f"scores of {lab.config.evaluation.samples:,} images", *lines]
