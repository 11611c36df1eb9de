"""What a group keeps and what its devices exchange, in bytes, counted from shapes."""

import functools

import jax

from gankd_jax.models.family import PyTree
from gankd_jax.training.multi_run import RunSpecs
from gankd_jax.training.train_state import StepSpec, TrainState, create_train_state


def states(members: RunSpecs) -> int:
    """Of every run: float32 weights, Adam's two moments of each, batch norm's statistics, averages.

    About 12 bytes for each trained number, 16 of a generator whose average is kept.
    """
    return sum(_bytes(_state(member.spec)) for member in members.values())


def gradients(members: RunSpecs) -> int:
    """That devices which share a batch add up in a step: one of each weight, each time it moves.

    Batch norm's moments and the losses come on top, a few numbers a channel; on a CPU the critic's
    gradients again, which XLA adds up apart for real and for fake images.
    """
    return sum(_gradients(member.spec) for member in members.values())


def _gradients(spec: StepSpec) -> int:
    state = _state(spec)
    critic_steps = spec.recipe.critic_steps if state.critic and spec.recipe.train_critic else 0
    critic = critic_steps * _bytes(state.critic.params) if state.critic else 0
    return _bytes(state.generator.params) + critic


@functools.cache
def _state(spec: StepSpec) -> TrainState:
    return jax.eval_shape(lambda: create_train_state(spec, 0))


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
