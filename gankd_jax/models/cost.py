"""What a generator costs: parameters, multiply-adds and bytes, counted from its layers."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from clu import parameter_overview

from gankd_jax.models.dcgan import hidden_widths
from gankd_jax.models.family import Generator


@dataclasses.dataclass(frozen=True)
class GeneratorCost:
    """The size of one generator."""

    parameters: int  # all trained numbers
    paper_parameters: int  # by the paper's rule
    multiply_adds: int  # for one image, of the convolutions and the projection
    bytes_float32: int  # of the trained numbers


def generator_cost(generator: Generator) -> GeneratorCost:
    """Count a generator's cost from its shapes; nothing is computed."""
    shapes = jax.eval_shape(
        lambda key: generator.init(key, jnp.zeros((2, generator.latent_dim)), train=False),
        jax.random.key(0),
    )
    parameters = int(parameter_overview.count_parameters(shapes["params"]))
    return GeneratorCost(
        parameters=parameters,
        paper_parameters=count_paper_parameters(
            generator.width, generator.image_size, generator.latent_dim
        ),
        multiply_adds=_multiply_adds(generator),
        bytes_float32=4 * parameters,
    )


def count_paper_parameters(width: int, image_size: int = 64, latent: int = 100) -> int:
    """The paper's count: kernels and their biases for one output channel, batch norm left out.

    At 64 pixels it is 672 d^2 + 12831 d + 1, which gives every row of the paper's table.
    """
    hidden = (*hidden_widths(width, image_size), 1)
    layers = zip((latent, *hidden[:-1]), hidden, strict=True)
    return sum(16 * i * o + o for i, o in layers)


def _multiply_adds(generator: Generator) -> int:
    hidden = (*hidden_widths(generator.width, generator.image_size), generator.channels)
    project = 16 * generator.latent_dim * hidden[0]
    # A 4x4 kernel at stride 2 touches every input pixel with all 16 of its taps.
    ups = (16 * i * o * (4 * 2**k) ** 2 for k, (i, o) in enumerate(itertools.pairwise(hidden)))
    return project + sum(ups)
