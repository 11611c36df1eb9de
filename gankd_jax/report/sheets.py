"""Chooses which images the report shows, and lays them side by side."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gankd_jax.report.rows import groups
from gankd_jax.report.runs import Run, Study

PER_STRIP = 8  # sample images side by side
SHEETS = 2  # strips of samples, and interpolation paths, that are shown of each model


@dataclass(frozen=True)
class Strip:
    """One model's images side by side."""

    label: str
    about: str  # for who cannot see it
    images: UInt8[np.ndarray, "n h w c"] | None  # None: there are none yet
    pinned: bool = False  # stays in view
    first: bool = False  # of its width


def samples(study: Study) -> list[list[Strip]]:
    """Return sheets of strips: real images, the teacher, then every model on the same latents."""
    models = _models(study, ("student", "baseline"))
    sheets = [_samples(study, models, index) for index in range(SHEETS)]
    return [sheet for sheet in sheets if any(strip.images is not None for strip in sheet)]


def _samples(study: Study, models: list["Model"], index: int) -> list[Strip]:
    part = slice(index * PER_STRIP, (index + 1) * PER_STRIP)
    top = []
    if study.real_grid is not None:
        top.append(Strip("real (unmatched)", "images of the real test set", study.real_grid[part]))
    teacher = study.teacher.grid if study.teacher else None
    top.append(Strip("teacher", "the teacher's samples", _cut(teacher, part), pinned=True))
    return top + [
        model.strip(_cut(model.run.grid if model.run else None, part), "samples")
        for model in models
    ]


def interpolations(study: Study) -> list[list[Strip]]:
    """Return one sheet for each latent path: the teacher above every student."""
    if study.teacher is None or study.teacher.interpolation is None:
        return []
    models = [model for model in _models(study, ("student",)) if model.run]
    return [
        [
            Strip("teacher", "the teacher along a path", path, pinned=True),
            *(model.strip(_path(model.run, index), "images along a path") for model in models),
        ]
        for index, path in enumerate(study.teacher.interpolation[:SHEETS])
    ]


@dataclass(frozen=True)
class Model:
    """A recipe at a width, and the run that stands for it: the lowest seed that has pictures."""

    recipe: str
    width: int
    run: Run | None
    first: bool

    def strip(self, images: UInt8[np.ndarray, "n h w c"] | None, what: str) -> Strip:
        """Label images of this model."""
        label = f"d={self.width} {self.recipe}"
        name = self.run.name if self.run else label
        return Strip(label, f"{what} of {name}", images, first=self.first)


def _models(study: Study, kinds: tuple[str, ...]) -> list[Model]:
    models: list[Model] = []
    for kind, recipe, width in groups(study):
        if kind in kinds:
            runs = sorted(study.group(kind, recipe, width), key=lambda run: run.key.seed)
            shown = next((run for run in runs if run.grid is not None), None)
            first = not models or models[-1].width != width
            models.append(Model(recipe, width, shown, first))
    return models


def _cut(
    images: UInt8[np.ndarray, "n h w c"] | None, part: slice
) -> UInt8[np.ndarray, "m h w c"] | None:
    """Return a part of the images; None if it is empty."""
    return None if images is None or not len(images[part]) else images[part]


def _path(run: Run | None, index: int) -> UInt8[np.ndarray, "n h w c"] | None:
    if run is None or run.interpolation is None:
        return None
    return run.interpolation[index]


def png(images: UInt8[np.ndarray, "n h w c"]) -> str:
    """Return images side by side, a grey line between them, as one PNG `data:` address."""
    ruled = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=128)
    strip = np.concatenate(list(ruled), axis=1)[:, :-1]
    picture = Image.fromarray(strip[..., 0] if strip.shape[-1] == 1 else strip)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
