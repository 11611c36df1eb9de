"""PyTorch side of the parity tests: networks, losses and training steps in plain PyTorch.

The networks and the gradient penalty come from the benchmark's PyTorch worker.  Nothing is shared
with the JAX code except the settings of a `Recipe`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gankd_jax.bench import torch_worker

generator, critic = torch_worker.build_generator, torch_worker.build_critic
torch.set_num_threads(1)  # with tiny layers, more threads only wait for one another


def randomise(network: nn.Sequential, seed: int) -> nn.Sequential:
    """Fills a network with random values, in place; returns it.

    Activations stay near 1.  No statistic, scale or bias keeps its initial value.
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=rng))

    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                normal(module.weight, 0, (module.in_channels * count_taps(module)) ** -0.5)
                normal(module.bias, 0, 0.1)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                normal(module.weight, 1, 0.1)
                normal(module.bias, 0, 0.1)
            if isinstance(module, nn.BatchNorm2d):
                normal(module.running_mean, 0, 0.1)
                module.running_var.uniform_(0.5, 1.5, generator=rng)
    return network


def count_taps(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Returns the number of input pixels that contribute to an output pixel."""
    if isinstance(layer, nn.Conv2d):
        return 16
    return 4 if layer.stride == (2, 2) else 1


def to_flax(
    network: nn.Sequential, *, get_values: Callable[[nn.Parameter], Tensor] = lambda p: p
) -> tuple[dict, dict]:
    """Returns parameters and batch statistics as Flax trees.

    `get_values` replaces each parameter, for example by its moment in Adam.
    """
    params, stats, layer = {}, {}, -1
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            layer += 1
            order = (2, 3, 1, 0) if isinstance(module, nn.Conv2d) else (2, 3, 0, 1)
            kernel, bias = get_values(module.weight).permute(order), get_values(module.bias)
            params[f"layer{layer}"] = {"kernel": to_numpy(kernel), "bias": to_numpy(bias)}
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            kind = "batch" if isinstance(module, nn.BatchNorm2d) else "layer"
            scale, bias = get_values(module.weight), get_values(module.bias)
            params[f"norm{layer}"] = {kind: {"scale": to_numpy(scale), "bias": to_numpy(bias)}}
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = to_numpy(module.running_mean), to_numpy(module.running_var)
            stats[f"norm{layer}"] = {"batch": {"mean": mean, "var": variance}}
    return params, stats


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def channels_first(images: np.ndarray) -> Tensor:
    """Converts images `[..., h, w, c]` to a tensor `[..., c, h, w]`."""
    return torch.tensor(np.moveaxis(images, -1, -3).copy())


def channels_last(images: Tensor) -> np.ndarray:
    return np.moveaxis(to_numpy(images), -3, -1)


def generate(network: nn.Sequential, latents: np.ndarray) -> Tensor:
    """Returns the generator's images for latents `[b, z]`."""
    return network(torch.tensor(latents)[:, :, None, None])


@contextlib.contextmanager
def freeze_running_stats(network: nn.Sequential) -> Iterator[None]:
    """Uses the batch's statistics and leaves running averages unchanged."""
    norms = [module for module in network if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 0.0
    yield
    for module in norms:
        module.momentum = 0.1


def critic_bce(real: Tensor, fake: Tensor) -> Tensor:
    bce = functional.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def critic_hinge(real: Tensor, fake: Tensor) -> Tensor:
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def critic_wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def critic_relativistic(real: Tensor, fake: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(real - fake, torch.ones_like(real))


def generator_bce(fake: Tensor, real: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def generator_bce_saturating(fake: Tensor, real: Tensor) -> Tensor:
    return -functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_linear(fake: Tensor, real: Tensor) -> Tensor:
    return -fake.mean()


def generator_relativistic(fake: Tensor, real: Tensor) -> Tensor:
    return critic_relativistic(fake, real)


def r1_r2_penalty(network: nn.Module, real: Tensor, fake: Tensor, interp_weight: Tensor) -> Tensor:
    """As `ZeroCenteredGradientPenalty` of the R3GAN authors' code, half the sum of both."""
    total = torch.zeros((), dtype=real.dtype)
    for batch in (real, fake):
        images = batch.detach().requires_grad_()
        [slope] = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        total = total + slope.square().sum([1, 2, 3]).mean() / 2
    return total


ADVERSARIAL: dict[str, tuple[Callable, Callable]] = {
    "bce": (critic_bce, generator_bce),
    "bce_saturating": (critic_bce, generator_bce_saturating),
    "hinge": (critic_hinge, generator_linear),
    "wgan": (critic_wasserstein, generator_linear),
    "wgan_gp": (critic_wasserstein, generator_linear),
    "rpgan": (critic_relativistic, generator_relativistic),
}
PENALTIES = {"wgan_gp": torch_worker.gradient_penalty, "rpgan": r1_r2_penalty}


def distance(student: Tensor, teacher: Tensor, *, kind: str, reduction: str) -> Tensor:
    """Returns PyTorch's loss; 'sum' sums over an image and averages over the batch."""
    loss = {"mse": functional.mse_loss, "l1": functional.l1_loss}[kind]
    if reduction == "mean":
        return loss(student, teacher)
    return loss(student, teacher, reduction="sum") / len(student)


def learning_rate_factor(recipe, step: int, *, updates_per_step: int) -> float:
    """Returns the fraction of the peak learning rate at an optimizer update."""
    warmup = recipe.warmup * updates_per_step
    decay = (recipe.steps - recipe.warmup) * updates_per_step
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / decay
    return {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }[recipe.schedule]


class Trainer:
    """Trains a teacher, student or baseline in the order of operations of `train_step`.

    Running averages stay unchanged when a critic step generates fakes and when the generator step
    scores them.  The generator step reuses the latents of the last critic step.
    """

    def __init__(self, generator: nn.Sequential, critic: nn.Sequential | None, recipe):
        self.generator, self.critic, self.recipe = generator, critic, recipe
        betas = (recipe.b1, recipe.b2)
        self._generator_adam = torch.optim.Adam(generator.parameters(), recipe.generator_lr, betas)
        self._critic_adam = (
            torch.optim.Adam(critic.parameters(), recipe.critic_lr, betas) if critic else None
        )
        self._steps = self._critic_steps = 0

    def train_step(
        self,
        latents: np.ndarray,
        interp_weight: np.ndarray,
        real: np.ndarray | None,
        target: np.ndarray | None,
    ) -> dict[str, float]:
        """Trains one step and returns its metrics.

        Args:
            latents: `[k, b, z]`, for `k` critic steps.
            interp_weight: `[k, b]`, of real images in the gradient penalty.
            real: Real images `[k, b, s, s, c]`; None without a critic.
            target: The teacher's images `[b, s, s, c]`; None without a teacher.
        """
        metrics: list[dict[str, float]] = []
        if self.critic is not None and self.recipe.train_critic:
            batches = zip(latents, torch.tensor(interp_weight), channels_first(real), strict=True)
            metrics += [self._critic_step(*batch) for batch in batches]
        means = {name: float(np.mean([m[name] for m in metrics])) for name in (metrics or [{}])[0]}
        return means | self._generator_step(latents[-1], real, target)

    def _critic_step(
        self, latents: np.ndarray, interp_weight: Tensor, real: Tensor
    ) -> dict[str, float]:
        with torch.no_grad(), freeze_running_stats(self.generator):
            fake = generate(self.generator, latents)
        # Batch norm sees real images and fakes as two batches, real ones first.
        value = ADVERSARIAL[self.recipe.loss][0](self.critic(real), self.critic(fake))
        metrics, loss = {"critic_loss": value.item()}, value
        if self.recipe.loss in PENALTIES:
            with freeze_running_stats(self.critic):
                penalty = PENALTIES[self.recipe.loss](self.critic, real, fake, interp_weight)
            metrics["gradient_penalty"] = penalty.item()
            loss = value + self.recipe.gradient_penalty * penalty
        lr = self.recipe.critic_lr * learning_rate_factor(
            self.recipe, self._critic_steps, updates_per_step=self.recipe.critic_steps
        )
        metrics["critic_gradient"] = update_weights(loss, self.critic, self._critic_adam, lr=lr)
        self._critic_steps += 1
        if self.recipe.loss == "wgan":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-self.recipe.clip, self.recipe.clip)
        return metrics

    def _generator_step(
        self, latents: np.ndarray, real: np.ndarray | None, target: np.ndarray | None
    ) -> dict[str, float]:
        images, metrics, recipe = generate(self.generator, latents), {}, self.recipe
        loss = torch.zeros((), dtype=images.dtype)
        if self.critic is not None:
            with freeze_running_stats(self.critic):
                scores = self.critic(images), self.critic(channels_first(real[-1]))
            value = ADVERSARIAL[recipe.loss][1](*scores)
            metrics["adversarial_loss"] = value.item()
            loss = loss + recipe.alpha * value
        if target is not None:
            teacher = channels_first(target)
            metrics["pixel_error"] = functional.mse_loss(images, teacher).item()
            value = distance(images, teacher, kind=recipe.distance, reduction=recipe.reduction)
            metrics["distance"] = value.item()
            loss = loss + (1 - recipe.alpha) * value
        lr = recipe.generator_lr * learning_rate_factor(recipe, self._steps, updates_per_step=1)
        gradient = update_weights(loss, self.generator, self._generator_adam, lr=lr)
        self._steps += 1
        return metrics | {"generator_loss": loss.item(), "generator_gradient": gradient}

    def first_moments(self, name: str) -> dict:
        """Returns Adam's first moments of the generator or the critic as a Flax tree."""
        adam = {"generator": self._generator_adam, "critic": self._critic_adam}[name]
        return to_flax(getattr(self, name), get_values=lambda p: adam.state[p]["exp_avg"])[0]


def update_weights(
    loss: Tensor, network: nn.Sequential, adam: torch.optim.Adam, *, lr: float
) -> float:
    """Takes one step of Adam; returns the norm of the gradients."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    for group in adam.param_groups:
        group["lr"] = lr
    adam.step()
    return nn.utils.get_total_norm([p.grad for p in parameters]).item()
