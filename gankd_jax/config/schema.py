"""A study's config: every field with its options, and the checks a config must pass.

The files under `configs/` start from `base()` and change what their study needs.  A width `d` is
the number of channels of the generator's last hidden layer (the paper calls it depth).
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from gankd_jax.config.recipe import Recipe
from gankd_jax.utils.errors import UserError

IMAGE_SIZES = (16, 32, 64, 128)
SEEDS = range(2**31)  # what an int32 holds
OPTIONS = {
    "loss": ("bce", "bce_saturating", "hinge", "wgan", "wgan_gp"),
    "distance": ("mse", "l1", "huber", "pyramid"),
    "features": ("none", "l1", "energy"),
    "reduction": ("mean", "sum"),
    "critic": ("fresh", "teacher"),
    "critic_sees": ("data", "teacher"),
    "schedule": ("constant", "cosine", "linear"),
    "norm": ("batch", "none"),
    "critic_norm": ("batch", "layer", "none"),
    "conv": ("auto", "dilated", "phase", "matmul"),
    "placement": ("auto", "device", "host"),
    "judges": ("classifier", "mixer"),
    "layers": ("64", "192", "768", "1280", "2048"),
    "statistics": ("recomputed", "running"),
}


def recipe_config(**changes: Any) -> ml_collections.ConfigDict:
    """`training.recipe.Recipe` as config fields: the paper's settings, with `changes`."""
    return ml_collections.ConfigDict(dataclasses.asdict(Recipe(**changes)))


def base_config() -> ml_collections.ConfigDict:
    """The paper's settings at 64x64; a study's file changes what differs (unlocked)."""
    config = ml_collections.ConfigDict()
    config.name = "base"  # names the study in its report

    config.data = data = ml_collections.ConfigDict()
    data.name = "mnist"  # digits, mnist, cifar10, celeb_a
    data.dir = ""  # folder of the TFDS data sets; '': TFDS_DATA_DIR, else TFDS's own default
    data.image_size = 64  # 16, 32, 64, 128
    data.pad = 0  # zero pixels added on each side of the original before it is resized
    data.validation = 5_000  # images cut from the end of train, on which the teacher is chosen
    data.placement = "auto"  # device: all of it, as uint8; host: streamed; auto: by size

    config.model = model = ml_collections.ConfigDict()
    model.latent = 100  # numbers in a latent, standard normal
    model.generator_norm = "batch"  # batch, none
    model.conv = "auto"  # auto (by backend), dilated, phase, matmul: same values, different speed

    config.study = study = ml_collections.ConfigDict()
    study.teacher_widths = (64,)  # the one that scores best on the validation split teaches
    study.teacher_seeds = (0,)
    study.widths = (2, 4, 8, 16, 32)  # of students and baselines
    study.seeds = (0,)  # of students and baselines
    study.students = ("mse", "joint")  # names of recipes below
    study.baselines = ("baseline",)  # names of recipes below; (): none

    config.recipes = ml_collections.ConfigDict()
    config.recipes.teacher = recipe_config()
    config.recipes.baseline = recipe_config()
    config.recipes.mse = recipe_config(alpha=0.0, reduction="sum")
    # The paper does not say alpha; critic: goes on from the teacher's.
    config.recipes.joint = recipe_config(alpha=0.5, reduction="sum", critic="teacher")

    config.training = training = ml_collections.ConfigDict()
    training.steps_per_call = 50  # steps in one compiled call; the intervals below are multiples
    training.devices = 0  # of each process, which share a batch; 0: all that JAX sees
    training.log_every = 100  # steps between lines of the log
    training.grid_every = 2_000  # steps between pictures on the fixed latents; 0: none
    training.checkpoint_every = 1_000  # steps between checkpoints (the last step always has one)
    # How often a run that stops being finite goes on from its last checkpoint, with other random
    # numbers and by itself, after its group has ended.
    training.retries = 0

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.samples = 10_000  # images drawn from each generator
    evaluation.batch_size = 250  # images in one forward pass
    evaluation.seed = 1_000_000  # of the latents; never used in training
    evaluation.judges = ("classifier",)  # of a labelled set: classifier, mixer; the first chooses
    evaluation.layers = ()  # of the FID network: 64, 192, 768, 1280, 2048, as text; (): not used
    # Images of each side that it compares, as it is slow; 0: `samples`, and every training image.
    evaluation.layer_samples = 0
    evaluation.statistics = "recomputed"  # batch norm's: recomputed (fixed latents), running
    return config


