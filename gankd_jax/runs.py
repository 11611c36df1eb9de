"""A config's runs: their names, networks, and which of them train together."""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np

from gankd_jax.data import datasets
from gankd_jax.errors import UserError
from gankd_jax.models import conv
from gankd_jax.models.dcgan import Critic, Generator
from gankd_jax.names import run_name
from gankd_jax.training.group import Member
from gankd_jax.training.recipe import Recipe
from gankd_jax.training.state import Spec


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study."""

    kind: str  # teacher, student, baseline
    recipe: str  # its name in config.recipes
    width: int
    seed: int

    @property
    def name(self) -> str:
        """Also the name of the run's folder, such as `student-mse-d4-s0`."""
        return run_name(self.kind, self.recipe, self.width, self.seed)


def teachers(config: ml_collections.ConfigDict) -> list[Run]:
    """The candidates for the teacher."""
    study = config.study
    return [
        Run("teacher", "teacher", width, seed)
        for width in study.teacher_widths
        for seed in study.teacher_seeds
    ]


def students(config: ml_collections.ConfigDict) -> list[Run]:
    """Every student of every loss, width and seed."""
    return _sweep(config, "student", config.study.students)


def baselines(config: ml_collections.ConfigDict) -> list[Run]:
    """Every baseline."""
    return _sweep(config, "baseline", config.study.baselines)


def plan(config: ml_collections.ConfigDict) -> list[Run]:
    """Every run of the study, teachers first."""
    return teachers(config) + students(config) + baselines(config)


def share(config: ml_collections.ConfigDict, k: int, n: int) -> list[Run]:
    """Share k of n of the study's runs: every n-th of its groups, which stay whole."""
    return [run for group in groups(config, plan(config))[k - 1 :: n] for run in group]


def find(config: ml_collections.ConfigDict, name: str) -> Run:
    """The run of that name.

    Raises:
      UserError: the study has no such run.
    """
    for run in plan(config):
        if run.name == name:
            return run
    names = ", ".join(run.name for run in plan(config))
    raise UserError(f"--run={name} is not a run of this study; it has {names}")


def groups(config: ml_collections.ConfigDict, runs: list[Run]) -> list[list[Run]]:
    """Runs that can be one compiled program: of one kind, and equal in what shapes a step."""
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        recipe = config.recipes[run.recipe]
        batches = (recipe.batch_size, recipe.late_batch)
        key = (run.kind, recipe.steps, batches, recipe.critic_steps)
        found.setdefault(key, []).append(run)
    return list(found.values())


def generator(config: ml_collections.ConfigDict, width: int) -> Generator:
    """The study's generator of that width."""
    return Generator(
        width=width,
        image_size=config.data.image_size,
        channels=channels(config),
        latent=config.model.latent,
        norm=config.model.generator_norm,
        form=conv.resolve_form(config.model.conv),
    )


def critic(config: ml_collections.ConfigDict, width: int, norm: str) -> Critic:
    """The study's critic of that width."""
    return Critic(
        width=width,
        image_size=config.data.image_size,
        channels=channels(config),
        norm=norm,
        form=conv.resolve_form(config.model.conv),
    )


def member(
    config: ml_collections.ConfigDict, run: Run, teacher: Run | None, *, retries: int = 0
) -> Member:
    """The run as the train step takes it; a critic that goes on from the teacher's is like it.

    Students of one teacher see the same latents and batches, whatever their seed: its forward pass
    then serves them all.  Where they begin with the teacher's weights a seed decides the latents
    alone, which are then its own.  One that has failed and goes on sees others, at each of its
    `retries`.
    """
    recipe = Recipe(**config.recipes[run.recipe])
    owner = teacher if recipe.critic == "teacher" and teacher else run
    looked_through = teacher if recipe.features != "none" else None
    spec = Spec(
        generator=generator(config, run.width),
        critic=_critic_of(config, owner) if recipe.alpha > 0 else None,
        recipe=recipe,
        frozen_critic=_critic_of(config, looked_through) if looked_through else None,
    )
    stream = teacher.seed if teacher and not recipe.warm_start else run.seed
    seeds = {"seed": run.seed, "stream": stream}
    return Member(spec=spec, **{name: retry_seed(seed, retries) for name, seed in seeds.items()})


def _critic_of(config: ml_collections.ConfigDict, run: Run) -> Critic:
    """The critic of a run's own recipe."""
    recipe = config.recipes[run.recipe]
    return critic(config, recipe.critic_width or run.width, recipe.critic_norm)


def retry_seed(seed: int, retries: int) -> int:
    """The seed in place of another after a run has failed so often: the same, at first."""
    if not retries:
        return seed
    return int(np.random.SeedSequence([seed, retries]).generate_state(1)[0] >> 1)  # an int32


def channels(config: ml_collections.ConfigDict) -> int:
    """1 for grey images, 3 for colour."""
    return datasets.get(config.data.name).image_shape[2]


def _sweep(config: ml_collections.ConfigDict, kind: str, recipes: Sequence[str]) -> list[Run]:
    study = config.study
    return [
        Run(kind, recipe, width, seed)
        for recipe in recipes
        for width in study.widths
        for seed in study.seeds
    ]
