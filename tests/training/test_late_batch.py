"""Batches that grow for the last quarter of the steps, against two calls made by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.bench.cost_report import _group
from gankd_jax.config.recipe import Recipe
from gankd_jax.config.schema import recipe_config
from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import plan
from gankd_jax.study.validation import validate_config
from gankd_jax.training import loop
from gankd_jax.training.multi_run import RunSpec, make_multi_step
from gankd_jax.training.train_state import StepSpec, create_train_state
from gankd_jax.utils import sharding
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log

pytestmark = pytest.mark.usefixtures("unoptimized")

STEPS, LATE_FROM, SMALL, LARGE, COUNT = 20, 15, 4, 12, 30
RECIPE = Recipe(steps=STEPS, batch_size=SMALL, late_batch=LARGE, generator_lr=1e-3)
NETWORKS = (
    DCGANGenerator(1, 16, 1, 4, conv_impl="matmul"),
    DCGANCritic(1, 16, 1, conv_impl="matmul"),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 1), np.uint8)


def member(made: Recipe) -> RunSpec:
    return RunSpec(StepSpec(*NETWORKS, made), 3, 3)


def by_loop(folder) -> None:
    """Train the run `folder/run` from where it is to its end."""
    (folder / "run").mkdir(exist_ok=True)
    one = loop.RunGroup("run", {"run": member(RECIPE)}, None, IMAGES, True, sharding.make_mesh(1))
    loop.train_group(one, folder, loop.LoopIntervals(5, 5, 0, 5), picture=lambda *_: IMAGES[0])


def state_of(folder):
    like = jax.eval_shape(functools.partial(create_train_state, member(RECIPE).spec), 3)
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    try:
        return checkpoints.restore(STEPS, like)
    finally:
        checkpoints.close()


def by_hand():
    """15 steps of 4 images, then 5 of 12, in calls of five steps."""
    state = jax.jit(lambda: create_train_state(member(RECIPE).spec, 3))()
    for first in range(0, STEPS, 5):
        size = LARGE if first >= LATE_FROM else SMALL
        plain = dataclasses.replace(RECIPE, batch_size=size, late_batch=0)
        places = multi_step_indices(first, 5, critic_steps=1, count=COUNT, batch_size=size, seed=3)
        chunk = make_multi_step({"run": member(plain)}, None, sharding.make_mesh(1))
        batches = jnp.asarray(places[:, None].astype(np.int32))
        states, _ = chunk({"run": state}, None, jnp.asarray(IMAGES), batches)
        state = states["run"]
    return state


def test_the_sizes_by_hand():
    sizes = [RECIPE.batch_at(step) for step in range(STEPS)]
    assert sizes == [SMALL] * 15 + [LARGE] * 5
    assert {Recipe(steps=STEPS).batch_at(step) for step in range(STEPS)} == {64}


def test_it_trains_as_two_calls_by_hand_stopped_or_not(tmp_path):
    by_loop(tmp_path)
    expected = jax.tree.leaves(by_hand())
    for ours, theirs in zip(jax.tree.leaves(state_of(tmp_path)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # It stopped at the last checkpoint of the small batches, and goes on.
    whole = jax.tree.map(np.asarray, state_of(tmp_path))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps() == [LATE_FROM, STEPS]
    checkpoints.discard_after(LATE_FROM)
    checkpoints.close()
    by_loop(tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, state_of(tmp_path), whole))
    # The last lines of the log count the images of five steps, of 4 and of 12.
    *_, before, early, late = read_log(tmp_path / "run")
    for line, last, images in ((early, before, 20), (late, early, 60)):
        seconds = line["seconds"] - last["seconds"]
        assert line["images_per_second"] * seconds == pytest.approx(images)


def test_runs_of_other_late_batches_train_apart_and_cost_more():
    config = tiny.config()
    with config.unlocked():
        config.recipes.late = recipe_config(**config.recipes.mse.to_dict() | {"late_batch": 256})
        config.study.students = ("mse", "late")
    validate_config(config)
    groups = [
        group
        for group in plan.group_runs(config, plan.plan_runs(config))
        if group[0].kind[0] == "s"
    ]
    assert [{run.recipe for run in group} for group in groups] == [{"mse"}, {"late"}]
    plain, late = (_group(config, group).operations for group in groups)
    assert late == pytest.approx(plain * (3 * 64 + 256) / (4 * 64))


def test_a_late_batch_below_the_first_is_refused():
    config = tiny.config()
    with config.unlocked():
        config.recipes.mse.late_batch = 8
    with pytest.raises(UserError, match=r"recipes.mse.late_batch is 8; it must be 0, or batch_siz"):
        validate_config(config)
