"""The SNGAN generator and critic in plain PyTorch, and their weights as Flax's trees.

Miyato et al. 2018, appendix B, for 32x32; at 64x64 the authors' code.  No code is shared with the
jax side.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

torch.set_num_threads(1)  # tiny layers: more threads wait for one another


def upsample(images: Tensor) -> Tensor:
    return functional.interpolate(images, scale_factor=2, mode="nearest")


class GeneratorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv1(upsample(self.norm1(images).relu()))
        return self.conv2(self.norm2(hidden).relu()) + self.shortcut(upsample(images))


class Generator(nn.Module):
    def __init__(self, widths: list[int], channels: int, latent_dim: int):
        super().__init__()
        self.dense = nn.Linear(latent_dim, 16 * widths[0])
        self.blocks = len(widths) - 1
        for k in range(self.blocks):
            setattr(self, f"block{k}", GeneratorBlock(widths[k], widths[k + 1]))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.conv = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        # Flax's images have their channels last, so the dense layer's outputs do as well.
        images = self.dense(latents).reshape(len(latents), 4, 4, -1).permute(0, 3, 1, 2)
        for k in range(self.blocks):
            images = getattr(self, f"block{k}")(images)
        return self.conv(self.norm(images).relu()).tanh()


class CriticBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, is_first: bool, halves: bool):
        super().__init__()
        hidden = outputs if is_first else inputs
        self.conv1 = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding=1)
        if halves or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.is_first, self.halves = is_first, halves

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv1(images if self.is_first else images.relu())
        hidden = self.conv2(hidden.relu())
        shortcut = self.shortcut(images) if hasattr(self, "shortcut") else images
        if self.halves:
            hidden, shortcut = (functional.avg_pool2d(x, 2) for x in (hidden, shortcut))
        return hidden + shortcut


class Critic(nn.Module):
    def __init__(self, widths: list[int], channels: int, halved: int):
        super().__init__()
        self.blocks = len(widths)
        for k, (i, o) in enumerate(zip([channels, *widths[:-1]], widths, strict=True)):
            block = CriticBlock(i, o, is_first=k == 0, halves=k < halved)
            setattr(self, f"block{k}", block)
        self.dense = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        for k in range(self.blocks):
            images = getattr(self, f"block{k}")(images)
        return self.dense(images.relu().sum((2, 3)))[:, 0]


def generator(width: int, image_size: int, channels: int, latent_dim: int) -> Generator:
    factors = {32: [1, 1, 1, 1], 64: [16, 8, 4, 2, 1]}[image_size]
    return Generator([factor * width for factor in factors], channels, latent_dim)


def critic(width: int, image_size: int, channels: int) -> Critic:
    factors, halved = {32: ([1] * 4, 2), 64: ([1, 2, 4, 8, 16], 5)}[image_size]
    return Critic([factor * width for factor in factors], channels, halved)


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Gives norms, biases and running statistics values that are not trivial; in place."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=numbers)
            elif tensor.ndim == 1:
                is_scale = "norm" in name and name.endswith("weight")
                tensor.normal_(float(is_scale), 0.1, generator=numbers)
            elif tensor.ndim > 1:
                tensor.normal_(0, (tensor[0].numel()) ** -0.5, generator=numbers)
    return network


def use_spectral_norm(network: nn.Module, seed: int) -> nn.Module:
    """Divides every kernel of a critic by its largest singular value; in place."""
    torch.manual_seed(seed)
    for module in [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
        nn.utils.spectral_norm(module)
    return network


def to_flax(network: nn.Module) -> dict[str, dict]:
    """The network's parameters, statistics and singular vectors as Flax's variables."""
    params: dict = {}
    stats: dict = {}
    for path, module in network.named_modules():
        *parents, name = path.split(".")
        if isinstance(module, nn.BatchNorm2d):
            scale, bias = array(module.weight), array(module.bias)
            _put(params, path, {"scale": scale, "bias": bias})
            mean, var = array(module.running_mean), array(module.running_var)
            _put(stats, path, {"mean": mean, "var": var})
        elif isinstance(module, nn.Conv2d | nn.Linear):
            kernel = array(getattr(module, "weight_orig", module.weight))
            order = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
            _put(params, path, {"kernel": kernel.transpose(order), "bias": array(module.bias)})
            if hasattr(module, "weight_u"):
                # Flax also keeps the singular value, which it only shows.
                sigma, u = np.ones((), np.float32), array(module.weight_u)[None]
                vectors = {f"{name}/kernel/u": u, f"{name}/kernel/sigma": sigma}
                _put(stats, ".".join([*parents, f"{name}_spectral"]), vectors)
    return {"params": params, "batch_stats": stats}


def _put(tree: dict, path: str, leaf: dict) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = leaf


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()
