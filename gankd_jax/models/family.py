"""Network families: what training, evaluation and export need from a generator and its critic."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from gankd_jax.models import dcgan

PyTree = Any  # a pytree of arrays, such as Flax variables


@runtime_checkable
class Generator(Protocol):
    """A Flax module that maps latents `[b, latent_dim]` to images `[b, s, s, c]` in -1..1.

    Modules are frozen dataclasses, so they are hashable and can be static arguments of `jax.jit`.

    Attributes:
      width: Channels of the last hidden layer, which set the size of the network.
      image_size: Pixels a side of the images.
      channels: 1 for grey images, 3 for colour.
      latent_dim: Numbers in a latent.
      norm: Normalisation after each hidden layer: 'batch', 'layer' or 'none'.
      conv_impl: Implementation of the 4x4 layers, a name in `models.conv.CONV_IMPLS`.
    """

    width: int
    image_size: int
    channels: int
    latent_dim: int
    norm: str
    conv_impl: str

    def init(self, rngs: Any, latents: Any, *, train: bool) -> PyTree:
        """Returns new variables: 'params' and, with batch norm, 'batch_stats'."""
        ...

    def apply(self, variables: PyTree, latents: Any, *, train: bool, mutable: Any = False) -> Any:
        """Returns images; with `mutable`, also the updated collections of variables."""
        ...


@runtime_checkable
class Critic(Protocol):
    """A Flax module that maps images `[b, s, s, c]` to scores `[b]`, high for real images.

    It sows the activations of its hidden layers as `intermediates/features`.  The attributes have
    the same meaning as those of `Generator`.
    """

    width: int
    image_size: int
    channels: int
    norm: str
    conv_impl: str

    def init(self, rngs: Any, images: Any, *, train: bool) -> PyTree:
        """Returns new variables: 'params' and, with batch norm, 'batch_stats'."""
        ...

    def apply(self, variables: PyTree, images: Any, *, train: bool, mutable: Any = False) -> Any:
        """Returns scores; with `mutable`, also the updated collections of variables."""
        ...


@dataclasses.dataclass(frozen=True)
class Family:
    """One network architecture.

    Attributes:
      generator: Constructor of a `Generator`; takes its attributes as keyword arguments.
      critic: Constructor of a `Critic`; takes its attributes as keyword arguments.
    """

    generator: type
    critic: type


FAMILIES = {"dcgan": Family(generator=dcgan.DCGANGenerator, critic=dcgan.DCGANCritic)}
