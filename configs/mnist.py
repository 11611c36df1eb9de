"""MNIST at 64x64: the paper's study, teacher d=256 and students down to d=2 (1669:1).

    gankd data prepare mnist
    gankd study --config=configs/mnist.py --workdir=runs/mnist
    gankd study --config=configs/mnist.py:small --workdir=runs/mnist-small
    gankd study --config=configs/mnist.py:small,best --workdir=runs/mnist-best

The plain study has the paper's widths and, where it states or implies them, its settings: Adam
2e-4 with b1 0.5, batches of 64.  The paper does not state the training length, the teacher's GAN
loss, nor alpha.

Variants:
  small: 32x32 and teacher d=32, for two CPU cores.  Learning rates suit short training, for
    students and baselines alike.
  best: The paper's distillation at its own and at a tuned learning rate, beside the best known
    recipe, with and without the teacher's critic, over three seeds.
  choices: Each choice of a recipe by itself.
`best` and `choices` combine with either size.
"""

from ml_collections import ConfigDict

from gankd_jax.config.presets import (
    short_training_recipes,
    use_best_and_joint_recipes,
    use_recipe_ablations,
)
from gankd_jax.config.schema import apply_variants, base_config


def get_config(variants: str = "") -> ConfigDict:
    """Returns the paper's study; variants: small, best, choices."""
    config = base_config()
    config.name = "mnist"
    config.data.name = "mnist"
    config.study.teacher_widths = (256,)
    config.study.widths = (2, 4, 8, 16, 32, 64, 128)
    # On MNIST the teacher's critic helps at every width.
    return apply_variants(
        config,
        variants,
        {"small": small, "best": use_best_and_joint_recipes, "choices": use_recipe_ablations},
    )


def small(config: ConfigDict) -> None:
    """Shrinks the study to 32x32 and teacher d=32, for two CPU cores."""
    config.name = "mnist-small"
    config.data.image_size = 32
    config.data.pad = 2  # 28 + 2 * 2 = 32, so that no pixel is resized
    config.study.teacher_widths = (32,)
    config.study.widths = (1, 2, 4, 8, 16)
    config.study.students = ("mse", "l1", "joint")
    config.recipes.update(
        short_training_recipes(teacher_steps=20_000, steps=5_000, joint_steps=1_000)
    )
    config.training.checkpoint_every = 500
    config.evaluation.samples = 2_500
