"""Sample images side by side: same latents, interpolations, nearest training images, sharpness."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.figure import Figure
from PIL import Image

from gankd_jax.metrics.sharpness import variance_of_laplacian
from gankd_jax.report.aggregate import (
    best_students,
    find_baseline,
    find_run_of_width,
    list_models,
    parameter_ratios,
    score_rows,
)
from gankd_jax.report.formatting import (
    Cell,
    Table,
    count_cell,
    format_bytes,
    format_number,
    format_ratio,
    model_name,
)
from gankd_jax.report.headline import build_headline, student_rows
from gankd_jax.report.study_results import ImageArray, NearestImages, RunResults, StudyResults

MAX_ROWS = 8  # of a grid that is shown at first
HEADLINE_COLUMNS = 8
REAL_LABEL = "real images"
WEBP_QUALITY = 90  # 0..100; lower values make a smaller page and blur textures
PIXELS_PER_INCH = 120
ROW_INCHES = 0.62  # of grid.png
LABEL_INCHES = 2.7

SAMPLES_NOTE = (
    "Every column is one latent; the teacher's images stay in view. A baseline is trained without "
    "the teacher, so only its quality compares, not its images. Of several seeds the lowest is "
    "shown, of each width the student that scores best."
)
INTERPOLATION_NOTE = (
    "From left to right the latent moves from one point to another, the same way for all models."
)
NEAREST_NOTE = (
    "Of 64 images of the teacher and of each widest model, those nearest to a training image, and "
    "that training image below. Distances are measured in the features of the study's classifier; "
    "for data without labels in those of the FID network, to 10,000 training images."
)
NO_NEAREST_NOTE = (
    "Not computed: without labels or FID layers there is no network in whose features to measure "
    "distances. With one, {hint}."
)
SHARPNESS_NOTE = (
    "Models by the mean sharpness of their 64 images (the number beside each: variance of the "
    "Laplacian), the most blurred first. Of each model the most blurred images are at the left, the"
    " sharpest at the right."
)
LOSSY_NOTE = (
    "Images are compressed with a small loss, to keep the page small; each run's samples.npz has "
    "the originals."
)
DISTANCES_NOTE = (
    "Of 64 images each, to the nearest training image. to real: divided by the median of real test "
    "images. A generator that repeats its training images lies far below 1, with a smallest "
    "distance near 0; one whose images resemble no training image lies above 1."
)
KEEP_ARRAYS_HINT = "`gankd evaluate --workdir=...` keeps them, and `gankd report` shows them"


@dataclass(frozen=True)
class GridOptions:
    """How many images the page shows, and how they are compressed.

    Attributes:
        columns: Images side by side.
        grids: Grids of samples, and of latent paths.
        lossy: Whether images are WebP, about a fifth of the size of PNG.
    """

    columns: int = 8
    grids: int = 2
    lossy: bool = False


@dataclass(frozen=True)
class ImageStrip:
    """Images of one model side by side.

    Attributes:
        label: What stands beside them.
        description: What they show, for screen readers.
        images: The images; None if there are none yet.
        caption: The size of the model, below the label.
        pinned: Whether they stay in view while the page scrolls.
        first_of_width: Whether the model is the first of its width.
    """

    label: str
    description: str
    images: ImageArray | None
    caption: str = ""
    pinned: bool = False
    first_of_width: bool = False


@dataclass(frozen=True)
class ImageSection:
    """A section of the page with images.

    Attributes:
        note: How to read it.
        grids: The strips of each grid, top to bottom.
        lossy: How the images are compressed.
        further: Grids that a reader opens.
        table: A table below the grids.
    """

    note: str
    grids: list[list[ImageStrip]]
    lossy: bool
    further: tuple[list[ImageStrip], ...] = ()
    table: Table | None = None


@dataclass(frozen=True)
class ShownModel:
    """A recipe at a width, and the run whose images are shown.

    Attributes:
        kind: student or baseline.
        recipe: Name of the recipe.
        width: Of the generator.
        run: The lowest seed that has images; None if there is none.
        caption: Its size.
        first_of_width: Whether the model is the first of its width.
    """

    kind: str
    recipe: str
    width: int
    run: RunResults | None
    caption: str
    first_of_width: bool = False

    @property
    def label(self) -> str:
        """What stands beside its images."""
        return f"{model_name(self.kind, self.recipe)} d={self.width}"

    def make_strip(self, images: ImageArray | None, content: str) -> ImageStrip:
        """Labels images of this model; `content` says what they are."""
        name = self.run.name if self.run else self.label
        return ImageStrip(
            self.label,
            f"{content} of {name}",
            images,
            caption=self.caption,
            first_of_width=self.first_of_width,
        )


def list_shown_models(study: StudyResults, kinds: tuple[str, ...]) -> list[ShownModel]:
    """Returns the models of these kinds, narrow ones first.

    Args:
        study: The results of a study.
        kinds: teacher, student, baseline: those to list.
    """
    models: list[ShownModel] = []
    for kind, recipe, width in list_models(study):
        if kind in kinds:
            is_first = not models or models[-1].width != width
            models.append(_show_model(study, kind, recipe, width, is_first=is_first))
    return models


def _show_model(
    study: StudyResults, kind: str, recipe: str, width: int, *, is_first: bool = False
) -> ShownModel:
    runs = sorted(study.runs_of(kind, recipe, width), key=lambda run: run.seed)
    run = next((run for run in runs if run.grid is not None), None)
    caption = describe_size(study, find_run_of_width(study, width))
    return ShownModel(kind, recipe, width, run, caption, is_first)


def list_lead_models(study: StudyResults) -> list[ShownModel]:
    """Returns the models that a reader looks at first, as many as fit below the teacher.

    These are the student of the best trade-off and the baseline of its width, then the best
    student of every other width with its baseline, wide ones first.

    Args:
        study: The results of a study.
    """
    rows, best = score_rows(study), build_headline(study).best
    if best is None:
        return list_shown_models(study, ("student", "baseline"))[: MAX_ROWS - 2]
    students = best_students(student_rows(rows)) | {best.width or 0: best}
    widths = sorted(students, key=lambda width: (width != best.width, -width))
    models = []
    for student in (students[width] for width in widths):
        pair = (student, find_baseline(rows, student))
        models += [_show_model(study, r.kind, r.recipe, r.width or 0) for r in pair if r]
    return [model for model in models if model.run][: MAX_ROWS - 2]


def describe_size(study: StudyResults, run: RunResults | None) -> str:
    """Returns a generator's size: "13,413 parameters, 10:1, 54 kB"; "" if nobody can count it.

    Args:
        study: The results of a study.
        run: The teacher, or any run of the width.
    """
    if run is None or not run.parameters:
        return ""
    ratio, _ = parameter_ratios(study, run)
    ratio_text = "" if ratio is None or run is study.teacher else f", {format_ratio(ratio)}"
    return f"{run.parameters:,} parameters{ratio_text}, {format_bytes(run.weight_bytes)}"


def build_image_sections(
    study: StudyResults, lead_models: list[ShownModel], options: GridOptions
) -> dict[str, ImageSection | None]:
    """Returns the sections of images; None for those without images yet.

    Args:
        study: The results of a study.
        lead_models: As `list_lead_models` returns them.
        options: How many images to show, and their format.
    """

    def section(
        note: str, grids: list[list[ImageStrip]], further: tuple[list[ImageStrip], ...] = ()
    ) -> ImageSection | None:
        text = f"{note} {LOSSY_NOTE}" if options.lossy else note
        return ImageSection(text, grids, options.lossy, further) if grids else None

    sharpness = build_sharpness_grid(study, options)
    return {
        "samples": section(
            SAMPLES_NOTE,
            build_lead_grids(study, lead_models, options),
            build_all_grids(study, lead_models, options),
        ),
        "interpolations": section(
            INTERPOLATION_NOTE, build_interpolation_grids(study, lead_models, options)
        ),
        "nearest": _build_nearest_section(study, options),
        "sharpness": section(SHARPNESS_NOTE, [sharpness] if sharpness else []),
    }


def build_headline_strips(study: StudyResults, lead_models: list[ShownModel]) -> list[ImageStrip]:
    """Returns the picture of the headline: teacher, best student, its baseline, the smallest.

    Args:
        study: The results of a study.
        lead_models: As `list_lead_models` returns them.
    """
    headline = build_headline(study)
    best, smallest = headline.best, headline.smallest
    if best is None or smallest is None:
        return []
    shown = [
        model
        for model in lead_models
        if model.width == best.width or (model.kind, model.width) == ("student", smallest.width)
    ]
    strips = _build_sample_grid(study, shown, slice(0, HEADLINE_COLUMNS))
    return [strip for strip in strips if strip.images is not None and strip.label != REAL_LABEL]


def build_lead_grids(
    study: StudyResults, lead_models: list[ShownModel], options: GridOptions
) -> list[list[ImageStrip]]:
    """Returns one grid of at most `MAX_ROWS` rows: real images, the teacher, the lead models.

    Args:
        study: The results of a study.
        lead_models: As `list_lead_models` returns them.
        options: How many images to show, and their format.
    """
    grid = _build_sample_grid(study, lead_models, slice(0, options.columns))
    return [grid] if any(strip.images is not None for strip in grid) else []


def build_all_grids(
    study: StudyResults, lead_models: list[ShownModel], options: GridOptions
) -> tuple[list[ImageStrip], ...]:
    """Returns grids of every model on the same latents; none if the lead grid has them all.

    Args:
        study: The results of a study.
        lead_models: As `list_lead_models` returns them.
        options: How many images to show, and their format.
    """
    models = list_shown_models(study, ("student", "baseline"))
    if len(models) <= len(lead_models):
        return ()
    columns = [slice(k * options.columns, (k + 1) * options.columns) for k in range(options.grids)]
    grids = [_build_sample_grid(study, models, part) for part in columns]
    return tuple(grid for grid in grids if any(strip.images is not None for strip in grid))


def _build_sample_grid(
    study: StudyResults, models: list[ShownModel], columns: slice
) -> list[ImageStrip]:
    strips = []
    if study.real_grid is not None:
        strips.append(
            ImageStrip(
                REAL_LABEL,
                "images of the real test set",
                _select_columns(study.real_grid, columns),
                caption="other images",
            )
        )
    teacher_grid = study.teacher.grid if study.teacher else None
    teacher_images = _select_columns(teacher_grid, columns)
    caption = describe_size(study, study.teacher)
    description = "the teacher's samples"
    strips.append(ImageStrip("teacher", description, teacher_images, caption, pinned=True))
    return strips + [
        model.make_strip(_select_columns(model.run.grid if model.run else None, columns), "samples")
        for model in models
    ]


def _select_columns(
    images: UInt8[np.ndarray, "n h w c"] | None, columns: slice
) -> UInt8[np.ndarray, "m h w c"] | None:
    """Returns a part of the images; None if it is empty."""
    return None if images is None or not len(images[columns]) else images[columns]


def build_interpolation_grids(
    study: StudyResults, lead_models: list[ShownModel], options: GridOptions
) -> list[list[ImageStrip]]:
    """Returns a grid for each path between latents: the teacher above students of each width.

    Args:
        study: The results of a study.
        lead_models: As `list_lead_models` returns them.
        options: How many images to show, and their format.
    """
    if study.teacher is None or study.teacher.interpolation is None:
        return []
    models = [model for model in lead_models if model.run and model.kind == "student"]
    paths = study.teacher.interpolation[: options.grids]
    length = paths.shape[1]
    steps = np.linspace(0, length - 1, min(length, options.columns)).round().astype(int)
    return [
        [
            ImageStrip("teacher", "the teacher along a path", path[steps], pinned=True),
            *(
                model.make_strip(_select_path(model.run, index, steps), "images along a path")
                for model in models
            ),
        ]
        for index, path in enumerate(paths)
    ]


def _select_path(
    run: RunResults | None, index: int, steps: Int[np.ndarray, " n"]
) -> ImageArray | None:
    if run is None or run.interpolation is None:
        return None
    return run.interpolation[index][steps]


def _build_nearest_section(study: StudyResults, options: GridOptions) -> ImageSection | None:
    table = build_nearest_table(study)
    if table is not None:
        note = f"{NEAREST_NOTE} {LOSSY_NOTE}" if options.lossy else NEAREST_NOTE
        grids = build_nearest_grids(study, options)
        return ImageSection(note, grids, options.lossy, table=table)
    if any(run.grid is not None for run in study.runs):
        return ImageSection(NO_NEAREST_NOTE.format(hint=KEEP_ARRAYS_HINT), [], options.lossy)
    return None


def build_nearest_grids(study: StudyResults, options: GridOptions) -> list[list[ImageStrip]]:
    """Returns pairs of strips: the samples nearest to training images above those images.

    Shown are the teacher and the models of the largest width.

    Args:
        study: The results of a study.
        options: How many images to show, and their format.
    """
    models = [model for model in list_shown_models(study, ("student", "baseline")) if model.run]
    max_width = max((model.width for model in models), default=0)
    runs = [("teacher", study.teacher)] if study.teacher else []
    runs += [(model.label, model.run) for model in models if model.width == max_width and model.run]
    return [
        _pair_with_nearest(label, run.grid, run.nearest, options.columns)
        for label, run in runs
        if run.nearest is not None and run.grid is not None
    ]


def _pair_with_nearest(
    label: str, grid: ImageArray, nearest: NearestImages, columns: int
) -> list[ImageStrip]:
    samples = grid[nearest.closest_indices[:columns]]
    training_images = nearest.training_images[:columns]
    return [
        ImageStrip(label, f"images of {label} nearest to training images", samples),
        ImageStrip("training image", "the training images nearest to them", training_images),
    ]


def build_nearest_table(study: StudyResults) -> Table | None:
    """Returns the distances of each model's images to training images; None if not computed."""
    models = list_shown_models(study, ("student", "baseline"))
    runs = [study.teacher, *(model.run for model in models)]
    real = study.real_nearest
    rows = [
        (
            count_cell(run.width),
            Cell(model_name(run.kind, run.recipe)),
            *_distance_cells(run.nearest, real),
        )
        for run in runs
        if run and run.nearest
    ]
    if real:
        rows.insert(0, (Cell(""), Cell("real test images"), *_distance_cells(real, real)))
    header = ("d", "model", "median distance", "to real", "smallest distance")
    return Table("Distances", DISTANCES_NOTE, header, tuple(rows), len(header)) if rows else None


