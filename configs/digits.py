"""A small study on scikit-learn's real 8x8 digits, padded by a pixel and enlarged to 16x16.

    gankd study --config=configs/digits.py --workdir=runs/digits

It needs no download and has no counterpart in the paper.  Its learning rates suit short training of
small generators, for students and baselines alike; the paper's 2e-4 starves both.
"""

from ml_collections import ConfigDict

from gankd_jax.config.presets import short_training_recipes
from gankd_jax.config.schema import apply_variants, base_config


def get_config(variants: str = "") -> ConfigDict:
    """Returns the study; it has no variants."""
    config = base_config()
    config.name = "digits"
    config.data.name = "digits"
    config.data.image_size = 16
    config.data.pad = 1  # digits touch the border of the image
    config.data.validation = 0  # there is one teacher, so none is selected

    config.study.teacher_widths = (32,)
    config.study.widths = (1, 2, 4)
    config.study.seeds = (0, 1, 2)
    config.study.students = ("mse", "l1")

    config.recipes.update(short_training_recipes(teacher_steps=1_500, steps=2_000, joint_steps=500))

    config.training.checkpoint_every = 500
    config.training.grid_every = 1_000
    config.evaluation.samples = 2_500
    return apply_variants(config, variants, {})
