"""What the benchmark times: the study's own compiled steps, their FLOP, and their rivals."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gankd_jax.bench.worker import WorkerCase
from gankd_jax.config.recipe import Recipe
from gankd_jax.data.sampler import multi_step_indices
from gankd_jax.models import conv, sampling
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.models.family import Critic, Generator
from gankd_jax.models.precision import TRAINING_PRECISIONS
from gankd_jax.training import cost_model
from gankd_jax.training.multi_run import RunSpec, RunSpecs, make_multi_step
from gankd_jax.training.train_state import StepSpec, TeacherParams, create_train_state

IMAGE_SIZE, CHANNELS, BATCH_SIZE = 64, 3, 64
TEACHER_WIDTH, STUDENT_WIDTHS = 64, (2, 4, 8, 16, 32)
STEPS_PER_CALL = 10  # a study's calls have 50; fewer let a turn at a slow case end sooner
CRITIC_STEPS = 5
NUM_IMAGES = 4_096  # of random pixels, where real batches are needed
# Too large for two CPU cores to time in passing.
ACCELERATOR_CASES = ("teacher-64", "gan-256", "draw-2-4096", "draw-64-4096")
Call = Callable[[], Any]  # its result is waited for


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the benchmark.

    Attributes:
        title: What is timed, in words.
        build: Returns the call that is timed, given one of `TRAINING_PRECISIONS`.  Sampling is in
            float32 in any case.
        flops: Operations of one step, 2 for each multiply-add of the layers as they are defined.
        steps: Training steps in one call.
        worker_cases: What the workers time beside it, by a name in `measure.WORKERS`.
        variants: Other calls of our own that are timed beside it, by title.
    """

    title: str
    build: Callable[[str], Call]
    flops: int
    steps: int = 1
    worker_cases: dict[str, WorkerCase] = dataclasses.field(default_factory=dict)
    variants: dict[str, Callable[[str], Call]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MatrixProducts:
    """Square products in one call, whose speed stands for that of the machine.

    Attributes:
        size: Rows of a matrix.  Larger ones come closer to the machine's peak and take longer.
        count: Products in the call, one after the other.
    """

    size: int
    count: int

    @property
    def flops(self) -> int:
        """Operations of the call."""
        return 2 * self.size**3 * self.count

    def build(self, precision: str) -> Call:
        """Builds the call.

        Args:
            precision: One of `TRAINING_PRECISIONS`.
        """
        dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
        matrix = jax.random.normal(jax.random.key(0), (self.size, self.size), dtype)
        scaled = matrix / self.size**0.5  # the products stay of the matrix's magnitude

        @jax.jit
        def multiply(matrix: jax.Array) -> jax.Array:
            with jax.default_matmul_precision(TRAINING_PRECISIONS[precision]):
                return jax.lax.fori_loop(0, self.count, lambda _, x: x @ scaled, matrix)

        return lambda: multiply(matrix)


def choose_matrix_products(backend: str = "") -> MatrixProducts:
    """Returns products that take about 50 ms.

    Args:
        backend: 'cpu', 'gpu' or 'tpu'; the default backend of this process if it is empty.
    """
    if (backend or jax.default_backend()) == "cpu":
        return MatrixProducts(2_048, count=1)
    return MatrixProducts(8_192, count=10)


def make_cases() -> dict[str, Case]:
    """Returns every case by its name for `--only`; nothing is built yet."""
    widths = STUDENT_WIDTHS
    return {
        "students": _students_case("five students, one step of all", widths, seeds=1),
        "students-seeds": _students_case("the same, three seeds of each", widths, seeds=3),
        "student": _students_case("one student, d=8", (8,), seeds=1),
        "teacher": _teacher_case("WGAN-GP teacher, d=32", 32),
        "teacher-64": _teacher_case("WGAN-GP teacher, d=64", 64),
        "gan-256": _gan_case("GAN, d=256", 256),
        "draw-2": _sampling_case("generator alone, d=2", 2, BATCH_SIZE),
        "draw-2-4096": _sampling_case("generator alone, d=2, 4,096 images", 2, 4_096),
        "draw-64": _sampling_case("generator alone, d=64", 64, BATCH_SIZE),
        "draw-64-4096": _sampling_case("generator alone, d=64, 4,096 images", 64, 4_096),
        "streamed": _streamed_case("baseline d=32, batches from the host", 32),
    }


def _make_generator(width: int) -> Generator:
    conv_impl = conv.resolve_conv_impl("auto")
    return DCGANGenerator(width, IMAGE_SIZE, CHANNELS, conv_impl=conv_impl)


def _make_critic(width: int, norm: str = "batch") -> Critic:
    conv_impl = conv.resolve_conv_impl("auto")
    return DCGANCritic(width, IMAGE_SIZE, CHANNELS, norm=norm, conv_impl=conv_impl)


def _torch_cases(kind: str, **arguments: Any) -> dict[str, WorkerCase]:
    shape = {"image_size": IMAGE_SIZE, "channels": CHANNELS}
    case = {"kind": kind, **shape, **arguments}
    return {"torch": case | {"compiled": False}, "torch-compiled": case | {"compiled": True}}


def _students_case(title: str, widths: tuple[int, ...], *, seeds: int) -> Case:
    students = sum(cost_model.student_step_flops(_make_generator(width)) for width in widths)
    teacher = cost_model.generator_flops(_make_generator(TEACHER_WIDTH))
    return Case(
        title,
        partial(_build_students, widths, seeds),
        BATCH_SIZE * (teacher + seeds * students),
        steps=STEPS_PER_CALL,
        worker_cases=_torch_cases("students", teacher=TEACHER_WIDTH, widths=widths, seeds=seeds),
    )


def _build_students(widths: tuple[int, ...], seeds: int, precision: str) -> Call:
    recipe = Recipe(alpha=0.0, batch_size=BATCH_SIZE)
    specs = {
        f"d{width}-s{seed}": RunSpec(StepSpec(_make_generator(width), None, recipe), seed, 0)
        for width in widths
        for seed in range(seeds)
    }
    teacher = _make_generator(TEACHER_WIDTH)
    # Students read no pixel of a batch; its first axis tells the number of steps.
    batches = np.zeros((STEPS_PER_CALL, 1, 1, 1), np.int32)
    return _build_training(specs, teacher, precision, lambda: batches)


def _teacher_case(title: str, width: int) -> Case:
    flops = cost_model.adversarial_step_flops(
        _make_generator(width), _make_critic(width, "none"), CRITIC_STEPS, loss="wgan_gp"
    )
    return Case(
        title,
        partial(_build_gan, width, "wgan_gp", CRITIC_STEPS, "none"),
        BATCH_SIZE * flops,
        steps=STEPS_PER_CALL,
        worker_cases=_torch_cases("teacher", width=width, critic_steps=CRITIC_STEPS),
    )


def _gan_case(title: str, width: int) -> Case:
    flops = cost_model.adversarial_step_flops(
        _make_generator(width), _make_critic(width), 1, loss="bce"
    )
    return Case(
        title,
        partial(_build_gan, width, "bce", 1, "batch"),
        BATCH_SIZE * flops,
        steps=STEPS_PER_CALL,
        worker_cases=_torch_cases("gan", width=width),
    )


def _build_gan(width: int, loss: str, critic_steps: int, norm: str, precision: str) -> Call:
    recipe = Recipe(loss=loss, critic_steps=critic_steps, batch_size=BATCH_SIZE)
    spec = RunSpec(StepSpec(_make_generator(width), _make_critic(width, norm), recipe), 0, 0)
    shape = (STEPS_PER_CALL, 1, critic_steps, BATCH_SIZE)
    indices = np.random.default_rng(0).integers(0, NUM_IMAGES, shape).astype(np.int32)
    return _build_training({"teacher": spec}, None, precision, lambda: indices, _random_images())


def _streamed_case(title: str, width: int) -> Case:
    """Compares a step on images that are read from the data set with one on a constant batch."""
    flops = cost_model.adversarial_step_flops(
        _make_generator(width), _make_critic(width), 1, loss="bce"
    )
    return Case(
        title,
        partial(_build_baseline, width, streamed=True),
        BATCH_SIZE * flops,
        steps=STEPS_PER_CALL,
        variants={"a constant batch": partial(_build_baseline, width, streamed=False)},
    )


def _build_baseline(width: int, precision: str, *, streamed: bool) -> Call:
    """Builds a baseline whose batches go to the device as images.

    They are read from the data set if `streamed`, else always the same.
    """
    recipe = Recipe(batch_size=BATCH_SIZE)
    spec = RunSpec(StepSpec(_make_generator(width), _make_critic(width), recipe), 0, 0)
    images, calls = _random_images(), itertools.count()
    steps = STEPS_PER_CALL
    constant = images[np.arange(steps * BATCH_SIZE).reshape(steps, 1, 1, BATCH_SIZE)]

    def read_batches() -> np.ndarray:
        first, sizes = next(calls) * steps, {"count": NUM_IMAGES, "batch_size": BATCH_SIZE}
        indices = multi_step_indices(first, steps, critic_steps=1, seed=0, **sizes)
        return images[indices[:, None]]

    batches = read_batches if streamed else lambda: constant
    return _build_training({"baseline": spec}, None, precision, batches)


def _build_training(
    specs: RunSpecs,
    teacher: Generator | None,
    precision: str,
    batches: Callable[[], np.ndarray],
    images: np.ndarray | None = None,
) -> Call:
    """Builds a call of the study's own compiled step; the states move on from call to call."""
    if images is None and not any(spec.spec.critic for spec in specs.values()):
        images = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, CHANNELS), np.uint8)
    pixels = None if images is None else jnp.asarray(images)
    multi_step = make_multi_step(specs, teacher, precision=precision)
    states = {name: create_train_state(spec.spec, spec.seed) for name, spec in specs.items()}
    teacher_params = (
        TeacherParams(generator=_init_variables(teacher), features={}) if teacher else None
    )

    def call() -> Any:
        nonlocal states
        states, metrics = multi_step(states, teacher_params, pixels, jnp.asarray(batches()))
        return metrics

    return call


def _random_images() -> np.ndarray:
    shape = (NUM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, CHANNELS)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _init_variables(generator: Generator) -> Any:
    return generator.init(jax.random.key(0), jnp.zeros((2, generator.latent_dim)), train=False)


def _sampling_case(title: str, width: int, images: int) -> Case:
    generator = _make_generator(width)

    def build(precision: str) -> Call:
        variables = _init_variables(generator)
        latents = sampling.sample_latents(0, images, generator.latent_dim)
        return lambda: sampling.sample_images(generator, variables, latents)

    onnx_case = {"images": images, "width": width, "image_size": IMAGE_SIZE, "channels": CHANNELS}
    return Case(
        title,
        build,
        images * cost_model.generator_flops(generator),
        worker_cases={
            **_torch_cases("sampling", width=width, images=images),
            "onnxruntime": onnx_case,
        },
    )
