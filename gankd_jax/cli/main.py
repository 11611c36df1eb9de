"""The command line: words to one command's call, and every mistake to one line."""

import logging as python_logging
import os
import sys
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from gankd_jax.cli import usage
from gankd_jax.cli.flags import CONFIG, FLAGS, SWITCHES, only, parse
from gankd_jax.cli.table import COMMANDS
from gankd_jax.cli.usage import Command
from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError


def main() -> None:
    """Run the command that `sys.argv` names; a mistake is one line and exit status 2."""
    flags.FLAGS.mark_as_parsed()  # absl's own flags, which nobody sets; else it warns at each start
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    python_logging.captureWarnings(True)
    try:
        _dispatch(sys.argv)
    except UserError as error:
        print(f"gankd: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, preemption.Preempted) as error:
        print("gankd: stopped; the same command goes on from where it was", file=sys.stderr)
        sys.exit(preemption.exit_status(error))
    except preemption.PrimaryEnded as error:
        sys.exit(error.status)
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a disk that is full or read-only, rights, a file that is gone
        print(f"gankd: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _dispatch(argv: list[str]) -> None:
    wants_help = len(argv) < 2 or "--help" in argv or "-h" in argv
    if wants_help:
        print(_help([word for word in argv[1:] if not word.startswith("-")]))
        return
    _use_compilation_cache()  # before a config is read, which imports jax
    values, words = parse(argv)
    name, command = _command(words)
    arguments = words[len(name.split()) :]
    if len(arguments) != len(command.takes):
        given = " ".join(arguments) or "nothing"
        takes = " ".join(command.takes) or "flags only"
        raise UserError(f"`gankd {name}` takes {takes}, not {given}")
    only(values, command.flags, name)
    command.run(values, *arguments)


def _command(words: list[str]) -> tuple[str, Command]:
    """The command that words begin with."""
    if not words:
        raise UserError(f"name a command: {', '.join(COMMANDS)}")
    for name in (" ".join(words[:2]), words[0]):
        if name in COMMANDS:
            return name, COMMANDS[name]
    raise UserError(f"no command '{words[0]}'; there are {', '.join(COMMANDS)}")


def _help(words: list[str]) -> str:
    """The help of a command; of all where none is named, or only its first word."""
    if not words or any(name.split()[:-1] == words for name in COMMANDS):
        return usage.overview(COMMANDS)
    name, command = _command(words)
    return usage.help_of(name, command, CONFIG | FLAGS | SWITCHES, SWITCHES)


def _use_compilation_cache() -> None:
    """Keep compiled programs between starts, in JAX's folder if the user named one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home, "gankd-jax", "compiled")))
