"""MNIST at 64x64: the paper's study, teacher d=256 and students down to d=2 (1669:1).

    gankd data prepare mnist
    gankd study --config=configs/mnist.py --workdir=runs/mnist
    gankd study --config=configs/mnist.py:small --workdir=runs/mnist-small

The plain study has the paper's widths and, where it states or implies them, its settings: Adam 2e-4
with b1 0.5, batches of 64.  It does not say how long it trained, which GAN loss the teacher had, nor
alpha.  `small` is for two CPU cores: 32x32, teacher d=32, and learning rates that suit short
training, for students and baselines alike.
"""

from ml_collections import ConfigDict

from gankd_jax.config import base, finish, recipe


def get_config(variants: str = "") -> ConfigDict:
    """The paper's study; variants: small."""
    config = base()
    config.name = "mnist"
    config.data.name = "mnist"
    config.study.teacher_widths = (256,)
    config.study.widths = (2, 4, 8, 16, 32, 64, 128)
    return finish(config, variants, {"small": small})


def small(config: ConfigDict) -> None:
    """32x32, teacher d=32, for two CPU cores."""
    config.name = "mnist-small"
    config.data.image_size = 32
    config.data.pad = 2  # 28 and twice 2 are 32: no pixel is resized
    config.study.teacher_widths = (32,)
    config.study.widths = (2, 4, 8, 16)
    config.recipes.teacher = recipe(
        loss="wgan_gp",
        critic_norm="none",
        steps=4_000,
        generator_lr=1e-3,
        critic_lr=2e-3,
        b1=0.0,
        b2=0.9,
        schedule="cosine",
        ema=0.999,
    )
    config.recipes.baseline = recipe(
        steps=6_000,
        generator_lr=5e-3,
        critic_lr=5e-4,
        critic_width=8,
        schedule="cosine",
        ema=0.999,
    )
    distilled = {"generator_lr": 2e-2, "b1": 0.9, "schedule": "cosine"}
    config.study.students = ("mse", "l1", "joint")
    config.recipes.mse = recipe(alpha=0.0, steps=6_000, **distilled)
    config.recipes.l1 = recipe(alpha=0.0, steps=6_000, distance="l1", **distilled)
    # alpha on the mean over an image; on the sum it would be about 1/1024 of that.  Its critic, as
    # wide as the teacher's, makes a step some ten times as long: hence fewer of them.
    config.recipes.joint = recipe(
        alpha=0.01, steps=1_500, critic="teacher", loss="wgan_gp", critic_lr=5e-4, **distilled
    )
    config.training.checkpoint_every = 500
