"""The PyTorch side of the benchmark, eager, in a process of its own that times what it is told.

It reads a case as JSON from each line of its input and answers with seconds.  It shares no code
with the jax side but the clock, and its networks are those of the parity tests.
"""

import itertools
import json
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gankd_jax.bench.clock import median_seconds

LATENT = 100
BATCH = 64


def generator(
    width: int, image_size: int, channels: int, *, latent: int = LATENT, norm: str = "batch"
) -> nn.Sequential:
    """DCGAN: latents `[b, z, 1, 1]` to images `[b, c, s, s]`."""
    layers = int(math.log2(image_size)) - 2
    hidden = [width * 2**k for k in range(layers)][::-1]
    modules: list[nn.Module] = [nn.ConvTranspose2d(latent, hidden[0], 4, 1, 0)]
    for before, after in zip(hidden, [*hidden[1:], channels], strict=True):
        modules += [*_norms(norm, before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
    return nn.Sequential(*modules, nn.Tanh())


def critic(width: int, image_size: int, channels: int, *, norm: str = "batch") -> nn.Sequential:
    """DCGAN's discriminator without its sigmoid: images `[b, c, s, s]` to scores `[b]`."""
    layers = int(math.log2(image_size)) - 2
    hidden = [width * 2**k for k in range(layers)]
    modules: list[nn.Module] = [nn.Conv2d(channels, hidden[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for before, after in itertools.pairwise(hidden):
        modules += [nn.Conv2d(before, after, 4, 2, 1), *_norms(norm, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*modules, nn.Conv2d(hidden[-1], 1, 4, 1, 0), nn.Flatten(0))


def _norms(kind: str, channels: int) -> list[nn.Module]:
    if kind == "none":
        return []
    return [nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(1, channels)]


def gradient_penalty(network: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The usual PyTorch form, differentiable with respect to the critic's weights."""
    mix = mix[:, None, None, None]
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    return ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def matrix_product(size: int) -> Callable[[], object]:
    """The square product in float32 that the machine's rate is told by."""
    matrix = torch.randn(size, size)
    return lambda: matrix @ matrix


def students(
    image_size: int, channels: int, *, teacher: int, widths: list[int], seeds: int
) -> Callable[[], object]:
    """A step of every student, one after the other, each with its teacher's images."""
    drawn_from = generator(teacher, image_size, channels).eval()
    networks = [generator(d, image_size, channels) for d in widths for _ in range(seeds)]
    optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in networks]

    def step() -> None:
        for network, optimizer in zip(networks, optimizers, strict=True):
            latents = torch.randn(BATCH, LATENT, 1, 1)
            with torch.no_grad():
                target = drawn_from(latents)
            _descend(nn.functional.mse_loss(network(latents), target), optimizer)

    return step


def teacher(
    image_size: int, channels: int, *, width: int, critic_steps: int
) -> Callable[[], object]:
    """A WGAN-GP step: the critic's steps, then one of the generator."""
    network = generator(width, image_size, channels)
    judge = critic(width, image_size, channels, norm="none")
    real = torch.rand(BATCH, channels, image_size, image_size) * 2 - 1
    ours = torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
    theirs = torch.optim.Adam(judge.parameters(), 2e-4, (0.5, 0.999))

    def step() -> None:
        for _ in range(critic_steps):
            latents = torch.randn(BATCH, LATENT, 1, 1)
            with torch.no_grad():
                fake = network(latents)
            penalty = gradient_penalty(judge, real, fake, torch.rand(BATCH))
            _descend(judge(fake).mean() - judge(real).mean() + 10 * penalty, theirs)
        _descend(-judge(network(latents)).mean(), ours)

    return step


def draw(image_size: int, channels: int, *, width: int) -> Callable[[], object]:
    """A batch of images, batch norm on its running averages."""
    network = generator(width, image_size, channels).eval()
    latents = torch.randn(BATCH, LATENT, 1, 1)

    def step() -> None:
        with torch.no_grad():
            network(latents)

    return step


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


KINDS: dict[str, Callable[..., Callable[[], object]]] = {
    "matrix_product": matrix_product,
    "students": students,
    "teacher": teacher,
    "draw": draw,
}


def main() -> None:
    """Answer each line `{"kind": ..., "of": [...], "with": {...}}` by seconds."""
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    made: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        if line not in made:
            case = json.loads(line)
            made[line] = _waited(KINDS[case["kind"]](*case["of"], **case["with"]))
        print(json.dumps(median_seconds(made[line])), flush=True)


def _waited(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, done when it returns."""
    if not torch.cuda.is_available():
        return work

    def wait() -> None:
        work()
        torch.cuda.synchronize()

    return wait


if __name__ == "__main__":
    main()
