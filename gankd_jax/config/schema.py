"""A study's config: every field with its options, and the checks that a config must pass.

The files under `configs/` start from `base_config()` and change what their study needs.  A width
`d` is the number of channels of the generator's last hidden layer (the paper calls it depth).
"""

import dataclasses
import difflib
import functools
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from gankd_jax.config.constants import DEFAULT_WRITERS
from gankd_jax.config.recipe import Recipe
from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

IMAGE_SIZES = (16, 32, 64, 128)
SEEDS = range(2**31)  # the values of a non-negative int32
# Fields that were removed, as patterns over their dotted names, with the value that means "off".
# A stored config with another value was trained in a way that this version cannot repeat.
REMOVED_FIELDS: dict[str, Any] = {
    r"recipes\.[^.]+\.late_batch": 0,
    r"recipes\.[^.]+\.warm_start_from": "teacher",
}
# Patterns over the dotted names of fields that were renamed, with their new names.
RENAMED_FIELDS = {
    r"(recipes\.[^.]+\.)critic_sees": r"\1real_source",
    r"(recipes\.[^.]+\.)lr_power": r"\1lr_width_exponent",
    r"(recipes\.[^.]+\.)feature_share": r"\1feature_weight",
    r"evaluation\.judges": "evaluation.classifiers",
}


def recipe_config(**changes: Any) -> ml_collections.ConfigDict:
    """Returns a `Recipe` as config fields: the paper's settings, with `changes`.

    Raises:
        UserError: A recipe has no such field.
    """
    fields = dataclasses.asdict(Recipe())
    for name in changes:
        if name not in fields:
            raise UserError(f"a recipe has no field {name}; {field_advice(f'recipes.x.{name}')}")
    return ml_collections.ConfigDict(dataclasses.asdict(Recipe(**changes)))


def base_config() -> ml_collections.ConfigDict:
    """Returns the paper's settings at 64x64, unlocked; a study's file changes what differs."""
    config = ml_collections.ConfigDict()
    config.name = "base"  # the study's name in its report

    config.data = data = ml_collections.ConfigDict()
    data.name = "mnist"  # digits, mnist, cifar10, celeb_a, any prepared; none: with study.teacher
    data.channels = 0  # of the images without a data set: 1 grey, 3 colour; 0: the data set's
    data.dir = ""  # folder of the TFDS data sets; '': TFDS_DATA_DIR, else TFDS's own default
    data.image_size = 64  # 16, 32, 64, 128
    data.pad = 0  # zero pixels added on each side of the original before it is resized
    data.mirror = False  # True: train on each image's mirror image too; takes twice the memory
    data.validation = 5_000  # images cut from the end of train, on which the teacher is selected
    data.placement = "auto"  # device: the whole set, as uint8; host: streamed; auto: by size

    config.model = model = ml_collections.ConfigDict()
    model.latent = 100  # dimensions of a latent, standard normal
    model.generator_norm = "batch"  # batch, none
    # Implementation of the 4x4 stride-2 layers: auto (by backend), dilated, phase, matmul.  They
    # compute the same values at different speed.
    model.conv = "auto"
    # Of the layers in training: float32, tf32 (a GPU's), bfloat16.  auto: that of the work
    # directory if it holds a study; else float32 on a CPU, tf32 on a GPU, bfloat16 on a TPU.
    model.precision = "auto"
    # Network family: dcgan, resnet.  Baselines have the students'.
    model.teacher = ml_collections.ConfigDict({"family": "dcgan"})
    model.student = ml_collections.ConfigDict({"family": "dcgan"})

    config.study = study = ml_collections.ConfigDict()
    # A trained generator that teaches: a file, a run's folder, the name of a pretrained one, or
    # package.module:function.  '': train those of the next two fields.
    study.teacher = ""
    study.teacher_widths = (64,)  # the one that scores best on the validation split is the teacher
    study.teacher_seeds = (0,)
    study.widths = (2, 4, 8, 16, 32)  # of students and baselines
    study.seeds = (0,)  # of students and baselines
    study.students = ("mse", "joint")  # names of recipes below
    study.baselines = ("baseline",)  # names of recipes below; (): none

    config.recipes = ml_collections.ConfigDict()
    config.recipes.teacher = recipe_config()
    config.recipes.baseline = recipe_config()
    config.recipes.mse = recipe_config(alpha=0.0, reduction="sum")
    # The paper does not state alpha.  Its critic continues from the teacher's.
    config.recipes.joint = recipe_config(alpha=0.5, reduction="sum", critic="teacher")

    config.training = training = ml_collections.ConfigDict()
    # Steps in one compiled call; the intervals below are multiples.  Fewer make a signal heard
    # sooner.  On a GPU or TPU a call is as long as the intervals allow, whatever this is.
    training.steps_per_call = 50
    training.devices = 0  # of each process, which share a batch; 0: all that JAX sees
    training.log_every = 100  # steps between lines of the log
    training.grid_every = 2_000  # steps between image grids on the fixed latents; 0: none
    training.checkpoint_every = 1_000  # steps between checkpoints; the last step always has one
    # How often a run that becomes non-finite resumes from its last checkpoint with another seed.
    # It then trains alone, after its group has ended.
    training.retries = 0
    # Where metrics, images, hyperparameters and scores are written: jsonl (must be among them),
    # tensorboard, wandb.
    training.writers = DEFAULT_WRITERS

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.samples = 10_000  # images sampled from each generator
    evaluation.batch_size = 250  # images in one forward pass
    evaluation.seed = 1_000_000  # of the latents; never used in training
    # Evaluation networks of a labelled data set: classifier (which selects the teacher), resnet.
    evaluation.classifiers = ("classifier",)
    evaluation.classifier = "pretrained"  # of the package if it has them; train: anew, once
    # Layers of the FID Inception network, as text: 64, 192, 768, 1280, 2048; (): not used; auto:
    # without labels, the last one that the fetched weights serve.
    evaluation.layers = ()
    # Images of each set that it compares, since it is slow; 0: `samples`, and all training images.
    evaluation.layer_samples = 0
    # Paths between latents for the perceptual path length of each generator, two images each; 0: no
    # such score.
    evaluation.ppl_samples = 0
    # Batch-norm statistics of a generator: recomputed (from fixed latents), running (averages of
    # the training).  Recomputed ones score better for small students.
    evaluation.statistics = "recomputed"
    return config


