"""Runs compiled together against each run alone, and the limiting cases alpha 0 and alpha 1."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gankd_jax.config.recipe import Recipe
from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.interop import pair_table
from gankd_jax.models.classifiers import WhitenedConvNet
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.training import multi_run
from gankd_jax.training.multi_run import RunSpec, data_seeds, make_multi_step
from gankd_jax.training.train_state import (
    NetworkState,
    StepSpec,
    TeacherParams,
    TrainState,
    create_train_state,
    make_variables,
)
from gankd_jax.training.train_step import TeacherTargets, sample_noise, train_step

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

LATENT, BATCH, SIZE, COUNT = 4, 4, 16, 11
RATES = {"generator_lr": 1e-3, "critic_lr": 1e-3, "batch_size": BATCH}
MSE = Recipe(alpha=0.0, reduction="sum", **RATES)
JOINT = Recipe(alpha=0.3, reduction="sum", critic="teacher", **RATES)
BASELINE = Recipe(**RATES)
FEATURES = Recipe(
    alpha=0.0, features="energy", feature_weight=1.0, feature_batch=3, steps=5, **RATES
)
CLASSIFIER_FEATURES = dataclasses.replace(FEATURES, features="l1", feature_network="classifier")
CRITIC, CLASSIFIER = DCGANCritic(2, SIZE, 1, conv_impl="matmul"), WhitenedConvNet(10, 1, 4)


def run_spec(
    recipe: Recipe, *, width: int = 1, seed: int = 0, data_seed: int | None = None
) -> RunSpec:
    """Returns a run; a fine-tuned teacher critic has the teacher's width, 2."""
    critic_width = 2 if recipe.critic == "teacher" else width
    critic = DCGANCritic(critic_width, SIZE, 1, conv_impl="matmul") if recipe.alpha else None
    generator = DCGANGenerator(width, SIZE, 1, LATENT, conv_impl="matmul")
    feature_network = None
    if recipe.features != "none":
        feature_network = {"critic": CRITIC, "classifier": CLASSIFIER}[recipe.feature_network]
    spec = StepSpec(generator, critic, recipe, feature_network)
    return RunSpec(spec, seed, seed if data_seed is None else data_seed)


def cast_to_default_float(tree):
    """Casts floats to float64 if x64 is enabled; batch norm's statistics start in float32."""
    dtype = jnp.zeros(()).dtype
    return jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, tree)


TEACHER = run_spec(BASELINE, width=2, seed=9)


@functools.cache
def create_teacher(dtype: type) -> TrainState:
    """Creates an untrained teacher whose kernels are large enough for visible images."""
    state = cast_to_default_float(create_train_state(TEACHER.spec, TEACHER.seed))
    assert state.step.dtype == jnp.int32
    return jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim == 4 else leaf, state)


def train_group(
    runs: dict[str, RunSpec], steps: int, *, on_device: bool = True, precision: str = "float32"
):
    """Trains a group in one call; returns the final states and the mean metrics."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 1), np.uint8)
    sizes = {"critic_steps": 1, "count": COUNT, "batch_size": BATCH}
    indices = np.stack(
        [multi_step_indices(0, steps, seed=data_seed, **sizes) for data_seed in data_seeds(runs)],
        axis=1,
    )
    teacher = create_teacher(jnp.zeros(()).dtype.type)
    states = {}
    for name, run in runs.items():
        critic = teacher.critic if finetunes_teacher_critic(run) else None
        states[name] = cast_to_default_float(create_train_state(run.spec, run.seed, critic))
    return make_multi_step(runs, TEACHER.spec.generator, precision=precision)(
        states,
        TeacherParams(
            generator=network_variables(teacher.generator),
            features={
                "critic": network_variables(teacher.critic),
                "classifier": classifier_variables(),
            },
        ),
        jnp.asarray(pixels) if on_device else None,
        jnp.asarray(indices if on_device else pixels[indices]),
    )


@functools.cache
def classifier_variables():
    variables = jax.jit(CLASSIFIER.init)(jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 1)))
    shape = variables["batch_stats"]["whitening"].shape
    whitening = jax.random.normal(jax.random.key(2), shape)
    return {**variables, "batch_stats": {**variables["batch_stats"], "whitening": whitening}}


def network_variables(network: NetworkState):
    return make_variables(network.params, network.batch_stats)


def finetunes_teacher_critic(run: RunSpec) -> bool:
    return run.spec.recipe.critic == "teacher" and run.spec.critic is not None


@functools.cache
def train_alone(
    recipe: Recipe, *, width: int = 1, seed: int = 0
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains one run alone for 20 steps; returns its state and mean metrics."""
    states, metrics = train_group({"run": run_spec(recipe, width=width, seed=seed)}, 20)
    return states["run"], metrics["run"]


