"""Retries: a run whose losses are not finite resumes with another seed."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from flax import serialization

from gankd_jax.config.schema import config_to_dict
from gankd_jax.report.study_results import load_study
from gankd_jax.report.tables import table_notes
from gankd_jax.study import networks, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.train import train_runs
from gankd_jax.training import loop
from gankd_jax.training.train_state import TrainState
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log

pytestmark = pytest.mark.usefixtures("unoptimized")

SeedStepCondition = Callable[[int, int], bool]  # of a data seed and a step
RETRY_SEED = networks.retry_seed(1, 1)
NAMES = ("baseline-d1-s0", "baseline-d1-s1")


def never(*_: int) -> bool:
    return False


class Killed(Exception):  # noqa: N818  stands for a signal, not for an error
    """Stands for the end of the process."""


def advance_state(state: TrainState, seed: int) -> TrainState:
    """Advances a state by five steps; its params encode all seeds and their order."""
    params = jax.tree.map(lambda x: x * 0.5 + seed % 1000, state.generator.params)
    generator = dataclasses.replace(state.generator, params=params)
    return dataclasses.replace(state, step=state.step + 5, generator=generator)


@pytest.fixture
def fake_training(monkeypatch) -> Callable[..., None]:
    """Returns a function that replaces training by one that fails at chosen seeds and steps."""

    def install(is_failing: SeedStepCondition, *, is_killed: SeedStepCondition = never) -> None:
        def multi_step(run_specs, states, *_):
            seeds = {name: run_specs[name].data_seed for name in states}
            states = {name: advance_state(state, seeds[name]) for name, state in states.items()}
            moments = {name: (seeds[name], int(state.step)) for name, state in states.items()}
            if any(is_killed(*moment) for moment in moments.values()):
                raise Killed
            return states, {
                name: {"generator_loss": math.nan if is_failing(*moment) else 0.5}
                for name, moment in moments.items()
            }

        def compile_multi_step(trainer):
            return functools.partial(multi_step, trainer.run_specs)

        monkeypatch.setattr(loop._GroupTrainer, "_compile", compile_multi_step)

    return install


def create_study(root: Path, folder: Path, *, retries: int) -> StudyContext:
    """Creates a study of two baselines of 40 steps, with a checkpoint every ten."""
    config = tiny.config(
        data__dir=str(tiny.prepare_data(root)),
        study__students=(),
        training__retries=retries,
        training__grid_every=0,
        recipes__baseline__critic_width=1,
    )
    atomic_io.write_json(folder / "config.json", config_to_dict(config))
    return StudyContext(config, folder)


def train_baselines(context: StudyContext) -> None:
    train_runs(context, plan.baseline_runs(context.config))


def restore_last_state(context: StudyContext, name: str) -> TrainState:
    return context.restore_state(plan.find_run(context.config, name))


def is_seed_1_at_step_15(seed: int, step: int) -> bool:
    return (seed, step) == (1, 15)


def expected_bias(*seeds: int) -> float:
    """Computes the first bias after `advance_state` with each of these seeds; it starts at 0."""
    value = np.float32(0)
    for seed in seeds:
        value = np.float32(value * 0.5 + seed % 1000)
    return float(value)


def load_bias(context: StudyContext, name: str) -> float:
    return float(restore_last_state(context, name).generator.params["layer0"]["bias"][0])


def test_retry_resumes_from_last_checkpoint_with_another_seed(
    root, tmp_path, fake_training, caplog
):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    fake_training(is_seed_1_at_step_15)
    context = create_study(root, tmp_path, retries=1)
    train_baselines(context)
    assert load_bias(context, NAMES[1]) == expected_bias(1, 1, *[RETRY_SEED] * 6)
    assert load_bias(context, NAMES[0]) == 0
    assert not (tmp_path / NAMES[1] / "failed.json").exists()
    failure = atomic_io.read_json(tmp_path / NAMES[1] / "failed-1.json")
    assert failure["step"] == 15
    reason = "not finite: generator_loss nan; finite: none; last checkpoint before: 10"
    assert failure["reason"] == reason
    for name in NAMES:
        assert [line["step"] for line in read_log(tmp_path / name)] == [10, 20, 30, 40]
    assert f"{NAMES[1]} has failed at step 15: {reason}" in caplog.messages
    assert f"{NAMES[1]} resumes from its last checkpoint: retry 1 of 1" in caplog.messages


@pytest.mark.parametrize(
    "moment", [(1, 5), (0, 20), (RETRY_SEED, 15), (RETRY_SEED, 25), (RETRY_SEED, 40)]
)
@pytest.mark.slow
def test_retried_run_that_is_killed_ends_with_the_same_bits(root, tmp_path, fake_training, moment):
    fake_training(is_seed_1_at_step_15)
    uninterrupted = create_study(root, tmp_path / "uninterrupted", retries=1)
    killed = create_study(root, tmp_path / "killed", retries=1)
    train_baselines(uninterrupted)
    fake_training(is_seed_1_at_step_15, is_killed=lambda *seed_and_step: seed_and_step == moment)
    with pytest.raises(Killed):
        train_baselines(killed)
    fake_training(is_seed_1_at_step_15)
    train_baselines(killed)
    for name in NAMES:
        state, expected_state = (
            serialization.to_state_dict(restore_last_state(context, name))
            for context in (killed, uninterrupted)
        )
        assert tiny.differences(state, expected_state) == []
    assert workdir.retry_count(killed.workdir, plan.find_run(killed.config, NAMES[1])) == 1


def test_run_fails_for_good_after_its_last_retry(root, tmp_path, fake_training):
    fake_training(lambda seed, step: seed != 0 and step == 15)
    context = create_study(root, tmp_path, retries=2)
    train_baselines(context)
    run = plan.find_run(context.config, NAMES[1])
    assert workdir.has_failed(tmp_path, run)
    assert workdir.retry_count(tmp_path, run) == 2
    before = tiny.snapshot(tmp_path)
    train_baselines(context)  # changes neither run
    assert tiny.snapshot(tmp_path) == before
    with pytest.raises(UserError, match=r"baseline-d1-s1 has failed; .*failed.json"):
        runner.train_run(context.config, tmp_path, NAMES[1])


def test_retries_can_be_raised_for_a_failed_run(root, tmp_path, fake_training):
    fake_training(is_seed_1_at_step_15)
    train_baselines(create_study(root, tmp_path, retries=0))
    context = create_study(root, tmp_path, retries=1)
    assert workdir.matches_config(tmp_path, context.config)
    assert workdir.has_failed(tmp_path, plan.find_run(context.config, NAMES[1]))
    runner.train_run(context.config, tmp_path, NAMES[1])
    assert load_bias(context, NAMES[1]) > 0


def test_retry_without_a_checkpoint_starts_at_step_0(root, tmp_path, fake_training):
    fake_training(lambda seed, step: (seed, step) == (1, 5))
    context = create_study(root, tmp_path, retries=1)
    train_baselines(context)
    assert load_bias(context, NAMES[1]) == expected_bias(*[RETRY_SEED] * 8)


def test_report_notes_name_the_retried_run(root, tmp_path, fake_training):
    fake_training(is_seed_1_at_step_15)
    train_baselines(create_study(root, tmp_path, retries=1))
    (note,) = [note for note in table_notes(load_study(tmp_path)) if NAMES[1] in note]
    assert note.startswith(
        f"{NAMES[1]} continued with another seed after it had failed at step 15: "
    )


def test_retry_seeds_are_distinct():
    seeds = {networks.retry_seed(seed, k) for seed in range(20) for k in range(4)}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [networks.retry_seed(seed, 0) for seed in range(20)] == list(range(20))
