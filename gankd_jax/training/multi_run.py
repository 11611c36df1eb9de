"""A group of runs as one compiled program: many steps of every run in one call.

Runs of one stream share its latents, the teacher's images of them, and the real batches.
Runs that differ in their seed alone go through `vmap`, but for a CPU's large ones; the others sit
side by side, and large ones take turns within a step.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.models.family import Critic, Generator, PyTree
from gankd_jax.training.train_state import StepSpec, TeacherParams, TrainState
from gankd_jax.training.train_step import (
    Metrics,
    Noise,
    TeacherTargets,
    critic_features,
    normalize_images,
    sample_noise,
    train_step,
)
from gankd_jax.utils.sharding import constrain_batch, replicated


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run of a group."""

    spec: StepSpec
    seed: int  # of its first weights
    stream: int  # the seed of its latents and real batches


RunSpecs = Mapping[str, RunSpec]
States = dict[str, TrainState]
Inputs = tuple[Noise, Array | None, TeacherTargets | None]  # draws, real images, the teacher's part
CellMetrics = dict[str, Float[Array, " _"]]  # of each run of a cell
MultiStep = jax.stages.Wrapped  # what jit gives
LARGE = 2**19  # bytes of a batch in the generator's last hidden layer, its largest


def make_multi_step(
    members: RunSpecs, teacher: Generator | None, mesh: Mesh | None = None
) -> MultiStep:
    """Compile `chunk(states, teacher_weights, images, batches) -> (states, metrics)`.

    `teacher_weights` is a `Frozen`, or None without a teacher.  With a mesh, whose size divides
    `b`, its devices share each batch; all else lies everywhere.

    `batches` `[k, streams, critic_steps, b]` index into `images` (uint8, on the device), or hold
    the uint8 images themselves where `images` is None; the streams are in sorted order.  A group
    without a critic reads no pixel of them.  The call moves every run by `k` steps; metrics are
    means over them, so that one value that is not finite shows, and `weights`, their norm.
    """

    def chunk(
        states: States, teacher_weights: TeacherParams | None, images: Array | None, batches: Array
    ) -> tuple[States, dict[str, Metrics]]:
        def body(
            stacked: list[TrainState], batch: Array
        ) -> tuple[list[TrainState], list[CellMetrics]]:
            pixels = batch if images is None else images[batch]
            return _step(members, teacher, stacked, teacher_weights, pixels=pixels, mesh=mesh)

        stacked, metrics = lax.scan(body, _stack(members, states), batches)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
        means = [m | {"weights": _norms(state)} for m, state in zip(means, stacked, strict=True)]
        return _unstack(members, stacked), _unstack(members, means)

    return jax.jit(chunk, donate_argnums=0, out_shardings=mesh and replicated(mesh))


def feature_critic(members: RunSpecs) -> Critic | None:
    """The critic that students compare features in: all look through the same; None without."""
    critics = (member.spec.frozen_critic for member in members.values())
    return next(filter(None, critics), None)


def data_seeds(members: RunSpecs) -> list[int]:
    """The distinct streams of a group, sorted: the order of its batches."""
    return sorted({member.stream for member in members.values()})


def vmap_groups(members: RunSpecs) -> list[list[str]]:
    """The names of the runs that go through `vmap` together: those that differ in seed alone.

    Not so a CPU's large runs: on two cores three seeds of each student are a fifth faster each by
    itself, at 64x64 pixels as at 32x32, as what a cell keeps for its gradients outgrows the caches.
    """
    found: dict[StepSpec | str, list[str]] = {}
    for name, member in members.items():
        alone = member.spec.generator.conv_impl == "matmul" and _is_large(member.spec)
        found.setdefault(name if alone else member.spec, []).append(name)
    return list(found.values())


def _is_large(spec: StepSpec) -> bool:
    """Whether a run takes turns with others, as where its largest layer is a good part of a cache.

    Interleaved, as XLA has it, large runs take up to twice the memory and, on two cores, a tenth
    more time; small ones (16x16) are a fifth faster so.
    """
    pixels = (spec.generator.image_size // 2) ** 2
    return 4 * spec.recipe.batch_size * pixels * spec.generator.width >= LARGE


def _stack(members: RunSpecs, values: dict) -> list:
    """Per cell, the values of its runs along a new first axis."""
    return [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(values[name] for name in names))
        for names in vmap_groups(members)
    ]


