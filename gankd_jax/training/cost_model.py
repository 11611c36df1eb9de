"""The cost of training by the networks' shapes: operations, bytes of state and gradients.

Operations are counted as the layers are defined, for one image: two for each multiply-add of the
4x4 layers and the projection.  Norms, activations and Adam are left out.  A layer's two gradients
cost what the layer costs each; the first layer's input needs none.  Faster algorithms (Winograd's)
need fewer operations.
"""

import functools
from typing import Any

import jax
import numpy as np

from gankd_jax.models.cost import generator_cost
from gankd_jax.models.family import Critic, Generator, PyTree, family_of
from gankd_jax.training.multi_run import RunSpecs, data_seeds
from gankd_jax.training.train_state import StepSpec, TrainState, create_train_state
from gankd_jax.training.train_step import hidden_layers

# Batches of images at which a loss penalises the critic's slope.
PENALISED_BATCHES = {"wgan_gp": 1, "rpgan": 2}


def generator_flops(generator: Generator) -> int:
    """Operations to generate one image."""
    module: Any = generator  # a Flax module, which can be hashed
    return _trace_flops(module)


@functools.cache
def _trace_flops(generator: Any) -> int:
    return 2 * generator_cost(generator).multiply_adds


def student_step_flops(generator: Generator) -> int:
    """Operations of a generator's step on a distance, per image, without the teacher's image."""
    return generator_flops(generator) + _generator_backward_flops(generator)


def adversarial_step_flops(
    generator: Generator, critic: Critic, critic_steps: int, *, loss: str
) -> int:
    """Counts the operations of critic steps and one generator step, per image of a batch.

    Args:
        generator: Makes a fake image in every critic step and in the generator's step.
        critic: Scores real and fake images.
        critic_steps: Critic updates; 0 for a critic that is not trained.
        loss: A recipe's loss.  A penalty that a config file registers is left out.

    Returns:
        Operations.
    """
    score = _critic_flops(critic)
    train_critic = generator_flops(generator) + 2 * (3 * score - _first_layer_flops(critic))
    # The score, its gradient in the image, and twice that for the gradient's own gradient.
    train_critic += 4 * score * PENALISED_BATCHES.get(loss, 0)
    scores = 3 if loss == "rpgan" else 2  # of the fakes, forward and backward; of real images
    train_generator = student_step_flops(generator) + scores * score
    return critic_steps * train_critic + train_generator


def group_step_flops(specs: RunSpecs, teacher: Generator | None) -> int:
    """Counts the operations of one step of every run of a group, for whole batches.

    Args:
        specs: The runs that are compiled together.
        teacher: Whose images the runs imitate; it runs once for each data seed.  None without one.

    Returns:
        Operations.
    """
    step_specs = [spec.spec for spec in specs.values()]
    batch_size, seeds = step_specs[0].recipe.batch_size, len(data_seeds(specs))
    teacher_image = generator_flops(teacher) * seeds if teacher else 0
    # A network's features of the teacher's images serve all students that are compared in it.
    flops_by_network: dict[str, int] = {}
    for spec in step_specs:
        name = spec.recipe.feature_network
        flops_by_network[name] = max(flops_by_network.get(name, 0), _feature_flops(spec))
    teacher_features = sum(flops_by_network.values()) * seeds
    # A student's features also have a backward pass, down to its images.
    student_features = sum(2 * _feature_flops(spec) for spec in step_specs)
    steps = sum(map(_step_flops, step_specs))
    return batch_size * (teacher_image + steps) + teacher_features + student_features


def _feature_flops(spec: StepSpec) -> int:
    """Operations of the hidden layers for all images of a step that are compared in them."""
    network = spec.feature_network
    if network is None:
        return 0
    if isinstance(network, Critic):
        return spec.recipe.feature_batch * 2 * sum(_count_layer_macs(network)[:-1])
    return spec.recipe.feature_batch * _count_features_by_xla(spec)


@functools.cache
def _count_features_by_xla(spec: StepSpec) -> int:
    """Counts the operations of an evaluation network's hidden layers, for one image."""
    network, size = spec.feature_network, spec.generator.image_size
    assert network is not None
    image = jax.ShapeDtypeStruct((1, size, size, spec.generator.channels), np.float32)
    init = functools.partial(network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), image)
    cost = (
        jax.jit(functools.partial(hidden_layers, network)).lower(variables, image).cost_analysis()
    )
    assert cost is not None
    return int(cost["flops"])


def _step_flops(spec: StepSpec) -> int:
    if spec.critic is None:
        return student_step_flops(spec.generator)
    recipe = spec.recipe
    critic_steps = recipe.critic_steps if recipe.train_critic else 0
    return adversarial_step_flops(spec.generator, spec.critic, critic_steps, loss=recipe.loss)


def _generator_backward_flops(generator: Generator) -> int:
    return 2 * generator_flops(generator) - 2 * _count_layer_macs(generator)[0]


def _first_layer_flops(critic: Critic) -> int:
    return 2 * _count_layer_macs(critic)[0]


def _critic_flops(critic: Critic) -> int:
    """Operations to score one image."""
    return 2 * sum(_count_layer_macs(critic))


def _count_layer_macs(network: Generator | Critic) -> list[int]:
    return family_of(network).count_layer_macs(network)


def state_bytes(specs: RunSpecs) -> int:
    """Counts the bytes that the runs of a group keep between steps.

    These are float32 weights, Adam's two moments of each, batch norm's statistics and averages of
    weights: about 12 bytes for each trained number, 16 in a generator whose average is kept.
    """
    return sum(_tree_bytes(_state_shapes(spec.spec)) for spec in specs.values())


def gradient_bytes(specs: RunSpecs) -> int:
    """Counts the bytes that devices which share a batch add up in a step.

    There is one gradient of each weight, each time that it is updated.  Batch norm's moments and
    the losses come on top, a few numbers per channel.  A CPU also adds up the critic's gradients
    twice, for real and for fake images.
    """
    return sum(_gradient_bytes(spec.spec) for spec in specs.values())


def _gradient_bytes(spec: StepSpec) -> int:
    state = _state_shapes(spec)
    critic_steps = spec.recipe.critic_steps if state.critic and spec.recipe.train_critic else 0
    critic = critic_steps * _tree_bytes(state.critic.params) if state.critic else 0
    return _tree_bytes(state.generator.params) + critic


@functools.cache
def _state_shapes(spec: StepSpec) -> TrainState:
    return jax.eval_shape(lambda: create_train_state(spec, 0))


def _tree_bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
