"""The cost of a generator: parameters, multiply-adds and bytes, counted from its layers."""

import dataclasses

import jax
import jax.numpy as jnp
from clu import parameter_overview

from gankd_jax.models.family import Generator, family_of, is_in_family


@dataclasses.dataclass(frozen=True)
class GeneratorCost:
    """The size of one generator."""

    parameters: int  # trained numbers
    paper_parameters: int  # as the paper counts them; all of a family that it does not count
    multiply_adds: int  # of the convolutions and the projection, for one image
    bytes_float32: int  # of the trained numbers


def generator_cost(generator: Generator) -> GeneratorCost:
    """Counts a generator's cost from its shapes; nothing is computed.

    Of a function in place of a module only its own count of `parameters` is known, if that.
    """
    if not is_in_family(generator):
        count = int(getattr(generator, "parameters", 0))
        return GeneratorCost(count, count, multiply_adds=0, bytes_float32=4 * count)
    shapes = jax.eval_shape(
        lambda key: generator.init(key, jnp.zeros((2, generator.latent_dim)), train=False),
        jax.random.key(0),
    )
    family = family_of(generator)
    count_as_paper = family.count_paper_parameters
    parameters = int(parameter_overview.count_parameters(shapes["params"]))
    return GeneratorCost(
        parameters=parameters,
        paper_parameters=count_as_paper(generator) if count_as_paper else parameters,
        multiply_adds=sum(family.count_layer_macs(generator)),
        bytes_float32=4 * parameters,
    )
