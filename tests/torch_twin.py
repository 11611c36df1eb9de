"""The PyTorch side of every parity check: the networks, losses and steps in plain PyTorch.

The networks are those that the benchmark times, PyTorch's own too.  No code is shared with the jax
side; of a `Recipe` the settings alone are read.
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
torch.set_num_threads(1)  # tiny layers: more threads wait for one another


def randomise(network: nn.Sequential, seed: int) -> nn.Sequential:
    """Weights that keep activations near 1, and no statistic, scale or bias trivial; in place."""
    numbers = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, spread: float) -> None:
        tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=numbers))

    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                normal(module.weight, 0, (module.in_channels * taps(module)) ** -0.5)
                normal(module.bias, 0, 0.1)
            elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
                normal(module.weight, 1, 0.1)
                normal(module.bias, 0, 0.1)
            if isinstance(module, nn.BatchNorm2d):
                normal(module.running_mean, 0, 0.1)
                module.running_var.uniform_(0.5, 1.5, generator=numbers)
    return network


def taps(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    """Input pixels that an output pixel is made from."""
    if isinstance(layer, nn.Conv2d):
        return 16
    return 4 if layer.stride == (2, 2) else 1


def to_flax(
    network: nn.Sequential, *, numbers: Callable[[nn.Parameter], Tensor] = lambda p: p
) -> tuple[dict, dict]:
    """The network's parameters (or other numbers of theirs) and statistics as Flax's two trees."""
    params, stats, layer = {}, {}, -1
    for module in network:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            layer += 1
            order = (2, 3, 1, 0) if isinstance(module, nn.Conv2d) else (2, 3, 0, 1)
            kernel, bias = numbers(module.weight).permute(order), numbers(module.bias)
            params[f"layer{layer}"] = {"kernel": array(kernel), "bias": array(bias)}
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            kind = "batch" if isinstance(module, nn.BatchNorm2d) else "layer"
            scale, bias = numbers(module.weight), numbers(module.bias)
            params[f"norm{layer}"] = {kind: {"scale": array(scale), "bias": array(bias)}}
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = array(module.running_mean), array(module.running_var)
            stats[f"norm{layer}"] = {"batch": {"mean": mean, "var": variance}}
    return params, stats


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def channels_first(images: np.ndarray) -> Tensor:
    """Images `[..., h, w, c]` as PyTorch takes them."""
    return torch.tensor(np.moveaxis(images, -1, -3).copy())


def channels_last(images: Tensor) -> np.ndarray:
    return np.moveaxis(array(images), -3, -1)


def draw(network: nn.Sequential, latents: np.ndarray) -> Tensor:
    """The generator's images of latents `[b, z]`."""
    return network(torch.tensor(latents)[:, :, None, None])


@contextlib.contextmanager
def frozen_statistics(network: nn.Sequential) -> Iterator[None]:
    """Batch norm sees the batch, and its running averages stay."""
    found = [module for module in network if isinstance(module, nn.BatchNorm2d)]
    for module in found:
        module.momentum = 0.0
    yield
    for module in found:
        module.momentum = 0.1


def critic_bce(real: Tensor, fake: Tensor) -> Tensor:
    bce = functional.binary_cross_entropy_with_logits
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def critic_hinge(real: Tensor, fake: Tensor) -> Tensor:
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def critic_wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def generator_bce(fake: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def generator_bce_saturating(fake: Tensor) -> Tensor:
    return -functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))


def generator_linear(fake: Tensor) -> Tensor:
    return -fake.mean()


ADVERSARIAL: dict[str, tuple[Callable, Callable]] = {
    "bce": (critic_bce, generator_bce),
    "bce_saturating": (critic_bce, generator_bce_saturating),
    "hinge": (critic_hinge, generator_linear),
    "wgan": (critic_wasserstein, generator_linear),
    "wgan_gp": (critic_wasserstein, generator_linear),
}


def distance(student: Tensor, teacher: Tensor, *, kind: str, reduction: str) -> Tensor:
    """PyTorch's own loss; 'sum' is the sum over an image and the mean over the batch."""
    loss = {"mse": functional.mse_loss, "l1": functional.l1_loss}[kind]
    if reduction == "mean":
        return loss(student, teacher)
    return loss(student, teacher, reduction="sum") / len(student)


