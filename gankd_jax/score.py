"""`gankd score A B`: all scores of one set of images against another, wherever they come from."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from gankd_jax import evaluate, runs, summaries, workdir
from gankd_jax.data import datasets
from gankd_jax.data.load import load_split
from gankd_jax.errors import UserError
from gankd_jax.extractor import inception_extractor
from gankd_jax.interop import inception_weights
from gankd_jax.lab import Lab
from gankd_jax.metrics import features, statistics
from gankd_jax.metrics.features import Extractor, Summary
from gankd_jax.runtime import files

SUFFIXES = {".bmp", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
LEAST = 2  # images of a set, for a covariance


@dataclass(frozen=True)
class Settings:
    """How sets of images are found and read.

    Attributes:
        data_dir: folder of prepared data sets.
        image_size, pad: what `load_split` makes of a data set's images; None: the size they have,
            or 64 where they differ.
        cache: folder of the statistics of data sets.
        samples: images of each side: a run draws so many, a folder or a data set gives so many at
            random, or all where it has fewer; None: all, of a run as its study's evaluation draws.
    """

    data_dir: Path
    image_size: int | None
    pad: int
    cache: Path
    samples: int | None = None


def score(a: str, b: str, extractor: Extractor, settings: Settings) -> dict[str, Any]:
    """All scores of A (the generated images, say) against B (the real ones).

    A and B are each a folder of images, a run's folder, an .npz of statistics, or a split of a
    data set as `mnist:test`. Gives `{"a": own scores, "b": own scores, "scores": of A against B,
    "made": how}`.

    Raises:
        UserError: A or B is none of these or too small, or the two have no layer in common.
    """
    if settings.samples is not None and settings.samples < LEAST:
        raise UserError(f"--samples={settings.samples}: a comparison needs {LEAST} or more")
    fake, real = (summarize(source, extractor, settings) for source in (a, b))
    found = features.compare(fake, real)
    if not found:
        layers = [", ".join(x.moments) for x in (fake, real)]
        raise UserError(f"{a} ({layers[0]}) and {b} ({layers[1]}) have no feature layer in common")
    return {
        "a": {"source": a, "images": fake.count, **features.own_scores(fake)},
        "b": {"source": b, "images": real.count, **features.own_scores(real)},
        "scores": found,
        "made": made(extractor),
    }


def made(extractor: Extractor) -> dict[str, Any]:
    """What the numbers depend on beside the images."""
    return {
        "network": extractor.about,
        "inception_score": f"logits without bias, {features.SPLITS} splits, as torch-fidelity",
        "kid": f"100 subsets of up to {features.SUBSET}, cubic kernel, as torch-fidelity",
        "neighbours": f"3 for precision and recall, 5 for density and coverage, of up to"
        f" {features.KEPT} images",
        "gankd-jax": metadata.version("gankd-jax"),
        "jax": jax.__version__,
    }


def summarize(source: str, extractor: Extractor, settings: Settings) -> Summary:
    """What the scores need of a set of images, out of the cache where it is a data set's."""
    path = Path(source).expanduser()
    if (path / "run.json").is_file():
        return _of_run(path, extractor, settings.samples)
    if path.is_dir():
        return _of_folder(path, extractor, settings.samples)
    if path.suffix == ".npz":
        return statistics.read(path)
    if ":" in source:
        name, split = source.split(":", 1)
        return _of_split(name, split, extractor, settings)
    raise UserError(
        f"{source} is no folder of images, no run's folder, no .npz of statistics, and no split"
        " such as mnist:test"
    )


def score_with_inception(
    a: str, b: str, *, weights: Path | None, settings: Settings, out: Path | None
) -> dict[str, Any]:
    """`score` by the FID network, all layers that the weights serve; written to `out` if given.

    Raises:
        UserError: as `score`; the weights are missing, or `out` exists.
    """
    if out:
        files.need_free(out)
    extractor = inception_extractor(weights or inception_weights.default_path())
    result = score(a, b, extractor, settings)
    if out:
        files.write_json(out, result)
    return result


def _of_run(folder: Path, extractor: Extractor, samples: int | None) -> Summary:
    """Images of a trained run, by its study's evaluation seed, in the batches of the network."""
    config = ConfigDict(workdir.read_json(folder.parent / "config.json", "name another folder"))
    lab, run = Lab(config, folder.parent), runs.find(config, folder.name)
    if not workdir.is_trained(folder.parent, config, run):
        raise UserError(f"{folder} is not trained yet; `gankd study` goes on with it")
    sizes = {"count": samples or config.evaluation.samples, "batch_size": extractor.batch_size}
    images = evaluate.drawn(lab.drawer(run), config.evaluation.seed, **sizes)
    return features.summarize(images, extractor, count=sizes["count"])


def _of_folder(folder: Path, extractor: Extractor, samples: int | None) -> Summary:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    paths = [paths[place] for place in summaries.chosen(len(paths), samples)]
    if not paths:
        raise UserError(f"{folder} has no images ({' '.join(sorted(SUFFIXES))})")
    if len(paths) < LEAST:
        raise UserError(f"{folder} has {len(paths)} image; a comparison needs {LEAST} or more")
    images = iter(tqdm(read_images(paths), total=len(paths), desc=folder.name, disable=None))
    found = batches(images, extractor.batch_size)
    return features.summarize(found, extractor, count=len(paths))


def _of_split(name: str, split: str, extractor: Extractor, settings: Settings) -> Summary:
    size = settings.image_size or datasets.get(name).image_shape[0] or 64
    images = load_split(
        name,
        split,
        data_dir=settings.data_dir,
        image_size=size,
        pad=settings.pad,
    )
    return summaries.of_images(images, extractor, settings.cache, settings.samples)


def read_images(paths: Sequence[Path]) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """The images of files, in colour, whatever their sizes.

    Raises:
        UserError: a file is no image, is damaged or too large, or has more than 8 bits a channel.
    """
    return map(_read_image, paths)


def _read_image(path: Path) -> UInt8[np.ndarray, "_ _ 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # Pillow would make all above 255 white
                    raise UserError(f"{path} has more than 8 bits a channel ({image.mode})")
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, *_TOO_LARGE) as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def batches(
    images: Iterator[UInt8[np.ndarray, "_ _ c"]], size: int
) -> Iterator[UInt8[np.ndarray, "_ _ _ c"]]:
    """Batches of `size` images, smaller where the images' shape changes and at the end."""
    for _, alike in itertools.groupby(images, key=np.shape):
        while batch := list(itertools.islice(alike, size)):
            yield np.stack(batch)


def text(result: dict[str, Any]) -> str:
    """A result as a table."""
    rows = [("A", result["a"]["source"]), ("B", result["b"]["source"])]
    for side in ("a", "b"):
        own = {k: v for k, v in result[side].items() if k != "source" and v is not None}
        rows += [(f"{name} of {side.upper()}", f"{value:.6g}") for name, value in own.items()]
    rows += [(name, f"{value:.6g}") for name, value in result["scores"].items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
