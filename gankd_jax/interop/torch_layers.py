"""Sorts the arrays of a PyTorch DCGAN into layers, by their shapes."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from gankd_jax.interop.weight_folding import find_unfolded_weight, fold_weight, split_name
from gankd_jax.models.dcgan import hidden_widths

State = dict[str, np.ndarray]  # a state_dict, or the arrays of a layer

# Permutations of a PyTorch weight to (4, 4, in, out): of ConvTranspose2d, and of Conv2d.
CONV_TRANSPOSE_AXES = (2, 3, 0, 1)
CONV_AXES = (2, 3, 1, 0)
NETWORK_NAMES = {
    CONV_TRANSPOSE_AXES: "generator (ConvTranspose2d)",
    CONV_AXES: "critic (Conv2d)",
}
# Names of batch norm's arrays in Flax -> in PyTorch.
NORM_NAMES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
IMAGE_CHANNELS = (1, 3)
CONVOLUTION_COUNTS = range(3, 7)  # of networks for 16 to 128 pixels


class UnfitError(Exception):
    """A state_dict is not that of the requested network; the text says why."""


class _Convolution(NamedTuple):
    """The arrays of a convolution, by the last parts of their names in PyTorch."""

    name: str
    parts: State  # float32
    shape: tuple[int, ...]  # of its weight in PyTorch

    def channels(self, axes: tuple[int, ...]) -> tuple[int, int]:
        """Returns the numbers of input and output channels."""
        return self.shape[axes[2]], self.shape[axes[3]]


def read_layers(state: State, axes: tuple[int, ...]) -> tuple[list[State], list[State], list[int]]:
    """Reads the layers of a DCGAN from its state_dict.

    Args:
        state: The arrays of one network by their names in PyTorch.
        axes: `CONV_TRANSPOSE_AXES` for a generator, `CONV_AXES` for a critic.

    Returns:
        The convolutions in their order and the batch norms in any order, with the names that their
        arrays have in Flax; and the channels of the hidden layers.

    Raises:
        UnfitError: The arrays are those of another network.
    """
    convolutions, norms = _sort_layers(state)
    chains = _find_chains(convolutions, axes)
    chain = next((chain for chain in chains if _widths_fit(chain, axes)), None)
    if chain is None:
        raise UnfitError(_describe_unfit_order(convolutions, chains, axes))
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
        raise UnfitError(f"it has {len(convolutions)} convolutions, not {least} to {most}")
    return convolutions, norms


def _to_float32(owner: str, arrays: State) -> State:
    """Converts a layer's arrays, which are whole numbers only where a scale belongs to them."""
    allowed = "fiu" if "scale" in arrays else "f"
    parts = {}
    for part, values in arrays.items():
        with np.errstate(over="ignore"):
            parts[part] = values.astype(np.float32)
        if values.dtype.kind not in allowed or not np.isfinite(parts[part]).all():
            raise UnfitError(f"{owner}.{part} has values that are not finite numbers")
    return parts


def _convert_norm(owner: str, parts: State) -> State:
    if len({values.shape for values in parts.values()}) > 1 or parts["weight"].ndim != 1:
        raise UnfitError(f"{owner} ({_format_shapes(parts)}) is no batch norm")
    return {name: parts[torch_name] for name, torch_name in NORM_NAMES.items()}


def _recognise_convolution(owner: str, parts: State) -> _Convolution:
    weight = find_unfolded_weight(parts)
    if weight is None or weight.shape[2:] != (4, 4):
        raise UnfitError(
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
    widths, image_size = _hidden_widths(chain, axes), compute_image_size(len(chain))
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
        raise UnfitError(f"{layer.name} ({_format_shapes(layer.parts)}): {error}") from error
    if not np.isfinite(weight).all():
        raise UnfitError(f"{layer.name} has a weight that is not finite once its norm is applied")
    kernel = np.ascontiguousarray(weight.transpose(axes))
    return {
        "kernel": kernel,
        "bias": layer.parts.get("bias", np.zeros(kernel.shape[3], np.float32)),
    }


def compute_image_size(convolutions: int) -> int:
    """Returns the pixels a side of the images of a network with so many convolutions."""
    return 4 * 2 ** (convolutions - 1)
