"""A run that stops being finite goes on with other random numbers, if the config asks for it."""

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

Fails = Callable[[int, int], bool]  # at this seed and step
OTHER = networks.retry_seed(1, 1)
NAMES = ("baseline-d1-s0", "baseline-d1-s1")


def at_no_time(*_: int) -> bool:
    return False


class Killed(Exception):  # noqa: N818  it is no error
    """The process would have ended here."""


def moved(state: TrainState, seed: int) -> TrainState:
    """A state after five steps that tells which seeds it has seen, and in which order."""
    params = jax.tree.map(lambda x: x * 0.5 + seed % 1000, state.generator.params)
    generator = dataclasses.replace(state.generator, params=params)
    return dataclasses.replace(state, step=state.step + 5, generator=generator)


@pytest.fixture
def provoke(monkeypatch) -> Callable[..., None]:
    """Put training in place of which a seed and a step decide what comes of it."""

    def instead(fails: Fails, *, killed: Fails = at_no_time) -> None:
        def call(members, states, *_):
            states = {n: moved(state, members[n].data_seed) for n, state in states.items()}
            now = {n: (members[n].data_seed, int(state.step)) for n, state in states.items()}
            if any(killed(*moment) for moment in now.values()):
                raise Killed
            values = {n: math.nan if fails(*moment) else 0.5 for n, moment in now.items()}
            return states, {name: {"generator_loss": value} for name, value in values.items()}

        def compiled(trainer):
            return functools.partial(call, trainer.run_specs)

        monkeypatch.setattr(loop._GroupTrainer, "_compile", compiled)

    return instead


def lab(root: Path, folder: Path, *, retries: int) -> StudyContext:
    """Two baselines of 40 steps, with a checkpoint every ten."""
    config = tiny.config(
        data__dir=str(tiny.data(root)),
        study__students=(),
        training__retries=retries,
        training__grid_every=0,
        recipes__baseline__critic_width=1,
    )
    atomic_io.write_json(folder / "config.json", config_to_dict(config))
    return StudyContext(config, folder)


def train(made: StudyContext) -> None:
    train_runs(made, plan.baseline_runs(made.config))


def last(made: StudyContext, name: str) -> TrainState:
    return made.restore_state(plan.find_run(made.config, name))


def at_15(seed: int, step: int) -> bool:
    """Seed 1 fails at step 15."""
    return (seed, step) == (1, 15)


def expected(*seeds: int) -> float:
    """The first bias, which begins as 0, of a state that has seen these seeds, one a call."""
    value = np.float32(0)
    for seed in seeds:
        value = np.float32(value * 0.5 + seed % 1000)
    return float(value)


def found(state: TrainState) -> float:
    return float(state.generator.params["layer0"]["bias"][0])


def test_it_goes_on_from_its_last_checkpoint_with_another_seed(root, tmp_path, provoke, caplog):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    provoke(at_15)
    made = lab(root, tmp_path, retries=1)
    train(made)
    assert found(last(made, NAMES[1])) == expected(1, 1, *[OTHER] * 6)
    assert found(last(made, NAMES[0])) == 0
    assert not (tmp_path / NAMES[1] / "failed.json").exists()
    failed = atomic_io.read_json(tmp_path / NAMES[1] / "failed-1.json")
    assert failed["step"] == 15
    reason = "not finite: generator_loss nan; finite: none; last checkpoint before: 10"
    assert failed["reason"] == reason
    for name in NAMES:
        assert [line["step"] for line in read_log(tmp_path / name)] == [10, 20, 30, 40]
    assert f"{NAMES[1]} has failed at step 15: {reason}" in caplog.messages
    assert f"{NAMES[1]} resumes from its last checkpoint: retry 1 of 1" in caplog.messages


@pytest.mark.parametrize("moment", [(1, 5), (0, 20), (OTHER, 15), (OTHER, 25), (OTHER, 40)])
def test_killed_at_any_moment_it_ends_with_the_same_bits(root, tmp_path, provoke, moment):
    provoke(at_15)
    never, made = lab(root, tmp_path / "never", retries=1), lab(root, tmp_path / "it", retries=1)
    train(never)
    provoke(at_15, killed=lambda *now: now == moment)
    with pytest.raises(Killed):
        train(made)
    provoke(at_15)
    train(made)
    for name in NAMES:
        ours, theirs = (serialization.to_state_dict(last(where, name)) for where in (made, never))
        assert tiny.differences(ours, theirs) == []
    assert workdir.retry_count(tmp_path / "it", plan.find_run(made.config, NAMES[1])) == 1


def test_after_the_last_retry_it_has_failed(root, tmp_path, provoke):
    provoke(lambda seed, step: seed != 0 and step == 15)
    made = lab(root, tmp_path, retries=2)
    train(made)
    run = plan.find_run(made.config, NAMES[1])
    assert workdir.has_failed(tmp_path, run)
    assert workdir.retry_count(tmp_path, run) == 2
    before = tiny.snapshot(tmp_path)
    train(made)  # neither of the two is touched again
    assert tiny.snapshot(tmp_path) == before
    with pytest.raises(UserError, match=r"baseline-d1-s1 has failed; .*failed.json"):
        runner.train_run(made.config, tmp_path, NAMES[1])


def test_more_retries_can_be_asked_for_later(root, tmp_path, provoke):
    provoke(at_15)
    train(lab(root, tmp_path, retries=0))
    made = lab(root, tmp_path, retries=1)
    assert workdir.matches_config(tmp_path, made.config)
    assert workdir.has_failed(tmp_path, plan.find_run(made.config, NAMES[1]))
    runner.train_run(made.config, tmp_path, NAMES[1])
    assert found(last(made, NAMES[1])) > 0


def test_without_a_checkpoint_it_begins_anew(root, tmp_path, provoke):
    provoke(lambda seed, step: (seed, step) == (1, 5))
    made = lab(root, tmp_path, retries=1)
    train(made)
    assert found(last(made, NAMES[1])) == expected(*[OTHER] * 8)


def test_the_report_says_which_run_went_on(root, tmp_path, provoke):
    provoke(at_15)
    train(lab(root, tmp_path, retries=1))
    notes = [note for note in table_notes(load_study(tmp_path)) if NAMES[1] in note]
    (note,) = notes
    assert note.startswith(
        f"{NAMES[1]} continued with another seed after it had failed at step 15: "
    )


def test_a_retry_s_seed_is_a_seed_of_its_own():
    seeds = {networks.retry_seed(seed, k) for seed in range(20) for k in range(4)}
    assert len(seeds) == 80
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [networks.retry_seed(seed, 0) for seed in range(20)] == list(range(20))
