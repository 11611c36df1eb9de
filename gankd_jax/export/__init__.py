"""A trained generator as a file of its own: ONNX, StableHLO, PyTorch."""
