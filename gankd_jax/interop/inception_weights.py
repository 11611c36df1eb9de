"""The published weights of the FID network: download on request, folding, reading by layer."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from gankd_jax.interop.torch_file import read_torch_file
from gankd_jax.models.inception import LOGIT_LAYERS, POOL_LAYERS, parameter_shapes
from gankd_jax.utils import atomic_io, paths
from gankd_jax.utils.download import download_file
from gankd_jax.utils.errors import UserError

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

# Names in the TensorFlow graph -> names in PyTorch: of the first convolutions, of the convolutions
# in each kind of block, and of the blocks.
_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_MIXED_35 = {
    "conv": "branch1x1",
    "tower_conv": "branch5x5_1",
    "tower_conv_1": "branch5x5_2",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_conv_2": "branch3x3dbl_3",
    "tower_2_conv": "branch_pool",
}
_HALVE_35 = {
    "conv": "branch3x3",
    "tower_conv": "branch3x3dbl_1",
    "tower_conv_1": "branch3x3dbl_2",
    "tower_conv_2": "branch3x3dbl_3",
}
_MIXED_17 = {
    "conv": "branch1x1",
    "tower_conv": "branch7x7_1",
    "tower_conv_1": "branch7x7_2",
    "tower_conv_2": "branch7x7_3",
    "tower_1_conv": "branch7x7dbl_1",
    "tower_1_conv_1": "branch7x7dbl_2",
    "tower_1_conv_2": "branch7x7dbl_3",
    "tower_1_conv_3": "branch7x7dbl_4",
    "tower_1_conv_4": "branch7x7dbl_5",
    "tower_2_conv": "branch_pool",
}
_HALVE_17 = {
    "tower_conv": "branch3x3_1",
    "tower_conv_1": "branch3x3_2",
    "tower_1_conv": "branch7x7x3_1",
    "tower_1_conv_1": "branch7x7x3_2",
    "tower_1_conv_2": "branch7x7x3_3",
    "tower_1_conv_3": "branch7x7x3_4",
}
_MIXED_8 = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = {
    "mixed": ("Mixed_5b", _MIXED_35),
    "mixed_1": ("Mixed_5c", _MIXED_35),
    "mixed_2": ("Mixed_5d", _MIXED_35),
    "mixed_3": ("Mixed_6a", _HALVE_35),
    "mixed_4": ("Mixed_6b", _MIXED_17),
    "mixed_5": ("Mixed_6c", _MIXED_17),
    "mixed_6": ("Mixed_6d", _MIXED_17),
    "mixed_7": ("Mixed_6e", _MIXED_17),
    "mixed_8": ("Mixed_7a", _HALVE_17),
    "mixed_9": ("Mixed_7b", _MIXED_8),
    "mixed_10": ("Mixed_7c", _MIXED_8),
}
TORCH_NAMES = _STEM | {
    f"{block}_{conv}": f"{torch_block}.{torch_conv}"
    for block, (torch_block, convs) in _BLOCKS.items()
    for conv, torch_conv in convs.items()
}

Arrays = dict[str, np.ndarray]
Params = dict[str, Arrays]  # {name: {"kernel", "bias"}}


def default_weights_path() -> Path:
    """Returns where `fetch_weights` puts the folded weights and scores look for them."""
    return paths.user_cache_dir() / "inception-2015-12-05-folded.npz"


def fetch_weights(
    source: Path | None, target: Path, *, url: str = URL, sha256: str = SHA256
) -> None:
    """Writes the folded weights to `target`.

    Args:
        source: A copy of the published `.pth`; or an `.npz` of folded arrays as this function
          writes, complete or not.  None downloads the published file.
        target: The `.npz` to write.
        url: Address of the published file.
        sha256: Hash of the published file.

    Raises:
        UserError: `target` exists; the download failed; or `source` is missing, damaged or another
          file.
    """
    if target.exists():
        raise UserError(f"{target} is already there; delete it to fetch the weights again")
    if source is not None and source.suffix == ".npz":
        arrays = _read_folded(source)
    elif source is not None:
        arrays = _fold_published(source, sha256)
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "weights.pth")
            try:
                download_file(url, copy, sha256=sha256)
            except UserError as error:
                hint = "download it by hand and give it by `gankd weights fetch --from=FILE`"
                raise UserError(f"{error}; {hint}") from error
            arrays = _fold_published(copy, sha256)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # weights hardly compress
    atomic_io.write_bytes(target, buffer.getvalue())


def load_weights(path: Path, layers: Sequence[str]) -> Params:
    """Reads the parameters of `FidInception(layers)` from a file of folded weights.

    Args:
        path: As `fetch_weights` writes it.
        layers: Of `POOL_LAYERS` and `LOGIT_LAYERS`.

    Raises:
        UserError: The file is missing, or lacks parameters of the layers, which are named.
    """
    _require_weights(path)
    arrays = _read_folded(path)
    needed = parameter_shapes(layers)
    missing = _blocks(name for name in needed if f"{name}/kernel" not in arrays)
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}, needed for {', '.join(layers)}; it serves"
            f" {', '.join(available_layers(path)) or 'no layer'}; `gankd weights fetch`"
            " downloads all of them"
        )
    return {name: {part: arrays[f"{name}/{part}"] for part in needed[name]} for name in needed}


def _require_weights(path: Path) -> None:
    if not path.exists():
        raise UserError(
            f"{path}: no Inception weights; `gankd weights fetch` downloads them"
            " (95 MB), `gankd weights fetch --from=FILE` takes a local copy"
        )


def available_layers(path: Path) -> tuple[str, ...]:
    """Returns the layers for which a file of folded weights has all parameters.

    Raises:
        UserError: The file is missing or damaged.
    """
    _require_weights(path)
    arrays = _read_folded(path)
    names = {name.removesuffix("/kernel") for name in arrays}
    return tuple(
        layer for layer in (*POOL_LAYERS, *LOGIT_LAYERS) if set(parameter_shapes([layer])) <= names
    )


def params_fingerprint(params: Params) -> str:
    """Returns a short hash of parameters, for the keys of cached features.

    Args:
        params: As `load_weights` returns them.
    """
    digest = hashlib.sha256()
    for name, parts in sorted(params.items()):
        for part, values in sorted(parts.items()):
            digest.update(f"{name}/{part}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]


def fold_torch_state(state: Mapping[str, np.ndarray]) -> Params:
    """Converts pytorch-fid's `state_dict` to parameters of `FidInception`, batch norm folded in.

    Args:
        state: The arrays of the published file, by their PyTorch names.

    Raises:
        UserError: An array is missing.
    """
    try:
        params = {name: _fold(state, torch_name) for name, torch_name in TORCH_NAMES.items()}
        params["softmax"] = {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}
    except KeyError as error:
        raise UserError(f"these are not the weights of the FID network: no {error}") from error
    return params


def _fold(state: Mapping[str, np.ndarray], name: str) -> Arrays:
    """Folds one convolution (out, in, h, w) and its batch norm to (h, w, in, out) and a bias."""
    kernel = state[f"{name}.conv.weight"].astype(np.float64)
    gamma, beta, mean, variance = (
        state[f"{name}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + 1e-3)  # epsilon of Inception v3
    return {
        "kernel": (kernel.transpose(2, 3, 1, 0) * scale).astype(np.float32),
        "bias": (beta - mean * scale).astype(np.float32),
    }


def _fold_published(path: Path, sha256: str) -> Arrays:
    """Folds the published file; any other is refused by its hash."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise UserError(
            f"{path} is not the published file: SHA-256 {digest[:8]}..., not {sha256[:8]}...;"
            " download it again"
        )
    params = fold_torch_state(read_torch_file(path))
    return {f"{name}/{part}": a for name, parts in params.items() for part, a in parts.items()}


def _read_folded(path: Path) -> Arrays:
    """Reads an .npz whose arrays all have a name and shape of this network."""
    try:
        arrays = atomic_io.read_npz(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no .npz of folded Inception weights ({error})") from error
    shapes = _all_shapes()
    wrong = [name for name, a in arrays.items() if shapes.get(name) != a.shape]
    if wrong or not arrays:
        raise UserError(
            f"{path} is no .npz of folded Inception weights: {', '.join(wrong[:3]) or 'empty'}"
        )
    return arrays


@cache
def _all_shapes() -> dict[str, tuple[int, ...]]:
    shapes = parameter_shapes(["logits"])
    return {f"{name}/{part}": shape for name in shapes for part, shape in shapes[name].items()}


def _blocks(names: Iterable[str]) -> list[str]:
    """Returns the blocks (mixed_9, softmax, ...) of parameters, in the network's order."""
    blocks = {match[0] for name in names if (match := re.match(r"mixed(_\d+)?|\w+", name))}
    return sorted(blocks, key=[*_STEM, *_BLOCKS, "softmax"].index)