def network_params(state: TrainState):
    return state.generator.params, state.critic.params if state.critic else {}


def drop_biases_before_norm(networks):
    """Returns parameters without the biases in front of batch norm.

    Their true gradient is 0; Adam amplifies its rounding noise to as much as 1e-8 in 100 steps.
    """
    networks = [dict(network) for network in networks]
    for network in networks:
        for name in [n for n in network if n.startswith("norm")]:
            layer = name.replace("norm", "layer")
            network[layer] = {"kernel": network[layer]["kernel"]}
    return networks


def max_difference(actual, expected) -> float:
    """Returns the largest difference between two pytrees."""
    differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), actual, expected)
    return float(np.max(jax.tree.leaves(differences)))  # NaN if any is


def assert_bitwise_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_float32_metrics_of_a_group_equal_those_of_runs_alone():
    arguments = {
        "mse 0": {"recipe": MSE, "width": 1, "seed": 0},
        "mse 5": {"recipe": MSE, "width": 1, "seed": 5},
        "gan": {"recipe": BASELINE, "width": 1, "seed": 5},
    }
    _, group_metrics = train_group(
        {name: run_spec(**kwargs) for name, kwargs in arguments.items()}, 20
    )
    for name, kwargs in arguments.items():
        _, expected = train_alone(**kwargs)
        assert group_metrics[name].keys() == expected.keys()
        for metric, value in expected.items():
            assert group_metrics[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)


def test_sequential_runs_need_less_memory_and_give_equal_results(monkeypatch):
    recipe = dataclasses.replace(MSE, batch_size=64)
    widths_and_seeds = ((8, 0), (9, 0), (10, 0), (10, 1))
    runs = {
        f"{width} {seed}": run_spec(recipe, width=width, seed=seed, data_seed=0)
        for width, seed in widths_and_seeds
    }
    indices = jnp.zeros((2, 1, 1, 64), jnp.int32)
    teacher = create_teacher(np.float32)
    teacher_params = TeacherParams(generator=network_variables(teacher.generator), features={})

    def compile_and_run() -> tuple[int, dict, dict]:
        states = {name: create_train_state(run.spec, run.seed) for name, run in runs.items()}
        inputs = (states, teacher_params, jnp.zeros((1, SIZE, SIZE, 1), jnp.uint8), indices)
        program = make_multi_step(runs, TEACHER.spec.generator).lower(*inputs).compile()
        return program.memory_analysis().temp_size_in_bytes, *program(*inputs)

    parallel_bytes, parallel_states, parallel_metrics = compile_and_run()
    monkeypatch.setattr(multi_run, "LARGE_RUN_BYTES", 1)
    sequential_bytes, sequential_states, sequential_metrics = compile_and_run()
    assert sequential_bytes < 0.7 * parallel_bytes
    assert max_difference(sequential_metrics, parallel_metrics) < 1e-4
    sequential_params, parallel_params = (
        {name: drop_biases_before_norm(network_params(state)) for name, state in states.items()}
        for states in (sequential_states, parallel_states)
    )
    assert max_difference(sequential_params, parallel_params) < 1e-4


def test_large_matmul_runs_are_not_vmapped_over_seeds(monkeypatch):
    matmul_runs = {"0": run_spec(MSE), "1": run_spec(MSE, seed=1), "wide": run_spec(MSE, width=2)}
    dilated_runs = {}
    for name, run in matmul_runs.items():
        generator = dataclasses.replace(run.spec.generator, conv_impl="dilated")
        spec = dataclasses.replace(run.spec, generator=generator)
        dilated_runs[name] = dataclasses.replace(run, spec=spec)
    assert multi_run.vmap_groups(matmul_runs) == [["0", "1"], ["wide"]]
    monkeypatch.setattr(multi_run, "LARGE_RUN_BYTES", 1)
    assert multi_run.vmap_groups(matmul_runs) == [["0"], ["1"], ["wide"]]
    assert multi_run.vmap_groups(dilated_runs) == [["0", "1"], ["wide"]]


