"""`gankd score A B`: all metrics of one set of images against another, from any source."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from gankd_jax.data import image_arrays, image_files, registry
from gankd_jax.data.loading import load_split, require_split
from gankd_jax.data.stored import CACHE_FOLDER, default_data_dir
from gankd_jax.evaluation import inference, reference_stats, scoring
from gankd_jax.evaluation.inception import load_inception_extractor
from gankd_jax.export import pretrained
from gankd_jax.interop import inception_weights
from gankd_jax.interop.external_generator import READERS
from gankd_jax.metrics import feature_stats, ppl, stats_io
from gankd_jax.metrics.feature_stats import MIN_IMAGES, FeatureExtractor, FeatureStats
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study.context import open_run
from gankd_jax.study.workdir import CONFIG_FILE
from gankd_jax.utils import VERSION, paths
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

# Measured on the same images of CIFAR-10, resized by pytorch-fid and by this program.
RESIZE_DIFFERENCES = "fd_64 by 0.002, fd_192 by 0.018 and fd_768 by 0.043"
GENERATOR_SUFFIXES = tuple(READERS)  # files of a generator, which is sampled
GENERATOR_SAMPLES, GENERATOR_SEED = 10_000, 1_000_000  # as a study evaluates by default
ImageSource = str | Path | UInt8[np.ndarray, "n h w c"]


@dataclass(frozen=True)
class ScoreSettings:
    """How sources of images are found and read.

    Attributes:
        data_dir: Folder of prepared data sets.
        image_size: Size that a data set's images are resized to.  None for their own size, or 64
            where they differ.
        pad: Border in pixels that a data set's images get.
        recursive: Whether the images in a folder's sub-folders count.
        samples: Images of each source: so many are sampled from a run, or taken at random from a
            folder or data set.  None for all images, and for as many of a run as its study's
            evaluation samples.
        ppl_samples: Paths between latents for the perceptual path length of A, which must be a
            generator or a run; 0 for no such score.
    """

    data_dir: Path
    image_size: int | None
    pad: int
    recursive: bool = False
    samples: int | None = None
    ppl_samples: int = 0

    @property
    def cache_dir(self) -> Path:
        """Folder of cached statistics of data sets."""
        return self.data_dir / CACHE_FOLDER


def score(
    a: ImageSource,
    b: ImageSource,
    *,
    image_size: int | None = None,
    pad: int = 0,
    samples: int | None = None,
    recursive: bool = False,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    ppl_samples: int = 0,
) -> dict[str, float]:
    """Scores generated images against real ones by the FID network, as `gankd score` does.

    Args:
        a: The generated images: a folder of images; the folder of a trained run, which generates
            them; another generator, by its pretrained name or its .onnx, .stablehlo, .pth or
            .safetensors file; an .npz of statistics, as pytorch-fid writes it; an .npy, or an .npz
            of `arr_0`, with images; a split of a data set, such as 'mnist:test'; or an array.
            Arrays hold at least 2 uint8 images `(n, h, w, c)` with 1 or 3 channels.
        b: The real images, in one of the same forms.
        image_size: Resizes the images of a data set to this size.
        pad: Adds a border of so many pixels to the images of a data set first.
        samples: Compares so many random images of each set; None compares all.
        recursive: Reads the images in the sub-folders of a folder too.
        data_dir: The folder of prepared data sets; None: that of TFDS.
        weights: Folded weights of the network; None: those of `gankd weights fetch`.
        ppl_samples: Also computes the perceptual path length of `a`, a generator or run, over so
            many paths between latents, which takes two images for each.

    Returns:
        Scores by key: `fid` by the 2048-wide layer, `fd_LAYER` by any other; `kid`, `kid_sd`,
        `precision`, `recall`, `density` and `coverage` by the widest layer that the weights serve,
        with `_LAYER` behind the key unless that is 2048; `inception_score`, `sharpness` and, if it
        is asked for, `ppl_LAYER` of `a`.

    Raises:
        UserError: A set cannot be read or is too small, or the weights are missing.

    Example:
        >>> import gankd_jax
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
        >>> scores = gankd_jax.score(images[:20], images[20:])
        >>> scores["fd_64"] > 0
        True
        >>> scores = gankd_jax.score(
        ...     "runs/digits/student-mse-d1-s0", "digits:test", image_size=16, pad=1, samples=100
        ... )
        >>> scores["fd_64"] > 0
        True
    """
    data_path = paths.expand_path(data_dir) if data_dir else default_data_dir()
    result = score_with_inception(
        a,
        b,
        weights=paths.expand_path(weights) if weights else None,
        settings=ScoreSettings(
            data_dir=data_path,
            image_size=image_size,
            pad=pad,
            recursive=recursive,
            samples=samples,
            ppl_samples=ppl_samples,
        ),
    )
    for note in result["notes"]:
        logger.warning(note)
    facts = ("source", "images", "inception_score_sd")
    own_scores = {key: value for key, value in result["a"].items() if key not in facts}
    return own_scores | result["scores"]


def score_sources(
    a: ImageSource, b: ImageSource, extractor: FeatureExtractor | None, settings: ScoreSettings
) -> dict[str, Any]:
    """Computes all metrics of one set of images against another by any network.

    Args:
        a: The generated images, in one of the forms of `score`.
        b: The real images, in one of the forms of `score`.
        extractor: The evaluation network; None if both are files of statistics.
        settings: How the images are found and read.

    Returns:
        `{"a": scores of A alone, "b": scores of B alone, "scores": of A against B, "notes": lines
        about missing or doubtful scores, "made": how they were computed}`, with scores by metric
        key.

    Raises:
        UserError: A or B is no such source or too small, or the two have no layer in common.
    """
    generator = _load_path_generator(a, settings.ppl_samples) if settings.ppl_samples else None
    fake, real = (load_source_stats(source, extractor, settings) for source in (a, b))
    scores = feature_stats.compare_stats(fake, real)
    if not scores:
        layers = [", ".join(stats.moments) for stats in (fake, real)]
        raise UserError(
            f"{_describe_source(a)} ({layers[0]}) and {_describe_source(b)} ({layers[1]}) have no"
            " feature layer in common"
        )
    length = {}
    if generator and extractor:
        count = settings.ppl_samples
        length = scoring.path_length(generator, extractor, GENERATOR_SEED, count=count)
    notes = [*_list_notes(a, fake, extractor), *_list_notes(b, real, extractor)]
    return {
        "a": _describe_set(a, fake) | length,
        "b": _describe_set(b, real),
        "scores": scores,
        "notes": list(dict.fromkeys(notes)),  # A may be B
        "made": describe_method(extractor, settings.ppl_samples),
    }


def _describe_set(source: ImageSource, stats: FeatureStats) -> dict[str, Any]:
    """Returns a set's name, its size and the scores that it has by itself."""
    own_scores = feature_stats.single_set_scores(stats)
    return {"source": _describe_source(source), "images": stats.count, **own_scores}


