"""Distills any trained generator into small ones, without a data set or a config file."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from gankd_jax.config.constants import DEFAULT_WRITERS
from gankd_jax.config.presets import distillation_recipes
from gankd_jax.config.schema import base_config, recipe_config
from gankd_jax.export import formats
from gankd_jax.interop.external_generator import Function
from gankd_jax.interop.pair_table import PairTable, has_normal_latents
from gankd_jax.models.family import FAMILIES, family_of, is_in_family
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.study import generators, plan, runner, workdir
from gankd_jax.study.context import StudyContext
from gankd_jax.study.networks import can_start_from
from gankd_jax.study.validation import validate_config
from gankd_jax.utils import atomic_io, preemption
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import expand_path, require_new_file

logger = logging.getLogger(__name__)

STEPS, BATCH_SIZE = 5_000, 64
MAX_STEPS_PER_CALL = 50


class Student(TrainedGenerator):
    """A distilled generator."""

    def export(self, out: str | Path, precision: str = "float32") -> None:
        """Writes the student as a file; the file is run before it is written.

        Args:
            out: Its ending decides the format: .onnx, .safetensors, .stablehlo or .pth.
            precision: How the weights are stored: 'float32', 'float16' or 'int8'.

        Raises:
            UserError: There is no such format or precision, `out` exists, or the file's images
                differ from the student's.
        """
        path = expand_path(out)
        format_name = formats.format_of(path)
        require_new_file(path)
        formats.require_packages(format_name)
        name = self.card.get("run", "the student")
        formats.write_generator(path, self, format_name, precision, run_name=name, card=self.card)


def distill(
    teacher: str | Path | Function | TrainedGenerator,
    *,
    widths: Iterable[int] = (8,),
    steps: int = STEPS,
    recipe: str | Mapping[str, Any] = "best",
    family: str = "dcgan",
    batch_size: int = BATCH_SIZE,
    image_size: int = 0,
    latent_dim: int = 0,
    value_range: str = "",
    workdir: str | Path | None = None,
    writers: Sequence[str] = DEFAULT_WRITERS,
) -> dict[int, Student]:
    """Trains small generators to make a teacher's images of the same latents.

    No data set is needed.  All widths train in one compiled program, in which the teacher runs
    once.  Ctrl-C returns the students as far as they are trained, without scores; the same call
    with the same `workdir` resumes.

    Args:
        teacher: A generator or what `load_generator` takes: a file, which may be an .npz of pairs,
            a run's folder, a name, or a function from latents `(b, z)` to images `(b, s, s, c)` or
            `(b, c, s, s)`.
        widths: Channels of the last hidden layer of each student; the size of a student grows with
            the square.
        steps: Training steps.
        recipe: 'mse', 'l1' or 'best'; or the fields of a `Recipe`.
        family: Of the students' networks: 'dcgan' or 'resnet'.
        batch_size: Latents of a step.
        image_size: The size that the teacher's images must have, in pixels; 0 for any.
        latent_dim: Numbers in a latent, for a function that does not say.
        value_range: Of a file's or function's images: '-1..1', '0..1' or '0..255'; '' infers it
            from a few images.
        workdir: Folder of checkpoints, logs and scores, which `gankd report` reads; None for a
            temporary one.
        writers: Where metrics are written: 'jsonl', 'tensorboard', 'wandb' or a registered name.

    Returns:
        The students by width.

    Raises:
        UserError: The teacher cannot be loaded, a width or step count is wrong, or the folder holds
            another study.

    Example:
        >>> import gankd_jax
        >>> students = gankd_jax.distill("mnist-d4", widths=(2,), steps=20)
        >>> students[2].sample(seed=0, n=16).shape
        (16, 32, 32, 1)
        >>> students[2].export("student.stablehlo")
    """
    hints: dict[str, Any] = {"latent_dim": latent_dim, "value_range": value_range}
    if isinstance(teacher, TrainedGenerator):
        generator = teacher
    else:
        generator = generators.load_generator(teacher, **hints)
    if image_size not in (0, generator.image_size):
        raise UserError(
            f"image_size is {image_size}; the teacher's images have {generator.image_size} pixels"
        )
    config = make_config(
        generator,
        describe_source(teacher),
        widths=widths,
        steps=steps,
        recipe=recipe,
        family=family,
        batch_size=batch_size,
        writers=writers,
    )
    with contextlib.ExitStack() as stack:
        folder = expand_path(workdir or stack.enter_context(tempfile.TemporaryDirectory()))
        stop = contextlib.suppress(KeyboardInterrupt, preemption.Preempted)
        with stop, preemption.delayed_interrupt():
            train_students(config, folder, generator)
        return load_students(config, folder, generator)


def describe_source(teacher: str | Path | Function | TrainedGenerator) -> str:
    """Returns the text that names a teacher in a config; files by their whole path."""
    if isinstance(teacher, str | Path):
        path = expand_path(teacher)
        return str(path.resolve()) if path.exists() else str(teacher)
    return getattr(teacher, "__name__", type(teacher).__name__)


def describe_teacher(teacher: TrainedGenerator) -> str:
    """Returns a line on a teacher's kind and sizes."""
    size, module = teacher.image_size, teacher.module
    kind = f"{type(module).__name__} d={module.width}" if module.width else "a function"
    kind = f"{module.count:,} pairs" if isinstance(module, PairTable) else kind
    return f"{kind}, {size}x{size}x{teacher.channels} images of {teacher.latent_dim} numbers"


