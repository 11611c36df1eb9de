"""A group of runs in one program against each of its runs alone, and the paper's limiting cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.training import multi_run
from gankd_jax.training.multi_run import RunSpec, data_seeds, feature_critic, make_multi_step
from gankd_jax.training.train_state import (
    NetworkState,
    StepSpec,
    TeacherParams,
    TrainState,
    create_train_state,
    make_variables,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

LATENT, BATCH, SIZE, COUNT = 4, 4, 16, 11
RATES = {"generator_lr": 1e-3, "critic_lr": 1e-3, "batch_size": BATCH}
MSE = Recipe(alpha=0.0, reduction="sum", **RATES)
JOINT = Recipe(alpha=0.3, reduction="sum", critic="teacher", **RATES)
BASELINE = Recipe(**RATES)
FEATURES = Recipe(
    alpha=0.0, features="energy", feature_weight=1.0, feature_batch=3, steps=5, **RATES
)


def member(
    recipe: Recipe, *, width: int = 1, seed: int = 0, data_seed: int | None = None
) -> RunSpec:
    """A run; a critic that goes on from the teacher's has its width, 2."""
    critic_width = 2 if recipe.critic == "teacher" else width
    critic = DCGANCritic(critic_width, SIZE, 1, conv_impl="matmul") if recipe.alpha else None
    eye = DCGANCritic(2, SIZE, 1, conv_impl="matmul") if recipe.features != "none" else None
    spec = StepSpec(DCGANGenerator(width, SIZE, 1, LATENT, conv_impl="matmul"), critic, recipe, eye)
    return RunSpec(spec, seed, seed if data_seed is None else data_seed)


def double(tree):
    """float64 where 64 bits are on: batch norm's own numbers start with 32."""
    kind = jnp.zeros(()).dtype
    return jax.tree.map(lambda a: a.astype(kind) if a.dtype.kind == "f" else a, tree)


TEACHER = member(BASELINE, width=2, seed=9)


@functools.cache
def teacher(dtype: type) -> TrainState:
    """An untrained one with kernels large enough to draw something."""
    state = double(create_train_state(TEACHER.spec, TEACHER.seed))
    assert state.step.dtype == jnp.int32
    return jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim == 4 else leaf, state)


def train(members: dict[str, RunSpec], steps: int, *, on_device: bool = True):
    """States and mean metrics of a group after that many steps in one call."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 1), np.uint8)
    sizes = {"critic_steps": 1, "count": COUNT, "batch_size": BATCH}
    places = [
        multi_step_indices(0, steps, seed=data_seed, **sizes) for data_seed in data_seeds(members)
    ]
    batches = np.stack(places, axis=1)
    taught = teacher(jnp.zeros(()).dtype.type)
    states = {
        name: double(create_train_state(m.spec, m.seed, taught.critic if goes_on(m) else None))
        for name, m in members.items()
    }
    return make_multi_step(members, TEACHER.spec.generator)(
        states,
        TeacherParams(generator=_variables(taught.generator), critic=_variables(taught.critic)),
        jnp.asarray(pixels) if on_device else None,
        jnp.asarray(batches if on_device else pixels[batches]),
    )


def _variables(network: NetworkState):
    return make_variables(network.params, network.batch_stats)


def goes_on(run: RunSpec) -> bool:
    return run.spec.recipe.critic == "teacher" and run.spec.critic is not None


@functools.cache
def alone(
    recipe: Recipe, *, width: int = 1, seed: int = 0
) -> tuple[TrainState, dict[str, jax.Array]]:
    """A run's state and mean metrics after 20 steps in a group of its own."""
    states, metrics = train({"run": member(recipe, width=width, seed=seed)}, 20)
    return states["run"], metrics["run"]


def params(state: TrainState):
    return state.generator.params, state.critic.params if state.critic else {}


