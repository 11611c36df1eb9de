"""The interface of a network family: what training, evaluation and export need to know of it.

A new family is a module beside `resnet.py` that ends with `register_family(Family(...))` and is
imported in `models/__init__.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

PyTree = Any  # a pytree of arrays, such as Flax variables


@runtime_checkable
class Generator(Protocol):
    """A Flax module that maps latents `[b, latent_dim]` to images `[b, s, s, c]` in -1..1.

    Modules are frozen dataclasses, so they are hashable and can be static arguments of `jax.jit`.

    Attributes:
        width: Channels of the last hidden layer; the size of the network grows with its square.
        image_size: Pixels a side of the images.
        channels: 1 for grey images, 3 for colour.
        latent_dim: Numbers in a latent.
        norm: Normalisation, one of the family's norms; 'none' for none.
        conv_impl: Implementation of the convolutions, one of `conv.CONV_IMPLS`.
        dtype: What the layers round their inputs and kernels to, as in Flax; None: nothing, that is
            float32.  Parameters, norms, images and scores are float32 with any.  A training in
            bfloat16 needs this attribute.
    """

    width: int
    image_size: int
    channels: int
    latent_dim: int
    norm: str
    conv_impl: str

    def init(self, rngs: Any, latents: Any, *, train: bool) -> PyTree:
        """Creates variables: 'params' and, with batch norm, 'batch_stats'.

        Args:
            rngs: Random key.
            latents: Any latents `[b, latent_dim]`; only their shape counts.
            train: Either value gives the same variables.
        """
        ...

    def apply(self, variables: PyTree, latents: Any, *, train: bool, mutable: Any = False) -> Any:
        """Generates images.

        Args:
            variables: As `init` creates them.
            latents: `[b, latent_dim]`.
            train: Whether batch norm uses this batch, or else the stored statistics.
            mutable: Collections of variables to update, such as `["batch_stats"]`.

        Returns:
            Images `[b, s, s, c]`; with `mutable`, a pair of these and the updated collections.
        """
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
        """Creates variables: 'params' and, with batch norm, 'batch_stats'.

        Args:
            rngs: Random key.
            images: Any images `[b, s, s, c]`; only their shape counts.
            train: Either value gives the same variables.
        """
        ...

    def apply(self, variables: PyTree, images: Any, *, train: bool, mutable: Any = False) -> Any:
        """Scores images.

        Args:
            variables: As `init` creates them.
            images: `[b, s, s, c]` in -1..1.
            train: Whether batch norm uses this batch, or else the stored statistics.
            mutable: Collections of variables to update or to return, such as `["intermediates"]`.

        Returns:
            Scores `[b]`; with `mutable`, a pair of these and the collections.
        """
        ...


@runtime_checkable
class FeatureNetwork(Protocol):
    """A Flax module whose hidden layers images are compared in: a critic, or another network.

    It sows the activations of these layers as 'intermediates', all under one name.
    """

    def init(self, rngs: Any, images: Any, *, train: bool) -> PyTree:
        """Creates variables; as `Critic.init`."""
        ...

    def apply(self, variables: PyTree, images: Any, *, train: bool, mutable: Any = False) -> Any:
        """Takes images `[b, s, s, c]` in -1..1; as `Critic.apply`, with any output."""
        ...


@dataclasses.dataclass(frozen=True)
class FoldedLayer:
    """A convolution into which the batch norm that follows it is folded.

    A batch norm that no convolution can take in is a layer of its own, which multiplies each
    channel by its kernel `[1, 1, 1, o]`.

    Attributes:
        kernel: `[h, w, i, o]`, in float32, float16 or int8; a JAX array while a program is traced.
        scale: `[o]`, the factor of each output channel: ones unless the kernel is of integers.
        bias: `[o]`, added after the scale.
    """

    kernel: Any
    scale: Float[np.ndarray, " o"]
    bias: Float[np.ndarray, " o"]

    @property
    def has_scale(self) -> bool:
        """Whether the kernel is of integers, so that a file must hold the scale."""
        return np.issubdtype(self.kernel.dtype, np.integer)

    @property
    def weights(self) -> Float[np.ndarray, "h w i o"] | Float[Array, "h w i o"]:
        """The scaled kernel in float32."""
        return self.kernel.astype(np.float32) * self.scale

    @property
    def nbytes(self) -> int:
        """Size in a file: the kernel, the float32 bias and, with an integer kernel, the scale."""
        return self.kernel.nbytes + self.bias.nbytes + self.has_scale * self.scale.nbytes


@dataclasses.dataclass(frozen=True)
class Family:
    """A network architecture, from the smallest width to the largest.

    Attributes:
        name: Key in `FAMILIES`.
        generator: Constructor of a `Generator`; its arguments are the protocol's attributes.
        critic: Constructor of a `Critic`; its arguments are the protocol's attributes.
        image_sizes: Pixels a side of the images that it has networks for.
        generator_norms: The norms that a generator can have.
        critic_norms: The norms that a critic can have.
        fold: Maps a generator's variables to its layers, first to last, with batch norm folded in.
        unfold: Maps a generator and folded layers to a generator and its variables that equal them.
        count_layer_macs: Counts the multiply-adds of each layer for one image, first to last.
        prune: Maps the params of a student and of a wider teacher to the student's initial params,
          taken from the teacher's most important channels.  None if no student starts warm.
        count_paper_parameters: Counts a generator's parameters as the paper does.  None if they are
          simply all trained numbers.
        is_sequential: Whether a generator is nothing but its folded layers one after another: one
          that projects latents to 4x4 pixels, then transposed 4x4 convolutions, ReLU behind each
          and tanh behind the last.  ONNX, PyTorch and the page's demo know such generators.
    """

    name: str
    generator: type
    critic: type
    image_sizes: tuple[int, ...]
    generator_norms: tuple[str, ...]
    critic_norms: tuple[str, ...]
    fold: Callable[[PyTree], list[FoldedLayer]]
    unfold: Callable[[Generator, list[FoldedLayer]], tuple[Generator, PyTree]]
    count_layer_macs: Callable[[Generator | Critic], list[int]]
    prune: Callable[[PyTree, PyTree], PyTree] | None = None
    count_paper_parameters: Callable[[Generator], int] | None = None
    is_sequential: bool = False


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Adds a family to `FAMILIES` under its name.

    A config file or notebook cell that is executed again replaces the family that it registered.

    Args:
        family: Its classes must belong to no other family.

    Raises:
        ValueError: The name is taken.

    Example:
        >>> import dataclasses
        >>> import gankd_jax
        >>> from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
        >>> from gankd_jax.models.family import FAMILIES
        >>> generator = type("MyGenerator", (DCGANGenerator,), {})
        >>> critic = type("MyCritic", (DCGANCritic,), {})
        >>> changes = {"name": "mine", "generator": generator, "critic": critic}
        >>> gankd_jax.register_family(dataclasses.replace(FAMILIES["dcgan"], **changes))
    """
    if family.name in FAMILIES and repr(FAMILIES[family.name].critic) != repr(family.critic):
        raise ValueError(f"a network family named {family.name!r} is registered already")
    FAMILIES[family.name] = family


def is_in_family(network: Generator | Critic) -> bool:
    """Returns whether a generator or critic belongs to a registered family.

    Args:
        network: Any module, or a function in place of one.
    """
    return any(type(network) in (f.generator, f.critic) for f in FAMILIES.values())


def family_of(network: Generator | Critic) -> Family:
    """Returns the family that a generator or critic belongs to.

    Args:
        network: An instance of a family's own class; a subclass belongs to no family.

    Raises:
        ValueError: Its class belongs to no registered family.
    """
    for family in FAMILIES.values():
        if type(network) in (family.generator, family.critic):
            return family
    raise ValueError(f"{type(network).__name__} belongs to no registered network family")
