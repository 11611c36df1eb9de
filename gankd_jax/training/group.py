"""A group of runs as one compiled program: many steps of every run in one call.

Runs of a group share the teacher's forward pass, the latents of their seed and the real batches.
Runs that differ in their seed alone go through `vmap`; the others sit side by side.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from gankd_jax.models.dcgan import Generator
from gankd_jax.training.state import Spec, State, Tree
from gankd_jax.training.steps import Draws, Metrics, draw, to_unit, train_step


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a group."""

    spec: Spec
    seed: int


Members = Mapping[str, Member]
States = dict[str, State]
CellMetrics = dict[str, Float[Array, " _"]]  # of each run of a cell
Chunk = jax.stages.Wrapped  # what jit gives


def make_chunk(members: Members, teacher: Generator | None, mesh: Mesh | None = None) -> Chunk:
    """Compile `chunk(states, teacher_variables, images, batches) -> (states, metrics)`.

    `batches` `[k, seeds, critic_steps, b]` index into `images` (uint8, on the device), or hold the
    uint8 images themselves where `images` is None; the seeds are in sorted order.  A group without
    a critic reads no pixel of them.  The call moves every run by `k` steps; metrics are means over
    them, so that one value that is not finite shows.  The devices of a `mesh` share each batch.
    """

    def chunk(
        states: States, teacher_variables: Tree | None, images: Array | None, batches: Array
    ) -> tuple[States, dict[str, Metrics]]:
        def body(stacked: list[State], batch: Array) -> tuple[list[State], list[CellMetrics]]:
            pixels = batch if images is None else images[batch]
            return _step(members, teacher, stacked, teacher_variables, pixels=pixels, mesh=mesh)

        stacked, metrics = lax.scan(body, _stack(members, states), batches)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
        return _unstack(members, stacked), _unstack(members, means)

    return jax.jit(chunk, donate_argnums=0)


def seeds_of(members: Members) -> list[int]:
    """The distinct seeds of a group, sorted: the order of its batches."""
    return sorted({member.seed for member in members.values()})


def cells(members: Members) -> dict[Spec, list[str]]:
    """The names of the runs that differ in their seed alone, per spec."""
    found: dict[Spec, list[str]] = {}
    for name, member in members.items():
        found.setdefault(member.spec, []).append(name)
    return found


def _stack(members: Members, values: dict) -> list:
    """Per cell, the values of its runs along a new first axis."""
    return [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *(values[name] for name in names))
        for names in cells(members).values()
    ]


def _unstack(members: Members, stacked: list) -> dict:
    """The inverse of `_stack`."""
    return {
        name: jax.tree.map(lambda leaf, k=k: leaf[k], values)
        for names, values in zip(cells(members).values(), stacked, strict=True)
        for k, name in enumerate(names)
    }


def _step(
    members: Members,
    teacher: Generator | None,
    stacked: list[State],
    teacher_variables: Tree | None,
    *,
    pixels: UInt8[Array, "seeds k b s s c"],
    mesh: Mesh | None,
) -> tuple[list[State], list[CellMetrics]]:
    """One step of every run."""
    seeds = seeds_of(members)
    reads = any(member.spec.critic for member in members.values())
    real = to_unit(_share(pixels, mesh)) if reads else None
    draws = _share(_draws(members, stacked[0].step[0], seeds=seeds), mesh)
    targets = _targets(teacher, teacher_variables, draws)
    states, metrics = [], []
    for state, (spec, names) in zip(stacked, cells(members).items(), strict=True):
        rows = jnp.array([seeds.index(members[name].seed) for name in names])
        state, values = _step_cell(
            spec,
            state,
            _rows(draws, rows),
            real=_rows(real, rows) if spec.critic else None,
            targets=_rows(targets, rows) if spec.recipe.alpha < 1 else None,
        )
        states.append(state)
        metrics.append(values)
    return states, metrics


def _share(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays `[seeds, k, b, ...]`: of each batch a part to every device of the mesh."""
    if mesh is None:
        return tree
    parts = NamedSharding(mesh, PartitionSpec(None, None, mesh.axis_names))
    return lax.with_sharding_constraint(tree, parts)


def _draws(members: Members, step: Int[Array, ""], *, seeds: list[int]) -> Draws:
    """The draws of every seed, along a first axis."""
    spec = next(iter(members.values())).spec

    def one(seed: Int[Array, ""]) -> Draws:
        sizes = {"critic_steps": spec.recipe.critic_steps, "batch": spec.recipe.batch_size}
        return draw(seed, step, latent=spec.generator.latent, **sizes)

    return jax.vmap(one)(jnp.array(seeds))


def _targets(
    teacher: Generator | None, teacher_variables: Tree | None, draws: Draws
) -> Float[Array, "seeds b s s c"] | None:
    """The teacher's images of the latents of the generator's step, all seeds in one pass."""
    if teacher is None:
        return None
    last = draws.latents[:, -1]
    images = teacher.apply(teacher_variables, last.reshape(-1, last.shape[-1]), train=False)
    return images.reshape(*last.shape[:2], *images.shape[1:])


def _step_cell(
    spec: Spec,
    state: State,
    draws: Draws,
    *,
    real: Float[Array, "n k b s s c"] | None,
    targets: Float[Array, "n b s s c"] | None,
) -> tuple[State, CellMetrics]:
    """One step of the `n` runs of a cell."""

    def one(
        state: State, draws: Draws, real: Array | None, target: Array | None
    ) -> tuple[State, Metrics]:
        return train_step(spec, state, draws, real=real, target=target)

    return jax.vmap(one)(state, draws, real, targets)


def _rows(tree: Tree, rows: Int[Array, " n"]) -> Tree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)
