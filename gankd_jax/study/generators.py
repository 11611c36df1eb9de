"""Trained generators by name, file or run: load one, write its samples, or export it."""

import itertools
from pathlib import Path
from typing import Any

import ml_collections
from tqdm import tqdm

from gankd_jax.config import schema
from gankd_jax.data import image_files
from gankd_jax.evaluation import inference
from gankd_jax.evaluation.sheet import draw_sheet
from gankd_jax.export import pretrained
from gankd_jax.export.formats import (
    CHECK_COUNT,
    FORMATS,
    require_packages,
    require_precision,
    require_suffix,
    write_generator,
)
from gankd_jax.interop.external_generator import Function
from gankd_jax.models import sampling
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import evaluate, plan, workdir
from gankd_jax.study.context import StudyContext, open_run
from gankd_jax.study.plan import Run
from gankd_jax.utils import atomic_io, paths
from gankd_jax.utils.errors import UserError


def load_generator(
    source: str | Path | Function, *, latent_dim: int = 0, value_range: str = ""
) -> TrainedGenerator:
    """Loads a trained generator.

    Args:
        source: The name of a pretrained generator, such as 'mnist-d2'; the path of a .safetensors
            file that `gankd export` wrote; the folder of a trained run in a work directory, such as
            'runs/digits/student-mse-d4-s0'; a PyTorch DCGAN's .pth; an .onnx or .stablehlo file
            from latents `(b, z)` to images; an .npz of pairs, `latents` and `images`;
            'package.module:function', where the function is or returns one; or a function from
            latents `(b, z)` to images.
        latent_dim: Numbers in a latent, for a function that does not say.
        value_range: Of a file's or function's images: '-1..1', '0..1' or '0..255'; '' infers it
            from a few images.

    Returns:
        The generator as evaluation uses it: with averaged weights where the recipe keeps them, and
        with the batch-norm statistics of `config.evaluation.statistics`. Its `card` says how it was
        trained and how it scores.

    Raises:
        UserError: There is no such generator, its run is not trained, or a file is damaged.

    Example:
        >>> import gankd_jax
        >>> generator = gankd_jax.load_generator("mnist-d2")
        >>> generator.sample(seed=0, n=16).shape
        (16, 32, 32, 1)
        >>> generator.card["scores"]["fd_classifier"] > 0
        True
    """
    if callable(source) or not (paths.expand_path(source) / "run.json").is_file():
        return pretrained.load_file(source, latent_dim=latent_dim, value_range=value_range)
    context, run = open_run(paths.expand_path(source))
    module, variables = context.load_generator(run)
    return TrainedGenerator(module, variables, make_card(context, run, "float32"))


def sample_run(
    config: ml_collections.ConfigDict,
    folder: Path,
    name: str,
    *,
    out: Path,
    samples: int | None = None,
) -> None:
    """Writes samples of a trained run: a sheet, always of the same latents, or single images.

    Args:
        config: The study's config.
        folder: The work directory.
        name: The run's name.
        out: The PNG file of the sheet, or the folder of the images.
        samples: How many single images; they are those that the study's evaluation scores first.
            None for the sheet.

    Raises:
        UserError: There is no such run, it is not trained, or `out` exists.
    """
    run = plan.find_run(config, name)
    workdir.require_trained(folder, config, run)
    _require_new_output(out, samples)
    generator = StudyContext(config, folder).load_generator(run)
    _write_samples(out, generator, config.evaluation, samples, name=f"{config.name}, {name}")


def sample_pretrained(name: str, out: Path, samples: int | None = None) -> None:
    """Writes samples of a pretrained generator: a sheet, or single images.

    Args:
        name: The generator, as `load_pretrained` takes it.
        out: The PNG file of the sheet, or the folder of the images.
        samples: How many single images; None for the sheet.

    Raises:
        UserError: There is no such generator, or `out` exists.
    """
    _require_new_output(out, samples)
    generator = pretrained.load_pretrained(name)
    _write_samples(out, generator, schema.base_config().evaluation, samples, name=name)


def _require_new_output(out: Path, samples: int | None) -> None:
    if samples is None:
        if out.suffix.lower() != ".png":
            raise UserError(f"--out={out} must end in .png, or --samples=N says how many images")
        paths.require_new_file(out)
        return
    if out.suffix.lower() in image_files.IMAGE_SUFFIXES:
        raise UserError(f"--out={out} must be a folder: --samples={samples} writes single images")
    paths.require_new_folder(out)


