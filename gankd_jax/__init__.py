"""GAN compression by knowledge distillation in JAX and Flax (arXiv 1902.00159).

import gankd_jax

students = gankd_jax.distill("generator.onnx", widths=(4, 8))
generator = gankd_jax.load_generator("mnist-d2")
images = generator.sample(seed=0, n=16)
scores = gankd_jax.score("samples/", "mnist:test", image_size=64)
study = gankd_jax.load_study("runs/digits")
"""

import importlib
import os
from typing import Any

# Where each public name is defined.  It is imported when it is first used, so that the import of
# the package, and with it every command, does not wait for JAX.
_MODULES = {
    "MetricWriter": "gankd_jax.utils.metric_writer",
    "TrainedGenerator": "gankd_jax.models.sampling",
    "distill": "gankd_jax.api.distill",
    "load_generator": "gankd_jax.study.generators",
    "load_study": "gankd_jax.report.study_results",
    "register_dataset": "gankd_jax.data.registry",
    "register_distance": "gankd_jax.training.registration",
    "register_family": "gankd_jax.models.family",
    "register_feature_distance": "gankd_jax.training.registration",
    "register_format": "gankd_jax.export.formats",
    "register_gan_loss": "gankd_jax.training.registration",
    "register_metric": "gankd_jax.metrics.registry",
    "register_optimizer": "gankd_jax.training.registration",
    "register_writer": "gankd_jax.training.registration",
    "score": "gankd_jax.study.score_images",
}
__all__ = list(_MODULES)

# tensorboardX and scikit-learn set these variables when they are imported, which happens late.  By
# then XLA's threads read the environment, and a read can crash while glibc's setenv moves it.  Set
# here, before the first thread starts, to the same values, they are not set again.
os.environ.setdefault("CRC32C_SW_MODE", "auto")
os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "True")
os.environ.setdefault("KMP_INIT_AT_FORK", "FALSE")
os.environ.setdefault("WANDB_SERVICE", "")  # W&B replaces it, which moves nothing


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gankd_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
