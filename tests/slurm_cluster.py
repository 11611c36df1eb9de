"""A private SLURM cluster of one node on this machine, in a temporary folder."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MailProg=/bin/true
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    """The programs of SLURM that are not installed."""
    return [name for name in COMMANDS if shutil.which(name, path=SEARCH_PATH) is None]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Runs a cluster; yields the environment in which SLURM's commands find it."""
    environment = os.environ | {"PATH": SEARCH_PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    _write_config(folder)
    started: list[subprocess.Popen] = []
    with (folder / "daemons.log").open("wb") as log:

        def start(*words: str) -> None:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            started.append(subprocess.Popen(words, env=environment, **streams))

        try:
            names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
            flags = [f"--{flag}={folder}/munge.{name}" for flag, name in names.items()]
            start("munged", "--foreground", "--force", *flags, f"--seed-file={folder}/munge.seed")
            _wait_until(lambda: (folder / "munge.socket").exists())
            start("slurmctld", "-D")
            start("slurmd", "-D", "-N", _host_name())
            _wait_until(lambda: "idle" in _output_of(environment, "sinfo", "-h", "-o", "%T"))
            yield environment
        finally:
            _output_of(environment, "scancel", "--user", getpass.getuser())
            for daemon in reversed(started):
                daemon.terminate()
                daemon.wait(60)


def _host_name() -> str:
    return socket.gethostname().split(".")[0]


def _write_config(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    user, ports = getpass.getuser(), _free_ports(2)
    text = CONFIG.format(folder=folder, host=_host_name(), user=user, ports=ports)
    (folder / "slurm.conf").write_text(text)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free_socket in sockets:
            free_socket.bind(("127.0.0.1", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]


def _output_of(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True).stdout


def _wait_until(done) -> None:
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > 120:
            raise TimeoutError("SLURM does not start; see its folder")
        time.sleep(0.2)
