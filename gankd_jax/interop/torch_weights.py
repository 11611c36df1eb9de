"""Reads PyTorch DCGANs as Flax parameters, whatever the names of their layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gankd_jax.interop.torch_file import format_reason, read_torch_file
from gankd_jax.interop.weight_folding import find_unfolded_weight, fold_weight, split_name
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
IMAGE_CHANNELS = (1, 3)
CONVOLUTION_COUNTS = range(3, 7)  # of networks for 16 to 128 pixels
MAX_DEPTH = 4  # of nested dicts that are searched for state_dicts


class _UnfitError(Exception):
    """A state_dict is not that of the requested network; the text says why."""


class _Convolution(NamedTuple):
    """The arrays of a convolution, by the last parts of their names in PyTorch."""

    name: str
    parts: State  # float32
    shape: tuple[int, ...]  # of its weight in PyTorch

    def channels(self, axes: tuple[int, ...]) -> tuple[int, int]:
        """Returns the numbers of input and output channels."""
        return self.shape[axes[2]], self.shape[axes[3]]


def read_generator(path: Path, key: str | None = None) -> ParamsAndStats:
    """Reads a `DCGANGenerator` from a PyTorch file.

    The file holds a `state_dict`, alone or anywhere in the dicts of a checkpoint; it may hold the
    critic too, under other names.  Layers are recognised and put into order by their shapes, not by
    names: 4x4 ConvTranspose2d layers of 8d, 4d, 2d, d and image channels at 64 pixels, one layer
    less or more for each halving or doubling of the size.  A missing bias becomes zero.  Every
    layer but the last has a BatchNorm2d, or none has.  Spectral norm, weight norm and the scales of
    an int8 file are folded into the weights.

    A file does not say what lies between the layers.  The common DCGAN is assumed: stride 1 in the
    first layer, then stride 2 with padding 1; batch norm with epsilon 1e-5; ReLU; tanh at the end.

    Args:
        path: The file, of `torch.save` or safetensors.
        key: Name of the generator in a file that holds several, such as `g_ema`; any dotted part of
          the names that lead to it.

    Returns:
        Parameters and batch-norm statistics, which are empty without batch norm.

    Raises:
        UserError: The file cannot be read, or holds no such generator, or several.
    """
    networks = _read_networks(path, "generator", _convert_generator)
    names = ", ".join(networks)
    selected = [name for name in networks if f".{key}." in f".{name}."] if key else [*networks]
    if len(selected) > 1:
        hint = f"name one, such as --key={selected[-1]}"
        raise UserError(f"{path} holds several generators ({', '.join(selected)}); {hint}")
    if not selected:
        content = f"it holds {names}" if names else "it holds one without a name; leave out --key"
        raise UserError(f"{path} holds no generator of --key={key}; {content}")
    return networks[selected[0]]


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
    networks = _read_networks(path, "critic", _convert_critic)
    if len(networks) > 1:
        names = ", ".join(networks)
        raise UserError(f"{path} holds several critics ({names}); save one by itself")
    return next(iter(networks.values()))


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


def _read_networks(path: Path, network: str, convert: Converter) -> dict[str, ParamsAndStats]:
    """Reads the networks in a file that `convert` accepts, by their names; at least one."""
    networks: dict[str, ParamsAndStats] = {}
    reasons: list[str] = []
    for name, state in _find_state_dicts(read_torch_file(path)).items():
        converted, unfit = _convert_state(state, name, convert)
        networks |= converted
        reasons += unfit
    if reasons and not networks:
        reason = format_reason("; ".join(reasons))
        raise UserError(f"{path} holds no DCGAN {network}: {reason}")
    if not networks:
        hint = f"`torch.save({network}.state_dict(), FILE)` writes one"
        raise UserError(f"{path} holds no state_dict; {hint}")
    return {format_reason(name): trees for name, trees in networks.items()}


def _find_state_dicts(content: Any, *keys: str) -> dict[str, State]:
    """Returns the state_dicts with convolutions in nested dicts, by the keys that lead to them."""
    if not isinstance(content, Mapping) or len(keys) > MAX_DEPTH:
        return {}
    arrays = {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    states = {".".join(keys): _unwrap_names(arrays)} if _count_convolutions(arrays) else {}
    for key, value in content.items():
        states |= _find_state_dicts(value, *keys, str(key))
    return states


def _unwrap_names(state: State) -> State:
    """Removes `WRAPPERS` from the names, unless two arrays would then have one name."""
    names = [".".join(p for p in name.split(".") if p not in WRAPPERS) for name in state]
    return dict(zip(names, state.values(), strict=True)) if len({*names}) == len(names) else state


def _count_convolutions(state: State) -> int:
    """Counts the layers with weights of 4 axes; the moments of an optimizer have other names."""
    names = (split_name(name) for name, values in state.items() if values.ndim == 4)
    return len({owner for owner, part in names if part.startswith(("weight", "kernel"))})


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
        if _count_convolutions(part) >= CONVOLUTION_COUNTS[0]
    }


def _convert_generator(state: State) -> ParamsAndStats:
    convolutions, norms, hidden = _read_layers(state, CONV_TRANSPOSE_AXES)
    return _name_layers(convolutions, norms, hidden, first_norm=0)


def _convert_critic(state: State) -> ParamsAndStats:
    convolutions, norms, hidden = _read_layers(state, CONV_AXES)
    outputs = convolutions[-1]["kernel"].shape[3]
    if outputs != 1:
        raise _UnfitError(f"it returns {outputs} numbers for an image, not one score")
    return _name_layers(convolutions, norms, hidden[1:], first_norm=1)


def _read_layers(state: State, axes: tuple[int, ...]) -> tuple[list[State], list[State], list[int]]:
    """Returns the convolutions in their order, the batch norms, and the hidden channels."""
    convolutions, norms = _sort_layers(state)
    chains = _find_chains(convolutions, axes)
    chain = next((chain for chain in chains if _widths_fit(chain, axes)), None)
    if chain is None:
        raise _UnfitError(_describe_unfit_order(convolutions, chains, axes))
    converted = [_convert_convolution(layer, axes) for layer in chain]
    return converted, norms, _hidden_widths(chain, axes)


def _sort_layers(state: State) -> tuple[list[_Convolution], list[State]]:
    """Sorts a state_dict's arrays into convolutions and norms; every array must belong to one."""
    layers: dict[str, State] = {}
    for name, values in state.items():
        owner, part = split_name(name)
        if values.ndim or values.dtype.kind not in "biu":  # not a counter: num_batches_tracked
            layers.setdefault(owner, {})[part] = values
    convolutions, norms = [], []
    for owner, arrays in layers.items():
        parts = _to_float32(owner, arrays)
        if parts.keys() == set(NORM_NAMES.values()):
            norms.append(_convert_norm(owner, parts))
        else:
            convolutions.append(_recognise_convolution(owner, parts))
    if len(convolutions) not in CONVOLUTION_COUNTS:
        least, most = CONVOLUTION_COUNTS[0], CONVOLUTION_COUNTS[-1]
        raise _UnfitError(f"it has {len(convolutions)} convolutions, not {least} to {most}")
    return convolutions, norms


