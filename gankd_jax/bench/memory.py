"""The memory that a config's groups take on one device, by the compiler's own account."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gankd_jax import runs
from gankd_jax.data import datasets
from gankd_jax.models.dcgan import Generator
from gankd_jax.runs import Run
from gankd_jax.training.group import Member, make_chunk, streams_of
from gankd_jax.training.state import Tree, init

HEADER = ("group", "runs", "arguments", "of them images", "temporary", "together")


def memory(config: ml_collections.ConfigDict) -> str:
    """A table, one row per group: nothing is trained, nor any array made."""
    rows = [HEADER, *(_row(config, group) for group in runs.groups(config, runs.plan(config)))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = ("  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows)
    device = jax.devices()[0].device_kind
    return "\n".join([f"{config.name} on {device}, MB of 10^6 bytes", *lines])


def _row(config: ml_collections.ConfigDict, group: list[Run]) -> tuple[str, ...]:
    teacher = max(runs.teachers(config), key=lambda run: run.width)
    is_taught = group[0].kind == "student"
    members = {run.name: runs.member(config, run, teacher if is_taught else None) for run in group}
    generator = runs.generator(config, teacher.width) if is_taught else None
    images, batches = _data(config, members)
    chunk = make_chunk(members, generator)
    states = {name: jax.eval_shape(lambda m=m: init(m.spec, m.seed)) for name, m in members.items()}
    compiled = chunk.lower(states, _variables(generator), images, batches).compile()
    found = compiled.memory_analysis()
    assert found is not None  # on CPU, GPU and TPU there is one
    # The states that come out lie where those that went in were.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    parts = (found.argument_size_in_bytes, found.temp_size_in_bytes)
    sizes = (parts[0], images.size, parts[1], sum(parts) + results)
    return f"{group[0].kind}s", str(len(group)), *(f"{size / 1e6:,.0f}" for size in sizes)


def _data(
    config: ml_collections.ConfigDict, members: dict[str, Member]
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes of the data set on the device, and of a call's places in it."""
    recipe = next(iter(members.values())).spec.recipe
    size, count = config.data.image_size, datasets.get(config.data.name).counts["train"]
    pixels = (count - config.data.validation, size, size, runs.channels(config))
    steps = config.training.steps_per_call
    places = (steps, len(streams_of(members)), recipe.critic_steps, recipe.batch_size)
    return jax.ShapeDtypeStruct(pixels, np.uint8), jax.ShapeDtypeStruct(places, np.int32)


def _variables(generator: Generator | None) -> Tree | None:
    if generator is None:
        return None
    blank = jnp.zeros((2, generator.latent))
    return jax.eval_shape(lambda: generator.init(jax.random.key(0), blank, train=False))