def _list_notes(
    source: ImageSource, stats: FeatureStats, extractor: FeatureExtractor | None
) -> list[str]:
    """Returns a line for each thing that a reader of the scores must know of a set."""
    name, notes = _describe_source(source), []
    has_logits = extractor is not None and extractor.logit_layer is not None
    count = min((len(features) for features in stats.features.values()), default=None)
    if count is not None and count < feature_stats.MIN_NEIGHBOUR_IMAGES:
        notes.append(
            "no precision, recall, density and coverage: they need"
            f" {feature_stats.MIN_NEIGHBOUR_IMAGES} or more images in each set; {name} has {count}"
        )
    if has_logits and count is not None and count < feature_stats.INCEPTION_SCORE_SPLITS:
        notes.append(
            f"no Inception Score of {name}: it needs {feature_stats.INCEPTION_SCORE_SPLITS} or more"
            f" images, not {count}"
        )
    if stats.sharpness is None:  # which every file of this program has
        notes.append(
            f"{name} has statistics of another program, whose resize may differ: on CIFAR-10"
            f" pytorch-fid's changes {RESIZE_DIFFERENCES}"
        )
    return notes


def _describe_source(source: ImageSource) -> str:
    return str(source) if isinstance(source, str | Path) else f"{len(source)} images"


def describe_method(extractor: FeatureExtractor | None, ppl_samples: int = 0) -> dict[str, Any]:
    """Returns what the scores depend on, beside the images.

    Args:
        extractor: The network; None for files of statistics.
        ppl_samples: Paths of the perceptual path length; 0 for none.
    """
    length = f"{ppl_samples} steps of {ppl.EPSILON} on great circles, tails of {ppl.TAIL_PERCENT} %"
    return ({"perceptual_path_length": length} if ppl_samples else {}) | {
        "network": extractor.description if extractor else "that of the files of statistics",
        "inception_score": (
            f"logits without bias, {feature_stats.INCEPTION_SCORE_SPLITS} splits, as torch-fidelity"
        ),
        "kid": (
            f"100 subsets of up to {feature_stats.KID_SUBSET_SIZE}, cubic kernel, as torch-fidelity"
        ),
        "neighbours": f"3 for precision and recall, 5 for density and coverage, of up to"
        f" {feature_stats.MAX_FEATURES} images",
        "gankd-jax": VERSION,
        "jax": jax.__version__,
    }


