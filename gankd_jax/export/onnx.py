"""A generator as an ONNX model: latents `[n, z]` to images `[n, c, s, s]` in -1..1, any n.

Weights that are stored in float16 or int8 are cast when the model is loaded; it computes in
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gankd_jax.models.family import FoldedLayer

if TYPE_CHECKING:
    import onnx

OPSET = 17


def write_onnx(layers: list[FoldedLayer]) -> bytes:
    """The model's bytes."""
    import onnx
    from onnx import TensorProto, helper

    latent, channels = layers[0].kernel.shape[2], layers[-1].kernel.shape[3]
    side = 4 * 2 ** (len(layers) - 1)
    corner = np.array([0, latent, 1, 1], np.int64)  # 0: as many as come in
    initial = [onnx.numpy_helper.from_array(corner, "corner")]
    nodes = [helper.make_node("Reshape", ["latents", "corner"], ["pixels"])]
    value = "pixels"
    for k, layer in enumerate(layers):
        added, made, value = _layer(k, layer, value, last=k == len(layers) - 1)
        initial, nodes = initial + added, nodes + made
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ["n", latent])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", channels, side, side])],
        initial,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="gankd-jax"
    )
    model.ir_version = 8  # of the operator set's time, so that older runtimes read it
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _layer(
    k: int, layer: FoldedLayer, value: str, *, last: bool
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto], str]:
    """The weights and nodes of one layer, and the name of what it gives."""
    from onnx import helper, numpy_helper

    kernel = np.ascontiguousarray(layer.kernel.transpose(2, 3, 0, 1))  # i o 4 4
    initial = [
        numpy_helper.from_array(kernel, f"kernel{k}"),
        numpy_helper.from_array(layer.bias, f"bias{k}"),
    ]
    nodes, weights = [], f"kernel{k}"
    if kernel.dtype != np.float32:
        weights = f"weights{k}"
        nodes.append(helper.make_node("Cast", [f"kernel{k}"], [weights], to=1))  # 1: float32
    if kernel.dtype == np.int8:
        # Not DequantizeLinear, which onnxruntime does again for every image.
        initial.append(numpy_helper.from_array(layer.scale[:, None, None], f"scale{k}"))
        nodes.append(helper.make_node("Mul", [weights, f"scale{k}"], [f"scaled{k}"]))
        weights = f"scaled{k}"
    shape: Any = {"strides": [1, 1]} if k == 0 else {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    sums, result = f"sums{k}", "images" if last else f"pixels{k}"
    nodes.append(helper.make_node("ConvTranspose", [value, weights, f"bias{k}"], [sums], **shape))
    nodes.append(helper.make_node("Tanh" if last else "Relu", [sums], [result]))
    return initial, nodes, result


def run_onnx(model: bytes, latents: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n s s c"]:
    """The images that onnxruntime draws on the CPU, channels last."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], {"latents": latents})
    return images.transpose(0, 2, 3, 1)