def _write_samples(
    out: Path,
    generator: TrainedGenerator,
    evaluation: ml_collections.ConfigDict,
    samples: int | None,
    *,
    name: str,
) -> None:
    if samples is None:
        latents = sampling.grid_latents(generator.latent_dim)
        images = sampling.to_uint8(sampling.sample_images(*generator, latents))
        width, size = generator.module.width, generator.image_size
        caption = f"{name}: {f'd={width}, ' if width else ''}{len(images)} images at {size}x{size}"
        atomic_io.write_png(out, draw_sheet(images, sampling.GRID_SIDE, caption))
        return
    sizes = {"count": samples, "batch_size": evaluation.batch_size}
    batches = inference.sample_batches(generator, evaluation.seed, **sizes)
    single_images = itertools.chain.from_iterable(batches)
    bar = tqdm(single_images, total=samples, desc=str(out), unit="image", disable=None)
    atomic_io.write_png_folder(out, iter(bar))


def export_run(
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    run: str,
    format_name: str,
    precision: str,
    out: Path,
) -> str:
    """Writes a trained run's generator as a file for other programs.

    The file is run on fresh latents before it is written.

    Args:
        config: The study's config.
        folder: The work directory.
        run: The run's name.
        format_name: A key of `export.formats.FORMATS`.
        precision: Of the weights in the file; 'float32', 'float16' or 'int8'.
        out: The file to write.

    Returns:
        A text: the file's size, its error, and the change of the scores if the precision is lower.

    Raises:
        UserError: There is no such run, format or precision, the run is not trained, `out` exists,
            a package is missing, or the file's images differ from the model's (nothing is written).
    """
    _check_names(format_name, precision)
    plan_run = plan.find_run(config, run)
    workdir.require_trained(folder, config, plan_run)
    require_suffix(out, format_name)
    paths.require_new_file(out)
    require_packages(format_name)
    context = StudyContext(config, folder)
    generator = context.load_generator(plan_run)
    exported = write_generator(
        out,
        generator,
        format_name,
        precision,
        run_name=run,
        card=make_card(context, plan_run, precision),
    )
    lines = [
        f"{out}: {len(exported.content):,} bytes; largest difference to {run} on {CHECK_COUNT}"
        f" fresh latents {exported.difference:.1e} (images in -1..1)"
    ]
    if precision != "float32":
        lines += _score_changes(context, plan_run, [generator, exported.generator])
    return "\n".join(lines)


def make_card(context: StudyContext, run: Run, precision: str) -> dict[str, Any]:
    """Returns what is known of a run: its recipe, its data and, if it is scored, its scores.

    Args:
        context: The run's study.
        run: A trained run.
        precision: The scores are those of the weights in this precision.
    """
    card = {
        "study": context.config.name,
        "run": run.name,
        "precision": precision,
        "recipe": context.config.recipes[run.recipe].to_dict(),
        "data": context.config.data.name,
    }
    path = context.workdir / run.name / "scores.json"
    if not path.exists():
        return card
    results = atomic_io.read_json(path)
    card["data"] = results.get("made", {}).get("reference", card["data"])
    stored = results.get("precisions", {}).get(precision, {})
    return card | results | ({"scores": stored["scores"]} if "scores" in stored else {})


def _check_names(format_name: str, precision: str) -> None:
    if format_name not in FORMATS:
        raise UserError(f"--format={format_name} is not known; it can be {', '.join(FORMATS)}")
    require_precision(precision)


def _score_changes(
    context: StudyContext, run: Run, generators: list[TrainedGenerator]
) -> list[str]:
    """Returns a line for each of the report's scores: with the run's weights -> with rounded."""
    results = evaluate.score_generators(context, run, generators)
    before, after = (result.values for result in results)
    width = max(map(len, before))
    lines = (
        f"  {name:{width}}  {value:10.4g} -> {after[name]:<10.4g} ({after[name] - value:+.2g})"
        for name, value in before.items()
        if name in after
    )
    return [f"scores of {context.config.evaluation.samples:,} images", *lines]
