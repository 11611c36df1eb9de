"""Trains as `gankd study` does, but in float64 and without scores: study FLAGS [+ study FLAGS].

`+` begins another study in the same process.  With STOP_AT=GROUP:STEP in the environment the
process sends itself SIGTERM when the group with that title has come to that step; with PAUSE it
rests so many seconds after each call.
"""

import functools
import os
import signal
import sys
import time

import jax

from gankd_jax.training import state


def double(function):
    """`state.init`, of which batch norm's numbers start with 32 bits too."""

    @functools.wraps(function)
    def made(*arguments):
        found = function(*arguments)
        return jax.tree.map(lambda a: a.astype("float64") if a.dtype.kind == "f" else a, found)

    return made


def disturbed(call):
    """`_Trainer._call`, followed by a rest and by a signal at a step."""
    title, step = os.environ.get("STOP_AT", ":0").split(":")

    def made(trainer):
        call(trainer)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        if (trainer._group.title, trainer.step) == (title, int(step)):
            os.kill(os.getpid(), signal.SIGTERM)

    return made


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    state.init = double(state.init)
    from gankd_jax import cli, study
    from gankd_jax.training import loop

    study.evaluate_runs = lambda *_: None
    cli.report = lambda *_: None
    loop._Trainer._call = disturbed(loop._Trainer._call)
    words = sys.argv[1:]
    while words:
        end = words.index("+") if "+" in words else len(words)
        sys.argv, words = ["gankd", *words[:end]], words[end + 1 :]
        cli.main()


if __name__ == "__main__":
    main()
