"""One ONNX model on one CPU thread, in a process of its own, whose memory is then the model's."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from gankd_jax.bench.clock import median_seconds

BATCH = 64
STATUS = Path("/proc/self/status")


def main() -> None:
    """Print what the model in the file `sys.argv[1]` takes, as JSON; without one, the memory."""
    found = _timed(sys.argv[1]) if len(sys.argv) > 1 else {}
    print(json.dumps(found | {"peak_mib": _peak_mib()}))


def _timed(path: str) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [taken] = session.get_inputs()
    latents = np.random.default_rng(0).normal(size=(BATCH, taken.shape[1])).astype(np.float32)
    one = median_seconds(lambda: session.run(None, {taken.name: latents[:1]}))
    many = median_seconds(lambda: session.run(None, {taken.name: latents}))
    return {"milliseconds": 1e3 * one, "images_per_second": BATCH / many}


def _peak_mib() -> float:
    """The most memory that this process has held; `getrusage` counts its parent's in."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
