"""Several processes that run the same program: how they meet, and what they share.

Every process executes the same code; process 0 alone reads and writes the work directory.  What it
finds there reaches the others through `on_primary` and `broadcast_tree`.  A process that fails ends
all the others at the next of these calls, by `ends_all_processes`.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from flax import serialization
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.preemption import PeerEnded

T = TypeVar("T")
PyTree = Any  # a pytree of arrays

# A process that ends gives this number or a lower one in place of one that is 0 or above; its exit
# status is ENDING - number.
ENDING = -1
SECONDS_TO_MEET = 300  # for all processes to start; more where a cluster starts them slowly
SECONDS_TO_END = 60
FOREVER = 10**6  # seconds; process 0 may score for hours while the others wait
MAX_BROADCAST = 2**30  # bytes; a length is sent as two int32


def initialize(coordinator: str | None, processes: str | None, process: str | None) -> None:
    """Joins the other processes, if the flags or the environment name any.

    Args:
        coordinator: HOST:PORT of process 0, from `--coordinator`.
        processes: Their number, or `auto` to ask the cluster, from `--processes`; "1" means that
            this process is alone, whatever the environment says.
        process: The index of this process, from `--process`.

    Raises:
        UserError: The flags contradict each other, or the other processes do not come.
    """
    if processes == "1" or not (coordinator or processes or process or _has_peers()):
        return
    arguments: dict[str, Any] = {}
    if coordinator:
        count, index = _parse_numbers(processes, process)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
    elif process or processes not in (None, "auto"):
        raise UserError("--processes=N and --process=K need --coordinator=HOST:PORT of process 0")
    jax.config.update("jax_enable_preemption_service", False)  # utils.preemption handles SIGTERM
    try:
        jax.distributed.initialize(
            initialization_timeout=SECONDS_TO_MEET,
            shutdown_timeout_seconds=SECONDS_TO_END,
            **arguments,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the other processes are not found ({reason})") from error
    if not is_primary():
        logging.getLogger("gankd_jax").setLevel(logging.WARNING)  # process 0 logs for all


def _has_peers() -> bool:
    """Whether SLURM's `srun`, or a TPU slice of Kubernetes, started more than this process."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 or len(hosts) > 1


def _parse_numbers(processes: str | None, process: str | None) -> tuple[int, int]:
    """Returns --processes and --process as numbers."""
    flags = f"--processes={processes} --process={process}"
    if not (processes and processes.isdecimal() and process and process.isdecimal()):
        raise UserError(f"{flags}: with --coordinator=HOST:PORT both are whole numbers")
    if int(process) >= int(processes):
        raise UserError(f"{flags}: processes are counted from 0 to {int(processes) - 1}")
    return int(processes), int(process)


def is_primary() -> bool:
    """Returns whether this is process 0."""
    return is_single_process() or jax.process_index() == 0


def is_single_process() -> bool:
    """Returns whether there is no other process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def allgather_int(number: int, seconds: int = FOREVER) -> list[int]:
    """Returns the numbers that the processes give, in their order; each waits for all.

    Args:
        number: 0 or above, an int32.
        seconds: How long to wait for the others.

    Raises:
        PeerEnded: Another process has failed.
    """
    if is_single_process():
        return [number]
    # XLA's collectives give up within half a minute on a process that is late; this barrier waits.
    multihost.get_barrier_sync_fn()(key="exchange", timeout_ms=1000 * seconds)
    numbers = multihost_utils.process_allgather(np.int32(number)).tolist()
    ended = [k for k, other in enumerate(numbers) if other <= ENDING]
    if ended and number > ENDING:
        status = ENDING - numbers[ended[0]]
        is_told = is_primary() and ended[0] > 0
        message = f"process {ended[0]} cannot take part; it has written why" if is_told else ""
        raise PeerEnded(status, message)
    return numbers


def on_primary(function: Callable[[], T]) -> T:
    """Calls a function in process 0 alone and returns its value in every process.

    Args:
        function: Reads or writes files, say; its value must survive JSON.

    Raises:
        PeerEnded: The function failed in process 0, where its own error is raised.
    """
    if is_single_process():
        return function()
    content = json.dumps(function()).encode() if is_primary() else b""
    return json.loads(broadcast_bytes(content))


def broadcast_tree(make: Callable[[], PyTree], template: PyTree = None) -> PyTree:
    """Returns a pytree of process 0 in every process.

    Args:
        make: Makes it; called in process 0 alone.
        template: A pytree of the same structure, such as its shapes; not needed for nested dicts.

    Returns:
        In process 0 what `make` returned, in the others the same with NumPy arrays.
    """
    if is_single_process():
        return make()
    if is_primary():
        tree = make()
        state = serialization.to_state_dict(jax.device_get(tree))
        broadcast_bytes(serialization.msgpack_serialize(state))
        return tree
    state = serialization.msgpack_restore(broadcast_bytes(b""))
    return state if template is None else serialization.from_state_dict(template, state)


def broadcast_bytes(content: bytes) -> bytes:
    """Returns the content of process 0 in every process.

    Raises:
        PeerEnded: Another process has failed.
    """
    if is_single_process():
        return content
    allgather_int(0)
    length = np.array(divmod(len(content), MAX_BROADCAST), np.int32)
    parts, rest = (int(n) for n in multihost_utils.process_allgather(length)[0])
    size = parts * MAX_BROADCAST + rest
    words = np.zeros(-(-size // 4), np.uint32)
    if is_primary():
        words.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(words).tobytes()[:size]


def require_equal(checksum: int, subject: str) -> None:
    """Refuses to go on if the processes differ.

    Args:
        checksum: An int32, 0 or above, of what must be equal.
        subject: What it is, for the message.

    Raises:
        PeerEnded: A process has another checksum than process 0.
    """
    checksums = allgather_int(checksum)
    different = [k for k, other in enumerate(checksums) if other != checksums[0]]
    if different:
        message = f"process {different[0]} has other {subject} than process 0"
        raise PeerEnded(2, message if is_primary() else "")


@contextlib.contextmanager
def ends_all_processes() -> Iterator[None]:
    """Ends every process by the exit status of the first that fails in the block."""
    try:
        yield
    except PeerEnded:  # it was told by the process that failed
        raise
    except BaseException as error:
        # A process that died is not waited for: why this one failed is told first.
        with contextlib.suppress(RuntimeError, PeerEnded):
            allgather_int(ENDING - _exit_status(error), SECONDS_TO_END)
        raise


def _exit_status(error: BaseException) -> int:
    if isinstance(error, UserError):
        return 2
    if isinstance(error, KeyboardInterrupt | preemption.Preempted):
        return preemption.exit_status(error)
    return 1