Variant = Callable[[ml_collections.ConfigDict], None]


def apply_variants(
    config: ml_collections.ConfigDict, variants: str, functions: Mapping[str, Variant]
) -> ml_collections.ConfigDict:
    """Applies the variants named by `--config=FILE:variant,variant`, in that order.

    Args:
        config: Changed in place.
        variants: Names with commas between; '': none.
        functions: Every variant of the file, by name.

    Returns:
        The config, locked.

    Raises:
        UserError: The file has no such variant.
    """
    for variant in filter(None, variants.split(",")):
        if variant not in functions:
            names = ", ".join(functions) or "none"
            raise UserError(f"no variant {variant!r}; there are: {names}")
        functions[variant](config)
    return config.lock()


def config_to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json())


def config_from_dict(stored: Mapping[str, Any], source: str) -> ml_collections.ConfigDict:
    """Reads a stored config, possibly one that another version of the program wrote.

    A field that it lacks gets its default; a field that was renamed is read under its old name.  A
    field that this version does not know is ignored with a warning, once per process.

    Args:
        stored: A config as JSON values, as `config_to_dict` gives it.
        source: The file that it was read from, for messages.

    Returns:
        The config, with every field of this version.

    Raises:
        UserError: It uses an option that was removed, or is not a config.
    """
    if not all(isinstance(stored.get(block), dict) for block in ("data", "study", "recipes")):
        raise UserError(f"{source} is damaged (not a study's config); name another folder")
    config = base_config()
    config.model.precision = "float32"  # that of studies from before the field
    config.recipes = ml_collections.ConfigDict(
        {name: recipe_config() for name in stored["recipes"]}
    )
    fields = flatten_config(config.to_dict())
    ignored = []
    for stored_name, value in flatten_config(stored).items():
        name = current_name(stored_name)
        if name in fields:
            _set_field(config, name, value, source)
        elif not _is_removed(name, value, source):
            ignored.append(name)
    warn_about_ignored_fields(source, tuple(ignored))
    return config


def current_name(name: str) -> str:
    """Returns the name that a field has in this version, given its dotted name in any version."""
    for pattern, replacement in RENAMED_FIELDS.items():
        name = re.sub(rf"^{pattern}$", replacement, name)
    return name


