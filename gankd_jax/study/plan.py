"""The plan of a study: which runs a config asks for, their names, groups and shards.

Imports no JAX, so that reports and completion can read it.
"""

import dataclasses
from collections.abc import Sequence

import ml_collections

from gankd_jax.utils.errors import UserError


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


def run_name(kind: str, recipe: str, width: int, seed: int) -> str:
    """Returns the name of a run, such as `student-mse-d4-s0` or `teacher-d32-s0`.

    Args:
        kind: teacher, student or baseline.
        recipe: Its name in the config; left out where it equals the kind.
        width: Of its generator.
        seed: Of its first weights.
    """
    parts = [kind, recipe, f"d{width}", f"s{seed}"]
    return "-".join(parts if recipe != kind else parts[1:])


def teacher_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Returns the candidates for the teacher."""
    study = config.study
    return [
        Run("teacher", "teacher", width, seed)
        for width in study.teacher_widths
        for seed in study.teacher_seeds
    ]


def widest_teacher(config: ml_collections.ConfigDict) -> Run:
    """Returns the candidate of most channels, for which costs are computed."""
    return max(teacher_runs(config), key=lambda run: run.width)


def student_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Returns the students: every recipe, width and seed."""
    return _sweep_runs(config, "student", config.study.students)


def baseline_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Returns the baselines: every recipe, width and seed."""
    return _sweep_runs(config, "baseline", config.study.baselines)


def plan_runs(config: ml_collections.ConfigDict) -> list[Run]:
    """Returns every run of the study, teachers first."""
    return teacher_runs(config) + student_runs(config) + baseline_runs(config)


def shard_runs(config: ml_collections.ConfigDict, k: int, n: int) -> list[Run]:
    """Returns the runs of shard `k` of `n`, for a sweep over several machines.

    Args:
        config: The study's config.
        k: The shard, from 1 to `n`.
        n: The number of shards.

    Returns:
        Every n-th group of runs.  Groups are not split, since they compile to one program.
    """
    return [run for group in group_runs(config, plan_runs(config))[k - 1 :: n] for run in group]


def find_run(config: ml_collections.ConfigDict, name: str) -> Run:
    """Returns the run of that name.

    Args:
        config: The study's config.
        name: Such as `student-mse-d4-s0`.

    Raises:
        UserError: The study has no such run.
    """
    runs = {run.name: run for run in plan_runs(config)}
    if name not in runs:
        raise UserError(f"--run={name} is not a run of this study; it has {', '.join(runs)}")
    return runs[name]


def group_runs(config: ml_collections.ConfigDict, runs: Sequence[Run]) -> list[list[Run]]:
    """Groups the runs that one compiled program can train.

    Args:
        config: The study's config.
        runs: The runs to group.

    Returns:
        Groups of runs of one kind with equal steps, batch size and critic steps, in their order.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        recipe = config.recipes[run.recipe]
        key = (run.kind, recipe.steps, recipe.batch_size, recipe.critic_steps)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _sweep_runs(config: ml_collections.ConfigDict, kind: str, recipes: Sequence[str]) -> list[Run]:
    study = config.study
    return [
        Run(kind, recipe, width, seed)
        for recipe in recipes
        for width in study.widths
        for seed in study.seeds
    ]
