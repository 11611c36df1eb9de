"""Adversarial losses, gradient penalties, and distances to the teacher, each by its name."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

Scores = Float[Array, " b"]
Images = Float[Array, "b s s c"]
Scalar = Float[Array, ""]
ScoreImages = Callable[[Images], Scores]
Features = tuple[Float[Array, "b ..."], ...]  # of a critic's hidden layers

HUBER_DELTA = 0.2  # a tenth of the range of a pixel
EPSILON = 1e-12
REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum}  # over the values of an image


def critic_bce(real: Scores, fake: Scores) -> Scalar:
    """Computes -E log D(x) - E log(1 - D(G(z))) with D = sigmoid(score).

    Args:
        real: The critic's scores of real images; logits.
        fake: Its scores of generated images; logits.

    Reference: Goodfellow et al. 2014.
    """
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def critic_hinge(real: Scores, fake: Scores) -> Scalar:
    """Computes E max(0, 1 - f(x)) + E max(0, 1 + f(G(z))).

    Args:
        real: The critic's scores of real images.
        fake: Its scores of generated images.

    Reference: Lim and Ye 2017.
    """
    return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def critic_wasserstein(real: Scores, fake: Scores) -> Scalar:
    """Computes E f(G(z)) - E f(x).

    Args:
        real: The critic's scores of real images.
        fake: Its scores of generated images.

    Reference: Arjovsky et al. 2017.
    """
    return jnp.mean(fake) - jnp.mean(real)


def critic_relativistic(real: Scores, fake: Scores) -> Scalar:
    """Computes E softplus(f(G(z)) - f(x)) over the pairs of a real and a generated image.

    Args:
        real: The critic's scores of real images.
        fake: Its scores of as many generated images.

    Reference: the pairing loss of Huang et al. 2025, arXiv 2501.05441 (R3GAN).
    """
    return jnp.mean(jax.nn.softplus(fake - real))


# Every generator's loss also takes the scores of real images; most have no use for them.


def generator_bce(fake: Scores, real: Scores) -> Scalar:
    """Computes -E log D(G(z)), the non-saturating loss (Goodfellow et al. 2014)."""
    return jnp.mean(jax.nn.softplus(-fake))


def generator_bce_saturating(fake: Scores, real: Scores) -> Scalar:
    """Computes E log(1 - D(G(z))), the minimax loss of the joint equation of arXiv 1902.00159."""
    return -jnp.mean(jax.nn.softplus(fake))


def generator_linear(fake: Scores, real: Scores) -> Scalar:
    """Computes -E f(G(z)), which goes with the hinge and the Wasserstein critics."""
    return -jnp.mean(fake)


def generator_relativistic(fake: Scores, real: Scores) -> Scalar:
    """Computes E softplus(f(x) - f(G(z))), which goes with `critic_relativistic`."""
    return critic_relativistic(fake, real)


CRITIC_LOSSES: dict[str, Callable[[Scores, Scores], Scalar]] = {  # of (real, fake)
    "bce": critic_bce,
    "bce_saturating": critic_bce,
    "hinge": critic_hinge,
    "wgan": critic_wasserstein,
    "wgan_gp": critic_wasserstein,
    "rpgan": critic_relativistic,
}
GENERATOR_LOSSES: dict[str, Callable[[Scores, Scores], Scalar]] = {  # of (fake, real)
    "bce": generator_bce,
    "bce_saturating": generator_bce_saturating,
    "hinge": generator_linear,
    "wgan": generator_linear,
    "wgan_gp": generator_linear,
    "rpgan": generator_relativistic,
}


def gradient_penalty(
    critic: ScoreImages, real: Images, fake: Images, *, interp_weight: Float[Array, " b"]
) -> Scalar:
    """Computes E (|grad f(x')| - 1)^2 at x' = w x + (1 - w) G(z).

    Args:
        critic: Maps images to scores, each image by itself (no batch norm).
        real: Real images.
        fake: Generated images.
        interp_weight: w, one for each image, uniform in 0..1.

    Reference: Gulrajani et al. 2017, equation 3.
    """
    weight = interp_weight[:, None, None, None]
    interpolated = weight * real + (1 - weight) * fake
    squares = _squared_slopes(critic, interpolated)
    # The gradient of the square root is infinite at 0.  There, as for a critic whose units are all
    # dead, the penalty is 1 and its gradient 0.
    norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return jnp.mean(jnp.square(norms - 1))


def r1_r2_penalty(
    critic: ScoreImages, real: Images, fake: Images, *, interp_weight: Float[Array, " b"]
) -> Scalar:
    """Computes (E |grad f(x)|^2 + E |grad f(G(z))|^2) / 2: half of R1 and of R2.

    Args:
        critic: Maps images to scores, each image by itself (no batch norm).
        real: Real images.
        fake: Generated images.
        interp_weight: Not used: no image is interpolated.

    Reference: Mescheder et al. 2018; both together in arXiv 2501.05441.
    """
    slopes = [jnp.mean(_squared_slopes(critic, images)) for images in (real, fake)]
    return (slopes[0] + slopes[1]) / 2


def _squared_slopes(critic: ScoreImages, images: Images) -> Scores:
    """Returns |grad f|^2 at each image."""
    gradients = jax.grad(lambda images: jnp.sum(critic(images)))(images)
    return jnp.sum(jnp.square(gradients), axis=(1, 2, 3))


# Of the critic's slope at its images, by the name of the loss that they belong to.  They are added
# to the critic's loss with the recipe's weight `gradient_penalty`.
PENALTIES: dict[str, Callable[..., Scalar]] = {
    "wgan_gp": gradient_penalty,
    "rpgan": r1_r2_penalty,
}


def mse(student: Images, teacher: Images, reduction: str) -> Scalar:
    """Computes E_z ||G_t(z) - G_s(z)||^2.

    Args:
        student: The student's images, -1..1.
        teacher: The teacher's images of the same latents.
        reduction: Over the values of an image: `sum` (the paper's squared norm) or `mean`.

    Reference: arXiv 1902.00159, the MSE loss.
    """
    return _reduce(jnp.square(student - teacher), reduction)


def l1(student: Images, teacher: Images, reduction: str) -> Scalar:
    """Computes E_z |G_t(z) - G_s(z)|; arguments as for `mse`.

    It keeps the sharpness that squares lose, and gains over them at high learning rates only.
    """
    return _reduce(jnp.abs(student - teacher), reduction)


def huber(student: Images, teacher: Images, reduction: str) -> Scalar:
    """Computes the Huber loss with `HUBER_DELTA` (Huber 1964); arguments as for `mse`."""
    return _reduce(optax.losses.huber_loss(student, teacher, delta=HUBER_DELTA), reduction)


def laplacian_pyramid_l1(student: Images, teacher: Images, reduction: str) -> Scalar:
    """Computes L1 between Laplacian pyramids of 2x2 means, down to 4x4 pixels.

    Every band counts as much as the others, although each has a quarter of the pixels of the one
    before it.  The pyramid is linear, so that one of the difference suffices.

    Args:
        student: The student's images, -1..1.
        teacher: The teacher's images of the same latents.
        reduction: `mean`, or `sum`, which multiplies by the number of values of an image.

    Reference: Bojanowski et al. 2018.
    """
    residual, total = student - teacher, jnp.zeros(())
    while residual.shape[1] > 4:
        coarse = nn.avg_pool(residual, (2, 2), (2, 2))
        total += jnp.mean(jnp.abs(residual - _upsample(coarse)))
        residual = coarse
    scale = {"mean": 1, "sum": math.prod(student.shape[1:])}[reduction]
    return scale * (total + jnp.mean(jnp.abs(residual)))


def _upsample(images: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeats each pixel 2x2 times."""
    return jnp.repeat(jnp.repeat(images, 2, axis=1), 2, axis=2)


def _reduce(differences: Images, reduction: str) -> Scalar:
    """Reduces over the values of an image by `reduction`, and over images by the mean."""
    return jnp.mean(REDUCTIONS[reduction](differences, axis=(1, 2, 3)))


DISTANCES: dict[str, Callable[[Images, Images, str], Scalar]] = {
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "pyramid": laplacian_pyramid_l1,
}


def feature_l1(student: Features, teacher: Features) -> Scalar:
    """Computes the mean over layers of E |f(G_t(z)) - f(G_s(z))| / E |f(G_t(z))|.

    Args:
        student: Hidden layers of a critic for the student's images.
        teacher: The same for the teacher's images of the same latents.

    Reference: TinyGAN (Chang and Lu 2020).
    """
    terms = [
        jnp.mean(jnp.abs(s - t)) / (jnp.mean(jnp.abs(t)) + EPSILON)
        for s, t in zip(student, teacher, strict=True)
    ]
    return jnp.mean(jnp.stack(terms))


def feature_energy(student: Features, teacher: Features) -> Scalar:
    """Computes the mean over layers of the energy distance between two sets of features.

    It is 2 E|s - t| - E|s - s'| - E|t - t'|, divided by E|t - t'|: the squared MMD of the kernel
    -|x - y|, which needs no bandwidth.  It compares the sets and not the pairs; the means leave out
    the pair of images of one latent, and an image with itself.

    Args:
        student: Hidden layers of a critic for the student's images.
        teacher: The same for the teacher's images.

    Reference: Sejdinovic et al. 2013.
    """
    terms = [_energy_distance(s, t) for s, t in zip(student, teacher, strict=True)]
    return jnp.mean(jnp.stack(terms))


def _energy_distance(student: Float[Array, " b *f"], teacher: Float[Array, " b *f"]) -> Scalar:
    s, t = (x.reshape(len(x), -1) for x in (student, teacher))
    within_teacher = _mean_distance(t, t)
    difference = 2 * _mean_distance(s, t) - _mean_distance(s, s) - within_teacher
    return difference / (within_teacher + EPSILON)


def _mean_distance(x: Float[Array, "b f"], y: Float[Array, "b f"]) -> Scalar:
    """Returns the mean Euclidean distance of `x[i]` to `y[j]`, i other than j."""
    products = jnp.matmul(2 * x, y.T, precision=lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None] - products
    # Bounded away from 0, where the gradient of the square root is infinite.
    distances = jnp.sqrt(jnp.maximum(squares, EPSILON))
    mask = 1 - jnp.eye(len(x), dtype=x.dtype)
    return jnp.sum(distances * mask) / jnp.sum(mask)


FEATURE_DISTANCES: dict[str, Callable[[Features, Features], Scalar]] = {
    "l1": feature_l1,
    "energy": feature_energy,
}
