"""Generators that were trained elsewhere: PyTorch, ONNX and StableHLO files, and functions.

A new kind of file is a function from a path to a `RawGenerator`, and its suffix in `READERS`.
"""

import dataclasses
import importlib
import inspect
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gankd_jax.interop import onnx_runtime, torch_weights
from gankd_jax.models import conv
from gankd_jax.models.family import PyTree
from gankd_jax.models.sampling import TrainedGenerator, sample_latents
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.paths import expand_path

logger = logging.getLogger(__name__)

Function = Callable[[Any], Any]  # latents [b, z] -> images
VALUE_RANGES = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0), "0..255": (0.0, 255.0)}
PROBE_SEED, PROBE_COUNT = 5_000_000, 16


@dataclasses.dataclass(frozen=True)
class RawGenerator:
    """A generator as it comes: a function, and what is known of it.

    Attributes:
        function: Maps latents `[b, z]` to images `[b, c, s, s]` or `[b, s, s, c]`.
        latent_dim: Numbers in a latent; 0 if that is not known.
        parameters: Trained numbers; 0 if that is not known.
    """

    function: Function
    latent_dim: int = 0
    parameters: int = 0


class ExternalGenerator:
    """What a generator without a network has in place of a network's fields and variables."""

    width: int = 0  # not known
    norm: str = "none"
    conv_impl: str = "none"

    def init(self, rngs: Any, latents: Any, *, train: bool) -> PyTree:
        """Returns no variables: there is nothing to create."""
        del rngs, latents, train
        return {}


@dataclasses.dataclass(unsafe_hash=True)  # not frozen: the protocol's attributes are variables
class FunctionGenerator(ExternalGenerator):
    """A function in place of a network family's module, without variables.

    Attributes:
        function: Maps latents `[b, z]` to images in any layout and range.
        image_size: Pixels a side of the images.
        channels: 1 for grey images, 3 for colour.
        latent_dim: Numbers in a latent.
        channels_first: Whether the function's images are `[b, c, s, s]`.
        value_range: Least and greatest value of the function's images.
        on_host: Whether JAX cannot trace the function, which then takes and gives NumPy arrays.
        parameters: Trained numbers; 0 if that is not known.
    """

    function: Function
    image_size: int
    channels: int
    latent_dim: int
    channels_first: bool
    value_range: tuple[float, float]
    on_host: bool
    parameters: int = 0

    def apply(
        self, variables: PyTree, latents: Float[Array, "b z"], *, train: bool, mutable: Any = False
    ) -> Float[Array, "b s s c"]:
        """Generates images in -1..1, under `jax.jit` too.

        Args:
            variables: Without meaning here, as `train` and `mutable`.
            latents: `[b, latent_dim]`.
            train: See `variables`.
            mutable: See `variables`.
        """
        del variables, train, mutable
        if not self.on_host:
            images = self.function(latents)
            return jnp.asarray(
                normalize_images(images, self.channels_first, self.value_range), jnp.float32
            )
        shape = (latents.shape[0], self.image_size, self.image_size, self.channels)
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(self.generate_on_host, result, latents)

    def generate_on_host(self, latents: Any) -> Float[np.ndarray, "b s s c"]:
        """Generates images in -1..1 outside of JAX."""
        images = np.asarray(self.function(np.asarray(latents)))
        normalized = normalize_images(images, self.channels_first, self.value_range)
        return np.ascontiguousarray(normalized, np.float32)


def normalize_images(images: Any, channels_first: bool, value_range: tuple[float, float]) -> Any:
    """Returns images as `[b, s, s, c]` in -1..1.

    Args:
        images: A NumPy or JAX array.
        channels_first: Whether they are `[b, c, s, s]`.
        value_range: Their least and greatest value.
    """
    low, high = value_range
    images = images.transpose(0, 2, 3, 1) if channels_first else images
    return images if (low, high) == (-1.0, 1.0) else (images - low) * (2 / (high - low)) - 1


def has_channels_first(shape: tuple[int, ...]) -> bool | None:
    """Returns whether square images are `[b, c, s, s]` or `[b, s, s, c]`; None for neither."""
    if len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]:
        return True
    return False if len(shape) == 4 and shape[3] in (1, 3) and shape[1] == shape[2] else None


