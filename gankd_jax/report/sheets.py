"""Chooses which images of which models the report shows side by side."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from gankd_jax.report.aggregate import list_models
from gankd_jax.report.study_results import RunResults, StudyResults


@dataclass(frozen=True)
class Strip:
    """One model's images side by side."""

    label: str
    about: str  # for who cannot see it
    images: UInt8[np.ndarray, "n h w c"] | None  # None: there are none yet
    pinned: bool = False  # stays in view
    first: bool = False  # of its width


@dataclass(frozen=True)
class Detail:
    """How many pictures are shown."""

    columns: int = 8  # side by side
    sheets: int = 2  # strips of samples, and paths between latents, of each model


def samples(study: StudyResults, detail: Detail) -> list[list[Strip]]:
    """Return sheets of strips: real images, the teacher, then every model on the same latents."""
    models = shown_models(study, ("student", "baseline"))
    parts = [slice(k * detail.columns, (k + 1) * detail.columns) for k in range(detail.sheets)]
    sheets = [_samples(study, models, part) for part in parts]
    return [sheet for sheet in sheets if any(strip.images is not None for strip in sheet)]


def _samples(study: StudyResults, models: list["Model"], part: slice) -> list[Strip]:
    top = []
    if study.real_grid is not None:
        top.append(Strip("real (unmatched)", "images of the real test set", study.real_grid[part]))
    teacher = study.teacher.grid if study.teacher else None
    top.append(Strip("teacher", "the teacher's samples", _cut(teacher, part), pinned=True))
    return top + [
        model.strip(_cut(model.run.grid if model.run else None, part), "samples")
        for model in models
    ]


def interpolations(study: StudyResults, detail: Detail) -> list[list[Strip]]:
    """Return one sheet for each latent path: the teacher above every student."""
    if study.teacher is None or study.teacher.interpolation is None:
        return []
    models = [model for model in shown_models(study, ("student",)) if model.run]
    steps = study.teacher.interpolation.shape[1]
    chosen = np.linspace(0, steps - 1, min(steps, detail.columns)).round().astype(int)
    return [
        [
            Strip("teacher", "the teacher along a path", path[chosen], pinned=True),
            *(
                model.strip(_path(model.run, index, chosen), "images along a path")
                for model in models
            ),
        ]
        for index, path in enumerate(study.teacher.interpolation[: detail.sheets])
    ]


@dataclass(frozen=True)
class Model:
    """A recipe at a width, and the run that stands for it: the lowest seed that has pictures."""

    recipe: str
    width: int
    run: RunResults | None
    first: bool

    @property
    def label(self) -> str:
        """What stands beside its images."""
        return f"d={self.width} {self.recipe}"

    def strip(self, images: UInt8[np.ndarray, "n h w c"] | None, what: str) -> Strip:
        """Label images of this model."""
        name = self.run.name if self.run else self.label
        return Strip(self.label, f"{what} of {name}", images, first=self.first)


def shown_models(study: StudyResults, kinds: tuple[str, ...]) -> list[Model]:
    """Return the models of these kinds, narrow before wide."""
    models: list[Model] = []
    for kind, recipe, width in list_models(study):
        if kind in kinds:
            runs = sorted(study.runs_of(kind, recipe, width), key=lambda run: run.seed)
            shown = next((run for run in runs if run.grid is not None), None)
            first = not models or models[-1].width != width
            models.append(Model(recipe, width, shown, first))
    return models


def _cut(
    images: UInt8[np.ndarray, "n h w c"] | None, part: slice
) -> UInt8[np.ndarray, "m h w c"] | None:
    """Return a part of the images; None if it is empty."""
    return None if images is None or not len(images[part]) else images[part]


def _path(
    run: RunResults | None, index: int, chosen: Int[np.ndarray, " n"]
) -> UInt8[np.ndarray, "n h w c"] | None:
    if run is None or run.interpolation is None:
        return None
    return run.interpolation[index][chosen]
