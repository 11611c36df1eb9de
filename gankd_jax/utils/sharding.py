"""The devices that share a batch: each holds all weights, and its part of the images.

`jax.jit` compiles one program for all of them (GSPMD): a mean over the batch, as in batch norm or a
loss, is a mean over all devices, so that their number changes nothing but the rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gankd_jax.utils.errors import UserError

BATCH_AXIS = "batch"
Tree = Any  # a pytree of arrays


def make_mesh(per_process: int) -> Mesh:
    """A mesh of so many devices of each process; 0: of all that JAX sees.

    Raises:
      UserError: a process has fewer.
    """
    owned = [[d for d in jax.devices() if d.process_index == k] for k in range(jax.process_count())]
    least = min(map(len, owned))
    if per_process > least:
        raise UserError(f"config.training.devices is {per_process}; JAX sees {least} here")
    return mesh_of_devices([device for own in owned for device in own[: per_process or None]])


def mesh_of_devices(devices: list[Any]) -> Mesh:
    """A mesh of these devices."""
    return Mesh(np.asarray(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """An array cut along its batch axis, a part to each device."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXIS))


def put_tree(tree: Tree, sharding: NamedSharding) -> Tree:
    """The arrays of a tree, which every process has, as they lie on the devices."""

    def one(leaf: Any) -> jax.Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return make_sharded_array(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(one, tree)


def make_sharded_array(
    shape: tuple[int, ...], sharding: NamedSharding, part: Callable[[Any], np.ndarray]
) -> jax.Array:
    """An array of which each process makes the parts of its own devices."""
    return jax.make_array_from_callback(shape, sharding, part)


def constrain_batch(mesh: Mesh | None, tree: Tree, axis: int) -> Tree:
    """Within a compiled function: the tree's arrays are cut along `axis`; without a mesh as is."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, batch_sharding(mesh, axis))


def local_copy(tree: Tree) -> Tree:
    """One device's copy of arrays that lie everywhere."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
