"""A group of runs as one compiled program: many steps of every run in one call.

Runs with the same data seed share latents, the teacher's images of them, and the real batches.
Runs that differ in their seed alone go through `vmap`, except for a CPU's large ones; other runs
stand side by side in the program, and large ones are computed one after the other within a step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.interop.pair_table import PairTable
from gankd_jax.models.family import FeatureNetwork, Generator, PyTree
from gankd_jax.models.merged import FlatTrees, MergedGenerator
from gankd_jax.models.precision import TRAINING_PRECISIONS, set_precision
from gankd_jax.training.merged_runs import (
    MAX_WIDTH,
    can_merge,
    merge_specs,
    merge_states,
    split_state,
    without_width,
)
from gankd_jax.training.train_state import StepSpec, TeacherParams, TrainState, params_norm
from gankd_jax.training.train_step import (
    Metrics,
    Noise,
    TeacherTargets,
    hidden_layers,
    normalize_images,
    sample_noise,
    scan_means,
    train_step,
)
from gankd_jax.utils.sharding import constrain_batch, replicated, use_batch_mesh


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run of a group."""

    spec: StepSpec
    seed: int  # of its first weights
    data_seed: int  # of its latents and real batches


RunSpecs = Mapping[str, RunSpec]
States = dict[str, TrainState]
StepInputs = tuple[Noise, Array | None, TeacherTargets | None]  # noise, real images, targets
StackedMetrics = dict[str, Float[Array, "_ ..."]]  # of the runs of a vmap group
MultiStep = jax.stages.Wrapped  # a jitted function
# Bytes of a batch of the generator's last hidden layer, its largest.  Runs from this size on are
# computed one after the other: the layer is then a good part of a core's cache.
LARGE_RUN_BYTES = 2**19


def make_multi_step(
    run_specs: RunSpecs,
    teacher: Generator | None,
    mesh: Mesh | None = None,
    *,
    precision: str = "float32",
    donate: bool = True,
) -> MultiStep:
    """Compiles many training steps of every run as one function.

    Args:
        run_specs: The runs by name; equal in steps, batch size `b` and critic steps.
        teacher: The teacher's generator; None without one.
        mesh: Devices that share each batch; their number divides `b`.
        precision: Of the layers, one of `TRAINING_PRECISIONS`.
        donate: Whether the states that are given may be overwritten.

    Returns:
        `multi_step(states, teacher_params, images, batches, teacher_images) -> (states, metrics)`,
        which moves every run by `k` steps.

        - `teacher_params` is a `TeacherParams`, or None without a teacher.
        - `images` is the uint8 training set on the device, or None.
        - `batches` `[k, data_seeds, critic_steps, b]` are indices into `images`, or the uint8
          images themselves if `images` is None; the data seeds are in sorted order.  A group
          without a critic reads none of them.
        - `teacher_images` `[k, data_seeds, b, s, s, c]` in -1..1 are those of a teacher that JAX
          cannot compile; None, the default, for any other.
        - `metrics` are means over the steps, so that a single non-finite value shows, and the norm
          of the weights after them as `weights`.
    """
    run_specs = {name: _set_spec_precision(spec, precision) for name, spec in run_specs.items()}
    teacher = set_precision(teacher, precision)

    @jax.default_matmul_precision(TRAINING_PRECISIONS[precision])
    def multi_step(
        states: States,
        teacher_params: TeacherParams | None,
        images: Array | None,
        batches: Array,
        teacher_images: Array | None = None,
    ) -> tuple[States, dict[str, Metrics]]:
        groups = step_groups(run_specs)

        def body(
            stacked: list[TrainState], inputs: tuple[Noise, Array, Array | None]
        ) -> tuple[list[TrainState], list[StackedMetrics]]:
            noise, batch, step_teacher_images = inputs
            return _step_all(
                groups,
                run_specs,
                teacher,
                stacked,
                teacher_params,
                noise=noise,
                pixels=batch if images is None else images[batch],
                teacher_images=step_teacher_images,
                mesh=mesh,
            )

        stacked = [_stack(group, states) for group in groups]
        steps = stacked[0].step[0] + jnp.arange(len(batches))
        noise = constrain_batch(mesh, _sample_noise(run_specs, steps), 3)
        with use_batch_mesh(mesh):
            stacked, means = scan_means(body, stacked, (noise, batches, teacher_images))
        means = [
            m | {"weights": _weight_norms(state)} for m, state in zip(means, stacked, strict=True)
        ]
        return _unstack_groups(groups, stacked, means)

    donated = (0,) if donate else ()
    return jax.jit(multi_step, donate_argnums=donated, out_shardings=mesh and replicated(mesh))


