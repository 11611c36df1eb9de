"""Runs of several widths as one run of a merged generator.

They are merged before the steps of a call and split after them, so that files and logs know each
run alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.family import PyTree
from gankd_jax.models.merged import FlatTrees, merge_generators, merge_stats, split_stats
from gankd_jax.training.train_state import NetworkState, StepSpec, TrainState

MAX_WIDTH = 64  # of a merged generator; a matrix unit's side, from which on zeros cost time
# Those that treat each number by itself, and whose steps are proportional to the learning rate.
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")


def can_merge(spec: StepSpec) -> bool:
    """Returns whether a run can be merged with others.

    It must have no critic.  Batch norm's averages tell that a run's values are no longer finite.
    A CPU, whose layers are matrix products, is as fast with each run alone.
    """
    generator, recipe = spec.generator, spec.recipe
    return (
        spec.critic is None
        and isinstance(generator, DCGANGenerator)
        and (generator.norm, generator.conv_impl) == ("batch", "dilated")
        and recipe.optimizer in OPTIMIZERS
        and not recipe.gradient_clip
    )


def without_width(spec: StepSpec) -> StepSpec:
    """Returns what runs that are merged have in common."""
    generator: Any = spec.generator
    return dataclasses.replace(spec, generator=generator.clone(width=0))


def merge_specs(specs: Sequence[StepSpec]) -> StepSpec:
    """Returns the spec of runs, equal but for their width, as one run."""
    generators: Any = [spec.generator for spec in specs]
    return dataclasses.replace(specs[0], generator=merge_generators(generators))


def merge_states(states: Sequence[TrainState]) -> TrainState:
    """Returns the states of runs at the same step as one run's."""
    networks = [state.generator for state in states]
    params = [network.params for network in networks]
    structure: Any = jax.tree.structure(params[0])

    def is_like_params(tree: PyTree) -> bool:
        return bool(jax.tree.structure(tree) == structure)

    def merge(*trees: PyTree) -> PyTree:  # what is no moment of the gradients counts steps
        return FlatTrees.pack(trees) if is_like_params(trees[0]) else trees[0]

    opt_states = [network.opt_state for network in networks]
    network = NetworkState(
        params=FlatTrees.pack(params),
        batch_stats=merge_stats([network.batch_stats for network in networks]),
        opt_state=jax.tree.map(merge, *opt_states, is_leaf=is_like_params),
    )
    ema_params = merge(*(state.ema_params for state in states))
    return dataclasses.replace(states[0], generator=network, ema_params=ema_params)


def split_state(widths: Sequence[int], state: TrainState) -> list[TrainState]:
    """Inverts `merge_states` for runs of these widths."""
    stats = split_stats(state.generator.batch_stats, widths)

    def is_merged(tree: PyTree) -> bool:
        return isinstance(tree, FlatTrees)

    def split(k: int) -> TrainState:
        trees = jax.tree.map(
            lambda leaf: leaf.trees[k] if is_merged(leaf) else leaf, state, is_leaf=is_merged
        )
        network = dataclasses.replace(trees.generator, batch_stats=stats[k])
        return dataclasses.replace(trees, generator=network)

    return list(map(split, range(len(stats))))
