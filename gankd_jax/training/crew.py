"""Processes that train a group together: what the leader tells the others of it."""

import dataclasses
import zlib
from typing import Any

import jax
import numpy as np
from flax import serialization
from jaxtyping import UInt8

from gankd_jax.training.multi_run import RunSpecs
from gankd_jax.training.train_state import TeacherParams, TrainState
from gankd_jax.utils import multihost
from gankd_jax.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a group goes on from."""

    step: int
    states: dict[str, TrainState]
    frozen: TeacherParams | None  # the teacher's part


@dataclasses.dataclass(frozen=True)
class Order:
    """A group to take part in; the arrays are Flax's state dicts of NumPy arrays."""

    seeds: dict[str, list[int]]  # of each run: of its first weights, of its stream
    step: int
    states: dict[str, Any]
    teacher: str | None
    frozen: dict[str, Any] | None  # the teacher's part


def call(members: RunSpecs, start: Start, teacher: str | None) -> None:
    """Have the other processes take part in a group (the leader's side)."""
    if multihost.is_single_process():
        return
    order = Order(
        seeds={name: [member.seed, member.stream] for name, member in members.items()},
        step=start.step,
        states=serialization.to_state_dict(jax.device_get(start.states)),
        teacher=teacher,
        frozen=serialization.to_state_dict(jax.device_get(start.frozen)) if start.frozen else None,
    )
    content = {field.name: getattr(order, field.name) for field in dataclasses.fields(order)}
    multihost.allgather_int(0)
    multihost.broadcast_bytes(serialization.msgpack_serialize(content))


def join() -> Order:
    """Wait for the leader's next group.

    Raises:
      Ended: it has none.
    """
    multihost.allgather_int(0)
    return Order(**serialization.msgpack_restore(multihost.broadcast_bytes(b"")))


def compare(settings: object, images: UInt8[np.ndarray, "n s s c"]) -> None:
    """Begin only if every process has the same settings and images.

    Raises:
      UserError: one has not, in the leader.
      Ended: the same, in the others.
    """
    if not multihost.is_single_process():
        content = np.ascontiguousarray(images).data
        _need_equal(zlib.crc32(content, zlib.crc32(repr(settings).encode())) >> 1 or 1)


def refuse() -> None:
    """Tell the leader that this process cannot take part.

    Raises:
      Ended: always.
    """
    _need_equal(0)


def _need_equal(mark: int) -> None:
    marks = multihost.allgather_int(mark)
    others = [k for k, other in enumerate(marks) if other != marks[0]]
    if others and multihost.is_primary():
        reason = "has other images, flags or versions than process 0"
        if marks[others[0]] == 0:
            reason = "cannot take part; it has written why"
        raise UserError(f"process {others[0]} {reason}")
    if others:
        multihost.allgather_int(0)