def test_float64_weights_of_a_group_equal_those_of_runs_alone():
    runs = {
        "mse": run_spec(MSE, width=2),
        "joint 0": run_spec(JOINT),
        "joint 5": run_spec(JOINT, seed=5),
    }
    with jax.enable_x64(True):
        teacher_before = jax.tree.map(np.array, create_teacher(np.float64))
        group_states, _ = train_group(runs, 100)
        for name in ("mse", "joint 5"):
            states, _ = train_group({name: runs[name]}, 100)
            assert states[name].generator.params["layer0"]["kernel"].dtype == jnp.float64
            group_params, params_alone = (
                drop_biases_before_norm(network_params(s[name])) for s in (group_states, states)
            )
            assert max_difference(group_params, params_alone) < 1e-8
        # The joint students' critics start from the teacher's critic; the teacher is unchanged.
        joint_critic = group_states["joint 5"].critic
        assert 0.01 < max_difference(joint_critic.params, teacher_before.critic.params) < 0.2
        assert_bitwise_equal(create_teacher(np.float64), teacher_before)


def test_runs_with_feature_loss_or_teacher_critic_train_as_alone():
    recipes = [FEATURES, dataclasses.replace(JOINT, real_source="teacher")]
    runs = {str(k): run_spec(r, seed=k, data_seed=3) for k, r in enumerate(recipes)}
    _, group_metrics = train_group(runs, 5)
    for name, run in runs.items():
        _, expected = train_group({name: run}, 5)
        for metric, value in expected[name].items():
            assert group_metrics[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)
    assert group_metrics["0"]["feature_distance"] > 0


def test_alpha_0_equals_the_mse_run_bitwise():
    result = train_alone(dataclasses.replace(JOINT, alpha=0.0, loss="hinge"), width=1, seed=0)
    assert_bitwise_equal(result, train_alone(MSE, width=1, seed=0))


def test_alpha_1_equals_the_baseline_bitwise():
    result = train_alone(dataclasses.replace(JOINT, alpha=1.0, critic="fresh"), width=1, seed=5)
    assert_bitwise_equal(result, train_alone(BASELINE, width=1, seed=5))


def test_images_on_host_and_on_device_train_equally():
    states, metrics = train_group({"run": run_spec(BASELINE, seed=5)}, 20, on_device=False)
    state, expected = train_alone(BASELINE, width=1, seed=5)
    actual_params, expected_params = (
        drop_biases_before_norm(network_params(s)) for s in (states["run"], state)
    )
    assert max_difference(actual_params, expected_params) < 1e-5
    assert metrics["run"]["critic_loss"] == pytest.approx(float(expected["critic_loss"]), rel=1e-5)


def test_runs_with_equal_data_seeds_train_as_alone():
    runs = {
        f"{recipe.alpha} {seed}": run_spec(recipe, seed=seed, data_seed=3)
        for recipe in (MSE, JOINT)
        for seed in (0, 5)
    }
    _, group_metrics = train_group(runs, 5)
    for name in ("0.0 5", "0.3 5"):
        _, expected = train_group({name: runs[name]}, 5)
        for metric, value in expected[name].items():
            assert group_metrics[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-3)


def test_latents_depend_on_data_seed_only():
    _, metrics = train_group({s: run_spec(MSE, seed=0, data_seed=n) for n, s in enumerate("ab")}, 1)
    assert metrics["a"]["distance"] != metrics["b"]["distance"]
    _, metrics = train_group({s: run_spec(MSE, seed=0, data_seed=4) for s in "ab"}, 1)
    assert metrics["a"]["distance"] == metrics["b"]["distance"]


def test_seeds_have_different_latents_and_initial_weights():
    states, metrics = zip(*(train_alone(MSE, width=1, seed=seed) for seed in (0, 5)), strict=True)
    assert abs(float(metrics[0]["distance"] - metrics[1]["distance"])) > 1e-4
    assert max_difference(states[0].generator.params, states[1].generator.params) > 1e-3


def test_weight_norm_is_not_finite_before_the_loss():
    diverging = dataclasses.replace(BASELINE, generator_lr=1e38)
    runs = {"diverging": run_spec(diverging), "baseline": run_spec(BASELINE)}
    states, metrics = train_group(runs, 1)
    assert np.isfinite(metrics["diverging"]["generator_loss"])
    assert not np.isfinite(metrics["diverging"]["weights"])
    leaves = [
        np.asarray(leaf).ravel() for leaf in jax.tree.leaves(network_params(states["baseline"]))
    ]
    norm = np.linalg.norm(np.concatenate(leaves))
    assert float(metrics["baseline"]["weights"]) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("order", [(MSE, FEATURES), (FEATURES, MSE)])
def test_feature_networks_are_found_in_either_order_of_runs(order):
    runs = {str(k): run_spec(recipe) for k, recipe in enumerate(order)}
    network = run_spec(FEATURES).spec.feature_network
    assert multi_run.feature_networks(runs) == {"critic": network}
    assert multi_run.feature_networks({"mse": run_spec(MSE)}) == {}