def field_advice(name: str, similar_name: str = "") -> str:
    """Returns what to do about a field that does not exist.

    Args:
        name: The dotted name of the field, such as `recipes.teacher.lr`.
        similar_name: A field of the same block that is spelt almost so, if there is one.
    """
    if current_name(name) != name:
        return f"it is now called {current_name(name).rpartition('.')[2]}"
    if any(re.fullmatch(pattern, name) for pattern in REMOVED_FIELDS):
        return "this option was removed"
    if re.fullmatch(r"recipes\.[^.]+", name) and not similar_name:
        return "a recipe is a block config.recipes.NAME of the config file"
    fields = {field.rpartition(".")[2] for field in flatten_config(base_config().to_dict())}
    last_part = name.rpartition(".")[2]
    longer = [field for field in sorted(fields, reverse=True) if field.endswith(f"_{last_part}")]
    candidates = [similar_name, *longer, *difflib.get_close_matches(last_part, fields)]
    similar_name = next(filter(None, candidates), "")
    if similar_name:
        return f"did you mean {similar_name}?"
    return "see gankd_jax/config/schema.py and recipe.py"


def _set_field(config: ml_collections.ConfigDict, name: str, value: Any, source: str) -> None:
    try:
        config.update_from_flattened_dict(
            {name: tuple(value) if isinstance(value, list) else value}
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{source} is damaged (config.{name} is {value!r})") from error


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of nested blocks by their dotted names, such as `data.image_size`.

    Args:
        config: Nested blocks of fields.
        prefix: Put before every name, with its dot.
    """
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= flatten_config(value, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _is_removed(name: str, value: Any, source: str) -> bool:
    """Returns whether a field was removed; refuses a value that was in use."""
    for pattern, off in REMOVED_FIELDS.items():
        if re.fullmatch(pattern, name):
            if value != off:
                raise UserError(
                    f"{source}: config.{name} is {value!r}, and this option was removed;"
                    f" only {off!r} can be read"
                )
            return True
    return False


@functools.cache
def warn_about_ignored_fields(source: str, names: tuple[str, ...]) -> None:
    """Logs a warning that names the fields, once per process; nothing for no fields."""
    if names:
        fields = ", ".join(f"config.{name}" for name in names)
        logger.warning("%s has fields that this version does not know: %s", source, fields)


def validate_fields(
    config: ml_collections.ConfigDict, options: Mapping[str, Iterable[str]]
) -> None:
    """Refuses a config that cannot be run.

    Args:
        config: A study's config.
        options: By the last part of a field's name, the values that it can have: the names in the
            registry that serves the field.

    Raises:
        UserError: A field is wrong; names the first one and what it may be.
    """
    _check_types(config)
    _require_option("data.image_size", config.data.image_size, IMAGE_SIZES)
    _require_option("data.placement", config.data.placement, options["placement"])
    for owner in ("teacher", "student"):
        family = config.model[owner].family
        _require_option(f"model.{owner}.family", family, options["family"])
    _require_option("model.generator_norm", config.model.generator_norm, options["generator_norm"])
    _require_option("model.conv", config.model.conv, options["conv"])
    _require_option("model.precision", config.model.precision, options["precision"])
    _require_option("evaluation.statistics", config.evaluation.statistics, options["statistics"])
    _require_option(
        "evaluation.classifier", config.evaluation.classifier, options["classifier_source"]
    )
    for field in ("classifiers", "layers"):
        for name in config.evaluation[field]:
            _require_option(f"evaluation.{field}", name, options[field])
    _validate_writers(config.training.writers, options["writers"])
    _validate_numbers(config)
    _validate_study(config)
    for name, fields in config.recipes.items():
        _validate_recipe(f"recipes.{name}", fields, config, options=options)


def _check_types(config: ml_collections.ConfigDict) -> None:
    """Every field exists and has the type that it has in `base_config`."""
    blocks, defaults = config.to_dict(), base_config().to_dict()
    _check_block("", blocks, defaults | {"recipes": {}})
    recipe_defaults = dataclasses.asdict(Recipe())
    for name, fields in blocks["recipes"].items():
        _require(f"recipes.{name}", name, bool(re.fullmatch(r"\w[\w-]*", name)), "a plain word")
        _check_block(f"recipes.{name}.", fields, recipe_defaults)
        for field in fields:
            _require_option(f"recipes.{name}", field, recipe_defaults)


def _check_block(prefix: str, block: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, default in defaults.items():
        field = f"{prefix}{name}"
        if name not in block:
            raise UserError(
                f"config.{field} is missing; gankd_jax/config/schema.py says what it can be"
            )
        value = block[name]
        if isinstance(default, dict):
            _require(field, value, isinstance(value, dict), "a block of fields")
            _check_block(f"{field}.", value, default)
        else:
            type_name = type(default).__name__
            _require(field, value, _has_type_of(value, default), f"of type {type_name}")


def _has_type_of(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default: an int is also a float, a bool is no number."""
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default) or (isinstance(default, tuple) and isinstance(value, list))


