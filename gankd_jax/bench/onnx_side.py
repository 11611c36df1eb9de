"""The ONNX Runtime side of the benchmark: it draws with our exported generator, on all cores.

It reads a generator as JSON from each line of its input and answers with seconds.
"""

import json
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from gankd_jax.bench.cases import BATCH
from gankd_jax.bench.clock import median_seconds
from gankd_jax.export import onnx
from gankd_jax.models import folding
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import Generator
from gankd_jax.models.sampling import TrainedGenerator


def draw(generator: Generator) -> Callable[[], object]:
    """A batch of images, by a file such as `gankd export --format=onnx` writes."""
    blank = jnp.zeros((2, generator.latent_dim))
    variables = generator.init(jax.random.key(0), blank, train=False)
    layers = folding.fold_generator(TrainedGenerator(generator, variables))
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    known = [name for name in providers if name in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(onnx.write_onnx(layers), providers=known)
    latents = np.random.default_rng(0).standard_normal((BATCH, generator.latent_dim), np.float32)
    return lambda: session.run(["images"], {"latents": latents})


def main() -> None:
    """Answer each line, a generator's fields, by seconds."""
    made: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        if line not in made:
            made[line] = draw(DCGANGenerator(**json.loads(line)))
        print(json.dumps(median_seconds(made[line])), flush=True)


if __name__ == "__main__":
    main()