def _distance_cells(nearest: NearestImages, real: NearestImages | None) -> tuple[Cell, ...]:
    median, minimum = float(np.median(nearest.distances)), float(nearest.distances.min())
    ratio = median / float(np.median(real.distances)) if real else None
    return (
        Cell(format_number(median), median),
        Cell("-" if ratio is None else f"{ratio:.2f}", ratio),
        Cell(format_number(minimum), minimum),
    )


def build_sharpness_grid(study: StudyResults, options: GridOptions) -> list[ImageStrip]:
    """Returns a strip for each model: its most blurred images, then its sharpest ones.

    Models are in the order of their mean sharpness, the most blurred first.

    Args:
        study: The results of a study.
        options: How many images to show, and their format.
    """
    grids = [("real", study.real_grid)]
    grids += [("teacher", study.teacher.grid)] if study.teacher else []
    models = list_shown_models(study, ("student", "baseline"))
    grids += [(model.label, model.run.grid) for model in models if model.run]
    measured = [
        (label, grid, variance_of_laplacian(grid)) for label, grid in grids if grid is not None
    ]
    measured.sort(key=lambda entry: entry[2].mean())
    return [_make_sharpness_strip(*entry, half=options.columns // 2) for entry in measured]


def _make_sharpness_strip(
    label: str, grid: ImageArray, sharpness: np.ndarray, *, half: int
) -> ImageStrip:
    order = np.argsort(sharpness, kind="stable")
    extremes = np.concatenate([order[:half], order[-half:]])
    description = f"the most blurred and the sharpest images of {label}"
    mean = format_number(float(sharpness.mean()))
    return ImageStrip(f"{label} {mean}", description, grid[extremes])


def encode_data_url(images: ImageArray, lossy: bool = False) -> str:
    """Encodes images side by side, separated by gray lines, as one `data:` URL.

    Args:
        images: At least one image.
        lossy: Whether to write WebP instead of PNG.
    """
    strip = _join_images(images, line_value=128)
    image = Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip)
    out = io.BytesIO()
    if lossy:
        image.save(out, "WebP", quality=WEBP_QUALITY, method=6)
    else:
        image.save(out, "PNG", optimize=True)
    media_type = "image/webp" if lossy else "image/png"
    return f"data:{media_type};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _join_images(images: ImageArray, line_value: int) -> UInt8[np.ndarray, "h _ c"]:
    """Returns the images side by side, a line one pixel wide between them."""
    padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=line_value)
    return np.concatenate(list(padded), axis=1)[:, :-1]