def _require_option(field: str, value: Any, options: Iterable[Any]) -> None:
    if value not in (options := tuple(options)):
        raise UserError(f"config.{field} is {value!r}; it can be {', '.join(map(str, options))}")


def _require(field: str, value: Any, condition: bool, requirement: str) -> None:
    if not condition:
        raise UserError(f"config.{field} is {value!r}; it must be {requirement}")


def _validate_writers(names: Sequence[str], options: Iterable[str]) -> None:
    for name in names:
        _require_option("training.writers", name, options)
    _require("training.writers", names, "jsonl" in names, "with jsonl, which resuming reads")
    _require("training.writers", names, len(set(names)) == len(names), "without repeats")


def _validate_numbers(config: ml_collections.ConfigDict) -> None:
    data, evaluation, training = config.data, config.evaluation, config.training
    _require("data.pad", data.pad, data.pad >= 0, "0 or more pixels")
    _require("data.validation", data.validation, data.validation >= 0, "0 or more images")
    _require("model.latent", config.model.latent, config.model.latent >= 1, "1 or more")
    samples = evaluation.samples
    _require("evaluation.samples", samples, samples >= 10, "10 or more images")
    batch_size = evaluation.batch_size
    _require("evaluation.batch_size", batch_size, batch_size >= 1, "1 or more")
    samples = evaluation.layer_samples
    is_enough = samples == 0 or samples >= 10
    _require("evaluation.layer_samples", samples, is_enough, "0, or 10 or more images")
    samples = evaluation.ppl_samples
    is_enough = samples == 0 or samples >= 10
    _require("evaluation.ppl_samples", samples, is_enough, "0, or 10 or more paths")
    names = evaluation.classifiers
    has_classifier_first = tuple(names[:1]) == ("classifier",)
    _require("evaluation.classifiers", names, has_classifier_first, "classifier, then others")
    # The seed after it is the one on which teachers are compared.
    _require("evaluation.seed", evaluation.seed, evaluation.seed in SEEDS[:-1], f"0 to {SEEDS[-2]}")
    _require("training.retries", training.retries, training.retries >= 0, "0 or more")
    _require("training.devices", training.devices, training.devices >= 0, "0 or more")
    call = training.steps_per_call
    _require("training.steps_per_call", call, call >= 1, "1 or more")
    for field in ("log_every", "grid_every", "checkpoint_every"):
        steps, minimum = training[field], 0 if field == "grid_every" else call
        is_multiple = steps >= minimum and steps % call == 0
        _require(f"training.{field}", steps, is_multiple, f"a multiple of steps_per_call = {call}")


def _validate_study(config: ml_collections.ConfigDict) -> None:
    study = config.study
    for field in ("teacher_widths", "widths"):
        # 0: the width of a given teacher that is no network of ours
        least = 0 if study.teacher and field == "teacher_widths" else 1
        are_widths = all(type(width) is int and width >= least for width in study[field])
        _require(f"study.{field}", study[field], are_widths, f"whole numbers, {least} or more")
    for field in ("teacher_seeds", "seeds"):
        are_seeds = all(type(seed) is int and seed in SEEDS for seed in study[field])
        _require(f"study.{field}", study[field], are_seeds, f"whole numbers, 0 to {SEEDS[-1]}")
    for field in ("teacher_widths", "teacher_seeds"):
        _require(f"study.{field}", study[field], len(study[field]) > 0, "at least one")
    for field in ("students", "baselines"):
        for name in study[field]:
            _require_option(f"study.{field}", name, sorted(config.recipes))
    for field in ("teacher_widths", "teacher_seeds", "widths", "seeds", "students", "baselines"):
        is_unique = len(set(study[field])) == len(study[field])
        _require(f"study.{field}", study[field], is_unique, "without repeats")
    _validate_given_teacher(config)


