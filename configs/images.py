"""Images of your own, or any other prepared data set, at 64x64: teacher d=64.

    gankd data prepare flowers --source-dir=PHOTOS
    gankd study --config=configs/images.py --config.data.name=flowers --workdir=runs/flowers
    gankd study --config=configs/images.py:small --config.data.name=flowers --workdir=runs/small
    gankd study --config=configs/images.py:small,best --config.data.name=flowers --workdir=runs/best

The plain study has the paper's settings, as that of CelebA.  Images with labels are scored by a
classifier that the study trains; images without labels by the FID network, if
`gankd weights fetch` has fetched it.

Variants:
  small: 32x32 and teacher d=32, for two CPU cores.  Learning rates suit short training.
  best: The paper's distillation at its own and at a tuned learning rate, beside the best known
    recipe, over three seeds.  The baseline has the settings for images in colour.
  choices: Each choice of a recipe by itself.
`best` and `choices` combine with either size.
"""

from ml_collections import ConfigDict

from gankd_jax.config.presets import short_training_recipes, use_best_recipes, use_recipe_ablations
from gankd_jax.config.schema import apply_variants, base_config


def get_config(variants: str = "") -> ConfigDict:
    """Returns the study; variants: small, best, choices."""
    config = base_config()
    config.name = "images"
    config.data.name = ""  # --config.data.name=flowers
    config.data.validation = 0  # there is one teacher, so none is selected
    config.study.teacher_widths = (64,)
    config.study.widths = (2, 4, 8, 16, 32)
    config.evaluation.layers = ("auto",)
    config.evaluation.layer_samples = 1_000
    return apply_variants(
        config,
        variants,
        {"small": small, "best": use_best_recipes, "choices": use_recipe_ablations},
    )


def small(config: ConfigDict) -> None:
    """Shrinks the study to 32x32 and teacher d=32, for two CPU cores."""
    config.name = "images-small"
    config.data.image_size = 32
    config.study.teacher_widths = (32,)
    config.study.widths = (1, 2, 4, 8)
    config.study.students = ("mse", "l1", "joint")
    config.recipes.update(
        short_training_recipes(teacher_steps=6_000, steps=2_000, joint_steps=1_000)
    )
    config.training.checkpoint_every = 500
    config.evaluation.samples = 2_500