def require_value_range(name: str) -> None:
    """Raises a `UserError` for a name that is neither empty nor a key of `VALUE_RANGES`."""
    if name and name not in VALUE_RANGES:
        raise UserError(f"the value range is {name!r}; it can be {', '.join(VALUE_RANGES)}")


def load_external(
    source: str | Path | Function, *, latent_dim: int = 0, value_range: str = ""
) -> TrainedGenerator:
    """Loads a generator that was trained elsewhere.

    A PyTorch DCGAN becomes a Flax module with its weights.  Everything else is a function, which is
    called on a few latents to learn the size, layout and value range of its images.

    Args:
        source: A file: a PyTorch DCGAN's `.pth`, an `.onnx` or a `.stablehlo`; `FILE.pth:KEY`, if a
            PyTorch file holds several generators; a text `package.module:function`, where the
            function is the generator or returns it; or the generator itself, a function from
            latents `[b, z]` to images.
        latent_dim: Numbers in a latent, where the source does not say.
        value_range: A key of `VALUE_RANGES`, where the images do not show it.

    Raises:
        UserError: The source cannot be read, or is no generator of square images.
    """
    require_value_range(value_range)
    name = str(source) if isinstance(source, str | Path) else getattr(source, "__name__", "teacher")
    raw = RawGenerator(source) if callable(source) else _read_source(source)
    if isinstance(raw, TrainedGenerator):
        return raw
    latent_dim = raw.latent_dim or latent_dim or int(getattr(raw.function, "latent_dim", 0))
    if latent_dim < 1:
        raise UserError(f"{name} does not say how many numbers a latent has; give --latent-dim=N")
    raw = dataclasses.replace(raw, latent_dim=latent_dim)
    return TrainedGenerator(_inspect_function(name, raw, value_range), {})


def _read_source(source: str | Path) -> RawGenerator | TrainedGenerator:
    """Reads a file, one of several generators in it as `FILE:KEY`, or calls a named function."""
    text, _, key = str(source).rpartition(":")
    path = expand_path(text)
    if path.suffix not in READERS:
        path, key = expand_path(source), ""
    if path.suffix not in READERS:
        return RawGenerator(_import_generator(str(source)))
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return read_torch_generator(path, key) if key else READERS[path.suffix](path)