def load_source_stats(
    source: ImageSource, extractor: FeatureExtractor | None, settings: ScoreSettings
) -> FeatureStats:
    """Computes the statistics of a set of images; those of a data set are cached.

    Args:
        source: One of the forms of `score`.
        extractor: The evaluation network; a file of statistics needs none.
        settings: How the images are found and read.

    Raises:
        UserError: The source has none of these forms, or is too small.
    """
    check_source(source, settings)
    if not _needs_network(source):
        return stats_io.read_stats(paths.expand_path(str(source)))
    assert extractor is not None
    if not isinstance(source, str | Path):
        images = image_arrays.check_image_array(source, "an array")
        return _array_stats(images, "an array", extractor, settings.samples)
    path = paths.expand_path(source)
    if _is_array(path):
        images = image_arrays.read_image_array(path)
        return _array_stats(images, str(source), extractor, settings.samples)
    if _is_run(path):
        return _run_stats(path, extractor, settings.samples)
    if path.is_dir():
        return _folder_stats(path, extractor, settings)
    if _is_generator(source):
        return _generator_stats(pretrained.load_file(source), extractor, settings.samples)
    name, _, split = str(source).partition(":")
    return _split_stats(name, split, extractor, settings)


def check_source(source: ImageSource, settings: ScoreSettings) -> None:
    """Checks a set of images as far as that takes no time, before a network loads or generates.

    Args:
        source: One of the forms of `score`.
        settings: How the images are found and read.

    Raises:
        UserError: The source has none of these forms, there is no such data set or split, or too
            few images are asked for.
    """
    if settings.samples is not None and settings.samples < MIN_IMAGES:
        raise UserError(f"--samples={settings.samples}: a comparison needs {MIN_IMAGES} or more")
    if settings.samples is not None and not _needs_network(source):
        raise UserError(f"--samples={settings.samples}: {source} holds statistics, not images")
    if not isinstance(source, str | Path):
        return
    path = paths.expand_path(source)
    if path.is_dir():
        if _is_run(path):
            open_run(path)  # refuses one whose study is damaged
        else:
            _refuse_study(path)
    elif _is_array(path) or path.suffix in GENERATOR_SUFFIXES:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    elif not _is_generator(source):
        if ":" not in str(source):
            raise UserError(
                f"{source} is no folder of images, no run's folder, no generator, no .npy or .npz,"
                " and no split such as mnist:test"
            )
        name, _, split = str(source).partition(":")
        require_split(name, split, settings.data_dir)


def score_with_inception(
    a: ImageSource,
    b: ImageSource,
    *,
    weights: Path | None,
    settings: ScoreSettings,
) -> dict[str, Any]:
    """Computes `score_sources` by the FID network, at all layers that its weights serve.

    Args:
        a: The generated images, in one of the forms of `score`.
        b: The real images, in one of the forms of `score`.
        weights: Folded weights of the FID network; None for those of `gankd weights fetch`.
        settings: How the images are found and read.

    Raises:
        UserError: As `score_sources`; or the weights are missing.
    """
    for source in (a, b):
        check_source(source, settings)
    return score_sources(a, b, _load_network(weights, a, b), settings)


def save_stats(
    source: ImageSource, out: Path, *, weights: Path | None, settings: ScoreSettings
) -> str:
    """Writes the statistics of a set of images at the FID network's widest layer.

    Args:
        source: The images, in one of the forms of `score`.
        out: The .npz to write.  pytorch-fid reads its `mu` and `sigma`; `gankd score` all of it.
        weights: Folded weights of the FID network; None for those of `gankd weights fetch`.
        settings: How the images are found and read.

    Returns:
        A table of the set's own scores, and of what was written.

    Raises:
        UserError: The source is no set of images or too small, or the weights are missing.
    """
    check_source(source, settings)
    stats = load_source_stats(source, _load_network(weights, source), settings)
    layer = list(stats.moments)[-1]
    stats_io.write_layer_stats(out, stats, layer)
    rows = _format_set("A", _describe_set(source, stats))
    return _format_table([*rows, ("layer", layer), ("statistics of A", str(out))])


def _load_network(weights: Path | None, *sources: ImageSource) -> FeatureExtractor | None:
    """Loads the FID network; None if all sources are files of statistics."""
    if not any(map(_needs_network, sources)):
        return None
    return load_inception_extractor(weights or inception_weights.default_weights_path())


def _needs_network(source: ImageSource) -> bool:
    """Returns whether a source is other than an .npz of statistics."""
    if not isinstance(source, str | Path):
        return True
    path = paths.expand_path(source)
    is_npz = path.suffix.lower() == ".npz" and not path.is_dir()
    return not is_npz or image_arrays.holds_images(path)


def _is_array(path: Path) -> bool:
    return path.suffix.lower() in (".npy", ".npz") and not path.is_dir()


def _is_run(folder: Path) -> bool:
    """Returns whether a folder is a run's; one of images may hold a run.json of another program."""
    if not (folder / "run.json").is_file():
        return False
    return (folder / "checkpoints").is_dir() or not image_files.has_images(folder)


