"""Graceful shutdown on signals."""

import signal
import subprocess
import sys
import time

import pytest
import tiny

from gankd_jax.utils import preemption

IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)"  # as deaf as a compiler
IN_PYTHON = "import time; time.sleep(600)"


@pytest.mark.parametrize("work", [IN_C, IN_PYTHON], ids=["in one long call", "in Python"])
def test_a_second_interrupt_stops_at_once(work):
    install = "from gankd_jax.utils import preemption; preemption.install_handlers()"
    code = f"{install}; print(flush=True); {work}"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tiny.REPO, **streams) as process:
        assert process.stdout.readline() == b"\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == preemption.STOPPING_MESSAGE
        process.send_signal(signal.SIGTERM)  # only a SIGINT is so urgent
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (128 + signal.SIGINT, -signal.SIGINT)  # the latter by Python
