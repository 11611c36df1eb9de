"""Every config and variant against its golden dump.

A changed default shows as a changed file under tests/golden/configs. After
reviewing the difference, rewrite them: `.venv/bin/python tests/config/test_schema.py`.
"""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest
import tiny
from ml_collections import ConfigDict

from gankd_jax.config.presets import short_training_recipes
from gankd_jax.config.recipe import Recipe
from gankd_jax.config.schema import (
    apply_variants,
    base_config,
    config_to_dict,
    field_advice,
    recipe_config,
)
from gankd_jax.report import paper_results
from gankd_jax.study.validation import validate_config
from gankd_jax.utils.errors import UserError

CONFIGS = sorted((tiny.REPO / "configs").glob("*.py"))
GOLDEN = Path(__file__).parents[1] / "golden" / "configs"
PAPER_CONFIGS = [
    name for name in paper_results.PAPER_METRIC if (tiny.REPO / "configs" / f"{name}.py").exists()
]


def list_variants(path: Path) -> list[str]:
    """Returns the variants of a config file, and "" for none, from its error message."""
    with pytest.raises(UserError) as error:
        tiny.load_config(path, "no-such-variant")
    return [
        "",
        *re.findall(r"[\w-]+", str(error.value).split("there are: ")[1].replace("none", "")),
    ]


def list_configs() -> list[tuple[Path, str]]:
    return [(path, variant) for path in CONFIGS for variant in list_variants(path)]


def golden_path(path: Path, variant: str) -> Path:
    return GOLDEN / f"{'-'.join(filter(None, (path.stem, variant)))}.json"


def dump_config(path: Path, variant: str) -> str:
    return json.dumps(config_to_dict(tiny.load_config(path, variant)), indent=2) + "\n"


def rewrite_golden_dumps() -> None:
    for path in GOLDEN.glob("*.json"):
        path.unlink()
    for path, variant in list_configs():
        golden_path(path, variant).write_text(dump_config(path, variant))


@pytest.mark.parametrize(("path", "variant"), list_configs(), ids=lambda part: Path(part).stem)
def test_config_is_valid_locked_and_equal_to_its_golden_dump(path, variant):
    config = tiny.load_config(path, variant)
    validate_config(config)
    assert dump_config(path, variant) == golden_path(path, variant).read_text()
    with pytest.raises(AttributeError):
        config.study.no_such_field = 1


def test_every_golden_dump_has_its_config():
    assert sorted(GOLDEN.glob("*.json")) == sorted(itertools.starmap(golden_path, list_configs()))


@pytest.mark.parametrize("name", PAPER_CONFIGS)
def test_configs_without_variants_have_the_papers_networks(name):
    config = tiny.load_config(tiny.REPO / "configs" / f"{name}.py")
    assert config.study.teacher_widths == (paper_results.PAPER_TEACHER_WIDTH[name],)
    widths = [row.width for row in paper_results.PAPER_ROWS if name in row.results]
    assert set(config.study.widths) >= {
        w for w in widths if w < paper_results.PAPER_TEACHER_WIDTH[name]
    }
    assert (config.data.name, config.data.image_size, config.model.latent) == (name, 64, 100)
    for run in ("teacher", "baseline"):
        settings = config.recipes[run]
        assert (settings.generator_lr, settings.critic_lr, settings.b1) == (2e-4, 2e-4, 0.5)
    assert (config.recipes.mse.alpha, config.recipes.mse.reduction) == (0.0, "sum")


def test_digits_config_has_its_own_sizes():
    config = tiny.load_config(tiny.DIGITS)
    assert (config.data.name, config.data.image_size) == ("digits", 16)
    assert config.data.pad * 2 + 8 < 16  # padded, then enlarged


def test_variants_are_applied_in_order():
    def apply_first(config: ConfigDict) -> None:
        config.name, config.data.pad = "first", 1

    def apply_second(config: ConfigDict) -> None:
        config.name = "second"

    variants = {"first": apply_first, "second": apply_second}
    config = apply_variants(base_config(), "first,second", variants)
    assert (config.name, config.data.pad) == ("second", 1)
    config = apply_variants(base_config(), "second,first", variants)
    assert (config.name, config.data.pad) == ("first", 1)
    with pytest.raises(UserError, match="no variant 'third'; there are: first, second"):
        apply_variants(base_config(), "third", variants)


def test_recipe_config_has_the_fields_of_recipe():
    config = recipe_config(steps=7, loss="hinge")
    assert Recipe(**config) == Recipe(steps=7, loss="hinge")
    with pytest.raises(UserError, match="no field no_such_field; see gankd_jax/config"):
        recipe_config(no_such_field=1)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("critic_sees", "it is now called real_source"), ("late_batch", "this option was removed")],
)
def test_renamed_or_removed_recipe_field_is_rejected_with_advice(name, advice):
    with pytest.raises(UserError, match=advice):
        recipe_config(**{name: 1})


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("recipes.teacher.lr", "did you mean generator_lr?"),
        ("study.widht", "did you mean widths?"),
        ("evaluation.judges", "it is now called classifiers"),
        ("recipes.mse.late_batch", "this option was removed"),
        ("recipes.mes", "a recipe is a block config.recipes.NAME of the config file"),
        ("nonsense", "see gankd_jax/config/schema.py and recipe.py"),
    ],
)
def test_advice_for_an_unknown_field_names_a_similar_one(name, advice):
    assert field_advice(name) == advice


