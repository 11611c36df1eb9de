"""Processes that train a group together: what the leader tells the others of it."""

import dataclasses
import zlib
from typing import Any

import jax
import numpy as np
from flax import serialization
from jaxtyping import UInt8

from gankd_jax.errors import UserError
from gankd_jax.runtime import distributed
from gankd_jax.training.group import Members
from gankd_jax.training.state import Frozen, State


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a group goes on from."""

    step: int
    states: dict[str, State]
    frozen: Frozen | None  # the teacher's part


@dataclasses.dataclass(frozen=True)
class Order:
    """A group to take part in; the arrays are Flax's state dicts of NumPy arrays."""

    seeds: dict[str, list[int]]  # of each run: of its first weights, of its stream
    step: int
    states: dict[str, Any]
    teacher: str | None
    frozen: dict[str, Any] | None  # the teacher's part


def call(members: Members, start: Start, teacher: str | None) -> None:
    """Have the other processes take part in a group (the leader's side)."""
    if distributed.alone():
        return
    order = Order(
        seeds={name: [member.seed, member.stream] for name, member in members.items()},
        step=start.step,
        states=serialization.to_state_dict(jax.device_get(start.states)),
        teacher=teacher,
        frozen=serialization.to_state_dict(jax.device_get(start.frozen)) if start.frozen else None,
    )
    content = {field.name: getattr(order, field.name) for field in dataclasses.fields(order)}
    distributed.exchange(0)
    distributed.broadcast(serialization.msgpack_serialize(content))


def join() -> Order:
    """Wait for the leader's next group.

    Raises:
      Ended: it has none.
    """
    distributed.exchange(0)
    return Order(**serialization.msgpack_restore(distributed.broadcast(b"")))


def compare(settings: object, images: UInt8[np.ndarray, "n s s c"]) -> None:
    """Begin only if every process has the same settings and images.

    Raises:
      UserError: one has not, in the leader.
      Ended: the same, in the others.
    """
    if not distributed.alone():
        content = np.ascontiguousarray(images).data
        _need_equal(zlib.crc32(content, zlib.crc32(repr(settings).encode())) >> 1 or 1)


def refuse() -> None:
    """Tell the leader that this process cannot take part.

    Raises:
      Ended: always.
    """
    _need_equal(0)


def _need_equal(mark: int) -> None:
    marks = distributed.exchange(mark)
    others = [k for k, other in enumerate(marks) if other != marks[0]]
    if others and distributed.leads():
        reason = "has other images, flags or versions than process 0"
        if marks[others[0]] == 0:
            reason = "cannot take part; it has written why"
        raise UserError(f"process {others[0]} {reason}")
    if others:
        distributed.exchange(0)