Change = Callable[[ml_collections.ConfigDict], None]


def apply_variants(
    config: ml_collections.ConfigDict, variants: str, changes: Mapping[str, Change]
) -> ml_collections.ConfigDict:
    """Apply the variants named by `FILE:variant,variant`, in that order, and lock the config.

    Raises:
      UserError: the file has no such variant.
    """
    for variant in filter(None, variants.split(",")):
        if variant not in changes:
            raise UserError(f"no variant {variant!r}; there are: {', '.join(changes) or 'none'}")
        changes[variant](config)
    return config.lock()


def config_to_dict(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The config as plain JSON values (tuples become lists)."""
    return json.loads(config.to_json())


def validate_config(config: ml_collections.ConfigDict) -> None:
    """Refuse a config that cannot be run.

    Raises:
      UserError: naming the first field that is wrong and what it may be.
    """
    _check_fields(config)
    _one_of("data.image_size", config.data.image_size, IMAGE_SIZES)
    _one_of("data.placement", config.data.placement, OPTIONS["placement"])
    _one_of("model.generator_norm", config.model.generator_norm, OPTIONS["norm"])
    _one_of("model.conv", config.model.conv, OPTIONS["conv"])
    _one_of("evaluation.statistics", config.evaluation.statistics, OPTIONS["statistics"])
    for field in ("judges", "layers"):
        for name in config.evaluation[field]:
            _one_of(f"evaluation.{field}", name, OPTIONS[field])
    _validate_numbers(config)
    _validate_study(config)
    for name, fields in config.recipes.items():
        _validate_recipe(f"recipes.{name}", fields, config)


def _check_fields(config: ml_collections.ConfigDict) -> None:
    """Every field is there and of the type it has in `base`; recipes have no further ones."""
    found, wanted = config.to_dict(), base_config().to_dict()
    _check_block("", found, wanted | {"recipes": {}})
    for name, fields in found["recipes"].items():
        _need(f"recipes.{name}", name, bool(re.fullmatch(r"\w[\w-]*", name)), "a plain word")
        known = dataclasses.asdict(Recipe())
        _check_block(f"recipes.{name}.", fields, known)
        for field in fields:
            _one_of(f"recipes.{name}", field, tuple(known))


def _check_block(above: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, like in wanted.items():
        field = f"{above}{name}"
        if name not in found:
            raise UserError(
                f"config.{field} is missing; gankd_jax/config/schema.py says what it can be"
            )
        value = found[name]
        if isinstance(like, dict):
            _need(field, value, isinstance(value, dict), "a block of fields")
            _check_block(f"{field}.", value, like)
        else:
            _need(field, value, _is_like(value, like), f"of type {type(like).__name__}")


def _is_like(value: Any, like: Any) -> bool:
    """Whether a value is of the type of another: whole numbers are floats too, and no truths."""
    if isinstance(like, float):
        return type(value) in (int, float)
    return type(value) is type(like) or (isinstance(like, tuple) and isinstance(value, list))


def _one_of(field: str, value: Any, options: tuple[Any, ...]) -> None:
    if value not in options:
        raise UserError(f"config.{field} is {value!r}; it can be {', '.join(map(str, options))}")


def _need(field: str, value: Any, good: bool, what: str) -> None:
    if not good:
        raise UserError(f"config.{field} is {value!r}; it must be {what}")


def _validate_numbers(config: ml_collections.ConfigDict) -> None:
    data, evaluation, training = config.data, config.evaluation, config.training
    _need("data.pad", data.pad, data.pad >= 0, "0 or more pixels")
    _need("data.validation", data.validation, data.validation >= 0, "0 or more images")
    _need("model.latent", config.model.latent, config.model.latent >= 1, "1 or more")
    _need("evaluation.samples", evaluation.samples, evaluation.samples >= 10, "10 or more images")
    _need("evaluation.batch_size", evaluation.batch_size, evaluation.batch_size >= 1, "1 or more")
    few = evaluation.layer_samples
    _need("evaluation.layer_samples", few, few == 0 or few >= 10, "0, or 10 or more images")
    judges = evaluation.judges
    first = tuple(judges[:1]) == ("classifier",)
    _need("evaluation.judges", judges, first, "classifier, then others")
    # The next seed is the one on which teachers are compared.
    whole = evaluation.seed in SEEDS[:-1]
    _need("evaluation.seed", evaluation.seed, whole, f"0 to {SEEDS[-2]}")
    _need("training.retries", training.retries, training.retries >= 0, "0 or more")
    _need("training.devices", training.devices, training.devices >= 0, "0 or more")
    call = training.steps_per_call
    _need("training.steps_per_call", call, call >= 1, "1 or more")
    for field in ("log_every", "grid_every", "checkpoint_every"):
        steps, least = training[field], 0 if field == "grid_every" else call
        good = steps >= least and steps % call == 0
        _need(f"training.{field}", steps, good, f"a multiple of steps_per_call = {call}")


def _validate_study(config: ml_collections.ConfigDict) -> None:
    study = config.study
    for field in ("teacher_widths", "widths"):
        good = all(type(width) is int and width >= 1 for width in study[field])
        _need(f"study.{field}", study[field], good, "whole numbers, 1 or more")
    for field in ("teacher_seeds", "seeds"):
        good = all(type(seed) is int and seed in SEEDS for seed in study[field])
        _need(f"study.{field}", study[field], good, f"whole numbers, 0 to {SEEDS[-1]}")
    for field in ("teacher_widths", "teacher_seeds"):
        _need(f"study.{field}", study[field], len(study[field]) > 0, "at least one")
    for field in ("students", "baselines"):
        for name in study[field]:
            _one_of(f"study.{field}", name, tuple(sorted(config.recipes)))
    for field, values in study.items():
        _need(f"study.{field}", values, len(set(values)) == len(values), "without repeats")


def _validate_recipe(
    field: str, fields: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> None:
    for name in (option for option in OPTIONS if option in fields):
        _one_of(f"{field}.{name}", fields[name], OPTIONS[name])
    for name in ("alpha", "feature_share"):
        _need(f"{field}.{name}", fields[name], 0 <= fields[name] <= 1, "0 to 1")
    few = 2 <= fields.feature_batch <= fields.batch_size
    if fields.features != "none":
        _need(f"{field}.feature_batch", fields.feature_batch, few, "2 to batch_size")
    late = fields.late_batch
    grows = late == 0 or late >= fields.batch_size
    _need(f"{field}.late_batch", late, grows, "0, or batch_size or more")
    power = fields.lr_power
    _need(f"{field}.lr_power", power, math.isfinite(power), "finite")
    for name in ("b1", "b2", "ema"):
        _need(f"{field}.{name}", fields[name], 0 <= fields[name] < 1, "0 to below 1")
    for name in ("steps", "batch_size", "critic_steps"):
        _need(f"{field}.{name}", fields[name], fields[name] >= 1, "1 or more")
    for name in ("generator_lr", "critic_lr", "clip", "gradient_penalty"):
        _need(f"{field}.{name}", fields[name], 0 < fields[name] < math.inf, "above 0 and finite")
    warm = 0 <= fields.warmup < fields.steps
    _need(f"{field}.warmup", fields.warmup, warm, "0 to below steps")
    _need(f"{field}.critic_width", fields.critic_width, fields.critic_width >= 0, "0 or more")
    call = config.training.steps_per_call
    whole = fields.steps % call == 0
    _need(f"{field}.steps", fields.steps, whole, f"a multiple of training.steps_per_call = {call}")
    _validate_critic(field, fields, config)


def _validate_critic(
    field: str, fields: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> None:
    owner = "teacher" if fields.critic == "teacher" else field.removeprefix("recipes.")
    norm = config.recipes[owner].critic_norm
    if fields.alpha > 0 and fields.loss == "wgan_gp" and norm == "batch":
        raise UserError(
            f"config.{field}.loss is wgan_gp, whose penalty is per image, and"
            f" config.recipes.{owner}.critic_norm is batch; set that to layer or none"
        )
    taught = field.removeprefix("recipes.") not in ("teacher", *config.study.baselines)
    seen = "teacher" in (fields.critic, fields.critic_sees) or fields.features != "none"
    if not taught and (fields.alpha < 1 or seen or fields.warm_start):
        raise UserError(
            f"config.{field} trains without a teacher: alpha is 1, critic fresh, critic_sees data,"
            " features none and warm_start False"
        )
    if fields.critic_sees == "teacher" and fields.critic_steps > 1:
        raise UserError(
            f"config.{field}.critic_sees is teacher, who draws once for a step: critic_steps is 1"
        )
    narrowest = min(config.study.teacher_widths)
    if fields.warm_start and max(config.study.widths, default=0) > narrowest:
        raise UserError(
            f"config.{field}.warm_start takes channels of the teacher, which may have"
            f" {narrowest}: config.study.widths go no further"
        )
