"""Folds spectral norm, weight norm and the scales of int8 files into the weights."""

from __future__ import annotations

import numpy as np

Parts = dict[str, np.ndarray]  # the arrays of one layer, by the last part of their names

# Ends of names under torch.nn.utils.parametrizations -> under the hooks of torch.nn.utils.
_PARAMETRIZATIONS = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}
# The part with the weight's shape, for each set of parts.
_UNFOLDED = {
    frozenset({"weight"}): "weight",
    frozenset({"weight", "scale"}): "weight",
    frozenset({"kernel"}): "kernel",
    frozenset({"kernel", "scale"}): "kernel",
    frozenset({"weight_orig", "weight_u", "weight_v"}): "weight_orig",
    frozenset({"weight_g", "weight_v"}): "weight_v",
}


def split_name(name: str) -> tuple[str, str]:
    """Splits a name of a state_dict into its layer's and that of a part, such as `weight_v`."""
    for ending, part in _PARAMETRIZATIONS.items():
        if name.endswith(f".{ending}"):
            return name.removesuffix(f".{ending}"), part
    owner, _, part = name.rpartition(".")
    return owner, part


def find_unfolded_weight(parts: Parts) -> np.ndarray | None:
    """Returns the array that has the shape of a layer's weight in PyTorch.

    Args:
        parts: The arrays of a layer: `weight`; `weight` or `kernel` with the `scale` of a file that
            `gankd export` wrote; or those of spectral norm or weight norm.

    Returns:
        None if the parts are not such a set.
    """
    name = _UNFOLDED.get(frozenset(parts.keys() - {"bias"}))
    if name is None or parts[name].ndim != 4:
        return None
    return parts[name].transpose(2, 3, 0, 1) if name == "kernel" else parts[name]


def fold_weight(parts: Parts, output_axis: int) -> np.ndarray:
    """Computes the weight of a layer as PyTorch does when the network is not trained.

    Args:
        parts: As `find_unfolded_weight` accepts them.
        output_axis: Axis of the weight that counts output channels; spectral norm depends on it.

    Returns:
        The weight in float32.

    Raises:
        ValueError: The shapes of the parts do not fit.
    """
    weight = find_unfolded_weight(parts)
    assert weight is not None
    wide = weight.astype(np.float64)
    if "weight_orig" in parts:
        wide /= _spectral_norm(wide, parts["weight_u"], parts["weight_v"], axis=output_axis)
    elif "weight_g" in parts:
        wide *= parts["weight_g"] / _weight_norm(wide, parts["weight_g"])
    elif "scale" in parts:
        wide *= parts["scale"].reshape(1, -1, 1, 1)
    return wide.astype(np.float32)


def _spectral_norm(weight: np.ndarray, u: np.ndarray, v: np.ndarray, *, axis: int) -> float:
    """Returns the norm that PyTorch estimates from the vectors of its power iteration."""
    matrix = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    return float(u @ matrix @ v)


def _weight_norm(weight: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Returns the norms over the axes along which `g` has one value, which may be all."""
    if g.ndim not in (0, weight.ndim):
        raise ValueError("g has another number of axes than v")
    axes = [axis for axis in range(weight.ndim) if not g.ndim or g.shape[axis] == 1]
    return np.sqrt((weight**2).sum(axis=tuple(axes), keepdims=True))