def _to_float32(owner: str, arrays: State) -> State:
    """Converts a layer's arrays, which are whole numbers only where a scale belongs to them."""
    allowed = "fiu" if "scale" in arrays else "f"
    parts = {}
    for part, values in arrays.items():
        with np.errstate(over="ignore"):
            parts[part] = values.astype(np.float32)
        if values.dtype.kind not in allowed or not np.isfinite(parts[part]).all():
            raise _UnfitError(f"{owner}.{part} has values that are not finite numbers")
    return parts


def _convert_norm(owner: str, parts: State) -> State:
    if len({values.shape for values in parts.values()}) > 1 or parts["weight"].ndim != 1:
        raise _UnfitError(f"{owner} ({_format_shapes(parts)}) is no batch norm")
    return {name: parts[torch_name] for name, torch_name in NORM_NAMES.items()}


def _recognise_convolution(owner: str, parts: State) -> _Convolution:
    weight = find_unfolded_weight(parts)
    if weight is None or weight.shape[2:] != (4, 4):
        raise _UnfitError(
            f"{owner} ({_format_shapes(parts)}) is neither a 4x4 convolution nor a batch norm with"
            " running statistics"
        )
    return _Convolution(owner, parts, weight.shape)


def _format_shapes(parts: State) -> str:
    sizes = {name: "x".join(map(str, values.shape)) for name, values in parts.items()}
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _find_chains(
    convolutions: list[_Convolution], axes: tuple[int, ...]
) -> list[list[_Convolution]]:
    """Returns the orders in which each layer reads the channels of the one before.

    The order of a file comes first, but it may say nothing: safetensors sorts names as text, with
    `main.10` before `main.3`.  Another order must end as the network does, since a critic looks
    like a generator from behind.
    """
    if not all(_has_fitting_bias(layer, axes) for layer in convolutions):
        return []
    chains = []
    for chain in map(list, itertools.permutations(convolutions)):
        channels = [layer.channels(axes) for layer in chain]
        is_joined = all(a[1] == b[0] for a, b in itertools.pairwise(channels))
        if is_joined and (chain == convolutions or _has_usual_ends(channels, axes)):
            chains.append(chain)
    return chains


