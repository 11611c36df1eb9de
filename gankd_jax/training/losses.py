"""The adversarial losses, the gradient penalty, and the distances to the teacher."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scores = Float[Array, " b"]
Images = Float[Array, "b s s c"]
Scalar = Float[Array, ""]


def critic_bce(real: Scores, fake: Scores) -> Scalar:
    """-E log D(x) - E log(1 - D(G(z))) with D = sigmoid(score) (Goodfellow et al. 2014)."""
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def critic_hinge(real: Scores, fake: Scores) -> Scalar:
    """E max(0, 1 - f(x)) + E max(0, 1 + f(G(z))) (Lim and Ye 2017)."""
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def critic_wasserstein(real: Scores, fake: Scores) -> Scalar:
    """E f(G(z)) - E f(x) (Arjovsky et al. 2017)."""
    return jnp.mean(fake) - jnp.mean(real)


def generator_bce(fake: Scores) -> Scalar:
    """-E log D(G(z)): the non-saturating loss (Goodfellow et al. 2014)."""
    return jnp.mean(jax.nn.softplus(-fake))


def generator_bce_saturating(fake: Scores) -> Scalar:
    """E log(1 - D(G(z))): the minimax loss, as in the joint equation of arXiv 1902.00159."""
    return -jnp.mean(jax.nn.softplus(fake))


def generator_linear(fake: Scores) -> Scalar:
    """-E f(G(z)): of the hinge and the Wasserstein losses."""
    return -jnp.mean(fake)


CRITIC_LOSSES: dict[str, Callable[[Scores, Scores], Scalar]] = {
    "bce": critic_bce,
    "bce_saturating": critic_bce,
    "hinge": critic_hinge,
    "wgan": critic_wasserstein,
    "wgan_gp": critic_wasserstein,
}
GENERATOR_LOSSES: dict[str, Callable[[Scores], Scalar]] = {
    "bce": generator_bce,
    "bce_saturating": generator_bce_saturating,
    "hinge": generator_linear,
    "wgan": generator_linear,
    "wgan_gp": generator_linear,
}


def gradient_penalty(
    critic: Callable[[Images], Scores], real: Images, fake: Images, *, mix: Float[Array, " b"]
) -> Scalar:
    """E (|grad f(mix x + (1 - mix) G(z))| - 1)^2, mix in 0..1 per image (Gulrajani et al. 2017)."""
    weight = mix[:, None, None, None]
    between = weight * real + (1 - weight) * fake
    gradients = jax.grad(lambda images: jnp.sum(critic(images)))(between)
    squares = jnp.sum(jnp.square(gradients), axis=(1, 2, 3))
    # The root's own gradient at 0 is infinite; a dead critic has a penalty of 1 and no direction.
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return jnp.mean(jnp.square(norms - 1))


def mse(student: Images, teacher: Images, reduction: str) -> Scalar:
    """E_z ||G_t(z) - G_s(z)||^2, the norm's squares summed (the paper's) or averaged."""
    return _reduce(jnp.square(student - teacher), reduction)


def l1(student: Images, teacher: Images, reduction: str) -> Scalar:
    """E_z |G_t(z) - G_s(z)|, the absolute differences summed or averaged."""
    return _reduce(jnp.abs(student - teacher), reduction)


def _reduce(differences: Images, reduction: str) -> Scalar:
    """'mean' or 'sum' over the numbers of an image; always the mean over images."""
    over_image = {"mean": jnp.mean, "sum": jnp.sum}[reduction]
    return jnp.mean(over_image(differences, axis=(1, 2, 3)))


DISTANCES: dict[str, Callable[[Images, Images, str], Scalar]] = {"mse": mse, "l1": l1}
