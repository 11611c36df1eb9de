"""PyTorch DCGANs as this project's parameters, and a generator as PyTorch's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.interop.torch_writer import write_torch
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator, hidden_widths
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError

Tree = dict[str, Any]  # nested dicts of float32 arrays
ParamsAndStats = tuple[Tree, Tree]  # parameters, and batch norm's statistics ({} without it)
State = dict[str, np.ndarray]  # a state_dict
Convert = Callable[[State], ParamsAndStats]

# PyTorch's axes of a kernel in the order (4, 4, in, out): of ConvTranspose2d, and of Conv2d.
TRANSPOSED = (2, 3, 0, 1)
PLAIN = (2, 3, 1, 0)
KINDS = {TRANSPOSED: "generator (ConvTranspose2d)", PLAIN: "critic (Conv2d)"}
# Batch norm's parts here and there.
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
WRAPPERS = ("module", "_orig_mod")  # what DataParallel and torch.compile put into names
LEAST = 3  # convolutions of a network, for 16 pixels
DEPTH = 4  # of dicts that a checkpoint's state_dicts are looked for in


class _UnfitError(Exception):
    """A state_dict is not that of the wanted network; the text says why."""


class _Layers(NamedTuple):
    """A state_dict's layers, each kind in its order, under this project's names of their parts."""

    convolutions: list[dict[str, np.ndarray]]  # kernel, bias
    norms: list[dict[str, np.ndarray]]  # scale, bias, mean, var

    @property
    def widths(self) -> list[int]:
        """Channels that go into each convolution, and out of the last."""
        kernels = [layer["kernel"] for layer in self.convolutions]
        return [kernel.shape[2] for kernel in kernels] + [kernels[-1].shape[3]]


def read_generator(path: Path) -> ParamsAndStats:
    """The parameters and batch-norm statistics of `Generator` out of a PyTorch DCGAN's file.

    The file holds a `state_dict`, alone or anywhere in a checkpoint's dicts, also one that holds
    the critic under other names. Names do not matter: the layers are known by their shapes and
    order, as ConvTranspose2d 4x4 (with bias, or without: then it is zero) of 8d, 4d, 2d, d and
    image channels (one layer less or more for each halving or doubling of 64 pixels), each but the
    last with a BatchNorm2d or none of them with one.

    A file does not say what lies between the layers. Taken for granted is the common DCGAN: stride
    1, then stride 2 with padding 1; batch norm with epsilon 1e-5; ReLU; tanh at the end.

    Raises:
        UserError: the file cannot be read, or holds no such generator, or several.
    """
    return _only(path, "generator", _generator)


def read_critic(path: Path) -> ParamsAndStats:
    """The same of `Critic`: Conv2d 4x4 of d, 2d, 4d, 8d and one channel.

    Batch norm after each layer but the first and the last, or none; LeakyReLU(0.2) is taken for
    granted, and that a sigmoid at the end belongs to the loss.

    Raises:
        UserError: the file cannot be read, or holds no such critic, or several.
    """
    return _only(path, "critic", _critic)


def infer_generator(params: Tree) -> DCGANGenerator:
    """The network that a generator's parameters belong to."""
    first, *_, last = shapes = _kernel_shapes(params)
    return DCGANGenerator(
        width=last[2],
        image_size=_image_size(len(shapes)),
        channels=last[3],
        latent_dim=first[2],
        norm="batch" if "norm0" in params else "none",
    )


def infer_critic(params: Tree) -> DCGANCritic:
    """The network that a critic's parameters belong to."""
    first, *others = _kernel_shapes(params)
    return DCGANCritic(
        width=first[3],
        image_size=_image_size(1 + len(others)),
        channels=first[2],
        norm="batch" if "norm1" in params else "none",
    )


