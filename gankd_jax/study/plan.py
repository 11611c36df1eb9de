"""A config's runs: their names, networks, and which of them train together."""

import dataclasses
from collections.abc import Sequence

import ml_collections

from gankd_jax.utils.errors import UserError


def run_name(kind: str, recipe: str, width: int, seed: int) -> str:
    """The name of a run and of its folder, such as `student-mse-d4-s0` or `teacher-d32-s0`."""
    parts = [kind, recipe, f"d{width}", f"s{seed}"]
    return "-".join(parts if recipe != kind else parts[1:])


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


def teacher_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """The candidates for the teacher."""
    study = config.study
    return [
        Run("teacher", "teacher", width, seed)
        for width in study.teacher_widths
        for seed in study.teacher_seeds
    ]


def student_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Every student of every loss, width and seed."""
    return _sweep(config, "student", config.study.students)


def baseline_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Every baseline."""
    return _sweep(config, "baseline", config.study.baselines)


def plan_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Every run of the study, teachers first."""
    return teacher_runs(config) + student_runs(config) + baseline_runs(config)


def shard_runs(config: ml_collections.ConfigDict, k: int, n: int) -> list[Run]:
    """Share k of n of the study's runs: every n-th of its groups, which stay whole."""
    return [run for group in group_runs(config, plan_runs(config))[k - 1 :: n] for run in group]


def find_run(config: ml_collections.ConfigDict, name: str) -> Run:
    """The run of that name.

    Raises:
      UserError: the study has no such run.
    """
    for run in plan_runs(config):
        if run.name == name:
            return run
    names = ", ".join(run.name for run in plan_runs(config))
    raise UserError(f"--run={name} is not a run of this study; it has {names}")


def group_runs(config: ml_collections.ConfigDict, runs: list[Run]) -> list[list[Run]]:
    """Runs that can be one compiled program: of one kind, and equal in what shapes a step."""
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        recipe = config.recipes[run.recipe]
        batches = (recipe.batch_size, recipe.late_batch)
        key = (run.kind, recipe.steps, batches, recipe.critic_steps)
        found.setdefault(key, []).append(run)
    return list(found.values())


def _sweep(config: ml_collections.ConfigDict, kind: str, recipes: Sequence[str]) -> list[Run]:
    study = config.study
    return [
        Run(kind, recipe, width, seed)
        for recipe in recipes
        for width in study.widths
        for seed in study.seeds
    ]
