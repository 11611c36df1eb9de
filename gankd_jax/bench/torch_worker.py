"""Times training and sampling in PyTorch, eager or compiled, in a process of its own.

It shares no code with the JAX side but the clock and the line protocol.  Its networks are also
those of the parity tests.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gankd_jax.bench.worker import WorkerCase, median_seconds, serve_cases

LATENT_DIM = 100
BATCH_SIZE = 64
Step = Callable[[], None]
WARM_UP_STEPS = 3  # before a step is captured as a CUDA graph, as PyTorch asks for


@dataclasses.dataclass(frozen=True)
class Settings:
    """How PyTorch runs.

    Attributes:
        precision: 'float32', 'tf32' or 'bfloat16'.
        compiles: Whether networks are compiled and, on a GPU, a step runs as one CUDA graph.
        fuses: Whether compiling fuses layers by `torch.compile`.
    """

    precision: str
    compiles: bool
    fuses: bool = True

    def prepare(self, network: nn.Module) -> nn.Module:
        """Returns a network in the fastest layout, compiled if it is to be."""
        network = self.to_layout(network)
        if not (self.compiles and self.fuses):
            return network
        # On a GPU the graph of the whole step takes the place of a graph of each network.
        mode = "max-autotune-no-cudagraphs" if torch.cuda.is_available() else "default"
        return torch.compile(network, mode=mode)  # type: ignore[return-value]

    def to_layout(self, value: Any) -> Any:
        """Returns a network or images with the channels last on a GPU, where that is faster."""
        return value.to(memory_format=torch.channels_last) if torch.cuda.is_available() else value

    def make_adam(self, network: nn.Module) -> torch.optim.Optimizer:
        """Returns the optimizer of a network, all of whose updates are one kernel on a GPU."""
        on_gpu = torch.cuda.is_available()
        return torch.optim.Adam(
            network.parameters(),
            lr=2e-4,
            betas=(0.5, 0.999),
            fused=on_gpu,
            capturable=on_gpu and self.compiles,
        )

    def autocast(self) -> torch.autocast:
        """Returns a context in which layers compute in bfloat16 if that is the precision."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bfloat16")


def set_precision(precision: str) -> None:
    """Sets the precision of products of float32 numbers on a GPU: TF32's, or their own."""
    products = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = products
    torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]


def capture_graph(step: Step) -> Step:
    """Returns a step as one CUDA graph, which the GPU runs without waiting for Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


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
    settings: Settings,
    image_size: int,
    channels: int,
    *,
    teacher: int,
    widths: list[int],
    seeds: int,
) -> Step:
    """Builds a step of every student, one after the other, each with its own teacher images.

    Args:
        settings: How PyTorch runs.
        image_size: Pixels a side.
        channels: Of the images.
        teacher: Width of the teacher.
        widths: Widths of the students.
        seeds: Students of each width.
    """
    teacher_network = settings.prepare(build_generator(teacher, image_size, channels)).eval()
    students = [
        settings.prepare(build_generator(d, image_size, channels))
        for d in widths
        for _ in range(seeds)
    ]
    optimizers = [settings.make_adam(student) for student in students]

    def step() -> None:
        for student, optimizer in zip(students, optimizers, strict=True):
            latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)
            with settings.autocast():
                with torch.no_grad():
                    target = teacher_network(latents)
                loss = nn.functional.mse_loss(student(latents).float(), target.float())
            _update(loss, optimizer)

    return step


def build_teacher_step(
    settings: Settings, image_size: int, channels: int, *, width: int, critic_steps: int
) -> Step:
    """Builds a WGAN-GP step: critic steps, then one generator step.

    Args:
        settings: How PyTorch runs.
        image_size: Pixels a side.
        channels: Of the images.
        width: Of the generator and of the critic.
        critic_steps: Critic updates before the generator's.
    """
    # torch.compile has no derivative of a derivative; a CUDA graph of the step has.
    settings = dataclasses.replace(settings, fuses=False)
    generator = settings.prepare(build_generator(width, image_size, channels))
    critic = settings.prepare(build_critic(width, image_size, channels, norm="none"))
    real = settings.to_layout(torch.rand(BATCH_SIZE, channels, image_size, image_size) * 2 - 1)
    generator_adam, critic_adam = settings.make_adam(generator), settings.make_adam(critic)

    def step() -> None:
        for _ in range(critic_steps):
            latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)
            with settings.autocast():
                with torch.no_grad():
                    fake = generator(latents)
                penalty = gradient_penalty(critic, real, fake, torch.rand(BATCH_SIZE))
                loss = (critic(fake) - critic(real)).float().mean() + 10 * penalty.float()
            _update(loss, critic_adam)
        with settings.autocast():
            loss = -critic(generator(latents)).float().mean()
        _update(loss, generator_adam)

    return step


def build_gan_step(settings: Settings, image_size: int, channels: int, *, width: int) -> Step:
    """Builds a step of the original GAN with the non-saturating loss.

    Args:
        settings: How PyTorch runs.
        image_size: Pixels a side.
        channels: Of the images.
        width: Of the generator and of the critic.
    """
    generator = settings.prepare(build_generator(width, image_size, channels))
    critic = settings.prepare(build_critic(width, image_size, channels))
    real = settings.to_layout(torch.rand(BATCH_SIZE, channels, image_size, image_size) * 2 - 1)
    generator_adam, critic_adam = settings.make_adam(generator), settings.make_adam(critic)

    def step() -> None:
        latents = torch.randn(BATCH_SIZE, LATENT_DIM, 1, 1)
        with settings.autocast():
            fake = generator(latents)
            real_loss = nn.functional.softplus(-critic(real).float()).mean()
            fake_loss = nn.functional.softplus(critic(fake.detach()).float()).mean()
        _update(real_loss + fake_loss, critic_adam)
        with settings.autocast():
            loss = nn.functional.softplus(-critic(fake).float()).mean()
        _update(loss, generator_adam)

    return step


def build_sampling(
    settings: Settings, image_size: int, channels: int, *, width: int, images: int
) -> Step:
    """Builds a call that generates a batch, with batch norm's running averages, in float32.

    Args:
        settings: How PyTorch runs.
        image_size: Pixels a side.
        channels: Of the images.
        width: Of the generator.
        images: In the batch.
    """
    set_precision("float32")
    generator = settings.prepare(build_generator(width, image_size, channels)).eval()
    latents = torch.randn(images, LATENT_DIM, 1, 1)

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
    "gan": build_gan_step,
    "sampling": build_sampling,
}


def main() -> None:
    """Times each case and answers with its seconds.

    A case is `{"kind": NAME_IN_BUILDERS, **ARGUMENTS}`, with the backend that it is compared with:
    on a GPU's, PyTorch must have one too.
    """
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True  # the fastest algorithm of each layer
    serve_cases(_build_measurement)


def _build_measurement(case: WorkerCase) -> Callable[[], float]:
    settings = Settings(case.pop("precision"), compiles=case.pop("compiled"))
    steps, build, backend = case.pop("steps"), BUILDERS[case.pop("kind")], case.pop("backend")
    if backend == "gpu" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here: install its CUDA build")
    set_precision(settings.precision)
    step = build(settings, **case)
    if not torch.cuda.is_available():
        return functools.partial(median_seconds, step)
    if settings.compiles:
        step = capture_graph(step)
    return lambda: median_seconds(functools.partial(_run_steps, step, steps)) / steps


def _run_steps(step: Step, steps: int) -> None:
    """Runs as many steps as one call of ours, then waits for the GPU once."""
    for _ in range(steps):
        step()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