def write_generator(path: Path, params: Tree, stats: Tree) -> None:
    """Write a generator as a PyTorch `state_dict`; torch is not needed.

    The names are those of the best-known public DCGAN, an `nn.Module` whose `main` is
    `nn.Sequential(ConvTranspose2d, BatchNorm2d, ReLU, ..., ConvTranspose2d, Tanh)`, its
    convolutions with bias as in the paper: `main.0.weight`, `main.0.bias`, `main.1.weight`,
    `main.1.bias`, `main.1.running_mean`, `main.1.running_var`, `main.1.num_batches_tracked` (0),
    `main.3.weight` ... (`main.2.weight` where there is no batch norm). At 64 pixels:

        main = nn.Sequential(
            nn.ConvTranspose2d(latent, 8 * d, 4, 1, 0), nn.BatchNorm2d(8 * d), nn.ReLU(),
            nn.ConvTranspose2d(8 * d, 4 * d, 4, 2, 1), nn.BatchNorm2d(4 * d), nn.ReLU(),
            nn.ConvTranspose2d(4 * d, 2 * d, 4, 2, 1), nn.BatchNorm2d(2 * d), nn.ReLU(),
            nn.ConvTranspose2d(2 * d, d, 4, 2, 1), nn.BatchNorm2d(d), nn.ReLU(),
            nn.ConvTranspose2d(d, channels, 4, 2, 1), nn.Tanh(),
        )

    In `eval()` it draws the images of this project's generator, latents as `[b, latent, 1, 1]` and
    images as `[b, channels, side, side]` in -1..1.

    Raises:
        UserError: the file exists, or cannot be written.
    """
    atomic_io.require_absent(path)
    try:
        write_torch(path, _torch_state(params, stats))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _torch_state(params: Tree, stats: Tree) -> State:
    state: State = {}
    modules = 3 if "norm0" in params else 2  # in the Sequential, for each layer
    for k in range(len(_kernel_shapes(params))):
        layer = {name: np.asarray(values) for name, values in params[f"layer{k}"].items()}
        state[f"main.{modules * k}.weight"] = layer["kernel"].transpose(np.argsort(TRANSPOSED))
        state[f"main.{modules * k}.bias"] = layer["bias"]
        if f"norm{k}" in params:
            norm = params[f"norm{k}"]["batch"] | stats[f"norm{k}"]["batch"]
            own = f"main.{modules * k + 1}"
            state |= {f"{own}.{name}": np.asarray(norm[part]) for part, name in NORM.items()}
            state[f"{own}.num_batches_tracked"] = np.zeros((), np.int64)
    return state


def _kernel_shapes(params: Tree) -> list[tuple[int, ...]]:
    count = sum(name.startswith("layer") for name in params)
    return [params[f"layer{k}"]["kernel"].shape for k in range(count)]


def _image_size(layers: int) -> int:
    return 4 * 2 ** (layers - 1)