def _is_generator(source: str | Path) -> bool:
    """Returns whether a source is a generator's file or name."""
    suffix = paths.expand_path(source).suffix
    return suffix in GENERATOR_SUFFIXES or str(source) in pretrained.pretrained_paths()


def _load_path_generator(source: ImageSource, samples: int) -> TrainedGenerator:
    """Loads the generator whose perceptual path length is asked for.

    Raises:
        UserError: The source is none.
    """
    if isinstance(source, str | Path):
        path = paths.expand_path(source)
        if _is_run(path):
            context, run = open_run(path)
            return context.load_generator(run)
        if _is_generator(source) and not path.is_dir():
            return pretrained.load_file(source)
    raise UserError(
        f"--ppl-samples={samples} needs a generator or a run as A; {_describe_source(source)} is"
        " none"
    )


def _refuse_study(folder: Path) -> None:
    run_file = next(iter(sorted(folder.glob("*/run.json"))), None)
    if run_file is not None and (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder} is the work directory of a study: name a run, such as {run_file.parent}"
        )


def _run_stats(folder: Path, extractor: FeatureExtractor, samples: int | None) -> FeatureStats:
    """Samples a trained run, with the seed of its study's evaluation."""
    context, run = open_run(folder)
    evaluation = context.config.evaluation
    return _generator_stats(
        context.load_generator(run),
        extractor,
        samples or evaluation.samples,
        seed=evaluation.seed,
    )


def _generator_stats(
    generator: TrainedGenerator,
    extractor: FeatureExtractor,
    samples: int | None,
    *,
    seed: int = GENERATOR_SEED,
) -> FeatureStats:
    sizes = {"count": samples or GENERATOR_SAMPLES, "batch_size": extractor.batch_size}
    images = inference.sample_batches(generator, seed, **sizes)
    return feature_stats.compute_stats(images, extractor, count=sizes["count"])


def _array_stats(
    images: UInt8[np.ndarray, "n h w c"],
    name: str,
    extractor: FeatureExtractor,
    samples: int | None,
) -> FeatureStats:
    if len(images) < MIN_IMAGES:
        raise UserError(f"{name} has {len(images)} image; a comparison needs {MIN_IMAGES} or more")
    indices = reference_stats.subset_indices(len(images), samples)
    bar = tqdm(indices, desc=name, unit="image", disable=None)
    batches = batch_images((np.asarray(images[index]) for index in bar), extractor.batch_size)
    return feature_stats.compute_stats(batches, extractor, count=len(indices))


def _folder_stats(
    folder: Path, extractor: FeatureExtractor, settings: ScoreSettings
) -> FeatureStats:
    files = image_files.find_images(folder, recursive=settings.recursive, min_count=MIN_IMAGES)
    files = [files[index] for index in reference_stats.subset_indices(len(files), settings.samples)]
    bar = tqdm(files, desc=str(folder), unit="image", disable=None)
    batches = batch_images(map(image_files.read_image, bar), extractor.batch_size)
    return feature_stats.compute_stats(batches, extractor, count=len(files))


def _split_stats(
    name: str, split: str, extractor: FeatureExtractor, settings: ScoreSettings
) -> FeatureStats:
    size = settings.image_size or registry.get_dataset(name, settings.data_dir).image_shape[0] or 64
    images = load_split(
        name,
        split,
        data_dir=settings.data_dir,
        image_size=size,
        pad=settings.pad,
    )
    return reference_stats.load_or_compute_stats(
        images, extractor, settings.cache_dir, settings.samples
    )


def batch_images(
    images: Iterator[UInt8[np.ndarray, "_ _ c"]], batch_size: int
) -> Iterator[UInt8[np.ndarray, "_ _ _ c"]]:
    """Yields batches of images of equal shape, smaller where the shape changes and at the end."""
    for _, same_shape in itertools.groupby(images, key=np.shape):
        while batch := list(itertools.islice(same_shape, batch_size)):
            yield np.stack(batch)


def format_scores(result: dict[str, Any]) -> str:
    """Formats a result of `score_sources` as a table, with its notes below."""
    rows = [(side.upper(), result[side]["source"]) for side in ("a", "b")]
    for side in ("a", "b"):
        rows += _format_set(side.upper(), result[side])[1:]
    rows += [(name, f"{value:.6g}") for name, value in result["scores"].items()]
    return "\n".join([_format_table(rows), *result["notes"]])


def _format_set(side: str, own_scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns the rows of a set by itself: its source, then its size and scores."""
    numbers = {k: v for k, v in own_scores.items() if k != "source" and v is not None}
    rows = [(f"{name} of {side}", f"{value:.6g}") for name, value in numbers.items()]
    return [(side, own_scores["source"]), *rows]


def _format_table(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