def rate(recipe, step: int, *, scale: int) -> float:
    """The share of the peak learning rate at an optimizer's step, of which there are `scale`."""
    warmup, left = recipe.warmup * scale, (recipe.steps - recipe.warmup) * scale
    if step < warmup:
        return step / warmup
    done = (step - warmup) / left
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[
        recipe.schedule
    ]


class Run:
    """A teacher, student or baseline in training, with the order of things that steps.py tells.

    The fakes of a critic step and the scores of the generator's step leave running averages alone;
    the generator's step takes the last critic step's latents again.
    """

    def __init__(self, generator: nn.Sequential, critic: nn.Sequential | None, recipe):
        self.generator, self.critic, self.recipe = generator, critic, recipe
        betas = (recipe.b1, recipe.b2)
        self._generator_adam = torch.optim.Adam(generator.parameters(), recipe.generator_lr, betas)
        self._critic_adam = (
            torch.optim.Adam(critic.parameters(), recipe.critic_lr, betas) if critic else None
        )
        self._steps = self._critic_steps = 0

    def step(
        self,
        latents: np.ndarray,
        mix: np.ndarray,
        real: np.ndarray | None,
        target: np.ndarray | None,
    ) -> dict[str, float]:
        """One step; latents `[k, b, z]`, mix `[k, b]`, real `[k, b, s, s, c]`, one target."""
        metrics: list[dict[str, float]] = []
        if self.critic is not None and self.recipe.train_critic:
            for one, weight, images in zip(latents, mix, channels_first(real), strict=True):
                metrics.append(self._critic_step(one, torch.tensor(weight), images))
        means = {name: float(np.mean([m[name] for m in metrics])) for name in (metrics or [{}])[0]}
        return means | self._generator_step(latents[-1], target)

    def _critic_step(self, latents: np.ndarray, mix: Tensor, real: Tensor) -> dict[str, float]:
        with torch.no_grad(), frozen_statistics(self.generator):
            fake = draw(self.generator, latents)
        # In two batches, real images first.
        value = ADVERSARIAL[self.recipe.loss][0](self.critic(real), self.critic(fake))
        metrics, loss = {"critic_loss": value.item()}, value
        if self.recipe.loss == "wgan_gp":
            with frozen_statistics(self.critic):
                penalty = torch_worker.gradient_penalty(self.critic, real, fake, mix)
            metrics["gradient_penalty"] = penalty.item()
            loss = value + self.recipe.gradient_penalty * penalty
        lr = self.recipe.critic_lr * rate(
            self.recipe, self._critic_steps, scale=self.recipe.critic_steps
        )
        metrics["critic_gradient"] = descend(loss, self.critic, self._critic_adam, lr=lr)
        self._critic_steps += 1
        if self.recipe.loss == "wgan":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-self.recipe.clip, self.recipe.clip)
        return metrics

    def _generator_step(self, latents: np.ndarray, target: np.ndarray | None) -> dict[str, float]:
        images, metrics, recipe = draw(self.generator, latents), {}, self.recipe
        loss = torch.zeros((), dtype=images.dtype)
        if self.critic is not None:
            with frozen_statistics(self.critic):
                value = ADVERSARIAL[recipe.loss][1](self.critic(images))
            metrics["adversarial_loss"] = value.item()
            loss = loss + recipe.alpha * value
        if target is not None:
            teacher = channels_first(target)
            metrics["pixel_error"] = functional.mse_loss(images, teacher).item()
            value = distance(images, teacher, kind=recipe.distance, reduction=recipe.reduction)
            metrics["distance"] = value.item()
            loss = loss + (1 - recipe.alpha) * value
        lr = recipe.generator_lr * rate(recipe, self._steps, scale=1)
        gradient = descend(loss, self.generator, self._generator_adam, lr=lr)
        self._steps += 1
        return metrics | {"generator_loss": loss.item(), "generator_gradient": gradient}

    def moments(self, which: str) -> dict:
        """Adam's first moments of the generator or the critic, as Flax's tree."""
        adam = {"generator": self._generator_adam, "critic": self._critic_adam}[which]
        return to_flax(getattr(self, which), numbers=lambda p: adam.state[p]["exp_avg"])[0]


def descend(loss: Tensor, network: nn.Sequential, adam: torch.optim.Adam, *, lr: float) -> float:
    """One step of Adam; returns the norm of the gradients."""
    parameters = list(network.parameters())
    for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = slope
    for group in adam.param_groups:
        group["lr"] = lr
    adam.step()
    return nn.utils.get_total_norm([p.grad for p in parameters]).item()