def test_short_training_recipes_have_the_given_steps():
    config = short_training_recipes(teacher_steps=100, steps=200, joint_steps=300)
    steps = {name: fields.steps for name, fields in config.items()}
    assert steps == {"teacher": 100, "baseline": 200, "mse": 200, "l1": 200, "joint": 300}


def test_config_as_json_has_every_field():
    config = config_to_dict(base_config())
    assert config["study"]["widths"] == [2, 4, 8, 16, 32]
    assert config["recipes"]["joint"] == dataclasses.asdict(
        Recipe(alpha=0.5, reduction="sum", critic="teacher")
    )


INVALID_VALUES = [
    ("data.image_size", 48, "config.data.image_size is 48; it can be 16, 32, 64, 128"),
    ("data.pad", -1, "data.pad is -1; it must be 0 or more"),
    ("data.validation", -1, "data.validation is -1"),
    ("data.placement", "moon", "config.data.placement is 'moon'; it can be auto, device, host"),
    ("model.latent", 0, "model.latent is 0; it must be 1 or more"),
    ("model.precision", "float16", "it can be auto, float32, tf32, bfloat16"),
    ("model.conv", "fft", "it can be auto, dilated, phase, matmul"),
    ("model.generator_norm", "layer", "it can be batch, none"),
    ("study.widths", (0,), "config.study.widths is (0,); it must be whole numbers, 1 or more"),
    ("study.widths", (4, 4), "without repeats"),
    ("study.widths", ("a",), "whole numbers"),
    ("study.teacher_widths", (), "at least one"),
    ("study.teacher_seeds", (), "at least one"),
    ("study.seeds", (-1,), "whole numbers, 0 to 2147483647"),
    ("study.seeds", (2**31,), "config.study.seeds is (2147483648,)"),
    ("study.students", ("kd",), "config.study.students is 'kd'; it can be baseline, joint"),
    ("study.students", ("mse", "mse"), "without repeats"),
    ("study.baselines", ("mse",), "config.recipes.mse trains without a teacher"),
    ("recipes.mse.alpha", 1.5, "config.recipes.mse.alpha is 1.5; it must be 0 to 1"),
    ("recipes.mse.alpha", -0.1, "0 to 1"),
    ("recipes.mse.alpha", float("nan"), "0 to 1"),
    ("recipes.mse.distance", "l2", "it can be mse, l1, huber, pyramid"),
    ("recipes.mse.features", "mmd", "it can be none, l1, energy"),
    ("recipes.mse.feature_weight", 1.5, "0 to 1"),
    ("recipes.mse.feature_network", "vgg", "it can be critic, classifier, inception"),
    ("recipes.mse.lr_width_exponent", float("nan"), "finite"),
    ("recipes.joint.real_source", "student", "it can be data, teacher"),
    ("recipes.baseline.real_source", "teacher", "config.recipes.baseline trains without a teacher"),
    ("recipes.teacher.features", "l1", "config.recipes.teacher trains without a teacher"),
    ("recipes.baseline.warm_start", True, "config.recipes.baseline trains without a teacher"),
    ("evaluation.classifiers", ("resnet",), "it must be classifier, then others"),
    ("evaluation.classifiers", ("classifier", "lenet"), "it can be classifier, resnet"),
    ("evaluation.layer_samples", 5, "it must be 0, or 10 or more images"),
    ("evaluation.layer_samples", -1, "0, or 10 or more"),
    ("recipes.mse.reduction", "max", "it can be mean, sum"),
    ("recipes.mse.steps", 0, "1 or more"),
    ("recipes.mse.steps", 1001, "a multiple of training.steps_per_call = 50"),
    ("recipes.mse.warmup", 20_000, "0 to below steps"),
    ("recipes.mse.schedule", "step", "it can be constant, cosine, linear"),
    ("recipes.mse.generator_lr", 0.0, "above 0"),
    ("recipes.mse.generator_lr", float("nan"), "above 0"),
    ("recipes.mse.generator_lr", float("inf"), "above 0 and finite"),
    ("recipes.mse.steps", None, "config.recipes.mse.steps is None; it must be of type int"),
    ("study.widths", (True,), "whole numbers"),
    ("training.retries", -1, "0 or more"),
    ("recipes.mse.b1", 1.0, "config.recipes.mse.b1 is 1.0; it must be 0 to below 1"),
    ("recipes.mse.b2", -0.5, "0 to below 1"),
    ("recipes.mse.ema", 1.0, "0 to below 1"),
    ("recipes.baseline.batch_size", 0, "1 or more"),
    ("recipes.baseline.critic_steps", 0, "1 or more"),
    ("recipes.baseline.critic_width", -1, "0 or more"),
    ("recipes.baseline.critic", "teacher", "config.recipes.baseline trains without a teacher"),
    (
        "recipes.baseline.loss",
        "lsgan",
        "it can be bce, bce_saturating, hinge, wgan, wgan_gp, rpgan",
    ),
    ("recipes.baseline.loss", "rpgan", "config.recipes.baseline.critic_norm is batch"),
    ("recipes.mse.optimizer", "adamx", "it can be adam, adamw, rmsprop, sgd, muon"),
    ("recipes.mse.weight_decay", -0.1, "0 or more"),
    ("recipes.mse.gradient_clip", float("inf"), "0 or more"),
    ("recipes.baseline.loss", "wgan_gp", "config.recipes.baseline.critic_norm is batch"),
    ("recipes.joint.loss", "wgan_gp", "config.recipes.teacher.critic_norm is batch"),
    ("recipes.teacher.alpha", 0.5, "config.recipes.teacher trains without a teacher"),
    ("recipes.teacher.critic_norm", "group", "it can be batch, layer, spectral, none"),
    ("training.steps_per_call", 0, "1 or more"),
    ("training.log_every", 75, "a multiple of steps_per_call = 50"),
    ("training.checkpoint_every", 0, "a multiple of steps_per_call = 50"),
    ("training.grid_every", -50, "a multiple of steps_per_call = 50"),
    ("evaluation.samples", 9, "10 or more"),
    ("evaluation.batch_size", 0, "1 or more"),
    ("evaluation.seed", -1, "config.evaluation.seed is -1"),
    ("evaluation.seed", 2**31 - 1, "config.evaluation.seed is 2147483647"),
    ("evaluation.statistics", "none", "it can be recomputed, running"),
    ("evaluation.layers", ("2049",), "it can be auto, 64, 192, 768, 1280, 2048"),
]