def draw_sample_grid(study: StudyResults) -> bytes | None:
    """Returns a PNG with a row of samples for each model; None if there are no samples yet."""
    grids = build_lead_grids(study, list_lead_models(study), GridOptions())
    strips = [strip for grid in grids for strip in grid if strip.images is not None]
    if not strips:
        return None
    columns = max(len(strip.images) for strip in strips if strip.images is not None)
    width, height = LABEL_INCHES + columns * ROW_INCHES, len(strips) * ROW_INCHES
    figure = Figure(figsize=(width, height), facecolor="white")
    for row, strip in enumerate(strips):
        _draw_row(figure, strip, row=row, rows=len(strips))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=PIXELS_PER_INCH)
    return out.getvalue()


def _draw_row(figure: Figure, strip: ImageStrip, *, row: int, rows: int) -> None:
    assert strip.images is not None
    label_width, bottom = LABEL_INCHES / figure.get_figwidth(), 1 - (row + 1) / rows
    axes = figure.add_axes((label_width, bottom, 1 - label_width, 0.96 / rows))
    axes.axis("off")
    image = _join_images(strip.images, line_value=255)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    label = strip.label + (f"\n{strip.caption}" if strip.caption else "")
    figure.text(label_width - 0.01, bottom + 0.5 / rows, label, ha="right", va="center", fontsize=9)
