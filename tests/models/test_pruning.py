"""First weights cut from the teacher's: which channels stay, and what they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.models.pruning import prune_generator

pytestmark = pytest.mark.usefixtures("unoptimized")

LATENT, SIZE = 5, 16


def generator(width: int, norm: str = "batch") -> Generator:
    return DCGANGenerator(width, SIZE, 1, latent_dim=LATENT, norm=norm, conv_impl="matmul")


def params(width: int, seed: int, norm: str = "batch"):
    """Random numbers for every weight."""
    blank = jnp.zeros((2, LATENT))
    made = generator(width, norm).init(jax.random.key(0), blank, train=False)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "float32"), made)


def draw(width: int, weights, norm: str):
    latents = jax.random.normal(jax.random.key(7), (4, LATENT))
    variables, kept = {"params": weights}, ["batch_stats"]
    return generator(width, norm).apply(variables, latents, train=True, mutable=kept)[0]


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_student_of_the_teachers_width_is_the_teacher(norm):
    teacher = params(3, 1, norm)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: bool((a == b).all()), prune_generator(params(3, 2, norm), teacher), teacher
        )
    )


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_channels_that_nothing_reads_are_left_out_without_a_trace(norm):
    teacher = params(3, 1, norm)
    dead = {0: [0, 4], 1: [1]}  # of 6 and of 3 channels; a student of width 2 has 4 and 2
    for k, channels in dead.items():
        kernel = teacher[f"layer{k + 1}"]["kernel"]
        teacher[f"layer{k + 1}"]["kernel"] = kernel.at[:, :, jnp.array(channels)].set(0)
    student = prune_generator(params(2, 2, norm), teacher)
    np.testing.assert_allclose(draw(2, student, norm), draw(3, teacher, norm), atol=1e-5)


def test_the_scale_of_batch_norm_weighs_a_channel():
    teacher = params(2, 1)
    scale = teacher["norm1"]["batch"]["scale"]
    teacher["norm1"]["batch"]["scale"] = scale.at[0].set(1e-6)
    student = prune_generator(params(1, 2), teacher)
    assert student["norm1"]["batch"]["scale"] == teacher["norm1"]["batch"]["scale"][1]
