"""Data parallelism: each device holds all weights and its part of the batch.

`jax.jit` compiles one program for all devices.  A mean over the batch, as in batch norm or a loss,
is a mean over all devices, so that their number changes nothing but the rounding.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh

from gankd_jax.utils.errors import UserError

BATCH_AXIS = "batch"
Tree = Any  # a pytree of arrays


def require_platform() -> None:
    """Refuses a platform in JAX_PLATFORMS that does not exist here, or a device that does not work.

    Raises:
        UserError: JAX finds no device of it, or cannot use the one that it finds.
    """
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        if platforms:
            raise UserError(
                f"JAX_PLATFORMS={platforms}: no such device here; unset it, or install the JAX of"
                " that platform"
            ) from error
        # jaxlib without CUDA asserts, without a text.
        [reason, *_] = str(error).splitlines() or ["it has no CUDA"]
        raise UserError(f"JAX cannot use this machine's device: {reason}") from error


def make_mesh(per_process: int) -> Mesh:
    """Returns a mesh over the devices of every process.

    Args:
        per_process: How many devices of each process; 0: all that JAX sees.

    Raises:
        UserError: A process has fewer.
    """
    by_process = [
        [d for d in jax.devices() if d.process_index == k] for k in range(jax.process_count())
    ]
    fewest = min(map(len, by_process))
    if per_process > fewest:
        raise UserError(f"config.training.devices is {per_process}; JAX sees {fewest} here")
    return mesh_of_devices([d for devices in by_process for d in devices[: per_process or None]])


def mesh_of_devices(devices: list[Any]) -> Mesh:
    """Returns a mesh over these devices, with one axis for the batch."""
    return Mesh(np.asarray(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """Returns the sharding of an array whose axis `axis` is the batch.

    Args:
        mesh: The devices.
        axis: The batch axis of the array.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def put_tree(tree: Tree, sharding: NamedSharding) -> Tree:
    """Puts the arrays of a tree, which every process has, on the devices.

    Args:
        tree: Host or device arrays.
        sharding: Of every array.
    """

    def put(leaf: Any) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        array = np.asarray(leaf)
        return make_sharded_array(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def make_sharded_array(
    shape: tuple[int, ...], sharding: NamedSharding, make_part: Callable[[Any], np.ndarray]
) -> jax.Array:
    """Makes an array; each process makes the parts of its own devices.

    Args:
        shape: Of the whole array.
        sharding: Of the array.
        make_part: Returns the part at an index, a tuple of slices.
    """
    return jax.make_array_from_callback(shape, sharding, make_part)


def constrain_batch(mesh: Mesh | None, tree: Tree, axis: int) -> Tree:
    """Shards arrays along `axis` within a jitted function; without a mesh nothing changes.

    Args:
        mesh: The devices; None for one device.
        tree: The arrays.
        axis: Their batch axis.
    """
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, batch_sharding(mesh, axis))


def use_batch_mesh(mesh: Mesh | None) -> AbstractContextManager[object]:
    """Tells the functions that are traced within it which devices share each batch.

    They ask `jax.sharding.get_abstract_mesh`, which works for devices that are not there too.

    Args:
        mesh: The devices; None for one device.
    """
    if mesh is None or mesh.size == 1:
        return nullcontext()
    return use_abstract_mesh(mesh.abstract_mesh)


def local_copy(tree: Tree) -> Tree:
    """Returns one device's copy of replicated arrays."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
