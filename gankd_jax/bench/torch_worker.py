"""Times training and sampling in eager PyTorch, in a process of its own.

It shares no code with the JAX side but the clock and the line protocol.  Its networks are also
those of the parity tests.
"""

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gankd_jax.bench.worker import WorkerCase, median_seconds, serve_cases

LATENT_DIM = 100
BATCH_SIZE = 64
Step = Callable[[], None]


def build_generator(
    width: int, image_size: int, channels: int, *, latent_dim: int = LATENT_DIM, norm: str = "batch"
) -> nn.Sequential:
    """Builds a DCGAN generator.

    Args:
        width: Channels of the last hidden layer.
        image_size: Pixels a side, a power of 2 from 8.
        channels: 1 for grey images, 3 for colour.
        latent_dim: Numbers in a latent.
        norm: 'batch', 'layer' or 'none'.

    Returns:
        A network that maps latents `[b, latent_dim, 1, 1]` to images `[b, c, s, s]` in -1..1.
    """
    layers = int(math.log2(image_size)) - 2
    hidden = [width * 2**k for k in range(layers)][::-1]
    modules: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, hidden[0], 4, 1, 0)]
    for before, after in zip(hidden, [*hidden[1:], channels], strict=True):
        modules += [
            *_norm_layers(norm, before),
            nn.ReLU(),
            nn.ConvTranspose2d(before, after, 4, 2, 1),
        ]
    return nn.Sequential(*modules, nn.Tanh())


def build_critic(
    width: int, image_size: int, channels: int, *, norm: str = "batch"
) -> nn.Sequential:
    """Builds DCGAN's discriminator without its sigmoid.

    Args:
        width: Channels of the first hidden layer.
        image_size: Pixels a side, a power of 2 from 8.
        channels: 1 for grey images, 3 for colour.
        norm: 'batch', 'layer' or 'none'.

    Returns:
        A network that maps images `[b, c, s, s]` to scores `[b]`.
    """
    layers = int(math.log2(image_size)) - 2
    hidden = [width * 2**k for k in range(layers)]
    modules: list[nn.Module] = [nn.Conv2d(channels, hidden[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for before, after in itertools.pairwise(hidden):
        modules += [
            nn.Conv2d(before, after, 4, 2, 1),
            *_norm_layers(norm, after),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*modules, nn.Conv2d(hidden[-1], 1, 4, 1, 0), nn.Flatten(0))


def _norm_layers(norm: str, channels: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(1, channels)]


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """Computes WGAN-GP's penalty, differentiable with respect to the critic's weights.

    Args:
        critic: Maps images to scores `[b]`.
        real: Images `[b, c, s, s]`.
        fake: Images `[b, c, s, s]`.
        weight: Shares `[b]` of the real image in each interpolated one, in 0..1.

    Returns:
        The mean squared distance of the gradient's norm from 1, a scalar.

    Reference: Gulrajani et al. 2017, eq. 3.
    """
    weight = weight[:, None, None, None]
    interpolated = (weight * real + (1 - weight) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(interpolated).sum(), interpolated, create_graph=True)
    return ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def build_student_step(
    image_size: int, channels: int, *, teacher: int, widths: list[int], seeds: int
) -> Step:
    """Builds a step of every student, one after the other, each with its own teacher images.

    Args:
        image_size: Pixels a side.
        channels: Of the images.
        teacher: Width of the teacher.
        widths: Widths of the students.
        seeds: Students of each width.
    """
    teacher_network = build_generator(teacher, image_size, channels).eval()
    students = [build_generator(d, image_size, channels) for d in widths for _ in range(seeds)]
    optimizers = [torch.optim.Adam(s.parameters(), 2e-4, (0.5, 0.999)) for s in students]

    def step() -> None:
        for student, optimizer in zip(students, optimizers, strict=True):
            latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)
            with torch.no_grad():
                target = teacher_network(latents)
            _update(nn.functional.mse_loss(student(latents), target), optimizer)

    return step


def build_teacher_step(image_size: int, channels: int, *, width: int, critic_steps: int) -> Step:
    """Builds a WGAN-GP step: critic steps, then one generator step.

    Args:
        image_size: Pixels a side.
        channels: Of the images.
        width: Of the generator and of the critic.
        critic_steps: Critic updates before the generator's.
    """
    generator = build_generator(width, image_size, channels)
    critic = build_critic(width, image_size, channels, norm="none")
    real = torch.rand(BATCH_SIZE, channels, image_size, image_size) * 2 - 1
    generator_adam = torch.optim.Adam(generator.parameters(), 2e-4, (0.5, 0.999))
    critic_adam = torch.optim.Adam(critic.parameters(), 2e-4, (0.5, 0.999))

    def step() -> None:
        for _ in range(critic_steps):
            latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)
            with torch.no_grad():
                fake = generator(latents)
            penalty = gradient_penalty(critic, real, fake, torch.rand(BATCH_SIZE))
            _update(critic(fake).mean() - critic(real).mean() + 10 * penalty, critic_adam)
        _update(-critic(generator(latents)).mean(), generator_adam)

    return step


def build_sampling(image_size: int, channels: int, *, width: int) -> Step:
    """Builds a call that generates one batch, with batch norm's running averages."""
    generator = build_generator(width, image_size, channels).eval()
    latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)

    def sample() -> None:
        with torch.no_grad():
            generator(latents)

    return sample


def _update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


BUILDERS: dict[str, Callable[..., Step]] = {
    "students": build_student_step,
    "teacher": build_teacher_step,
    "sampling": build_sampling,
}


def main() -> None:
    """Times each case `{"kind": NAME_IN_BUILDERS, **ARGUMENTS}` and answers with its seconds."""
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    serve_cases(_build_measurement)


def _build_measurement(case: WorkerCase) -> Callable[[], float]:
    arguments = {name: value for name, value in case.items() if name != "kind"}
    return functools.partial(median_seconds, _wait_for_gpu(BUILDERS[case["kind"]](**arguments)))


def _wait_for_gpu(step: Step) -> Step:
    """Makes a step return only when the GPU, where there is one, has done its work."""
    if not torch.cuda.is_available():
        return step

    def synchronized() -> None:
        step()
        torch.cuda.synchronize()

    return synchronized


if __name__ == "__main__":
    main()
