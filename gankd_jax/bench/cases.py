"""What is timed: each case as our compiled step, its operations, and what it is compared with."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gankd_jax.bench import operations
from gankd_jax.config.recipe import Recipe
from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.models import conv, sampling
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.family import Critic, Generator
from gankd_jax.training.multi_run import RunSpec, RunSpecs, make_multi_step
from gankd_jax.training.train_state import StepSpec, TeacherParams, create_train_state

SIZE, CHANNELS, BATCH = 64, 3, 64
TEACHER, WIDTHS = 64, (2, 4, 8, 16, 32)
STEPS = 10  # training steps in one compiled call; a study's has 50
CRITIC_STEPS = 5
IMAGES = 4_096  # of random pixels, where real batches are needed
MATRIX = 2_048
Work = Callable[[], Any]  # what it returns is waited for


Theirs = dict[str, Any]  # a case as a side in a process of its own takes it, as JSON


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed together."""

    title: str
    build: Callable[[], Work]
    operations: int  # of one step, the plain way: 2 for each multiply-add of the layers
    steps: int = 1  # in one call of the work
    sides: dict[str, Theirs] = dataclasses.field(default_factory=dict)  # by a name of SIDES
    variants: dict[str, Callable[[], Work]] = dataclasses.field(default_factory=dict)  # of our own


def cases() -> dict[str, Case]:
    """Every case by its name."""
    return {
        "students": _students("five students, one step of all", WIDTHS, seeds=1),
        "students-seeds": _students("the same, three seeds of each", WIDTHS, seeds=3),
        "student": _students("one student, d=8", (8,), seeds=1),
        "teacher": _teacher("WGAN-GP teacher, d=32", 32),
        "draw-2": _draw("generator alone, d=2", 2),
        "draw-64": _draw("generator alone, d=64", 64),
        "streamed": _streamed("baseline d=32, batches from the host", 32),
    }


def matrix_product() -> Work:
    """The square product that the machine's rate is told by."""
    matrix = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX))
    product = jax.jit(lambda m: m @ m)
    return lambda: product(matrix)


def _generator(width: int) -> Generator:
    return DCGANGenerator(width, SIZE, CHANNELS, conv_impl=conv.resolve_conv_impl("auto"))


def _critic(width: int, norm: str = "batch") -> Critic:
    return DCGANCritic(width, SIZE, CHANNELS, norm=norm, conv_impl=conv.resolve_conv_impl("auto"))


def _students(title: str, widths: tuple[int, ...], *, seeds: int) -> Case:
    made = [operations.student_step(_generator(width)) for width in widths]
    drawn = operations.forward(_generator(TEACHER))
    theirs = {"teacher": TEACHER, "widths": widths, "seeds": seeds}
    return Case(
        title,
        lambda: _train_students(widths, seeds),
        BATCH * (drawn + seeds * sum(made)),
        steps=STEPS,
        sides={"torch": {"kind": "students", "of": [SIZE, CHANNELS], "with": theirs}},
    )


def _train_students(widths: tuple[int, ...], seeds: int) -> Work:
    recipe = Recipe(alpha=0.0, batch_size=BATCH)
    members = {
        f"d{width}-s{seed}": RunSpec(StepSpec(_generator(width), None, recipe), seed, 0)
        for width in widths
        for seed in range(seeds)
    }
    teacher = _generator(TEACHER)
    return _train(members, teacher, lambda: np.zeros((STEPS, 1, 1, 1), np.int32))


def _teacher(title: str, width: int) -> Case:
    counted = operations.adversarial_step(
        _generator(width), _critic(width, "none"), CRITIC_STEPS, penalty=True
    )
    theirs = {"width": width, "critic_steps": CRITIC_STEPS}
    return Case(
        title,
        lambda: _train_teacher(width),
        BATCH * counted,
        steps=STEPS,
        sides={"torch": {"kind": "teacher", "of": [SIZE, CHANNELS], "with": theirs}},
    )


def _train_teacher(width: int) -> Work:
    recipe = Recipe(loss="wgan_gp", critic_steps=CRITIC_STEPS, batch_size=BATCH)
    member = RunSpec(StepSpec(_generator(width), _critic(width, "none"), recipe), 0, 0)
    batches = np.random.default_rng(0).integers(0, IMAGES, (STEPS, 1, CRITIC_STEPS, BATCH))
    return _train({"teacher": member}, None, lambda: batches.astype(np.int32), _images())


def _streamed(title: str, width: int) -> Case:
    """A step on images that are read out of the data set, beside one on always the same."""
    counted = operations.adversarial_step(_generator(width), _critic(width), 1, penalty=False)
    return Case(
        title,
        lambda: _train_baseline(width, streamed=True),
        BATCH * counted,
        steps=STEPS,
        variants={"a constant batch": lambda: _train_baseline(width, streamed=False)},
    )


def _train_baseline(width: int, *, streamed: bool) -> Work:
    """Batches go to the device as images: read out of the data set, or always the same."""
    member = RunSpec(StepSpec(_generator(width), _critic(width), Recipe(batch_size=BATCH)), 0, 0)
    images, calls = _images(), itertools.count()
    constant = images[np.arange(STEPS * BATCH).reshape(STEPS, 1, 1, BATCH)]

    def read() -> np.ndarray:
        places = multi_step_indices(
            next(calls) * STEPS, STEPS, critic_steps=1, count=IMAGES, batch_size=BATCH, seed=0
        )
        return images[places[:, None]]

    return _train({"baseline": member}, None, read if streamed else lambda: constant)


def _train(
    members: RunSpecs,
    teacher: Generator | None,
    batches: Callable[[], np.ndarray],
    images: np.ndarray | None = None,
) -> Work:
    """A call of the study's own compiled step; the states move on from call to call."""
    if images is None and not any(member.spec.critic for member in members.values()):
        images = np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8)
    pixels = None if images is None else jnp.asarray(images)
    chunk = make_multi_step(members, teacher)
    states = {
        name: create_train_state(member.spec, member.seed) for name, member in members.items()
    }
    frozen = TeacherParams(generator=_variables(teacher), critic=None) if teacher else None

    def work() -> Any:
        nonlocal states
        states, metrics = chunk(states, frozen, pixels, jnp.asarray(batches()))
        return metrics

    return work


def _images() -> np.ndarray:
    shape = (IMAGES, SIZE, SIZE, CHANNELS)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _variables(generator: Generator) -> Any:
    return generator.init(jax.random.key(0), jnp.zeros((2, generator.latent_dim)), train=False)


def _draw(title: str, width: int) -> Case:
    generator = _generator(width)

    def build() -> Work:
        variables, latents = (
            _variables(generator),
            sampling.sample_latents(0, BATCH, generator.latent_dim),
        )
        return lambda: sampling.sample_images(generator, variables, latents)

    return Case(
        title,
        build,
        BATCH * operations.forward(generator),
        sides={
            "torch": {"kind": "draw", "of": [SIZE, CHANNELS], "with": {"width": width}},
            "onnxruntime": {"width": width, "image_size": SIZE, "channels": CHANNELS},
        },
    )