def _only(path: Path, what: str, convert: Convert) -> ParamsAndStats:
    """The one network in a file that `convert` takes."""
    try:
        states = _state_dicts(read_torch_file(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    found: dict[str, ParamsAndStats] = {}
    reasons: list[str] = []
    for name, state in states.items():
        fits, unfit = _fitting(state, name, convert)
        found |= fits
        reasons += unfit
    if len(found) > 1:
        raise UserError(f"{path} holds several {what}s ({', '.join(found)}); save one by itself")
    if reasons and not found:
        raise UserError(f"{path} holds no DCGAN {what}: {'; '.join(reasons)}")
    if not found:
        raise UserError(f"{path} holds no state_dict; `torch.save({what}.state_dict(), FILE)` does")
    return next(iter(found.values()))


def _state_dicts(content: Any, *keys: str) -> dict[str, State]:
    """Every state_dict with convolutions that lies in nested dicts, by the keys that lead to it."""
    if not isinstance(content, Mapping) or len(keys) > DEPTH:
        return {}
    arrays = {_unwrapped(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    found = {".".join(keys): arrays} if _convolutions(arrays) else {}
    for key, value in content.items():
        found |= _state_dicts(value, *keys, str(key))
    return found


def _unwrapped(key: Any) -> str:
    return ".".join(part for part in str(key).split(".") if part not in WRAPPERS)


def _convolutions(state: State) -> int:
    # An optimizer's averages have such shapes too, but no such names.
    return sum(v.ndim == 4 and k.endswith("weight") for k, v in state.items())


def _fitting(
    state: State, name: str, convert: Convert
) -> tuple[dict[str, ParamsAndStats], list[str]]:
    """What fits in a state_dict, itself or else parts of it (`G.`, `D.`), and why others do not."""
    try:
        return {name: convert(state)}, []
    except _UnfitError as error:
        reasons = [f"{name}: {error}" if name else str(error)]
    parts = _parts(state)
    results = [_fitting(part, f"{name}.{k}".strip("."), convert) for k, part in parts.items()]
    found = {key: trees for fits, _ in results for key, trees in fits.items()}
    inner = [reason for _, unfit in results for reason in unfit]
    return found, inner if len(parts) > 1 else reasons


def _parts(state: State) -> dict[str, State]:
    """A state_dict by the first word of its names; only parts large enough for a network."""
    parts: dict[str, State] = {}
    for key, values in state.items():
        first, _, rest = key.partition(".")
        parts.setdefault(first, {})[rest] = values
    return {first: part for first, part in parts.items() if _convolutions(part) >= LEAST}


def _generator(state: State) -> ParamsAndStats:
    layers = _chain(state, TRANSPOSED)
    hidden = layers.widths[1:-1]
    _check_widths(hidden, hidden_widths(hidden[-1], _image_size(len(hidden) + 1)))
    return _named(layers, hidden, first_norm=0)


def _critic(state: State) -> ParamsAndStats:
    layers = _chain(state, PLAIN)
    *hidden, last = layers.widths[1:]
    _check_widths(hidden, hidden_widths(hidden[0], _image_size(len(hidden) + 1))[::-1])
    if last != 1:
        raise _UnfitError(f"it gives {last} numbers an image, not one score")
    return _named(layers, hidden[1:], first_norm=1)


def _chain(state: State, order: tuple[int, ...]) -> _Layers:
    """The layers of a state_dict, if each takes what the one before it gives."""
    layers = _layers(state, order)
    if _chained(layers):
        return layers
    other = PLAIN if order == TRANSPOSED else TRANSPOSED
    if _chained(_layers(state, other)):
        raise _UnfitError(f"it is a {KINDS[other]}")
    raise _UnfitError("its convolutions do not follow each other")


def _layers(state: State, order: tuple[int, ...]) -> _Layers:
    """Sort a state_dict's arrays into layers; every array must belong to one."""
    owners: dict[str, State] = {}
    for key, values in state.items():
        owner, _, part = key.rpartition(".")
        if part != "num_batches_tracked":
            owners.setdefault(owner, {})[part] = _float32(key, values)
    layers = _Layers([], [])
    for owner, parts in owners.items():
        if parts.keys() == set(NORM.values()):
            layers.norms.append(_norm(owner, parts))
        else:
            layers.convolutions.append(_convolution(owner, parts, order))
    if len(layers.convolutions) < LEAST:
        raise _UnfitError(f"it has {len(layers.convolutions)} convolutions, not {LEAST} or more")
    return layers


def _float32(key: str, values: np.ndarray) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
        raise _UnfitError(f"{key} is not of finite numbers")
    return values.astype(np.float32)


def _norm(owner: str, parts: State) -> dict[str, np.ndarray]:
    if len({values.shape for values in parts.values()}) > 1 or parts["weight"].ndim != 1:
        raise _UnfitError(f"{owner} ({_shapes(parts)}) is no batch norm")
    return {ours: parts[theirs] for ours, theirs in NORM.items()}


def _convolution(owner: str, parts: State, order: tuple[int, ...]) -> dict[str, np.ndarray]:
    weight = parts.get("weight", np.empty(0))
    if weight.shape[2:] != (4, 4) or not parts.keys() <= {"weight", "bias"}:
        raise _UnfitError(
            f"{owner} ({_shapes(parts)}) is neither a 4x4 convolution nor a batch norm with"
            " running statistics"
        )
    kernel = np.ascontiguousarray(weight.transpose(order))
    bias = parts.get("bias", np.zeros(kernel.shape[3], np.float32))
    return {"kernel": kernel, "bias": bias}


def _shapes(parts: State) -> str:
    sizes = {name: "x".join(map(str, values.shape)) for name, values in parts.items()}
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _chained(layers: _Layers) -> bool:
    """Whether channels in and out, and those of the biases, agree."""
    kernels = [layer["kernel"].shape for layer in layers.convolutions]
    biases = [layer["bias"].shape for layer in layers.convolutions]
    joined = all(a[3] == b[2] for a, b in itertools.pairwise(kernels))
    return joined and all(b == k[3:] for k, b in zip(kernels, biases, strict=True))


def _check_widths(found: list[int], wanted: tuple[int, ...]) -> None:
    if found != list(wanted):
        raise _UnfitError(f"its hidden widths are {found}, where a DCGAN's are {list(wanted)}")


def _named(layers: _Layers, widths: list[int], *, first_norm: int) -> ParamsAndStats:
    """The two trees; `widths` are those that batch norm follows, from layer `first_norm` on."""
    norms = [len(norm["scale"]) for norm in layers.norms]
    if norms and norms != widths:
        raise _UnfitError(f"its batch norms are of widths {norms}, not {widths} or none")
    params: Tree = {f"layer{k}": layer for k, layer in enumerate(layers.convolutions)}
    stats: Tree = {}
    for k, norm in enumerate(layers.norms, first_norm):
        params[f"norm{k}"] = {"batch": {part: norm[part] for part in ("scale", "bias")}}
        stats[f"norm{k}"] = {"batch": {part: norm[part] for part in ("mean", "var")}}
    return params, stats
