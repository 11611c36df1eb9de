"""PyTorch packages that metrics are compared with, and random weights for their network."""

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
def _declare_torchvision_operators() -> Any:
    """Declares operators that torchvision cannot load from its own library.

    Without them the CUDA wheel of torchvision does not import beside a CPU-only torch.  The
    declarations live as long as the returned object, hence the cache.
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


def import_reference(module: str) -> Any:
    """Imports a module of a reference package; skips the test where it is not installed."""
    _declare_torchvision_operators()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")


def random_inception_state(seed: int) -> dict[str, Any]:
    """Returns a random state_dict of the FID network, with non-trivial batch-norm statistics.

    Kernels preserve the scale of their input, so that no layer's output vanishes or explodes.
    """
    torch = import_reference("torch")
    shapes = import_reference("pytorch_fid.inception")._inception_v3(
        num_classes=1008, aux_logits=False, weights=None
    )
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in shapes.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith(("bn.weight", "bn.running_var")):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("bn.bias", "bn.running_mean", "fc.bias")):
            values = rng.normal(0, 0.3, shape)
        elif name.endswith("num_batches_tracked"):
            values = np.array(7)
        else:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        state[name] = torch.tensor(values, dtype=value.dtype)
    return state


def build_torch_fidelity_network(state: dict[str, Any], layers: list[str]) -> Any:
    """Builds torch-fidelity's feature extractor: uint8 NCHW images to a tuple of features."""
    module = import_reference("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        return module.FeatureExtractorInceptionV3("inception-v3-compat", layers, verbose=False)


def build_pytorch_fid_network(state: dict[str, Any]) -> Any:
    """Builds pytorch-fid's network: 299x299 images in -1..1 to four feature maps."""
    module = import_reference("pytorch_fid.inception")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: state)
        network = module.InceptionV3([0, 1, 2, 3], resize_input=False, normalize_input=False)
    return network.eval()
