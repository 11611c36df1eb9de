"""Optimizers by their names: against PyTorch's, and the default one to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gankd_jax.config.recipe import Recipe
from gankd_jax.training.train_state import (
    OPTIMIZERS,
    learning_rate_schedule,
    make_critic_optimizer,
    make_generator_optimizer,
    params_norm,
)

RNG = np.random.default_rng(0)
PARAMS = {
    "kernel": RNG.normal(size=(4, 4, 3, 5)).astype(np.float32),
    "bias": RNG.normal(size=5).astype(np.float32),
}
GRADIENTS = [
    jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape).astype(np.float32), PARAMS)
    for _ in range(6)
]


def params_after(optimizer: optax.GradientTransformation):
    """Returns the parameters after a step on each of the gradients."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    for gradients in GRADIENTS:
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_default_is_plain_adam_to_the_bit_with_the_same_state():
    recipe = Recipe(generator_lr=0.02, critic_lr=0.02, warmup=2, schedule="cosine")
    plain = optax.adam(learning_rate_schedule(0.02, recipe), 0.5, 0.999)
    for optimizer in (make_generator_optimizer(recipe, 8), make_critic_optimizer(recipe)):
        assert jax.tree.structure(optimizer.init(PARAMS)) == jax.tree.structure(plain.init(PARAMS))
        jax.tree.map(np.testing.assert_array_equal, params_after(optimizer), params_after(plain))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.0, 3.0])
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_optimizers_are_pytorchs(parity, name, clip, decay):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    recipe = Recipe(
        optimizer=name, generator_lr=0.01, b1=0.6, b2=0.9, weight_decay=decay, gradient_clip=clip
    )
    betas = {"betas": (0.6, 0.9)}
    make, settings = {
        "adam": (torch.optim.Adam, betas),
        "adamw": (torch.optim.AdamW, betas),
        "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.6}),
        "sgd": (torch.optim.SGD, {"momentum": 0.6}),
    }[name]
    weights = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in PARAMS.items()}
    optimizer = make(weights.values(), lr=0.01, weight_decay=decay, **settings)
    for gradients in GRADIENTS:
        for key, weight in weights.items():
            weight.grad = torch.tensor(gradients[key])
        if clip:
            torch.nn.utils.clip_grad_norm_(weights.values(), clip)
        optimizer.step()
    params = params_after(make_generator_optimizer(recipe, 8))
    for key, weight in weights.items():
        expected = weight.detach().numpy()
        assert np.abs(expected - PARAMS[key]).max() > 0.01
        error = float(np.abs(params[key] - expected).max())
        parity.check(f"6 steps of {name}, weight decay {decay}, clip {clip}", error, bound=2e-6)


def test_muon_moves_each_kernel_by_an_orthogonal_matrix_and_other_weights_like_nadamw():
    settings = {"generator_lr": 0.01, "b1": 0.9, "weight_decay": 0.1}
    muon = make_generator_optimizer(Recipe(optimizer="muon", **settings), 8)
    params = jax.tree.map(jnp.asarray, PARAMS)
    updates, _ = muon.update(GRADIENTS[0], muon.init(params), params)
    step = np.asarray(updates["kernel"] + 0.01 * 0.1 * params["kernel"]).reshape(-1, 5)
    sizes = np.linalg.svd(step, compute_uv=False)
    # 5 iterations of Newton and Schulz leave singular values between 0.7 and 1.2 times their aim.
    aim = 0.01 * 0.2 * max(step.shape) ** 0.5
    assert np.all((sizes > 0.6 * aim) & (sizes < 1.3 * aim))
    adamw = optax.nadamw(0.01, 0.9, 0.999, weight_decay=0.1)
    expected, _ = adamw.update(GRADIENTS[0], adamw.init(params), params)
    np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_bounds_the_norm_of_all_gradients_together(name):
    """Gradients that are already short give the same steps as without a clip."""
    settings = {"optimizer": name, "generator_lr": 0.01}
    plain = params_after(make_generator_optimizer(Recipe(**settings), 8))
    clipped = params_after(make_generator_optimizer(Recipe(gradient_clip=1e4, **settings), 8))
    jax.tree.map(np.testing.assert_array_equal, plain, clipped)


def test_the_norm_counts_parameters_of_any_rank():
    params = {"gain": jnp.asarray(3.0), "bias": jnp.asarray([4.0]), "kernel": jnp.full((2, 3), 2.0)}
    assert float(jax.jit(params_norm)(params)) == pytest.approx(7.0)  # root of 9 + 16 + 6 * 4
