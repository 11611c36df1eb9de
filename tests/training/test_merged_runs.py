"""Runs of several widths merged into one network, against each run as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.training.merged_runs import merge_states, split_state
from gankd_jax.training.multi_run import RunSpec, make_multi_step, step_groups
from gankd_jax.training.train_state import StepSpec, TeacherParams, create_train_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unoptimized")]

SIZE, LATENT, BATCH, STEPS = 16, 4, 4, 3
RECIPE = Recipe(
    alpha=0.0,
    batch_size=BATCH,
    ema=0.9,
    generator_lr=0.01,
    lr_width_exponent=0.5,
    schedule="linear",
)
TEACHER = DCGANGenerator(2, SIZE, 1, LATENT, conv_impl="matmul")


def run_specs(widths: tuple[int, ...], conv_impl: str = "dilated") -> dict[str, RunSpec]:
    """Returns runs of each width and of two seeds, on the same latents."""
    specs = {
        width: StepSpec(DCGANGenerator(width, SIZE, 1, LATENT, conv_impl=conv_impl), None, RECIPE)
        for width in widths
    }
    return {f"{w} {s}": RunSpec(spec, s, 0) for w, spec in specs.items() for s in (0, 1)}


def train(runs: dict[str, RunSpec], *, broken: str = ""):
    """Trains runs in one call, one of them broken; returns the final states and mean metrics."""
    states = {name: create_train_state(run.spec, run.seed) for name, run in runs.items()}
    if broken:
        params = states[broken].generator.params
        params["layer1"]["kernel"] = params["layer1"]["kernel"].at[0].set(jnp.inf)
    return make_multi_step(runs, TEACHER)(
        states, teacher_params(), None, jnp.zeros((STEPS, 1, 1, 1, SIZE, SIZE, 1), jnp.uint8)
    )


@functools.cache
def teacher_params() -> TeacherParams:
    generator = TEACHER.init(jax.random.key(9), jnp.zeros((2, LATENT)), train=False)
    larger = jax.tree.map(lambda leaf: leaf * 10 if leaf.ndim == 4 else leaf, generator)
    return TeacherParams(generator=larger, features={})


@functools.cache
def train_merged(broken: str = ""):
    return train(run_specs((1, 2, 3)), broken=broken)


def test_widths_of_a_recipe_are_one_network_and_a_cpu_has_each_alone():
    widths = (30, 3, 40)
    names = [group.names for group in step_groups(run_specs(widths))]
    assert names == [(("3 0", "30 0"), ("3 1", "30 1")), (("40 0",), ("40 1",))]
    matmul = step_groups(run_specs(widths, "matmul"))
    assert [group.names for group in matmul] == [((f"{w} 0",), (f"{w} 1",)) for w in widths]


def test_a_merged_state_splits_into_those_that_it_was_made_of():
    runs = run_specs((1, 3))
    states = [create_train_state(runs[name].spec, 5) for name in ("1 0", "3 0")]
    for actual, expected in zip(split_state((1, 3), merge_states(states)), states, strict=True):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_merged_runs_train_as_each_alone():
    states, metrics = train_merged()
    expected_states, expected_metrics = train(run_specs((1, 2, 3), "matmul"))
    assert states.keys() == expected_states.keys()
    for name, expected in expected_states.items():
        for key, value in expected_metrics[name].items():
            assert metrics[name][key] == pytest.approx(float(value), rel=1e-3), (name, key)
        for tree in ("params", "batch_stats"):
            # A bias in front of a batch norm moves by rounding noise, which Adam enlarges.
            for (path, a), b in zip(
                jax.tree_util.tree_leaves_with_path(getattr(states[name].generator, tree)),
                jax.tree.leaves(getattr(expected.generator, tree)),
                strict=True,
            ):
                atol = 0.04 if path[-1].key in ("bias", "mean") else 2e-3
                np.testing.assert_allclose(a, b, atol=atol, err_msg=f"{name} {path}")
        assert states[name].step == STEPS
        assert states[name].ema_params is not None


def test_a_run_that_diverges_leaves_those_merged_with_it_as_they_are():
    states, metrics = train_merged(broken="2 0")
    expected_states, _ = train_merged()
    for name in ("1 0", "3 0", "2 1"):
        jax.tree.map(np.testing.assert_array_equal, states[name], expected_states[name])
    assert not np.isfinite(metrics["2 0"]["generator_gradient"])
