"""Recipes that worked, and config variants that train them side by side."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from gankd_jax.config.dataset import config_dataset
from gankd_jax.config.schema import recipe_config

# Tuned on MNIST at 32x32, where a student's best learning rate falls with the root of its width.
STUDENT_OPTIMIZER = {
    "generator_lr": 3e-2,
    "lr_width_exponent": 0.5,
    "b1": 0.9,
    "schedule": "cosine",
}
BEST_DISTANCE = {
    "distance": "l1",  # removes half of mse's Fréchet distance at d=2, two thirds at d=8
    "warm_start": True,  # removes half of what is left at d=8
    "features": "energy",  # with its weight gives back the sharpness
    "feature_weight": 0.9,
}
# Of the teachers of grey images, and of baselines in colour.
WGAN_GP = {
    "loss": "wgan_gp",
    "critic_norm": "none",
    "generator_lr": 1e-3,
    "critic_lr": 2e-3,
    "b1": 0.0,
    "b2": 0.9,
}
SPECTRAL_HINGE = {"loss": "hinge", "critic_norm": "spectral", "b1": 0.0, "b2": 0.9}
# Of a teacher in colour, by the name of the recipe: each GAN loss with the critic that it needs.
COLOUR_GANS = {
    "wgan_gp": {**WGAN_GP, "schedule": "cosine"},
    "rpgan": {
        "loss": "rpgan",
        "critic_norm": "none",
        "generator_lr": 5e-4,
        "critic_lr": 5e-4,
        "b1": 0.0,
        "b2": 0.99,
        "gradient_penalty": 1.0,
    },
    "hinge": {**SPECTRAL_HINGE, "generator_lr": 5e-4, "critic_lr": 1e-3},
    "hinge_slow": {**SPECTRAL_HINGE, "generator_lr": 2e-4, "critic_lr": 4e-4},
}


def short_training_recipes(
    *,
    teacher_steps: int,
    steps: int,
    joint_steps: int,
    teacher_gan: Mapping[str, Any] = WGAN_GP,
) -> dict[str, ml_collections.ConfigDict]:
    """Returns recipes for a few thousand steps, students and baselines tuned alike.

    The paper's learning rate starves small generators in so few steps.  On MNIST at 32x32 students
    learn best at a hundred times that rate, baselines at 25 times.

    Args:
        teacher_steps: Steps of the teacher.
        steps: Steps of the baseline and of the students without a critic.
        joint_steps: Steps of the joint student.  Its critic, as wide as the teacher's, makes a step
            about ten times as long.
        teacher_gan: The teacher's GAN loss, critic and learning rates.

    Returns:
        The recipes teacher, baseline, mse, l1 and joint by name.
    """
    teacher = recipe_config(
        **{**teacher_gan, "steps": teacher_steps, "schedule": "cosine", "ema": 0.999}
    )
    baseline = recipe_config(
        steps=steps,
        generator_lr=5e-3,
        critic_lr=5e-4,
        critic_width=8,
        schedule="cosine",
        ema=0.999,
    )
    student = {"generator_lr": 2e-2, "b1": 0.9, "schedule": "cosine"}
    # alpha applies to the mean over an image's values; on the sum it would be about 1/1024 of that.
    joint = recipe_config(
        alpha=0.01,
        steps=joint_steps,
        critic="teacher",
        loss=teacher_gan["loss"],
        critic_lr=5e-4,
        **student,
    )
    return {
        "teacher": teacher,
        "baseline": baseline,
        "mse": recipe_config(alpha=0.0, steps=steps, **student),
        "l1": recipe_config(alpha=0.0, steps=steps, distance="l1", **student),
        "joint": joint,
    }


def distillation_recipes(*, steps: int, batch_size: int) -> dict[str, ml_collections.ConfigDict]:
    """Returns recipes for students of a teacher that is given without its critic.

    Args:
        steps: Steps of a student.
        batch_size: Images of a batch.

    Returns:
        By name: `mse` and `l1`, and `best`, which is l1 from the teacher's largest channels.
    """
    settings = {"alpha": 0.0, "steps": steps, "batch_size": batch_size, **STUDENT_OPTIMIZER}
    return {
        "mse": recipe_config(**settings),
        "l1": recipe_config(**settings, distance="l1"),
        "best": recipe_config(**settings, distance="l1", warm_start=True),
    }


def use_best_recipes(config: ml_collections.ConfigDict) -> None:
    """Trains the best known student beside the paper's, each with its baseline, over three seeds.

    `mse_paper` and `gan_paper` have the paper's learning rates, `mse` and `baseline` tuned ones.
    `best` scored best without training a critic; `joint_best` also trains the teacher's critic on.
    All train for as many steps as the config's baseline.  A data set that is not named yet is
    taken to be in colour.

    Args:
        config: Changed in place.  `joint_best` (long steps) and `gan_paper` are defined but not
            selected; add them to `study.students` and `study.baselines` to train them.
    """
    steps = config.recipes.baseline.steps
    short = short_training_recipes(teacher_steps=steps, steps=steps, joint_steps=steps)
    config.recipes.update(
        {
            "mse_paper": recipe_config(alpha=0.0, reduction="sum", steps=steps),
            "mse": recipe_config(alpha=0.0, steps=steps, **STUDENT_OPTIMIZER),
            "best": recipe_config(alpha=0.0, steps=steps, **BEST_DISTANCE, **STUDENT_OPTIMIZER),
            "joint_best": recipe_config(
                steps=steps,
                **BEST_DISTANCE,
                **STUDENT_OPTIMIZER,
                **_finetune_teacher_critic(config),
            ),
            "gan_paper": recipe_config(steps=steps),
            "baseline": short["baseline"],
        }
    )
    if not config.data.name or config_dataset(config).image_shape[2] == 3:
        config.recipes.baseline.update(WGAN_GP)
    config.study.students = ("mse_paper", "mse", "best")
    config.study.baselines = ("baseline",)
    config.study.seeds = (0, 1, 2)
    config.evaluation.classifiers = ("classifier", "resnet")


def use_best_and_joint_recipes(config: ml_collections.ConfigDict) -> None:
    """Adds `joint_best` to `use_best_recipes`; its steps take about eight times as long."""
    use_best_recipes(config)
    config.study.students += ("joint_best",)


def use_gan_losses(config: ml_collections.ConfigDict) -> None:
    """Compares GAN losses for colour images: baselines of d=64, 5,000 steps each.

    `gankd train --run=baseline-hinge-d64-s0` trains one of them, without a teacher.

    Args:
        config: Changed in place.
    """
    config.data.mirror = True
    common = {"steps": 5_000, "ema": 0.999}
    gans = {name: recipe_config(**common, **gan) for name, gan in COLOUR_GANS.items()}
    config.recipes.update(gans)
    config.study.widths, config.study.students = (64,), ()
    config.study.baselines = tuple(gans)


def _finetune_teacher_critic(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields that train the teacher's critic on, with the teacher's GAN loss."""
    gan_loss = {name: config.recipes.teacher[name] for name in ("loss", "critic_norm")}
    return {"critic": "teacher", "alpha": 0.01, "critic_lr": 5e-4, **gan_loss}


