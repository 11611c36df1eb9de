"""Several processes that work as one: how they find each other, and what they tell each other.

Process 0 leads: it alone reads and writes the work directory and decides what is next.  The others
follow: they take part in its training until it ends, and end as it does.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError

# What the leader gives to `exchange` in place of a number that is 0 or above.
ENDING = -1  # and below: it ends with the status -1 - number
SECONDS_TO_MEET = 300
SECONDS_TO_END = 60
FOREVER = 10**6  # seconds: the leader may score for hours
PIECE = 2**30  # what fits into an int32


def initialize(coordinator: str | None, processes: str | None, process: str | None) -> None:
    """Join the other processes, where flags or the environment speak of others.

    Raises:
      UserError: the flags contradict each other, or the others are not found.
    """
    if processes == "1" or not (coordinator or processes or process or _is_one_of_many()):
        return
    given: dict[str, Any] = {}
    if coordinator:
        count, own = _numbers(processes, process)
        given = {"coordinator_address": coordinator, "num_processes": count, "process_id": own}
        given["cluster_detection_method"] = "deactivate"
    elif process or processes not in (None, "auto"):
        raise UserError("--processes=N and --process=K need --coordinator=HOST:PORT of process 0")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is `stop`'s
    try:
        jax.distributed.initialize(
            initialization_timeout=SECONDS_TO_MEET,
            shutdown_timeout_seconds=SECONDS_TO_END,
            **given,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the other processes are not found ({reason})") from error


def _is_one_of_many() -> bool:
    """Whether SLURM's `srun`, or a TPU slice of Kubernetes, started more than this process."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or len(hosts) > 1


def _numbers(processes: str | None, process: str | None) -> tuple[int, int]:
    """--processes=N --process=K as numbers."""
    given = f"--processes={processes} --process={process}"
    if not (processes and processes.isdecimal() and process and process.isdecimal()):
        raise UserError(f"{given}: with --coordinator=HOST:PORT both are whole numbers")
    if int(process) >= int(processes):
        raise UserError(f"{given}: processes are counted from 0 to {int(processes) - 1}")
    return int(processes), int(process)


def is_primary() -> bool:
    """Whether this process is number 0."""
    return is_single_process() or jax.process_index() == 0


def is_single_process() -> bool:
    """Whether there is no other process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def allgather_int(number: int, seconds: int = FOREVER) -> list[int]:
    """The numbers (int32) that the processes give, in their order; each waits for all.

    Raises:
      Ended: process 0 gave `ENDING` or below.
    """
    if is_single_process():
        return [number]
    # Collectives give up within half a minute on a process that is late; this does not.
    multihost.get_barrier_sync_fn()(key="exchange", timeout_ms=1000 * seconds)
    numbers = multihost_utils.process_allgather(np.int32(number)).tolist()
    if numbers[0] <= ENDING and not is_primary():
        raise preemption.PrimaryEnded(ENDING - numbers[0])
    return numbers


def broadcast_bytes(content: bytes) -> bytes:
    """Process 0's content, in every process."""
    if is_single_process():
        return content
    length = np.array(divmod(len(content), PIECE), np.int32)
    pieces, rest = (int(n) for n in multihost_utils.process_allgather(length)[0])
    size = pieces * PIECE + rest
    words = np.zeros(-(-size // 4), np.uint32)
    if is_primary():
        words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(words).tobytes()[:size]


@contextlib.contextmanager
def primary_scope() -> Iterator[None]:
    """The leader's work; with it the followers' ends, by the same exit status."""
    status = 1
    try:
        yield
        status = 0
    except UserError:
        status = 2
        raise
    except (KeyboardInterrupt, preemption.Preempted) as error:
        status = preemption.exit_status(error)
        raise
    finally:
        # A follower that died is not waited for: what ended this process is told first.
        with contextlib.suppress(RuntimeError):
            allgather_int(ENDING - status, SECONDS_TO_END)