def test_runs_of_several_feature_networks_train_together_as_each_alone():
    recipes = {"critic": FEATURES, "classifier": CLASSIFIER_FEATURES}
    _, together = train_group({name: run_spec(recipe) for name, recipe in recipes.items()}, 5)
    for name, recipe in recipes.items():
        _, alone = train_group({name: run_spec(recipe)}, 5)
        for metric, value in alone[name].items():
            assert together[name][metric] == pytest.approx(float(value), rel=1e-3, abs=1e-5)
    distances = [float(metrics["feature_distance"]) for metrics in together.values()]
    assert min(distances) > 0.01
    assert abs(distances[0] - distances[1]) > 0.01


def test_a_table_of_pairs_gives_the_students_its_latents_and_images(tmp_path):
    rng, recipe = np.random.default_rng(0), dataclasses.replace(MSE, generator_lr=0.1)
    pairs = {
        "latents": rng.normal(size=(40, LATENT)).astype(np.float32),
        "images": rng.uniform(-1, 1, (40, SIZE, SIZE, 1)).astype(np.float32),
    }
    np.savez(tmp_path / "pairs.npz", **pairs)
    table = pair_table.load_pairs(tmp_path / "pairs.npz")
    run = run_spec(recipe, data_seed=5)
    state = create_train_state(run.spec, run.seed)
    sizes = {"critic_steps": 1, "batch_size": BATCH, "latent_dim": LATENT}
    noise = sample_noise(5, jnp.array(0), **sizes)
    # 36 of the pairs are for training; the place of a normal number in its distribution is a row's.
    places = np.floor(scipy.stats.norm.cdf(noise.latents[0, :, 0]) * 36).astype(int)
    rows = np.asarray(table.variables["order"])[places]
    expected, metrics = train_step(
        run.spec,
        state,
        dataclasses.replace(noise, latents=jnp.asarray(pairs["latents"][rows])[None]),
        real_images=None,
        targets=TeacherTargets(jnp.asarray(pairs["images"][rows]), {}),
    )
    states, group_metrics = make_multi_step({"run": run}, pair_table.for_training(table.module))(
        {"run": state},
        TeacherParams(generator=table.variables, features={}),
        None,
        jnp.zeros((1, 1, 1, BATCH, SIZE, SIZE, 1), jnp.uint8),
    )
    np.testing.assert_allclose(
        group_metrics["run"]["pixel_error"], metrics["pixel_error"], rtol=1e-5
    )
    actual_params, expected_params = (
        drop_biases_before_norm([s.generator.params]) for s in (states["run"], expected)
    )
    assert max_difference(actual_params, expected_params) < 1e-5


def test_students_in_bfloat16_come_as_near_to_the_teacher_as_those_in_float32():
    recipe = dataclasses.replace(MSE, generator_lr=0.01)
    runs = {str(seed): run_spec(recipe, seed=seed, data_seed=0) for seed in range(4)}
    latents = jax.random.normal(jax.random.key(3), (64, LATENT))
    teacher = network_variables(create_teacher(jnp.zeros(()).dtype.type).generator)
    target = TEACHER.spec.generator.apply(teacher, latents, train=False)

    def train(precision: str) -> list[float]:
        states, _ = train_group(runs, 400, precision=precision)
        assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(states)} == {4}
        return [pixel_error(state) for state in states.values()]

    def pixel_error(state: TrainState) -> float:
        variables = network_variables(state.generator)
        generator = runs["0"].spec.generator
        images, _ = generator.apply(variables, latents, train=True, mutable=["batch_stats"])
        return float(jnp.mean(jnp.square(images - target)))

    exact, rounded = train("float32"), train("bfloat16")
    assert rounded != exact
    assert abs(np.mean(rounded) - np.mean(exact)) < np.std(exact, ddof=1)
    assert max(rounded) < 0.4 * jnp.mean(jnp.square(target))  # the error of grey images


def test_an_adversarial_run_in_bfloat16_moves_as_in_float32():
    """Over one step, in which the weights move by the sign of a gradient."""
    recipe = dataclasses.replace(BASELINE, loss="wgan_gp")
    spec = run_spec(recipe).spec
    run = RunSpec(
        dataclasses.replace(spec, critic=dataclasses.replace(spec.critic, norm="none")), 0, 0
    )
    (_, exact), (_, rounded) = (
        train_group({"run": run}, 1, precision=precision) for precision in ("float32", "bfloat16")
    )
    for name, value in exact["run"].items():
        assert rounded["run"][name].dtype == jnp.float32
        assert rounded["run"][name] == pytest.approx(float(value), rel=0.05, abs=1e-3)
    assert rounded["run"]["gradient_penalty"] != exact["run"]["gradient_penalty"]
