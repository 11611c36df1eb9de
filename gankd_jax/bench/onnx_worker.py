"""Times ONNX Runtime in a process of its own: a generator on all cores, or an exported file on one.

JAX is imported only where a generator is built from its settings: the peak memory of an exported
file is then that of Python, ONNX Runtime and the model.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from gankd_jax.bench.worker import PROCESS_STATUS, WorkerCase, median_seconds, serve_cases
from gankd_jax.interop.onnx_runtime import CUDA, LATENT_TYPES, available_providers

BATCH_SIZE = 64  # of a file's images a second


def build_sampling(images: int, *, backend: str, **generator_fields: Any) -> Callable[[], object]:
    """Builds a call that generates one batch with a file such as `gankd export` writes.

    Args:
        images: In the batch.
        backend: Of the JAX that it is compared with; ends the process where it is 'gpu' and ONNX
          Runtime has none.
        **generator_fields: Of a `DCGANGenerator`; its weights are random.
    """
    import jax
    import jax.numpy as jnp

    from gankd_jax.export import onnx
    from gankd_jax.models import folding
    from gankd_jax.models.dcgan import DCGANGenerator
    from gankd_jax.models.sampling import TrainedGenerator

    generator = DCGANGenerator(**generator_fields)
    blank = jnp.zeros((2, generator.latent_dim))
    variables = generator.init(jax.random.key(0), blank, train=False)
    layers = folding.fold_generator(TrainedGenerator(generator, variables))
    session = onnxruntime.InferenceSession(onnx.write_onnx(layers), providers=available_providers())
    if backend == "gpu" and session.get_providers()[0] != CUDA:
        sys.exit("ONNX Runtime finds no GPU here: install onnxruntime-gpu and its CUDA libraries")
    shape = (images, generator.latent_dim)
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    return lambda: session.run(["images"], {"latents": latents})


def measure_file(path: str, latent_dim: int) -> dict[str, float]:
    """Times an ONNX generator on one CPU thread.

    Args:
        path: Of the file; '' for none, which measures what this process holds without a model.
        latent_dim: Numbers in a latent.

    Returns:
        'peak_mib' and, of a file, 'milliseconds' for one image and 'images_per_second' in batches.
    """
    timings = _time_file(path, latent_dim) if path else {}
    return timings | {"peak_mib": _peak_mib()}


def _time_file(path: str, latent_dim: int) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [latent_input] = session.get_inputs()
    count, *_ = latent_input.shape
    # A model that was exported for one size of batch draws so many images at a time.
    least, most = (count, count) if isinstance(count, int) else (1, BATCH_SIZE)
    shape = (most, latent_dim, *latent_input.shape[2:])
    dtype = LATENT_TYPES[latent_input.type]
    latents = np.random.default_rng(0).normal(size=shape).astype(dtype)
    single = median_seconds(lambda: session.run(None, {latent_input.name: latents[:least]}))
    batch = median_seconds(lambda: session.run(None, {latent_input.name: latents}))
    return {"milliseconds": 1e3 * single, "images_per_second": most / batch}


def _peak_mib() -> float:
    """The most memory that this process has held.

    `getrusage` would also count what the parent process held when this one was forked.
    """
    lines = PROCESS_STATUS.read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) / 1024


def _build_measurement(case: WorkerCase) -> Callable[[], Any]:
    if "file" in case:
        return partial(measure_file, case["file"], case["latent_dim"])
    # Files are in float32, and a call is one step.
    fields = {name: value for name, value in case.items() if name not in ("precision", "steps")}
    return partial(median_seconds, build_sampling(**fields))


if __name__ == "__main__":
    serve_cases(_build_measurement)