def _validate_given_teacher(config: ml_collections.ConfigDict) -> None:
    """A given teacher has no critic; without data nothing is trained or scored on real images."""
    study, data = config.study, config.data
    students = {name: config.recipes[name] for name in study.students}
    if study.teacher:
        count = len(study.teacher_widths) * len(study.teacher_seeds)
        _require("study.teacher", study.teacher, count == 1, "with one teacher width and seed")
        for name, recipe in students.items():
            compares_in_critic = recipe.features != "none" and recipe.feature_network == "critic"
            finetunes_critic = recipe.alpha > 0 and recipe.critic == "teacher"
            uses_critic = compares_in_critic or finetunes_critic
            _require(f"recipes.{name}", name, not uses_critic, "without the teacher's critic")
    if data.name != "none":
        _require("data.channels", data.channels, data.channels == 0, "0 with a data set")
        return
    _require("data.channels", data.channels, data.channels in (1, 3), "1 or 3 without a data set")
    _require("study.teacher", study.teacher, bool(study.teacher), "given without a data set")
    _require("study.baselines", study.baselines, not study.baselines, "() without a data set")
    layers = config.evaluation.layers
    _require("evaluation.layers", layers, not layers, "() without a data set")
    for name, recipe in students.items():
        needs_data = recipe.alpha > 0 and recipe.real_source == "data"
        _require(f"recipes.{name}.alpha", recipe.alpha, not needs_data, "0 without a data set")


def _validate_recipe(
    field: str,
    fields: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    *,
    options: Mapping[str, Iterable[str]],
) -> None:
    for name in (option for option in options if option in fields):
        _require_option(f"{field}.{name}", fields[name], options[name])
    for name in ("alpha", "feature_weight"):
        _require(f"{field}.{name}", fields[name], 0 <= fields[name] <= 1, "0 to 1")
    if fields.features != "none":
        count = fields.feature_batch
        is_part = 2 <= count <= fields.batch_size
        _require(f"{field}.feature_batch", count, is_part, "2 to batch_size")
    exponent = fields.lr_width_exponent
    _require(f"{field}.lr_width_exponent", exponent, math.isfinite(exponent), "finite")
    for name in ("b1", "b2", "ema"):
        _require(f"{field}.{name}", fields[name], 0 <= fields[name] < 1, "0 to below 1")
    for name in ("steps", "batch_size", "critic_steps"):
        _require(f"{field}.{name}", fields[name], fields[name] >= 1, "1 or more")
    for name in ("generator_lr", "critic_lr", "clip", "gradient_penalty"):
        _require(f"{field}.{name}", fields[name], 0 < fields[name] < math.inf, "above 0 and finite")
    for name in ("weight_decay", "gradient_clip"):
        _require(f"{field}.{name}", fields[name], 0 <= fields[name] < math.inf, "0 or more")
    is_within_steps = 0 <= fields.warmup < fields.steps
    _require(f"{field}.warmup", fields.warmup, is_within_steps, "0 to below steps")
    _require(f"{field}.critic_width", fields.critic_width, fields.critic_width >= 0, "0 or more")
    call = config.training.steps_per_call
    is_multiple = fields.steps % call == 0
    _require(
        f"{field}.steps",
        fields.steps,
        is_multiple,
        f"a multiple of training.steps_per_call = {call}",
    )
    _validate_critic(field, fields, config, options=options)


def _validate_critic(
    field: str,
    fields: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    *,
    options: Mapping[str, Iterable[str]],
) -> None:
    owner = "teacher" if fields.critic == "teacher" else field.removeprefix("recipes.")
    norm = config.recipes[owner].critic_norm
    if fields.alpha > 0 and fields.loss in options["penalised_losses"] and norm == "batch":
        raise UserError(
            f"config.{field}.loss is {fields.loss}, whose penalty is per image, and"
            f" config.recipes.{owner}.critic_norm is batch; set that to layer, spectral or none"
        )
    has_teacher = field.removeprefix("recipes.") not in ("teacher", *config.study.baselines)
    uses_teacher = "teacher" in (fields.critic, fields.real_source) or fields.features != "none"
    if not has_teacher and (fields.alpha < 1 or uses_teacher or fields.warm_start):
        raise UserError(
            f"config.{field} trains without a teacher; it needs alpha=1, critic='fresh',"
            " real_source='data', features='none' and warm_start=False"
        )
    if fields.real_source == "teacher" and fields.critic_steps > 1:
        raise UserError(
            f"config.{field}.critic_steps is {fields.critic_steps}; real_source='teacher' requires"
            " critic_steps=1, since the teacher generates one batch a step"
        )
    narrowest = min(config.study.teacher_widths)
    if fields.warm_start and max(config.study.widths, default=0) > narrowest:
        raise UserError(
            f"config.{field}.warm_start copies channels of the teacher, which may have only"
            f" {narrowest}; set config.study.widths to at most {narrowest}"
        )
