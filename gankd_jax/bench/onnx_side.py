"""The ONNX Runtime side of the benchmark: it draws with our exported generator, on all cores.

It reads a generator as JSON from each line of its input and answers with seconds.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from gankd_jax.bench.cases import BATCH
from gankd_jax.export import folded, onnx_file
from gankd_jax.models.dcgan import Generator


def draw(generator: Generator) -> Callable[[], object]:
    """A batch of images, by a file such as `gankd export --format=onnx` writes."""
    blank = jnp.zeros((2, generator.latent))
    layers = folded.fold(generator, generator.init(jax.random.key(0), blank, train=False))
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    known = [name for name in providers if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(onnx_file.write(layers), providers=known)
    latents = np.random.default_rng(0).standard_normal((BATCH, generator.latent), np.float32)
    return lambda: session.run(["images"], {"latents": latents})


def main() -> None:
    """Answer each line, a generator's fields and `repeats`, by seconds."""
    made: dict[Generator, Callable[[], object]] = {}
    for line in sys.stdin:
        fields = json.loads(line)
        repeats = fields.pop("repeats")
        generator = Generator(**fields)
        if generator not in made:
            made[generator] = draw(generator)
            made[generator]()
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            made[generator]()
            seconds.append(time.perf_counter() - began)
        print(json.dumps(statistics.median(seconds)), flush=True)


if __name__ == "__main__":
    main()
