"""Decorators by which a config file or notebook adds its own losses, optimizers and writers.

Each adds to the registry that serves one field of a config.  Code that is executed again, as a
notebook's cell, replaces what it registered before.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from gankd_jax.metrics.registry import source_of
from gankd_jax.training import losses
from gankd_jax.training.train_state import OPTIMIZERS
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import WRITERS

Function = TypeVar("Function", bound=Callable[..., Any])


def register_distance(name: str) -> Callable[[Function], Function]:
    """Registers a distance between pixels, a value of a recipe's `distance`.

    The function takes the student's images `[b, s, s, c]` in -1..1, the teacher's images of the
    same latents, and the recipe's `reduction` ('mean' or 'sum' over the values of an image); it
    returns a scalar.  `jax.grad` must be able to differentiate it.

    Args:
        name: A new name.

    Raises:
        UserError: The name is taken.

    Example:
        >>> import gankd_jax
        >>> import jax.numpy as jnp
        >>> @gankd_jax.register_distance("charbonnier")
        ... def charbonnier(student, teacher, reduction):
        ...     values = jnp.sqrt(jnp.square(student - teacher) + 1e-6)
        ...     return jnp.mean(values) * (values[0].size if reduction == "sum" else 1)
    """
    return _register_in(losses.DISTANCES, name, "a distance")


def register_feature_distance(name: str) -> Callable[[Function], Function]:
    """Registers a distance between hidden layers, a value of a recipe's `features`.

    The function takes the layers of the student's images, a tuple of arrays `[b, ...]`, and those
    of the teacher's images of the same latents; it returns a scalar.

    Args:
        name: A new name.

    Raises:
        UserError: The name is taken.

    Example:
        >>> import gankd_jax
        >>> import jax.numpy as jnp
        >>> @gankd_jax.register_feature_distance("squares")
        ... def squares(student, teacher):
        ...     terms = [jnp.mean((s - t) ** 2) for s, t in zip(student, teacher)]
        ...     return jnp.mean(jnp.stack(terms))
    """
    return _register_in(losses.FEATURE_DISTANCES, name, "a feature distance")


def register_optimizer(name: str) -> Callable[[Function], Function]:
    """Registers an optimizer of generators and critics, a value of a recipe's `optimizer`.

    The function takes the schedule of the learning rate and the recipe, whose `b1`, `b2` and
    `weight_decay` it may use; it returns an `optax.GradientTransformation`.  Clipping is added to
    it where the recipe clips.

    Args:
        name: A new name.

    Raises:
        UserError: The name is taken.

    Example:
        >>> import gankd_jax
        >>> import optax
        >>> @gankd_jax.register_optimizer("lion")
        ... def make_lion(learning_rate, recipe):
        ...     return optax.lion(learning_rate, recipe.b1, recipe.b2)
    """
    return _register_in(OPTIMIZERS, name, "an optimizer")


def register_writer(name: str) -> Callable[[Function], Function]:
    """Registers a destination of metrics, a value of `config.training.writers`.

    The class or function takes the folder of a run, the study's name and the step that the run
    resumes from, after which it should drop what it holds; it returns a `gankd_jax.MetricWriter`.
    A run that trains has one, and a run that is scored gets another.  Errors of its methods are
    warnings.

    Args:
        name: A new name.

    Raises:
        UserError: The name is taken.

    Example:
        >>> from pathlib import Path
        >>> import gankd_jax
        >>> @gankd_jax.register_writer("text")
        ... class TextWriter(gankd_jax.MetricWriter):
        ...     def __init__(self, folder, study, resume_step):
        ...         self.path = Path(folder, "metrics.txt")
        ...
        ...     def write_scalars(self, step, scalars):
        ...         with self.path.open("a") as file:
        ...             print(step, scalars, file=file)
    """
    return _register_in(WRITERS, name, "a writer")


def register_gan_loss(
    name: str,
    *,
    critic: Callable[..., Any],
    generator: Callable[..., Any],
    penalty: Callable[..., Any] | None = None,
) -> None:
    """Registers a pair of adversarial losses, a value of a recipe's `loss`.

    Args:
        name: A new name.
        critic: Maps the critic's scores `[b]` of real images and of fakes to a scalar.
        generator: Maps the scores of fakes and of real images to a scalar.
        penalty: Maps the critic (a function of images), real images, fakes and, by the name
            `interp_weight`, `[b]` random numbers in 0..1 to a scalar, which the critic's loss gets
            with the weight `gradient_penalty`.  Recipes then refuse a critic with batch norm.

    Raises:
        UserError: The name is taken.

    Example:
        >>> import gankd_jax
        >>> import jax.numpy as jnp
        >>> gankd_jax.register_gan_loss(
        ...     "least_squares",
        ...     critic=lambda real, fake: jnp.mean((real - 1) ** 2 + fake**2),
        ...     generator=lambda fake, real: jnp.mean((fake - 1) ** 2),
        ... )
    """
    _register_in(losses.CRITIC_LOSSES, name, "a GAN loss")(critic)
    _register_in(losses.GENERATOR_LOSSES, name, "a GAN loss")(generator)
    losses.PENALTIES.pop(name, None)  # of the same code, executed before
    if penalty:
        losses.PENALTIES[name] = penalty


def _register_in(registry: dict[str, Any], name: str, kind: str) -> Callable[[Function], Function]:
    """Returns a decorator that adds a function to a registry and leaves it as it is."""

    def register(function: Function) -> Function:
        if name in registry and source_of(registry[name]) != source_of(function):
            raise UserError(f"{kind} named {name!r} is registered already; choose another name")
        registry[name] = function
        return function

    return register
