"""The plan of a study: which runs a config asks for, their names, groups and shards.

Imports no JAX, so that reports and completion can read it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_collections

from gankd_jax.utils.errors import UserError, suggest


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


_flatten = itertools.chain.from_iterable


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


def hyperparameters(config: ml_collections.ConfigDict, run: Run) -> dict[str, Any]:
    """Returns what decides a run, by name: its kind, recipe, width and seed, and their fields."""
    model = config.model["teacher" if run.kind == "teacher" else "student"]
    fields = {
        "data": config.data.name,
        "image_size": config.data.image_size,
        "latent": config.model.latent,
        "family": model.family,
    }
    return dataclasses.asdict(run) | fields | config.recipes[run.recipe].to_dict()


def shard_runs(
    config: ml_collections.ConfigDict, n: int, cost: Callable[[Run], int]
) -> list[list[Run]]:
    """Shares the runs of a study among `n` shards, for a sweep over several machines.

    Runs of one kind and length stay together, since they compile to one program, as long as there
    are as many such groups as shards.  With more shards every group has at least one, and the
    costliest are split by width and seed.

    Args:
        config: The study's config.
        n: The number of shards.
        cost: Operations of a run's training, by which the shards of a group are balanced; it is not
            called for whole groups.

    Returns:
        The runs of each shard; the last ones are empty if there are more shards than runs.
    """
    keys = functools.partial(_program_key, config)
    groups = _group_by(keys, plan_runs(config))
    if n <= len(groups):
        return [list(_flatten(groups[k::n])) for k in range(n)]
    costs = {run: cost(run) for run in _flatten(groups)}
    parts = {k: [group] for k, group in enumerate(groups)}
    for _ in range(min(n, len(costs)) - len(groups)):
        # Splitting a group helps if its costliest part that can be split gets cheaper.
        largest = {k: _largest_cost(parts[k], costs) for k in parts}
        k = max(largest, key=largest.__getitem__)
        parts[k] = _split_group(groups[k], len(parts[k]) + 1, costs)
    shards = [part for k in parts for part in parts[k]]
    return shards + [[] for _ in range(n - len(shards))]


def _largest_cost(parts: list[list[Run]], costs: dict[Run, int]) -> int:
    """Returns the cost of the costliest part of several runs; -1 if every run is alone."""
    return max((sum(costs[run] for run in part) for part in parts if len(part) > 1), default=-1)


def _split_group(group: list[Run], count: int, costs: dict[Run, int]) -> list[list[Run]]:
    """Splits a group into parts of similar cost: each run, costly ones first, to the cheapest."""
    parts: list[list[Run]] = [[] for _ in range(count)]
    for run in sorted(group, key=costs.__getitem__, reverse=True):
        min(parts, key=lambda part: (sum(costs[r] for r in part), len(part))).append(run)
    return [[run for run in group if run in part] for part in parts]


def describe_runs(runs: Sequence[Run]) -> str:
    """Returns the names of some runs; of many their number, and the first and last name."""
    if len(runs) > 3:
        return f"{len(runs)} runs, {runs[0].name} to {runs[-1].name}"
    return ", ".join(run.name for run in runs) or "no run"


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
        advice = suggest(name, runs) or f"it has {', '.join(runs)}"
        raise UserError(f"--run={name} is not a run of this study; {advice}")
    return runs[name]


def describe_part(config: ml_collections.ConfigDict, group: Sequence[Run]) -> str:
    """Returns which part of the study a group is, such as `12 students (part 2 of 3)`.

    A given teacher is no part, since it is trained already.  A study of one part does not say so.

    Args:
        config: The study's config.
        group: Runs that train together, all or some of those that one program can train.
    """
    runs = [run for run in plan_runs(config) if run.kind != "teacher" or not config.study.teacher]
    parts = group_runs(config, runs)
    number = next(k for k, part in enumerate(parts, start=1) if group[0] in part)
    name = group[0].name if len(group) == 1 else f"{len(group)} {group[0].kind}s"
    return f"{name} (part {number} of {len(parts)})" if len(parts) > 1 else name


def group_runs(config: ml_collections.ConfigDict, runs: Sequence[Run]) -> list[list[Run]]:
    """Groups the runs that one compiled program can train.

    Args:
        config: The study's config.
        runs: The runs to group.

    Returns:
        Groups of runs of one kind with equal steps, batch size and critic steps, in their order.
    """
    kinds = list(dict.fromkeys(run.kind for run in runs))
    groups = _group_by(functools.partial(_program_key, config), runs)
    return sorted(groups, key=lambda group: kinds.index(group[0].kind))


def _program_key(config: ml_collections.ConfigDict, run: Run) -> tuple[str, int, int, int]:
    recipe = config.recipes[run.recipe]
    return run.kind, recipe.steps, recipe.batch_size, recipe.critic_steps


def _group_by(key: Callable[[Run], tuple], runs: Iterable[Run]) -> list[list[Run]]:
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def _sweep_runs(config: ml_collections.ConfigDict, kind: str, recipes: Sequence[str]) -> list[Run]:
    study = config.study
    return [
        Run(kind, recipe, width, seed)
        for recipe in recipes
        for width in study.widths
        for seed in study.seeds
    ]