def use_recipe_ablations(config: ml_collections.ConfigDict) -> None:
    """Trains each choice of a recipe by itself, at d=2 and d=8 with one seed.

    It compares pixel distances; what L1 gains by an EMA, a warm start, critic features and larger
    batches; joint L1 with each kind of critic and with other alphas; a critic that separates the
    student's images from the teacher's; baselines with each width of critic.

    Args:
        config: Changed in place.
    """
    use_best_recipes(config)
    steps = 1_500
    teacher_width = max(config.study.teacher_widths)
    mse = {"alpha": 0.0, "steps": steps, **STUDENT_OPTIMIZER}
    l1 = mse | {"distance": "l1"}
    finetune = l1 | _finetune_teacher_critic(config)
    joint = finetune | {"critic": "fresh"}
    students = {
        **{name: mse | {"distance": name} for name in ("mse", "huber", "pyramid", "l1")},
        "l1_average": l1 | {"ema": 0.99},
        "l1_warm": l1 | {"warm_start": True},
        "l1_features": l1 | {"features": "l1", "feature_weight": 0.9},
        "l1_energy": l1 | {"features": "energy", "feature_weight": 0.9},
        "best": mse | BEST_DISTANCE,
        "best_batch256": mse | BEST_DISTANCE | {"batch_size": 256},
        "joint_goes_on": finetune,
        "joint_frozen": finetune | {"train_critic": False},
        "joint_fresh": joint | {"critic_width": teacher_width},
        "joint_matched": joint,
        "joint_alpha_0003": finetune | {"alpha": 0.003},
        "joint_alpha_003": finetune | {"alpha": 0.03},
        "joint_alpha_01": finetune | {"alpha": 0.1},
        "joint_sees_teacher": joint | {"real_source": "teacher", "critic_width": 8},
        "joint_sees_teacher_warm": joint
        | {"real_source": "teacher", "critic_width": 8, "warm_start": True},
        "joint_small_warm": joint | {"critic_width": 8, "warm_start": True},
        "joint_warm": finetune | {"warm_start": True},
        "joint_warm_sees": finetune | {"warm_start": True, "real_source": "teacher"},
        "joint_best": finetune | BEST_DISTANCE,
    }
    tuned = config.recipes.baseline.to_dict() | {"steps": steps}
    baselines = {
        "gan_paper": {"steps": steps},
        "baseline": tuned,
        "baseline_matched": tuned | {"critic_width": 0},
        "baseline_wide": tuned | {"critic_width": teacher_width},
    }
    config.recipes.update({k: recipe_config(**v) for k, v in (students | baselines).items()})
    config.study.students, config.study.baselines = tuple(students), tuple(baselines)
    config.study.widths, config.study.seeds = (2, 8), (0,)