def plan_files(out: Path, widths: Sequence[int], family: str = "dcgan") -> dict[int, Path]:
    """Returns the file of each width, and tries them before the work.

    Args:
        out: The file of one student.  For several, the width is added to its name.
        widths: Of the students.
        family: Of the students, a key of `FAMILIES`.

    Raises:
        UserError: No format has such files, or not of this family, a package is missing, or a file
            exists.
    """
    formats.require_packages(formats.format_of(out))
    if family in FAMILIES:
        formats.require_family(formats.format_of(out), FAMILIES[family], "the student")
    files = {width: out.with_stem(f"{out.stem}-d{width}") for width in widths}
    files = files if len(files) > 1 else dict.fromkeys(widths, out)
    for file in files.values():
        require_new_file(file)
    return files


def make_config(
    teacher: TrainedGenerator,
    source: str,
    *,
    widths: Iterable[int],
    steps: int,
    recipe: str | Mapping[str, Any],
    family: str = "dcgan",
    batch_size: int = BATCH_SIZE,
    writers: Sequence[str] = DEFAULT_WRITERS,
) -> ml_collections.ConfigDict:
    """Returns the config of a study of a given teacher's students.

    Args:
        teacher: The teacher.
        source: As `describe_source` names it.
        widths: Of the students.
        steps: Training steps.
        recipe: A key of `distillation_recipes`, or the fields of a `Recipe`.
        family: Of the students, a key of `FAMILIES`.
        batch_size: Latents of a step.
        writers: Of metrics, names of `register_writer` among them.

    Raises:
        UserError: A field is wrong.
    """
    config = base_config()
    config.name = f"students of {Path(source).name}"
    config.data.update(
        name="none", channels=teacher.channels, image_size=teacher.image_size, validation=0
    )
    config.model.latent = teacher.latent_dim
    config.model.student.family = family
    if is_in_family(teacher.module):
        config.model.teacher.family = family_of(teacher.module).name
    config.study.update(
        teacher=source,
        teacher_widths=(getattr(teacher.module, "width", 0),),
        widths=tuple(widths),
        baselines=(),
    )
    recipes = distillation_recipes(steps=steps, batch_size=batch_size)
    if not isinstance(recipe, str):
        fields = {"alpha": 0.0, "steps": steps, "batch_size": batch_size, **recipe}
        recipes = {"custom": recipe_config(**fields)}
        recipe = "custom"
    elif recipe not in recipes:
        raise UserError(f"the recipe is {recipe!r}; it can be {', '.join(recipes)}")
    chosen = recipes[recipe]
    width = max(config.study.widths, default=0)
    norm = config.model.generator_norm
    if recipe == "best" and not can_start_from(teacher, family, norm=norm, width=width):
        chosen.warm_start = False
    config.recipes[recipe] = chosen
    config.study.students = (recipe,)
    call = math.gcd(chosen.steps, MAX_STEPS_PER_CALL)
    config.training.update(
        steps_per_call=call, log_every=2 * call, checkpoint_every=20 * call, grid_every=40 * call
    )
    config.training.writers = tuple(writers)
    config.evaluation.samples = 2_500
    if isinstance(teacher.module, PairTable) and not has_normal_latents(teacher):
        logger.warning(
            "the latents of %s are no standard normal numbers, and such are what `gankd sample` and"
            " `gankd score` give its students",
            source,
        )
        config.evaluation.statistics = "running"  # recomputed ones are of standard normal latents
    config.lock()
    validate_config(config)
    return config


def train_students(
    config: ml_collections.ConfigDict, folder: Path, teacher: TrainedGenerator
) -> None:
    """Trains and scores the students.

    Args:
        config: As `make_config` returns it.
        folder: The work directory.
        teacher: The teacher.

    Raises:
        UserError: The folder holds something else, or a student has failed.
        Preempted: A signal came; every student has a checkpoint.
    """
    runner.run_study(config, folder, teacher_object=teacher)
    failed = [run for run in plan.student_runs(config) if workdir.has_failed(folder, run)]
    if failed:
        # The folder may be a temporary one, so that the file's path would not help.
        reason = atomic_io.read_json(folder / failed[0].name / "failed.json")["reason"]
        raise UserError(f"{failed[0].name} has failed: {reason}")


def load_students(
    config: ml_collections.ConfigDict, folder: Path, teacher: TrainedGenerator
) -> dict[int, Student]:
    """Loads the students by width, as far as they are trained.

    Args:
        config: As `make_config` returns it.
        folder: The work directory.
        teacher: The teacher.
    """
    context = StudyContext(config, folder, teacher)
    students = {}
    for run in plan.student_runs(config):
        steps = workdir.checkpoint_steps(folder, run)
        if steps:
            module, variables = context.load_generator(run, step=steps[-1])
            card = generators.make_card(context, run, "float32")
            students[run.width] = Student(module, variables, card)
    return students