def _has_usual_ends(channels: list[tuple[int, int]], axes: tuple[int, ...]) -> bool:
    inputs, outputs = channels[0][0], channels[-1][1]
    if axes == CONV_TRANSPOSE_AXES:
        return inputs > 1 and outputs in IMAGE_CHANNELS
    return inputs in IMAGE_CHANNELS and outputs == 1


def _hidden_widths(chain: list[_Convolution], axes: tuple[int, ...]) -> list[int]:
    return [layer.channels(axes)[1] for layer in chain[:-1]]


def _expected_widths(chain: list[_Convolution], axes: tuple[int, ...]) -> list[int]:
    """Returns the widths of a DCGAN: they halve in a generator and double in a critic."""
    widths, image_size = _hidden_widths(chain, axes), _image_size(len(chain))
    if axes == CONV_TRANSPOSE_AXES:
        return [*hidden_widths(widths[-1], image_size)]
    return [*reversed(hidden_widths(widths[0], image_size))]


def _widths_fit(chain: list[_Convolution], axes: tuple[int, ...]) -> bool:
    return _hidden_widths(chain, axes) == _expected_widths(chain, axes)


def _describe_unfit_order(
    convolutions: list[_Convolution], chains: list[list[_Convolution]], axes: tuple[int, ...]
) -> str:
    """Returns why no order of the convolutions is the requested network."""
    other_axes = CONV_AXES if axes == CONV_TRANSPOSE_AXES else CONV_TRANSPOSE_AXES
    if any(_widths_fit(chain, other_axes) for chain in _find_chains(convolutions, other_axes)):
        return f"it is a {NETWORK_NAMES[other_axes]}"
    if not chains:
        return "its convolutions do not follow each other"
    widths, expected = _hidden_widths(chains[0], axes), _expected_widths(chains[0], axes)
    return f"its hidden widths are {widths}, where a DCGAN's are {expected}"


def _has_fitting_bias(layer: _Convolution, axes: tuple[int, ...]) -> bool:
    outputs = layer.channels(axes)[1]
    return layer.parts.get("bias", np.empty(outputs)).shape == (outputs,)


def _convert_convolution(layer: _Convolution, axes: tuple[int, ...]) -> State:
    try:
        with np.errstate(all="ignore"):
            weight = fold_weight(layer.parts, output_axis=axes[3])
    except ValueError as error:
        raise _UnfitError(f"{layer.name} ({_format_shapes(layer.parts)}): {error}") from error
    if not np.isfinite(weight).all():
        raise _UnfitError(f"{layer.name} has a weight that is not finite once its norm is applied")
    kernel = np.ascontiguousarray(weight.transpose(axes))
    return {
        "kernel": kernel,
        "bias": layer.parts.get("bias", np.zeros(kernel.shape[3], np.float32)),
    }


def _name_layers(
    kernels: list[State], norms: list[State], widths: list[int], *, first_norm: int
) -> ParamsAndStats:
    """Returns parameters and statistics under their Flax names.

    Args:
        kernels: All convolutions, in their order.
        norms: All batch norms, in any order.
        widths: Channels of the layers that batch norm follows, each another number.
        first_norm: Index of the first of these layers.
    """
    by_width = {len(norm["scale"]): norm for norm in norms}
    if norms and (len(norms) != len(widths) or by_width.keys() != set(widths)):
        actual = [len(norm["scale"]) for norm in norms]
        raise _UnfitError(f"its batch norms have widths {actual}, not {widths} or none")
    params: Tree = {f"layer{k}": layer for k, layer in enumerate(kernels)}
    stats: Tree = {}
    for k, width in enumerate(widths if norms else [], first_norm):
        norm = by_width[width]
        params[f"norm{k}"] = {"batch": {part: norm[part] for part in ("scale", "bias")}}
        stats[f"norm{k}"] = {"batch": {part: norm[part] for part in ("mean", "var")}}
    return params, stats