def read_torch_generator(path: Path, key: str = "") -> TrainedGenerator:
    """Reads a DCGAN of PyTorch, as `torch_weights.read_generator` describes it."""
    params, batch_stats = torch_weights.read_generator(path, key)
    module = dataclasses.replace(
        torch_weights.infer_generator(params), conv_impl=conv.resolve_conv_impl("auto")
    )
    variables = {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
    return TrainedGenerator(module, jax.tree.map(jnp.asarray, variables))


def read_onnx_generator(path: Path) -> RawGenerator:
    """Reads an ONNX model with one input, latents `[b, z]` or `[b, z, 1, 1]`.

    Raises:
        UserError: ONNX Runtime is not installed or cannot read the file, or it has other inputs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} needs onnxruntime: pip install 'gankd-jax[export]'") from error
    try:
        # By its path, since the weights may lie in a file beside it.
        session = onnxruntime.InferenceSession(
            str(path), providers=onnx_runtime.available_providers()
        )
    except Exception as error:  # ONNX Runtime raises classes of its own for every kind of damage
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as an ONNX model: {reason}") from error
    if jax.default_backend() == "gpu" and session.get_providers()[0] == onnx_runtime.CPU:
        message = "%s runs on the CPU: ONNX Runtime has no working CUDA; install onnxruntime-gpu"
        logger.warning(message, path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(session.get_outputs()) != 1:
        names = ", ".join(node.name for node in (*inputs, *session.get_outputs()))
        raise UserError(f"{path} must have one input, latents, and one output, images; has {names}")
    shape, dtype = inputs[0].shape, onnx_runtime.LATENT_TYPES.get(inputs[0].type)
    if len(shape) not in (2, 4) or dtype is None:
        kind = f"{inputs[0].type} {shape}"
        raise UserError(f"{path}: its input {inputs[0].name} is {kind}; latents are floats [b, z]")
    extra_axes = (1,) * (len(shape) - 2)

    def run_batch(latents: Float[np.ndarray, "b z"]) -> np.ndarray:
        values = latents.reshape(*latents.shape, *extra_axes).astype(dtype)
        return session.run(None, {inputs[0].name: values})[0]

    def generate(latents: Float[np.ndarray, "b z"]) -> np.ndarray:
        if not isinstance(shape[0], int):
            return run_batch(latents)
        size, (count, latent_dim) = shape[0], latents.shape  # exported for one size of batch
        padded = np.resize(latents, (count + -count % size, latent_dim))
        parts = padded.reshape(-1, size, latent_dim)
        return np.concatenate([run_batch(part) for part in parts])[:count]

    latent_dim = shape[1] if isinstance(shape[1], int) else 0
    return RawGenerator(generate, latent_dim=latent_dim, parameters=_count_onnx_parameters(path))


def _count_onnx_parameters(path: Path) -> int:
    """Counts the numbers in a model's tensors; 0 without the package onnx, which can tell."""
    try:
        import onnx
    except ImportError:
        return 0
    model = onnx.load(path, load_external_data=False)
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


def read_stablehlo_generator(path: Path) -> RawGenerator:
    """Reads a function that `jax.export` serialised: latents `[b, z]` to images.

    Raises:
        UserError: The file is no such function.
    """
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        (latents,) = exported.in_avals
        latent_dim = int(latents.shape[1])
    except Exception as error:  # flatbuffers raises struct.error, IndexError, ... for damage
        raise UserError(
            f"{path} is no serialised JAX function of latents [b, z] ({type(error).__name__})"
        ) from error
    return RawGenerator(exported.call, latent_dim=latent_dim)


READERS: dict[str, Callable[[Path], RawGenerator | TrainedGenerator]] = {
    **dict.fromkeys((".pth", ".pt", ".ckpt", ".bin", ".tar", ".safetensors"), read_torch_generator),
    ".onnx": read_onnx_generator,
    ".stablehlo": read_stablehlo_generator,
}


def _import_generator(text: str) -> Function:
    """Imports `package.module:function`: a function of latents, or of nothing that returns one."""
    module_name, colon, function_name = text.partition(":")
    if not colon:
        kinds = ", ".join(READERS)
        raise UserError(
            f"{text} is no generator: give a run's folder, a pretrained name, a file"
            f" ({kinds}) or package.module:function"
        )
    sys.path.insert(0, "")  # modules of the current folder, as for `python -m`
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        generator = function if _has_required_argument(function) else function()
    except Exception as error:  # a user's module is code and may raise anything
        raise UserError(f"{text} raises {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not callable(generator):
        raise UserError(f"{text}() returns {generator!r}; it must return a function of latents")
    return generator


def _has_required_argument(function: Function) -> bool:
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.default is p.empty and p.kind in positional for p in parameters)


def _inspect_function(name: str, raw: RawGenerator, value_range: str) -> FunctionGenerator:
    """Learns the size, layout and value range of a function's images from a few of them.

    Raises:
        UserError: It returns something else than square images of 1 or 3 channels.
    """
    latents = sample_latents(PROBE_SEED, PROBE_COUNT, raw.latent_dim)
    on_host = not _is_traceable(raw.function, latents)
    try:
        images = np.asarray(raw.function(np.asarray(latents) if on_host else latents))
    except Exception as error:  # code of the user's
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(
            f"{name} fails on latents {latents.shape}: {type(error).__name__} {reason}"
        ) from error
    shape = images.shape
    channels_first = has_channels_first(shape)
    if shape[:1] != (PROBE_COUNT,) or channels_first is None:
        raise UserError(
            f"{name} returns {shape} for latents {latents.shape}; it must return square images"
            " [b, c, s, s] or [b, s, s, c] with 1 or 3 channels"
        )
    if not np.isfinite(images).all():
        raise UserError(f"{name} returns values that are not finite")
    return FunctionGenerator(
        function=raw.function,
        image_size=shape[2],
        channels=shape[1] if channels_first else shape[3],
        latent_dim=raw.latent_dim,
        channels_first=channels_first,
        value_range=VALUE_RANGES[value_range or infer_value_range(images)],
        on_host=on_host,
        parameters=raw.parameters,
    )


def _is_traceable(function: Function, latents: Float[Array, "b z"]) -> bool:
    try:
        return hasattr(jax.eval_shape(function, latents), "shape")
    except Exception:  # how a function fails on a tracer is its own affair
        return False


def infer_value_range(images: np.ndarray) -> str:
    """Returns the key of the range that images seem to have."""
    if images.min() < 0:
        return "-1..1"
    return "0..255" if images.max() > 1.5 else "0..1"