def _unstack(members: RunSpecs, stacked: list) -> dict:
    """The inverse of `_stack`."""
    return {
        name: jax.tree.map(lambda leaf, k=k: leaf[k], values)
        for names, values in zip(vmap_groups(members), stacked, strict=True)
        for k, name in enumerate(names)
    }


def _norms(stacked: TrainState) -> Float[Array, " n"]:
    """The norm of each run's weights."""
    networks = [network for network in (stacked.generator, stacked.critic) if network is not None]
    return jax.vmap(optax.tree.norm)([network.params for network in networks])


def _step(
    members: RunSpecs,
    teacher: Generator | None,
    stacked: list[TrainState],
    teacher_weights: TeacherParams | None,
    *,
    pixels: UInt8[Array, "streams k b s s c"],
    mesh: Mesh | None,
) -> tuple[list[TrainState], list[CellMetrics]]:
    """One step of every run."""
    streams = data_seeds(members)
    reads = any(member.spec.critic for member in members.values())
    draws = constrain_batch(mesh, _draws(members, stacked[0].step[0], streams=streams), 2)
    target = constrain_batch(mesh, _targets(members, teacher, teacher_weights, draws=draws), 1)
    real = normalize_images(constrain_batch(mesh, pixels, 2)) if reads else None
    states, metrics = [], []
    for state, names in zip(stacked, vmap_groups(members), strict=True):
        spec = members[names[0]].spec
        needed = (
            draws,
            real if spec.critic else None,
            target if spec.recipe.alpha < 1 or spec.recipe.real_source == "teacher" else None,
        )
        rows = [streams.index(members[name].stream) for name in names]
        frozen = teacher_weights.critic if teacher_weights else None
        state, values = _step_cell(spec, state, needed, rows=rows, frozen=frozen)
        draws = _after(values, draws) if _is_large(spec) else draws
        states.append(state)
        metrics.append(values)
    return states, metrics


def _after(metrics: CellMetrics, draws: Noise) -> Noise:
    """The same draws, which nobody can use before the gradients of these metrics are known.

    A norm is never negative, which XLA does not know; its own barriers are gone when it orders a
    CPU's work.
    """
    impossible = metrics["generator_gradient"][0] < -1
    return jax.tree.map(lambda leaf: jnp.where(impossible, 0.0, leaf), draws)


def _draws(members: RunSpecs, step: Int[Array, ""], *, streams: list[int]) -> Noise:
    """The draws of every stream, along a first axis."""
    spec = next(iter(members.values())).spec

    def one(stream: Int[Array, ""]) -> Noise:
        sizes = {"critic_steps": spec.recipe.critic_steps, "batch": spec.recipe.batch_size}
        return sample_noise(stream, step, latent=spec.generator.latent_dim, **sizes)

    return jax.vmap(one)(jnp.array(streams))


def _targets(
    members: RunSpecs, teacher: Generator | None, weights: TeacherParams | None, *, draws: Noise
) -> TeacherTargets | None:
    """What the teacher shows of the generator's step, all streams in one pass, streams first."""
    if teacher is None or weights is None:
        return None
    last = draws.latents[:, -1]
    images = teacher.apply(weights.generator, last.reshape(-1, last.shape[-1]), train=False)
    shown = images.reshape(*last.shape[:2], *images.shape[1:])
    eye = feature_critic(members)
    if eye is None:
        return TeacherTargets(images=shown, features=None)
    looking = (member.spec for member in members.values() if member.spec.frozen_critic)
    few = shown[:, : max(spec.recipe.feature_batch for spec in looking)]
    found = critic_features(eye, weights.critic, few.reshape(-1, *few.shape[2:]))
    split = jax.tree.map(lambda leaf: leaf.reshape(*few.shape[:2], *leaf.shape[1:]), found)
    return TeacherTargets(images=shown, features=split)


def _step_cell(
    spec: StepSpec, state: TrainState, inputs: Inputs, *, rows: list[int], frozen: PyTree | None
) -> tuple[TrainState, CellMetrics]:
    """One step of the runs of a cell, each on its row of the inputs."""

    def one(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        draws, real, target = inputs
        return train_step(spec, state, draws, real=real, target=target, frozen=frozen)

    if len(set(rows)) == 1:  # not copied for each run
        shared = jax.tree.map(lambda leaf: leaf[rows[0]], inputs)
        return jax.vmap(one, in_axes=(0, None))(state, shared)
    return jax.vmap(one)(state, jax.tree.map(lambda leaf: leaf[jnp.array(rows)], inputs))
