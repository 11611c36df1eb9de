"""Reads PyTorch DCGANs as Flax parameters, whatever the names of their layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gankd_jax.interop.torch_file import format_reason, read_torch_file
from gankd_jax.interop.torch_layers import (
    CONV_AXES,
    CONV_TRANSPOSE_AXES,
    CONVOLUTION_COUNTS,
    State,
    UnfitError,
    compute_image_size,
    read_layers,
)
from gankd_jax.interop.weight_folding import split_name
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.utils.errors import UserError

Tree = dict[str, Any]  # nested dicts of float32 arrays
ParamsAndStats = tuple[Tree, Tree]  # parameters, and batch norm's statistics ({} without it)
Converter = Callable[[State], ParamsAndStats]

WRAPPERS = ("module", "_orig_mod")  # parts of names that DataParallel and torch.compile insert
MAX_DEPTH = 4  # of nested dicts that are searched for state_dicts


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
    selected = [name for name in networks if f".{key}." in f".{name}."] if key else [*networks]
    if len(selected) > 1:
        hint = (
            f"name one, such as --key={selected[-1]} (`gankd distill {path.name}:{selected[-1]}`)"
        )
        raise UserError(f"{path} holds several generators ({', '.join(selected)}); {hint}")
    if not selected:
        names = ", ".join(networks)
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
        image_size=compute_image_size(len(shapes)),
        channels=last[3],
        latent_dim=first[2],
        norm="batch" if "norm0" in params else "none",
    )


def infer_critic(params: Tree) -> DCGANCritic:
    """Returns the module that a critic's parameters belong to."""
    first, *rest = _kernel_shapes(params)
    return DCGANCritic(
        width=first[3],
        image_size=compute_image_size(1 + len(rest)),
        channels=first[2],
        norm="batch" if "norm1" in params else "none",
    )


def _kernel_shapes(params: Tree) -> list[tuple[int, ...]]:
    count = sum(name.startswith("layer") for name in params)
    return [params[f"layer{k}"]["kernel"].shape for k in range(count)]


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
    except UnfitError as error:
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
    convolutions, norms, hidden = read_layers(state, CONV_TRANSPOSE_AXES)
    return _name_layers(convolutions, norms, hidden, first_norm=0)


def _convert_critic(state: State) -> ParamsAndStats:
    convolutions, norms, hidden = read_layers(state, CONV_AXES)
    outputs = convolutions[-1]["kernel"].shape[3]
    if outputs != 1:
        raise UnfitError(f"it returns {outputs} numbers for an image, not one score")
    return _name_layers(convolutions, norms, hidden[1:], first_norm=1)


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
        raise UnfitError(f"its batch norms have widths {actual}, not {widths} or none")
    params: Tree = {f"layer{k}": layer for k, layer in enumerate(kernels)}
    stats: Tree = {}
    for k, width in enumerate(widths if norms else [], first_norm):
        norm = by_width[width]
        params[f"norm{k}"] = {"batch": {part: norm[part] for part in ("scale", "bias")}}
        stats[f"norm{k}"] = {"batch": {part: norm[part] for part in ("mean", "var")}}
    return params, stats
