"""CIFAR-10 at 64x64: the paper's study, teacher d=64 and students down to d=2 (126:1).

    gankd data prepare cifar10
    gankd study --config=configs/cifar10.py --workdir=runs/cifar10
    gankd study --config=configs/cifar10.py:small --workdir=runs/cifar10-small
    gankd study --config=configs/cifar10.py:small,best --workdir=runs/cifar10-best

The plain study has the paper's widths and, where it states or implies them, its settings: Adam
2e-4 with b1 0.5, batches of 64.  The paper does not state the training length, the teacher's GAN
loss, nor alpha.

Variants:
  small: 32x32, for two CPU cores.  The teacher trains for 20,000 steps with the hinge loss, on
    mirror images too.  Learning rates suit short training, for students and baselines alike; they
    were tuned on MNIST, those of the baseline in `best` on CIFAR-10.
  best: The paper's distillation at its own and at a tuned learning rate, beside the best known
    recipe, over three seeds.
  choices: Each choice of a recipe by itself.
  losses: The GAN losses that suit a teacher in colour.
`best`, `choices` and `losses` combine with either size.
"""

from ml_collections import ConfigDict

from gankd_jax.config.presets import (
    COLOUR_GANS,
    short_training_recipes,
    use_best_recipes,
    use_gan_losses,
    use_recipe_ablations,
)
from gankd_jax.config.schema import apply_variants, base_config


def get_config(variants: str = "") -> ConfigDict:
    """Returns the paper's study; variants: small, best, choices, losses."""
    config = base_config()
    config.name = "cifar10"
    config.data.name = "cifar10"
    config.study.teacher_widths = (64,)
    config.study.widths = (2, 4, 8, 16, 32, 48)
    return apply_variants(
        config,
        variants,
        {
            "small": small,
            "best": use_best_recipes,
            "choices": use_recipe_ablations,
            "losses": use_gan_losses,
        },
    )


def small(config: ConfigDict) -> None:
    """Shrinks the study to 32x32, for two CPU cores; its teacher takes them an hour."""
    config.name = "cifar10-small"
    config.data.image_size = 32
    config.data.mirror = True
    config.study.teacher_widths = (64,)
    config.study.widths = (1, 2, 4, 8, 16)
    config.study.students = ("mse", "l1", "joint")
    config.recipes.update(
        short_training_recipes(
            teacher_steps=20_000,
            steps=5_000,
            joint_steps=1_000,
            teacher_gan=COLOUR_GANS["hinge"],
        )
    )
    config.training.checkpoint_every = 500
    config.evaluation.samples = 2_500
