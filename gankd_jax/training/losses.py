"""The adversarial losses, the gradient penalty, and the distances to the teacher."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Scores = Float[Array, " b"]
Images = Float[Array, "b s s c"]
Scalar = Float[Array, ""]
Features = tuple[Float[Array, "b ..."], ...]  # of a critic's hidden layers

HUBER_DELTA = 0.2  # a tenth of the range of a pixel
EPSILON = 1e-12
REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum}  # over the values of an image


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


def huber(student: Images, teacher: Images, reduction: str) -> Scalar:
    """Squares halved below `HUBER`, lines above it (Huber 1964), of the pixels' differences."""
    return _reduce(optax.losses.huber_loss(student, teacher, delta=HUBER_DELTA), reduction)


def laplacian_pyramid_l1(student: Images, teacher: Images, reduction: str) -> Scalar:
    """L1 between Laplacian pyramids of 2x2 means, down to 4x4 pixels; each band counts as much.

    The pyramid is linear, so that of the difference serves.  As in Bojanowski et al. 2018 each band
    of a quarter of the pixels counts four times; the sum is over all the image's pixels.
    """
    left, total = student - teacher, jnp.zeros(())
    while left.shape[1] > 4:
        coarse = nn.avg_pool(left, (2, 2), (2, 2))
        total += jnp.mean(jnp.abs(left - _enlarge(coarse)))
        left = coarse
    scale = {"mean": 1, "sum": math.prod(student.shape[1:])}[reduction]
    return scale * (total + jnp.mean(jnp.abs(left)))


def _enlarge(images: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Each pixel as 2x2."""
    return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)


def _reduce(differences: Images, reduction: str) -> Scalar:
    """'mean' or 'sum' over the numbers of an image; always the mean over images."""
    return jnp.mean(REDUCTIONS[reduction](differences, axis=(1, 2, 3)))


DISTANCES: dict[str, Callable[[Images, Images, str], Scalar]] = {
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "pyramid": laplacian_pyramid_l1,
}


def feature_l1(student: Features, teacher: Features) -> Scalar:
    """The mean over layers of E |f(G_t(z)) - f(G_s(z))| / E |f(G_t(z))| (as in TinyGAN, 2020)."""
    terms = [
        jnp.mean(jnp.abs(s - t)) / (jnp.mean(jnp.abs(t)) + EPSILON)
        for s, t in zip(student, teacher, strict=True)
    ]
    return jnp.mean(jnp.stack(terms))


def feature_energy(student: Features, teacher: Features) -> Scalar:
    """The mean over layers of the energy distance between the two sets of features.

    2 E|s - t| - E|s - s'| - E|t - t'|, over E|t - t'|: the squared MMD of the kernel -|x - y|
    (Sejdinovic et al. 2013), which needs no bandwidth.  It compares the sets, not the pairs; the
    image of the same latent and an image itself are left out of the means.
    """
    terms = [_energy(s, t) for s, t in zip(student, teacher, strict=True)]
    return jnp.mean(jnp.stack(terms))


def _energy(student: Float[Array, " b *f"], teacher: Float[Array, " b *f"]) -> Scalar:
    s, t = (x.reshape(len(x), -1) for x in (student, teacher))
    own = _between(t, t)
    return (2 * _between(s, t) - _between(s, s) - own) / (own + EPSILON)


def _between(x: Float[Array, "b f"], y: Float[Array, "b f"]) -> Scalar:
    """The mean Euclidean distance of `x[i]` to `y[j]`, i other than j."""
    squares = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - 2 * x @ y.T
    distances = jnp.sqrt(jnp.maximum(squares, EPSILON))  # the root's gradient at 0 is infinite
    others = 1 - jnp.eye(len(x), dtype=x.dtype)
    return jnp.sum(distances * others) / jnp.sum(others)


FEATURE_DISTANCES: dict[str, Callable[[Features, Features], Scalar]] = {
    "l1": feature_l1,
    "energy": feature_energy,
}