@pytest.mark.parametrize(
    ("field", "value", "message"), INVALID_VALUES, ids=lambda part: str(part)[:40]
)
def test_invalid_value_is_rejected_in_one_line(field, value, message):
    config = base_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        validate_config(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("study.students", ()),
        ("study.baselines", ()),
        ("study.widths", ()),
        ("training.grid_every", 0),
        ("recipes.mse.alpha", 1.0),
        ("recipes.baseline.loss", "wgan"),
        ("study.seeds", (2**31 - 1,)),
    ],
)
def test_values_at_the_edge_of_the_allowed_range_pass(field, value):
    config = base_config()
    config.update_from_flattened_dict({field: value})
    validate_config(config)


def test_warm_start_needs_a_teacher_as_wide_as_the_student():
    config = base_config()
    config.recipes.mse.warm_start = True
    validate_config(config)
    config.study.widths = (2, 65)
    with pytest.raises(UserError, match=r"set config.study.widths to at most 64"):
        validate_config(config)


@pytest.mark.parametrize("count", [1, 65])
def test_feature_batch_is_at_most_the_batch(count):
    config = base_config()
    config.recipes.mse.update({"features": "energy", "feature_batch": count})
    with pytest.raises(UserError, match=r"feature_batch is .* must be 2 to batch_size"):
        validate_config(config)


def test_real_source_teacher_requires_one_critic_step():
    config = base_config()
    config.recipes.joint.update({"real_source": "teacher", "critic_steps": 2})
    with pytest.raises(UserError, match="requires critic_steps=1"):
        validate_config(config)


def test_gradient_penalty_without_batch_norm_is_valid():
    config = base_config()
    config.recipes.teacher.update(recipe_config(loss="wgan_gp", critic_norm="layer"))
    config.recipes.joint.loss = "wgan_gp"
    validate_config(config)


def resnet_config() -> ConfigDict:
    """A teacher and students of the family resnet, which train without a baseline."""
    config = base_config()
    config.model.teacher.family = config.model.student.family = "resnet"
    config.recipes.teacher.critic_norm = "spectral"
    config.study.baselines = ()
    validate_config(config)
    return config


RESNET_ERRORS = [
    ("model.student.family", "vit", "it can be dcgan, resnet"),
    ("data.image_size", 128, "config.model.teacher.family is 'resnet', whose networks have 32, 64"),
    ("model.generator_norm", "none", "whose networks have batch"),
    ("recipes.teacher.critic_norm", "batch", "whose networks have spectral, none"),
    ("recipes.mse.warm_start", True, "a resnet student cannot take from a resnet teacher"),
    ("study.baselines", ("baseline",), "config.recipes.baseline.critic_norm is 'batch'"),
]


@pytest.mark.parametrize(("field", "value", "message"), RESNET_ERRORS)
def test_what_a_family_does_not_have_is_rejected_in_one_line(field, value, message):
    config = resnet_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError) as error:
        validate_config(config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_students_of_another_family_start_cold():
    config = base_config()
    config.recipes.mse.warm_start = True
    validate_config(config)
    config.model.teacher.family, config.recipes.teacher.critic_norm = "resnet", "spectral"
    with pytest.raises(UserError, match="a dcgan student cannot take from a resnet teacher"):
        validate_config(config)
    config.recipes.mse.warm_start = False
    validate_config(config)


if __name__ == "__main__":
    rewrite_golden_dumps()
