"""Recipes that were found, and the variants of a config that train them side by side."""

from typing import Any

import ml_collections

from gankd_jax.config.schema import recipe_config
from gankd_jax.data import registry

# Found on MNIST at 32x32: a student's best rate falls with the root of its width.
BY_WIDTH = {"generator_lr": 3e-2, "lr_power": 0.5, "b1": 0.9, "schedule": "cosine"}
BEST = {"distance": "l1", "warm_start": True, "features": "energy", "feature_share": 0.9}
# Teacher's game; and a baseline's in colour, where it collapses with MNIST's settings.
GAME = {
    "loss": "wgan_gp",
    "critic_norm": "none",
    "generator_lr": 1e-3,
    "critic_lr": 2e-3,
    "b1": 0.0,
    "b2": 0.9,
}


def short_training_recipes(
    *, teacher_steps: int, steps: int, joint_steps: int
) -> dict[str, ml_collections.ConfigDict]:
    """Recipes for short training, students and baselines tuned alike (on MNIST at 32x32).

    The paper's learning rate starves small generators in so few steps: students learn best at a
    hundred times, baselines at 25 times of it.
    """
    teacher = recipe_config(**GAME, steps=teacher_steps, schedule="cosine", ema=0.999)
    baseline = recipe_config(
        steps=steps,
        generator_lr=5e-3,
        critic_lr=5e-4,
        critic_width=8,
        schedule="cosine",
        ema=0.999,
    )
    student = {"generator_lr": 2e-2, "b1": 0.9, "schedule": "cosine"}
    # alpha on the mean over an image; on the sum it would be about 1/1024 of that.  The critic, as
    # wide as the teacher's, makes a step some ten times as long: hence fewer of them.
    joint = recipe_config(
        alpha=0.01, steps=joint_steps, critic="teacher", loss="wgan_gp", critic_lr=5e-4, **student
    )
    return {
        "teacher": teacher,
        "baseline": baseline,
        "mse": recipe_config(alpha=0.0, steps=steps, **student),
        "l1": recipe_config(alpha=0.0, steps=steps, distance="l1", **student),
        "joint": joint,
    }


def use_best_recipes(config: ml_collections.ConfigDict) -> None:
    """The best student that is known beside the paper's, and each beside its baseline.

    Three seeds; `mse_paper` and `gan_paper` have the paper's learning rates, `mse` and `baseline`
    those that suit their size and colour; `best` is the recipe that scored best without a critic
    beside it, and in `joint_best` the teacher's trains on.  All train for as many steps.
    """
    steps = config.recipes.baseline.steps
    short = short_training_recipes(teacher_steps=steps, steps=steps, joint_steps=steps)
    config.recipes.update(
        {
            "mse_paper": recipe_config(alpha=0.0, reduction="sum", steps=steps),
            "mse": recipe_config(alpha=0.0, steps=steps, **BY_WIDTH),
            "best": recipe_config(alpha=0.0, steps=steps, **BEST, **BY_WIDTH),
            "joint_best": recipe_config(steps=steps, **BEST, **BY_WIDTH, **_goes_on(config)),
            "gan_paper": recipe_config(steps=steps),
            "baseline": short["baseline"],
        }
    )
    if registry.get_dataset(config.data.name).image_shape[2] == 3:
        config.recipes.baseline.update(GAME)
    config.study.students = ("mse_paper", "mse", "best")  # and joint_best: long steps
    config.study.baselines = ("baseline",)  # and gan_paper, which takes as long again
    config.study.seeds = (0, 1, 2)
    config.evaluation.judges = ("classifier", "mixer")


def use_best_and_joint_recipes(config: ml_collections.ConfigDict) -> None:
    """`best`, and `joint_best` beside it, a step of which takes some eight times as long."""
    use_best_recipes(config)
    config.study.students += ("joint_best",)


def _goes_on(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The teacher's critic, which goes on with the teacher's game."""
    game = {name: config.recipes.teacher[name] for name in ("loss", "critic_norm")}
    return {"critic": "teacher", "alpha": 0.01, "critic_lr": 5e-4, **game}


def use_recipe_ablations(config: ml_collections.ConfigDict) -> None:
    """Each choice of a recipe by itself, narrow and less so, one seed: what makes the difference.

    Distances of pixels, what L1 gains by an average of weights, a warm start, the critic's features
    and larger batches; L1 joint with each kind of critic and with other alphas; a critic that tells
    the student's images from the teacher's; baselines with each width of critic.
    """
    use_best_recipes(config)
    steps = 1_500
    wide = max(config.study.teacher_widths)
    pure = {"alpha": 0.0, "steps": steps, **BY_WIDTH}
    l1 = pure | {"distance": "l1"}
    goes_on = l1 | _goes_on(config)
    joint = goes_on | {"critic": "fresh"}
    students = {
        **{name: pure | {"distance": name} for name in ("mse", "huber", "pyramid", "l1")},
        "l1_average": l1 | {"ema": 0.99},
        "l1_warm": l1 | {"warm_start": True},
        "l1_features": l1 | {"features": "l1", "feature_share": 0.9},
        "l1_energy": l1 | {"features": "energy", "feature_share": 0.9},
        "best": pure | BEST,
        "best_batch256": pure | BEST | {"batch_size": 256},
        "best_late256": pure | BEST | {"late_batch": 256},
        "joint_goes_on": goes_on,
        "joint_frozen": goes_on | {"train_critic": False},
        "joint_fresh": joint | {"critic_width": wide},
        "joint_matched": joint,
        "joint_alpha_0003": goes_on | {"alpha": 0.003},
        "joint_alpha_003": goes_on | {"alpha": 0.03},
        "joint_alpha_01": goes_on | {"alpha": 0.1},
        "joint_sees_teacher": joint | {"critic_sees": "teacher", "critic_width": 8},
        "joint_sees_teacher_warm": joint
        | {"critic_sees": "teacher", "critic_width": 8, "warm_start": True},
        "joint_small_warm": joint | {"critic_width": 8, "warm_start": True},
        "joint_warm": goes_on | {"warm_start": True},
        "joint_warm_sees": goes_on | {"warm_start": True, "critic_sees": "teacher"},
        "joint_best": goes_on | BEST,
    }
    tuned = config.recipes.baseline.to_dict() | {"steps": steps}
    baselines = {
        "gan_paper": {"steps": steps},
        "baseline": tuned,
        "baseline_matched": tuned | {"critic_width": 0},
        "baseline_wide": tuned | {"critic_width": wide},
    }
    config.recipes.update({k: recipe_config(**v) for k, v in (students | baselines).items()})
    config.study.students, config.study.baselines = tuple(students), tuple(baselines)
    config.study.widths, config.study.seeds = (2, 8), (0,)
