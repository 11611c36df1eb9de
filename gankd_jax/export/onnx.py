"""ONNX: a model from latents `[n, z]` to images `[n, c, s, s]` in -1..1, for any n.

Weights stored in float16 or int8 are cast when the model is loaded.  It computes in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gankd_jax.export.formats import ExportFormat, register_format
from gankd_jax.models.family import FoldedLayer

if TYPE_CHECKING:
    import onnx

OPSET = 17  # no operator here needs a newer one; older runtimes read it
IR_VERSION = 8  # of the time of the operator set, so that older runtimes read it


def write_onnx(layers: list[FoldedLayer]) -> bytes:
    """Builds an ONNX model.

    Args:
        layers: A generator's layers, first to last: one that projects latents to 4x4 pixels, then
          transposed convolutions.  ReLU follows each layer, tanh the last.

    Returns:
        The serialised model, with input `latents` and output `images`.
    """
    import onnx
    from onnx import TensorProto, helper

    latent_dim, channels = layers[0].kernel.shape[2], layers[-1].kernel.shape[3]
    side = 4 * 2 ** (len(layers) - 1)
    shape = np.array([0, latent_dim, 1, 1], np.int64)  # 0: the size of the batch
    initializers = [onnx.numpy_helper.from_array(shape, "shape")]
    nodes = [helper.make_node("Reshape", ["latents", "shape"], ["pixels"])]
    value = "pixels"
    for k, layer in enumerate(layers):
        weights, operations, value = _make_layer(k, layer, value, last=k == len(layers) - 1)
        initializers, nodes = initializers + weights, nodes + operations
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["n", latent_dim])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, side, side])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="gankd-jax"
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _make_layer(
    k: int, layer: FoldedLayer, value: str, *, last: bool
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto], str]:
    """Returns the weights and nodes of a layer, and the name of its output."""
    from onnx import helper, numpy_helper

    kernel = np.ascontiguousarray(layer.kernel.transpose(2, 3, 0, 1))  # i o 4 4
    initializers = [
        numpy_helper.from_array(kernel, f"kernel{k}"),
        numpy_helper.from_array(layer.bias, f"bias{k}"),
    ]
    nodes, weights = [], f"kernel{k}"
    if kernel.dtype != np.float32:
        weights = f"weights{k}"
        nodes.append(helper.make_node("Cast", [f"kernel{k}"], [weights], to=1))  # 1: float32
    if layer.has_scale:
        # Not DequantizeLinear: onnxruntime computes that again for every image.
        initializers.append(numpy_helper.from_array(layer.scale[:, None, None], f"scale{k}"))
        nodes.append(helper.make_node("Mul", [weights, f"scale{k}"], [f"scaled{k}"]))
        weights = f"scaled{k}"
    options: Any = {"strides": [1, 1]} if k == 0 else {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    sums, output = f"sums{k}", "images" if last else f"pixels{k}"
    nodes.append(helper.make_node("ConvTranspose", [value, weights, f"bias{k}"], [sums], **options))
    nodes.append(helper.make_node("Tanh" if last else "Relu", [sums], [output]))
    return initializers, nodes, output


def run_onnx(model: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """Runs a model with onnxruntime on the CPU.

    Args:
        model: The bytes that `write_onnx` returned.
        latents: Standard normal numbers; any count.

    Returns:
        Images in -1..1, with channels last.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], {"latents": latents})
    return images.transpose(0, 2, 3, 1)


register_format(
    ExportFormat(
        name="onnx",
        suffixes=(".onnx",),
        write=lambda _, layers: write_onnx(layers),
        run=run_onnx,
        packages=("onnx", "onnxruntime"),
        extra="export",
        sequential_only=True,
    )
)
