"""The programs that a config's study runs, as functions and shapes: no array of them is made."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gankd_jax import runs, sampling
from gankd_jax.data import datasets
from gankd_jax.models.dcgan import Generator
from gankd_jax.models.inception import LOGITS, SIZE, FidInception, prepare
from gankd_jax.runs import Run
from gankd_jax.training.group import Member, at_step, frozen_critic, make_chunk, streams_of
from gankd_jax.training.state import Frozen, Tree, init

FEATURES = ("2048", LOGITS[0])  # what FID and the Inception Score take
FEATURES_BATCH = 32  # images in one pass of the FID network


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function and what it takes."""

    title: str
    runs: int  # trained by it
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    images: int = 0  # bytes of the data set among the arguments
    steps: int = 1  # in one call


def training(config: ml_collections.ConfigDict, mesh: Mesh | None = None) -> Iterator[Program]:
    """Each group's call of many steps; on a mesh its devices share every batch."""
    for group in runs.groups(config, runs.plan(config)):
        yield _group(config, group, mesh)


def evaluation(config: ml_collections.ConfigDict) -> Iterator[Program]:
    """What scores run: images of the teacher, the widest generator, and their features."""
    generator = runs.generator(config, max(config.study.teacher_widths))
    count = config.evaluation.batch_size
    latents = jax.ShapeDtypeStruct((count, generator.latent), np.float32)
    arguments = (generator, _variables(generator), latents)
    yield Program(f"draw {count} images", 0, sampling.draw, arguments)
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((FEATURES_BATCH, size, size, 3), np.uint8)
    yield Program(f"features of {FEATURES_BATCH}", 0, jax.jit(_features), (_network(), images))


def _group(config: ml_collections.ConfigDict, group: list[Run], mesh: Mesh | None) -> Program:
    teacher = max(runs.teachers(config), key=lambda run: run.width)
    is_taught = group[0].kind == "student"
    members = {run.name: runs.member(config, run, teacher if is_taught else None) for run in group}
    members = at_step(members, config.recipes[group[0].recipe].steps)  # where batches are largest
    generator = runs.generator(config, teacher.width) if is_taught else None
    images, batches = _data(config, members)
    states = {name: jax.eval_shape(lambda m=m: init(m.spec, m.seed)) for name, m in members.items()}
    return Program(
        title=f"{group[0].kind}s",
        runs=len(group),
        function=make_chunk(members, generator, mesh),
        arguments=(states, _frozen(members, generator) if generator else None, images, batches),
        images=images.size,
        steps=config.training.steps_per_call,
    )


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


def _variables(generator: Generator) -> Tree:
    blank = jnp.zeros((2, generator.latent))
    return jax.eval_shape(lambda: generator.init(jax.random.key(0), blank, train=False))


def _frozen(members: dict[str, Member], generator: Generator) -> Frozen:
    """The shapes of what the students see of their teacher."""
    eye = frozen_critic(members)
    critic = None
    if eye:
        blank = jnp.zeros((2, eye.image_size, eye.image_size, eye.channels))
        critic = jax.eval_shape(lambda: eye.init(jax.random.key(0), blank, train=False))
    return Frozen(generator=_variables(generator), critic=critic)


def _network() -> Tree:
    """The shapes of the FID network's weights."""
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.float32)
    return jax.eval_shape(FidInception(FEATURES).init, jax.random.key(0), image)


def _features(variables: Tree, images: jax.Array) -> Tree:
    return FidInception(FEATURES).apply(variables, prepare(images))
