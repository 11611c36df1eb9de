"""Reads PyTorch DCGANs as Flax parameters, whatever the names of their layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator, hidden_widths
from gankd_jax.utils.errors import UserError

Tree = dict[str, Any]  # nested dicts of float32 arrays
ParamsAndStats = tuple[Tree, Tree]  # parameters, and batch norm's statistics ({} without it)
State = dict[str, np.ndarray]  # a state_dict
Converter = Callable[[State], ParamsAndStats]

# Permutations of a PyTorch weight to (4, 4, in, out): of ConvTranspose2d, and of Conv2d.
CONV_TRANSPOSE_AXES = (2, 3, 0, 1)
CONV_AXES = (2, 3, 1, 0)
NETWORK_NAMES = {
    CONV_TRANSPOSE_AXES: "generator (ConvTranspose2d)",
    CONV_AXES: "critic (Conv2d)",
}
# Names of batch norm's arrays in Flax -> in PyTorch.
NORM_NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
WRAPPERS = ("module", "_orig_mod")  # parts of names that DataParallel and torch.compile insert
MIN_CONVOLUTIONS = 3  # of a network for 16 pixels
MAX_DEPTH = 4  # of nested dicts that are searched for state_dicts


class _UnfitError(Exception):
    """A state_dict is not that of the requested network; the text says why."""


class _Layers(NamedTuple):
    """A state_dict's layers in order, with the names that their arrays have in Flax."""

    convolutions: list[dict[str, np.ndarray]]  # kernel, bias
    norms: list[dict[str, np.ndarray]]  # scale, bias, mean, var

    @property
    def widths(self) -> list[int]:
        """Input channels of each convolution, and output channels of the last."""
        kernels = [layer["kernel"] for layer in self.convolutions]
        return [kernel.shape[2] for kernel in kernels] + [kernels[-1].shape[3]]


def read_generator(path: Path) -> ParamsAndStats:
    """Reads a `DCGANGenerator` from a PyTorch file.

    The file holds a `state_dict`, alone or anywhere in the dicts of a checkpoint; it may hold the
    critic too, under other names.  Layers are recognised by their shapes and order, not by names:
    4x4 ConvTranspose2d layers of 8d, 4d, 2d, d and image channels at 64 pixels, one layer less or
    more for each halving or doubling of the size.  A missing bias becomes zero.  Every layer but
    the last has a BatchNorm2d, or none has.

    A file does not say what lies between the layers.  The common DCGAN is assumed: stride 1 in the
    first layer, then stride 2 with padding 1; batch norm with epsilon 1e-5; ReLU; tanh at the end.

    Args:
        path: The file.

    Returns:
        Parameters and batch-norm statistics, which are empty without batch norm.

    Raises:
        UserError: The file cannot be read, or holds no such generator, or several.
    """
    return _read_network(path, "generator", _convert_generator)


def read_critic(path: Path) -> ParamsAndStats:
    """Reads a `DCGANCritic` from a PyTorch file, in the way of `read_generator`.

    It has 4x4 Conv2d layers of d, 2d, 4d, 8d and one channel.  Batch norm follows each layer but
    the first and the last, or none.  LeakyReLU(0.2) is assumed between the layers; a sigmoid at the
    end is taken to be part of the loss.

    Args:
        path: The file.

    Returns:
        Parameters and batch-norm statistics, which are empty without batch norm.

    Raises:
        UserError: The file cannot be read, or holds no such critic, or several.
    """
    return _read_network(path, "critic", _convert_critic)


def infer_generator(params: Tree) -> DCGANGenerator:
    """Returns the module that a generator's parameters belong to."""
    first, *_, last = shapes = _kernel_shapes(params)
    return DCGANGenerator(
        width=last[2],
        image_size=_image_size(len(shapes)),
        channels=last[3],
        latent_dim=first[2],
        norm="batch" if "norm0" in params else "none",
    )


def infer_critic(params: Tree) -> DCGANCritic:
    """Returns the module that a critic's parameters belong to."""
    first, *rest = _kernel_shapes(params)
    return DCGANCritic(
        width=first[3],
        image_size=_image_size(1 + len(rest)),
        channels=first[2],
        norm="batch" if "norm1" in params else "none",
    )


