"""How many floating-point operations a training step needs the plain way, for one image.

Two for each multiply-add of the 4x4 layers and the projection; norms, activations and Adam are left
out.  A layer's two gradients cost what the layer costs; the first layer's input needs none.
"""

from gankd_jax.models.cost import generator_cost
from gankd_jax.models.family import Critic, Generator, family_of
from gankd_jax.training.multi_run import RunSpecs, data_seeds
from gankd_jax.training.train_state import StepSpec


def forward(generator: Generator) -> int:
    """Of drawing an image."""
    return 2 * generator_cost(generator).multiply_adds


def student_step(generator: Generator) -> int:
    """Of a generator's step on a distance, the teacher's image left out."""
    return forward(generator) + _backward(generator)


def adversarial_step(
    generator: Generator, critic: Critic, critic_steps: int, *, penalty: bool
) -> int:
    """Of critic steps, each with a fake, and a step of the generator.

    The penalty takes the score, its gradient in the image, and twice that for the gradient's own.
    """
    score = _score(critic)
    train_critic = forward(generator) + 2 * (3 * score - _first(critic))
    train_critic += 4 * score if penalty else 0
    train_generator = student_step(generator) + 2 * score
    return critic_steps * train_critic + train_generator


def group_step(members: RunSpecs, teacher: Generator | None) -> int:
    """Of one step of every run of a group, and the teacher's part once for each stream."""
    specs = [member.spec for member in members.values()]
    batch, streams = specs[0].recipe.batch_size, len(data_seeds(members))
    drawn = forward(teacher) * streams if teacher else 0
    seen = max((_look(spec) for spec in specs), default=0) * streams
    # A student's look is also taken back, down to its images.
    return batch * (drawn + sum(map(_step, specs))) + seen + sum(2 * _look(s) for s in specs)


def _look(spec: StepSpec) -> int:
    """Of the frozen critic's hidden layers for all images of a step that are compared."""
    if spec.frozen_critic is None:
        return 0
    return spec.recipe.feature_batch * 2 * sum(_layer_macs(spec.frozen_critic)[:-1])


def _step(spec: StepSpec) -> int:
    if spec.critic is None:
        return student_step(spec.generator)
    recipe = spec.recipe
    critic_steps = recipe.critic_steps if recipe.train_critic else 0
    penalty = recipe.loss == "wgan_gp"
    return adversarial_step(spec.generator, spec.critic, critic_steps, penalty=penalty)


def _backward(generator: Generator) -> int:
    return 2 * forward(generator) - 2 * _layer_macs(generator)[0]


def _first(critic: Critic) -> int:
    return 2 * _layer_macs(critic)[0]


def _score(critic: Critic) -> int:
    return 2 * sum(_layer_macs(critic))


def _layer_macs(network: Generator | Critic) -> list[int]:
    return family_of(network).count_layer_macs(network)
