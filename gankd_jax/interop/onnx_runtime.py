"""What ONNX Runtime takes and where it runs, for all that use it.

ONNX Runtime is imported where it is called, and JAX nowhere: a process that measures the memory of
a model imports this module.
"""

import numpy as np

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
LATENT_TYPES = {  # of an ONNX model's input
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


def available_providers() -> list[str]:
    """Returns where ONNX Runtime can run a model here, the fastest first."""
    import onnxruntime

    return [name for name in (CUDA, CPU) if name in onnxruntime.get_available_providers()]