def _kernel_shapes(params: Tree) -> list[tuple[int, ...]]:
    count = sum(name.startswith("layer") for name in params)
    return [params[f"layer{k}"]["kernel"].shape for k in range(count)]


def _image_size(layers: int) -> int:
    return 4 * 2 ** (layers - 1)


def _read_network(path: Path, network: str, convert: Converter) -> ParamsAndStats:
    """Reads the only network in a file that `convert` accepts."""
    try:
        states = _find_state_dicts(read_torch_file(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    networks: dict[str, ParamsAndStats] = {}
    reasons: list[str] = []
    for name, state in states.items():
        converted, unfit = _convert_state(state, name, convert)
        networks |= converted
        reasons += unfit
    if len(networks) > 1:
        names = ", ".join(networks)
        raise UserError(f"{path} holds several {network}s ({names}); save one by itself")
    if reasons and not networks:
        raise UserError(f"{path} holds no DCGAN {network}: {'; '.join(reasons)}")
    if not networks:
        hint = f"`torch.save({network}.state_dict(), FILE)` writes one"
        raise UserError(f"{path} holds no state_dict; {hint}")
    return next(iter(networks.values()))


def _find_state_dicts(content: Any, *keys: str) -> dict[str, State]:
    """Returns the state_dicts with convolutions in nested dicts, by the keys that lead to them."""
    if not isinstance(content, Mapping) or len(keys) > MAX_DEPTH:
        return {}
    arrays = {_unwrap_name(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    states = {".".join(keys): arrays} if _count_convolutions(arrays) else {}
    for key, value in content.items():
        states |= _find_state_dicts(value, *keys, str(key))
    return states


def _unwrap_name(key: Any) -> str:
    return ".".join(part for part in str(key).split(".") if part not in WRAPPERS)


def _count_convolutions(state: State) -> int:
    # The moments of an optimizer have such shapes too, but other names.
    return sum(v.ndim == 4 and k.endswith("weight") for k, v in state.items())


def _convert_state(
    state: State, name: str, convert: Converter
) -> tuple[dict[str, ParamsAndStats], list[str]]:
    """Converts a state_dict, or else its parts (such as `G.` and `D.`).

    Returns:
        The networks by name, and the reasons why other parts are none.
    """
    try:
        return {name: convert(state)}, []
    except _UnfitError as error:
        reasons = [f"{name}: {error}" if name else str(error)]
    parts = _split_state(state)
    results = [_convert_state(part, f"{name}.{k}".strip("."), convert) for k, part in parts.items()]
    networks = {key: trees for converted, _ in results for key, trees in converted.items()}
    inner = [reason for _, unfit in results for reason in unfit]
    return networks, inner if len(parts) > 1 else reasons


def _split_state(state: State) -> dict[str, State]:
    """Splits a state_dict by the first part of its names; too small parts are left out."""
    parts: dict[str, State] = {}
    for key, values in state.items():
        first, _, rest = key.partition(".")
        parts.setdefault(first, {})[rest] = values
    return {
        first: part
        for first, part in parts.items()
        if _count_convolutions(part) >= MIN_CONVOLUTIONS
    }


def _convert_generator(state: State) -> ParamsAndStats:
    layers = _sort_chained_layers(state, CONV_TRANSPOSE_AXES)
    hidden = layers.widths[1:-1]
    _check_widths(hidden, hidden_widths(hidden[-1], _image_size(len(hidden) + 1)))
    return _name_layers(layers, hidden, first_norm=0)


def _convert_critic(state: State) -> ParamsAndStats:
    layers = _sort_chained_layers(state, CONV_AXES)
    *hidden, last = layers.widths[1:]
    _check_widths(hidden, hidden_widths(hidden[0], _image_size(len(hidden) + 1))[::-1])
    if last != 1:
        raise _UnfitError(f"it returns {last} numbers for an image, not one score")
    return _name_layers(layers, hidden[1:], first_norm=1)


def _sort_chained_layers(state: State, axes: tuple[int, ...]) -> _Layers:
    """Returns the layers of a state_dict, if the channels of each fit those of the one before."""
    layers = _sort_layers(state, axes)
    if _are_chained(layers):
        return layers
    other_axes = CONV_AXES if axes == CONV_TRANSPOSE_AXES else CONV_TRANSPOSE_AXES
    if _are_chained(_sort_layers(state, other_axes)):
        raise _UnfitError(f"it is a {NETWORK_NAMES[other_axes]}")
    raise _UnfitError("its convolutions do not follow each other")


def _sort_layers(state: State, axes: tuple[int, ...]) -> _Layers:
    """Sorts a state_dict's arrays into layers; every array must belong to one."""
    owners: dict[str, State] = {}
    for key, values in state.items():
        owner, _, part = key.rpartition(".")
        if part != "num_batches_tracked":
            owners.setdefault(owner, {})[part] = _to_float32(key, values)
    layers = _Layers([], [])
    for owner, parts in owners.items():
        if parts.keys() == set(NORM_NAMES.values()):
            layers.norms.append(_convert_norm(owner, parts))
        else:
            layers.convolutions.append(_convert_convolution(owner, parts, axes))
    count = len(layers.convolutions)
    if count < MIN_CONVOLUTIONS:
        raise _UnfitError(f"it has {count} convolutions, not {MIN_CONVOLUTIONS} or more")
    return layers


def _to_float32(key: str, values: np.ndarray) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
        raise _UnfitError(f"{key} has values that are not finite numbers")
    return values.astype(np.float32)


def _convert_norm(owner: str, parts: State) -> dict[str, np.ndarray]:
    if len({values.shape for values in parts.values()}) > 1 or parts["weight"].ndim != 1:
        raise _UnfitError(f"{owner} ({_format_shapes(parts)}) is no batch norm")
    return {name: parts[torch_name] for name, torch_name in NORM_NAMES.items()}


def _convert_convolution(owner: str, parts: State, axes: tuple[int, ...]) -> dict[str, np.ndarray]:
    weight = parts.get("weight", np.empty(0))
    if weight.shape[2:] != (4, 4) or not parts.keys() <= {"weight", "bias"}:
        raise _UnfitError(
            f"{owner} ({_format_shapes(parts)}) is neither a 4x4 convolution nor a batch norm with"
            " running statistics"
        )
    kernel = np.ascontiguousarray(weight.transpose(axes))
    bias = parts.get("bias", np.zeros(kernel.shape[3], np.float32))
    return {"kernel": kernel, "bias": bias}


def _format_shapes(parts: State) -> str:
    sizes = {name: "x".join(map(str, values.shape)) for name, values in parts.items()}
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _are_chained(layers: _Layers) -> bool:
    """Returns whether the channels of successive layers and their biases agree."""
    kernels = [layer["kernel"].shape for layer in layers.convolutions]
    biases = [layer["bias"].shape for layer in layers.convolutions]
    joined = all(a[3] == b[2] for a, b in itertools.pairwise(kernels))
    return joined and all(b == k[3:] for k, b in zip(kernels, biases, strict=True))


def _check_widths(actual: list[int], expected: tuple[int, ...]) -> None:
    if actual != list(expected):
        raise _UnfitError(f"its hidden widths are {actual}, where a DCGAN's are {list(expected)}")


def _name_layers(layers: _Layers, widths: list[int], *, first_norm: int) -> ParamsAndStats:
    """Returns parameters and statistics under their Flax names.

    Args:
        layers: All layers.
        widths: Channels of the layers that batch norm follows.
        first_norm: Index of the first of these layers.
    """
    norms = [len(norm["scale"]) for norm in layers.norms]
    if norms and norms != widths:
        raise _UnfitError(f"its batch norms have widths {norms}, not {widths} or none")
    params: Tree = {f"layer{k}": layer for k, layer in enumerate(layers.convolutions)}
    stats: Tree = {}
    for k, norm in enumerate(layers.norms, first_norm):
        params[f"norm{k}"] = {"batch": {part: norm[part] for part in ("scale", "bias")}}
        stats[f"norm{k}"] = {"batch": {part: norm[part] for part in ("mean", "var")}}
    return params, stats