def _set_spec_precision(run_spec: RunSpec, precision: str) -> RunSpec:
    """Returns a run whose networks compute in a training's precision."""
    spec = dataclasses.replace(
        run_spec.spec,
        generator=set_precision(run_spec.spec.generator, precision),
        critic=set_precision(run_spec.spec.critic, precision),
        feature_network=set_precision(run_spec.spec.feature_network, precision),
    )
    return dataclasses.replace(run_spec, spec=spec)


def feature_networks(run_specs: RunSpecs) -> dict[str, FeatureNetwork]:
    """Returns the networks in whose hidden layers students are compared with their teacher.

    Runs that name the same network share it, since they have the same teacher and data.

    Args:
        run_specs: The runs by name.

    Returns:
        The networks by `Recipe.feature_network`.
    """
    specs = (run_spec.spec for run_spec in run_specs.values())
    return {s.recipe.feature_network: s.feature_network for s in specs if s.feature_network}


def data_seeds(run_specs: RunSpecs) -> list[int]:
    """Returns the distinct data seeds of a group, sorted: the order of its batches."""
    return sorted({run_spec.data_seed for run_spec in run_specs.values()})


def vmap_groups(run_specs: RunSpecs) -> list[list[str]]:
    """Returns the names of the runs that go through `vmap` together: those that differ by seed.

    A CPU's large runs stay alone.  On two cores, three seeds of each student take a fifth less time
    so, at 64x64 pixels as at 32x32, since the activations of all seeds outgrow the caches.
    """
    groups: dict[StepSpec | str, list[str]] = {}
    for name, run_spec in run_specs.items():
        key = name if _is_large_on_cpu(run_spec.spec) else run_spec.spec
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _is_large_on_cpu(spec: StepSpec) -> bool:
    """Returns whether a run is computed after the others and not interleaved with them.

    A CPU is known by its layers, which are matrix products.  XLA interleaves independent runs.
    Large ones then take up to twice the memory and, on two cores, a tenth more time; small ones
    (16x16) are a fifth faster.
    """
    if isinstance(spec.generator, MergedGenerator) or spec.generator.conv_impl != "matmul":
        return False
    pixels = (spec.generator.image_size // 2) ** 2
    return 4 * spec.recipe.batch_size * pixels * spec.generator.width >= LARGE_RUN_BYTES


@dataclasses.dataclass(frozen=True)
class StepGroup:
    """Runs that step together.

    Attributes:
        spec: Of each run, or of each seed's runs as one run (`merged_runs`).
        names: Of the runs of each seed; several if they are merged.
    """

    spec: StepSpec
    names: tuple[tuple[str, ...], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the runs that are merged; () if none are."""
        generator = self.spec.generator
        return generator.widths if isinstance(generator, MergedGenerator) else ()


def step_groups(run_specs: RunSpecs) -> list[StepGroup]:
    """Returns the groups of runs that step together, by `vmap` or merged into one network."""
    similar: dict[Any, list[list[str]]] = {}
    for names in vmap_groups(run_specs):
        spec = run_specs[names[0]].spec
        rows = tuple(run_specs[name].data_seed for name in names)
        key: Any = (without_width(spec), rows) if can_merge(spec) else names[0]
        similar.setdefault(key, []).append(names)
    return [
        _make_step_group(run_specs, members)
        for candidates in similar.values()
        for members in _limit_width(run_specs, candidates)
    ]


def _limit_width(run_specs: RunSpecs, candidates: list[list[str]]) -> list[list[list[str]]]:
    """Divides vmap groups, narrow ones first, so that merged widths add up to a limit at most."""

    def width(names: list[str]) -> int:
        return run_specs[names[0]].spec.generator.width

    parts: list[list[list[str]]] = []
    for names in sorted(candidates, key=width):
        if not parts or sum(map(width, [*parts[-1], names])) > MAX_WIDTH:
            parts.append([])
        parts[-1].append(names)
    return parts


def _make_step_group(run_specs: RunSpecs, members: list[list[str]]) -> StepGroup:
    specs = [run_specs[names[0]].spec for names in members]
    spec = merge_specs(specs) if can_merge(specs[0]) else specs[0]
    return StepGroup(spec, tuple(zip(*members, strict=True)))


def _stack(group: StepGroup, states: States) -> TrainState:
    """Returns the states of a group's seeds along a new first axis."""
    rows = [[states[name] for name in names] for names in group.names]
    merged = [merge_states(row) if group.widths else row[0] for row in rows]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *merged)


def _unstack(group: StepGroup, stacked: TrainState) -> States:
    """Inverts `_stack`."""
    states: States = {}
    for names, state in zip(group.names, _rows(group, stacked), strict=True):
        split = split_state(group.widths, state) if group.widths else [state]
        states |= zip(names, split, strict=True)
    return states


def _unstack_metrics(group: StepGroup, stacked: StackedMetrics) -> dict[str, Metrics]:
    """Returns the metrics of each run."""
    return {
        name: {key: value[k] for key, value in metrics.items()} if group.widths else metrics
        for names, metrics in zip(group.names, _rows(group, stacked), strict=True)
        for k, name in enumerate(names)
    }


def _unstack_groups(
    groups: list[StepGroup], stacked: list[TrainState], metrics: list[StackedMetrics]
) -> tuple[States, dict[str, Metrics]]:
    """Returns the states and the metrics of each run."""
    states: States = {}
    run_metrics: dict[str, Metrics] = {}
    for group, state, values in zip(groups, stacked, metrics, strict=True):
        states |= _unstack(group, state)
        run_metrics |= _unstack_metrics(group, values)
    return states, run_metrics


def _rows(group: StepGroup, stacked: Any) -> list[Any]:
    """Returns the values of each seed."""
    return [jax.tree.map(lambda leaf, k=k: leaf[k], stacked) for k in range(len(group.names))]


def _weight_norms(stacked: TrainState) -> Float[Array, "n ..."]:
    """Returns the norm of the weights of each run."""
    if isinstance(stacked.generator.params, FlatTrees):
        return jax.vmap(params_norm)(stacked.generator.params)
    networks = [network for network in (stacked.generator, stacked.critic) if network is not None]
    return jax.vmap(optax.tree.norm)([network.params for network in networks])


def _step_all(
    groups: list[StepGroup],
    run_specs: RunSpecs,
    teacher: Generator | None,
    stacked: list[TrainState],
    teacher_params: TeacherParams | None,
    *,
    noise: Noise,
    pixels: UInt8[Array, "seeds k b s s c"],
    teacher_images: Float[Array, "seeds batch s s c"] | None,
    mesh: Mesh | None,
) -> tuple[list[TrainState], list[StackedMetrics]]:
    """Makes one step of every run."""
    seeds = data_seeds(run_specs)
    has_critic = any(run_spec.spec.critic for run_spec in run_specs.values())
    targets = _teacher_targets(
        run_specs, teacher, teacher_params, noise=noise, images=teacher_images
    )
    targets = constrain_batch(mesh, targets, 1)
    if isinstance(teacher, PairTable) and teacher_params is not None:
        latents = teacher.row_latents(teacher_params.generator, noise.latents)
        noise = dataclasses.replace(noise, latents=latents)
    real_images = normalize_images(constrain_batch(mesh, pixels, 2)) if has_critic else None
    states, metrics = [], []
    for state, group in zip(stacked, groups, strict=True):
        spec = group.spec
        uses_targets = spec.recipe.alpha < 1 or spec.recipe.real_source == "teacher"
        inputs = (
            noise,
            real_images if spec.critic else None,
            targets if uses_targets else None,
        )
        rows = [seeds.index(run_specs[names[0]].data_seed) for names in group.names]
        feature_variables = teacher_params.features if teacher_params else None
        state, values = _step_vmap_group(
            spec, state, inputs, rows=rows, feature_variables=feature_variables
        )
        noise = _add_scheduling_dependency(values, noise) if _is_large_on_cpu(spec) else noise
        states.append(state)
        metrics.append(values)
    return states, metrics


def _add_scheduling_dependency(metrics: StackedMetrics, noise: Noise) -> Noise:
    """Returns the same noise, but not before the gradients of these metrics are computed.

    A norm is never negative, which XLA does not know.  `lax.optimization_barrier` does not do: XLA
    removes it before it schedules a CPU's work.
    """
    impossible = metrics["generator_gradient"][0] < -1
    return jax.tree.map(lambda leaf: jnp.where(impossible, 0.0, leaf), noise)


def _sample_noise(run_specs: RunSpecs, steps: Int[Array, " k"]) -> Noise:
    """Samples the noise of every step and data seed, along two first axes."""
    spec = next(iter(run_specs.values())).spec

    def sample(step: Int[Array, ""], seed: Int[Array, ""]) -> Noise:
        return sample_noise(
            seed,
            step,
            critic_steps=spec.recipe.critic_steps,
            batch_size=spec.recipe.batch_size,
            latent_dim=spec.generator.latent_dim,
        )

    sample_seeds = jax.vmap(sample, (None, 0))
    return jax.vmap(sample_seeds, (0, None))(steps, jnp.array(data_seeds(run_specs)))


def _teacher_targets(
    run_specs: RunSpecs,
    teacher: Generator | None,
    teacher_params: TeacherParams | None,
    *,
    noise: Noise,
    images: Float[Array, "seeds b s s c"] | None,
) -> TeacherTargets | None:
    """Returns the teacher's images and features of all data seeds, from one forward pass.

    Args:
        run_specs: The runs by name.
        teacher: Its generator; None without a teacher.
        teacher_params: The variables; None without a teacher.
        noise: Its last latents are the images'.
        images: The teacher's, if they are there already.
    """
    if teacher is None or teacher_params is None:
        return None
    if images is None:
        generate = partial(teacher.apply, teacher_params.generator, train=False)
        images = _apply_to_all_seeds(generate, noise.latents[:, -1])
    features = {
        name: _teacher_features(run_specs, name, teacher_params.features[name], images=images)
        for name in feature_networks(run_specs)
    }
    return TeacherTargets(images=images, features=features)


def _teacher_features(
    run_specs: RunSpecs, name: str, variables: PyTree, *, images: Float[Array, "seeds b s s c"]
) -> tuple[Float[Array, "seeds _ ..."], ...]:
    """Returns a feature network's hidden layers of as many images as a run compares in it."""
    recipes = [run.spec.recipe for run in run_specs.values() if run.spec.feature_network]
    subset = images[:, : max(r.feature_batch for r in recipes if r.feature_network == name)]
    network = feature_networks(run_specs)[name]
    return _apply_to_all_seeds(partial(hidden_layers, network, variables), subset)


def _apply_to_all_seeds(
    function: Callable[[Array], Any], inputs: Float[Array, "seeds b ..."]
) -> Any:
    """Applies a function of a batch to the batches of all data seeds as one.

    Devices may share the axis `b`.  It goes first, because XLA does not divide an axis that is
    merged after another one: every device would compute the whole batch.
    """
    flat = inputs.swapaxes(0, 1).reshape(-1, *inputs.shape[2:])
    seeds, size = inputs.shape[:2]
    return jax.tree.map(
        lambda leaf: leaf.reshape(size, seeds, *leaf.shape[1:]).swapaxes(0, 1), function(flat)
    )


def _step_vmap_group(
    spec: StepSpec,
    state: TrainState,
    inputs: StepInputs,
    *,
    rows: list[int],
    feature_variables: Mapping[str, PyTree] | None,
) -> tuple[TrainState, StackedMetrics]:
    """Makes one step of the runs of a vmap group, each on its row of the inputs."""

    def step(state: TrainState, inputs: StepInputs) -> tuple[TrainState, Metrics]:
        noise, real_images, targets = inputs
        return train_step(
            spec,
            state,
            noise,
            real_images=real_images,
            targets=targets,
            feature_variables=feature_variables,
        )

    if len(set(rows)) == 1:  # shared inputs are not copied for each run
        shared = jax.tree.map(lambda leaf: leaf[rows[0]], inputs)
        return jax.vmap(step, in_axes=(0, None))(state, shared)
    return jax.vmap(step)(state, jax.tree.map(lambda leaf: leaf[jnp.array(rows)], inputs))