def steady(networks):
    """Without the biases in front of batch norm.

    Their true gradient is 0, and Adam makes steps of its rounding noise, up to 1e-8 in 100 steps.
    """
    kept = [dict(network) for network in networks]
    for network in kept:
        for name in [n for n in network if n.startswith("norm")]:
            layer = name.replace("norm", "layer")
            network[layer] = {"kernel": network[layer]["kernel"]}
    return kept


def largest(one, other) -> float:
    """The largest difference between two trees."""
    differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), one, other)
    return float(np.max(jax.tree.leaves(differences)))  # NaN where one is


def assert_equal_to_the_bit(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_group_trains_as_each_of_its_runs_alone_in_float32():
    kinds = {
        "mse 0": {"recipe": MSE, "width": 1, "seed": 0},
        "mse 5": {"recipe": MSE, "width": 1, "seed": 5},
        "gan": {"recipe": BASELINE, "width": 1, "seed": 5},
    }
    _, together = train({name: member(**kind) for name, kind in kinds.items()}, 20)
    for name, kind in kinds.items():
        _, expected = alone(**kind)
        assert together[name].keys() == expected.keys()
        for metric, value in expected.items():
            assert together[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)


def test_runs_that_take_turns_need_less_memory_and_come_to_the_same(monkeypatch):
    recipe = dataclasses.replace(MSE, batch_size=64)
    kinds = ((8, 0), (9, 0), (10, 0), (10, 1))
    members = {
        str(kind): member(recipe, width=kind[0], seed=kind[1], data_seed=0) for kind in kinds
    }
    places = jnp.zeros((2, 1, 1, 64), jnp.int32)
    taught = teacher(np.float32)
    frozen = TeacherParams(generator=_variables(taught.generator), critic=None)

    def run() -> tuple[int, dict, dict]:
        states = {name: create_train_state(m.spec, m.seed) for name, m in members.items()}
        inputs = (states, frozen, jnp.zeros((1, SIZE, SIZE, 1), jnp.uint8), places)
        program = make_multi_step(members, TEACHER.spec.generator).lower(*inputs).compile()
        return program.memory_analysis().temp_size_in_bytes, *program(*inputs)

    bytes_beside, states_beside, metrics_beside = run()
    monkeypatch.setattr(multi_run, "LARGE_RUN_BYTES", 1)
    bytes_in_turn, states, metrics = run()
    assert bytes_in_turn < 0.7 * bytes_beside
    assert largest(metrics, metrics_beside) < 1e-4
    ours, theirs = (
        [network for run in found.values() for network in steady(params(run))]
        for found in (states, states_beside)
    )
    assert largest(ours, theirs) < 1e-4


def test_seeds_go_through_vmap_but_for_a_cpu_s_large_runs(monkeypatch):
    ours = {"0": member(MSE), "1": member(MSE, seed=1), "wide": member(MSE, width=2)}
    generators = {
        name: dataclasses.replace(m.spec.generator, conv_impl="dilated") for name, m in ours.items()
    }
    others = {
        name: dataclasses.replace(m, spec=dataclasses.replace(m.spec, generator=generators[name]))
        for name, m in ours.items()
    }
    assert multi_run.vmap_groups(ours) == [["0", "1"], ["wide"]]
    monkeypatch.setattr(multi_run, "LARGE_RUN_BYTES", 1)
    assert multi_run.vmap_groups(ours) == [["0"], ["1"], ["wide"]]
    assert multi_run.vmap_groups(others) == [["0", "1"], ["wide"]]


def test_a_group_trains_as_each_of_its_runs_alone_in_float64():
    members = {
        "mse": member(MSE, width=2),
        "joint 0": member(JOINT),
        "joint 5": member(JOINT, seed=5),
    }
    with jax.enable_x64(True):
        taught = jax.tree.map(np.array, teacher(np.float64))
        together, _ = train(members, 100)
        for name in ("mse", "joint 5"):
            states, _ = train({name: members[name]}, 100)
            assert states[name].generator.params["layer0"]["kernel"].dtype == jnp.float64
            ours, theirs = (steady(params(s[name])) for s in (together, states))
            assert largest(ours, theirs) < 1e-8
        # The joint students' critics began as the teacher's, whose own arrays are as they were.
        assert 0.01 < largest(together["joint 5"].critic.params, taught.critic.params) < 0.2
        assert_equal_to_the_bit(teacher(np.float64), taught)


def test_students_that_see_features_or_begin_from_the_teacher_train_as_alone():
    recipes = [FEATURES, dataclasses.replace(JOINT, real_source="teacher")]
    members = {str(k): member(r, seed=k, data_seed=3) for k, r in enumerate(recipes)}
    _, together = train(members, 5)
    for name, run in members.items():
        _, expected = train({name: run}, 5)
        for metric, value in expected[name].items():
            assert together[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)
    assert together["0"]["feature_distance"] > 0


def test_alpha_0_is_the_mse_run_to_the_bit():
    ours = alone(dataclasses.replace(JOINT, alpha=0.0, loss="hinge"), width=1, seed=0)
    assert_equal_to_the_bit(ours, alone(MSE, width=1, seed=0))


def test_alpha_1_is_the_baseline_to_the_bit():
    ours = alone(dataclasses.replace(JOINT, alpha=1.0, critic="fresh"), width=1, seed=5)
    assert_equal_to_the_bit(ours, alone(BASELINE, width=1, seed=5))


def test_images_from_the_host_train_as_those_on_the_device():
    states, metrics = train({"run": member(BASELINE, seed=5)}, 20, on_device=False)
    state, expected = alone(BASELINE, width=1, seed=5)
    assert largest(params(states["run"]), params(state)) < 1e-5
    assert metrics["run"]["critic_loss"] == pytest.approx(float(expected["critic_loss"]), rel=1e-5)


def test_runs_of_one_data_seed_train_as_each_of_them_alone():
    kinds = {f"{r.alpha} {seed}": (r, seed) for r in (MSE, JOINT) for seed in (0, 5)}
    members = {name: member(r, seed=seed, data_seed=3) for name, (r, seed) in kinds.items()}
    _, together = train(members, 5)
    for name in ("0.0 5", "0.3 5"):
        _, expected = train({name: members[name]}, 5)
        for metric, value in expected[name].items():
            assert together[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)


def test_runs_of_one_data_seed_see_the_same_latents_whatever_their_seed():
    _, metrics = train({s: member(MSE, seed=0, data_seed=n) for n, s in enumerate("ab")}, 1)
    assert metrics["a"]["distance"] != metrics["b"]["distance"]
    _, metrics = train({s: member(MSE, seed=0, data_seed=4) for s in "ab"}, 1)
    assert metrics["a"]["distance"] == metrics["b"]["distance"]


def test_seeds_share_neither_latents_nor_first_weights():
    one, other = (alone(MSE, width=1, seed=seed) for seed in (0, 5))
    assert abs(float(one[1]["distance"] - other[1]["distance"])) > 1e-4
    assert largest(one[0].generator.params, other[0].generator.params) > 1e-3


def test_weights_that_leave_the_numbers_show_before_a_loss_does():
    wild = dataclasses.replace(BASELINE, generator_lr=1e38)
    states, metrics = train({"wild": member(wild), "tame": member(BASELINE)}, 1)
    assert np.isfinite(metrics["wild"]["generator_loss"])
    assert not np.isfinite(metrics["wild"]["weights"])
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params(states["tame"]))]
    norm = np.linalg.norm(np.concatenate(leaves))
    assert float(metrics["tame"]["weights"]) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("order", [(MSE, FEATURES), (FEATURES, MSE)])
def test_a_group_looks_through_the_critic_whichever_of_its_runs_does(order):
    members = {str(k): member(recipe) for k, recipe in enumerate(order)}
    assert feature_critic(members) == member(FEATURES).spec.feature_critic is not None
    assert feature_critic({"mse": member(MSE)}) is None
