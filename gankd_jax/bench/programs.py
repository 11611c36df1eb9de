"""The programs that a config's study runs, as functions and shapes: no array of them is made."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from gankd_jax.data import registry
from gankd_jax.models import sampling
from gankd_jax.models.family import Generator, PyTree
from gankd_jax.models.inception import INPUT_SIZE, LOGIT_LAYERS, FidInception, preprocess_images
from gankd_jax.study import networks, plan
from gankd_jax.study.plan import Run
from gankd_jax.training.multi_run import (
    RunSpec,
    data_seeds,
    feature_critic,
    make_multi_step,
)
from gankd_jax.training.train_state import TeacherParams, create_train_state

FEATURES = ("2048", LOGIT_LAYERS[0])  # what FID and the Inception Score take
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
    for group in plan.group_runs(config, plan.plan_runs(config)):
        yield _group(config, group, mesh)


def evaluation(config: ml_collections.ConfigDict) -> Iterator[Program]:
    """What scores run: images of the teacher, the widest generator, and their features."""
    generator = networks.build_generator(config, max(config.study.teacher_widths))
    count = config.evaluation.batch_size
    latents = jax.ShapeDtypeStruct((count, generator.latent_dim), np.float32)
    arguments = (generator, _variables(generator), latents)
    yield Program(f"draw {count} images", 0, sampling.sample_images, arguments)
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((FEATURES_BATCH, size, size, 3), np.uint8)
    yield Program(f"features of {FEATURES_BATCH}", 0, jax.jit(_features), (_network(), images))


def _group(config: ml_collections.ConfigDict, group: list[Run], mesh: Mesh | None) -> Program:
    teacher = max(plan.teacher_runs(config), key=lambda run: run.width)
    is_taught = group[0].kind == "student"
    members = {
        run.name: networks.make_run_spec(config, run, teacher if is_taught else None)
        for run in group
    }
    generator = networks.build_generator(config, teacher.width) if is_taught else None
    images, batches = _data(config, members)
    states = {
        name: jax.eval_shape(lambda m=m: create_train_state(m.spec, m.seed))
        for name, m in members.items()
    }
    return Program(
        title=f"{group[0].kind}s",
        runs=len(group),
        function=make_multi_step(members, generator, mesh),
        arguments=(states, _frozen(members, generator) if generator else None, images, batches),
        images=images.size,
        steps=config.training.steps_per_call,
    )


def _data(
    config: ml_collections.ConfigDict, members: dict[str, RunSpec]
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes of the data set on the device, and of a call's places in it."""
    recipe = next(iter(members.values())).spec.recipe
    size, count = config.data.image_size, registry.get_dataset(config.data.name).counts["train"]
    pixels = (count - config.data.validation, size, size, networks.image_channels(config))
    steps = config.training.steps_per_call
    places = (steps, len(data_seeds(members)), recipe.critic_steps, recipe.batch_size)
    return jax.ShapeDtypeStruct(pixels, np.uint8), jax.ShapeDtypeStruct(places, np.int32)


def _variables(generator: Generator) -> PyTree:
    blank = jnp.zeros((2, generator.latent_dim))
    return jax.eval_shape(lambda: generator.init(jax.random.key(0), blank, train=False))


def _frozen(members: dict[str, RunSpec], generator: Generator) -> TeacherParams:
    """The shapes of what the students see of their teacher."""
    eye = feature_critic(members)
    critic = None
    if eye:
        blank = jnp.zeros((2, eye.image_size, eye.image_size, eye.channels))
        critic = jax.eval_shape(lambda: eye.init(jax.random.key(0), blank, train=False))
    return TeacherParams(generator=_variables(generator), critic=critic)


def _network() -> PyTree:
    """The shapes of the FID network's weights."""
    image = jax.ShapeDtypeStruct((1, INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    return jax.eval_shape(FidInception(FEATURES).init, jax.random.key(0), image)


def _features(variables: PyTree, images: jax.Array) -> PyTree:
    return FidInception(FEATURES).apply(variables, preprocess_images(images))
