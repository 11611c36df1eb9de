"""The PyTorch packages that the scores are tested against, and random weights for their network."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# torchvision's operators, as its C++ library declares them: (name, schema).
OPERATORS = (
    ("nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ("qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
)


@cache
def _torchvision_operators() -> Any:
    """Declares what torchvision cannot load from its own library, or it would not even import.

    That is so for its wheel for CUDA beside a CPU-only torch. The declarations live as long as
    the object returned, hence the cache.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    package = importlib.util.find_spec("torchvision")
    if package is None:
        pytest.skip("torchvision is not installed")
    try:
        torch.ops.load_library(next(Path(str(package.origin)).parent.glob("_C*.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name, schema in OPERATORS:
            library.define(name + schema)
        return library
    return None


def reference(module: str) -> Any:
    """A module of a reference package by its full name; skips the caller where it is missing."""
    _torchvision_operators()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def random_inception_state(seed: int) -> dict[str, Any]:
    """A state_dict of the FID network: every layer random, no batch-norm statistic trivial.

    Kernels keep the scale of what they are given, so no layer's output vanishes or explodes.
    """
    torch = reference("torch")
    shapes = reference("pytorch_fid.inception")._inception_v3(
        num_classes=1008, aux_logits=False, weights=None
    )
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in shapes.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith(("bn.weight", "bn.running_var")):
            drawn = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("bn.bias", "bn.running_mean", "fc.bias")):
            drawn = rng.normal(0, 0.3, shape)
        elif name.endswith("num_batches_tracked"):
            drawn = np.array(7)
        else:
            drawn = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        state[name] = torch.tensor(drawn, dtype=value.dtype)
    return state


def torch_fidelity_network(state: dict[str, Any], layers: list[str]) -> Any:
    """torch-fidelity's feature extractor (uint8 NCHW in, a tuple of features out) with a state."""
    module = reference("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        return module.FeatureExtractorInceptionV3("inception-v3-compat", layers, verbose=False)


def pytorch_fid_network(state: dict[str, Any]) -> Any:
    """pytorch-fid's network with a state; 299x299 images in -1..1 to its four maps."""
    module = reference("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        network = module.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False)
    return network.eval()
