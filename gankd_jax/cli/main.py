"""Entry point of the command line: runs one command, and prints any mistake as one line."""

import logging as python_logging
import os
import sys
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import parse_command
from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError


def main() -> None:
    """Runs the command in `sys.argv`.

    The exit status is 2 after a mistake, and 128 plus the signal's number after a signal.
    """
    _configure_logging()
    try:
        _run_command(sys.argv[1:])
    except UserError as error:
        print(f"gankd: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, preemption.Preempted) as error:
        # One of several processes says it.
        python_logging.getLogger(__name__).info(
            "gankd: stopped; the same command resumes from here"
        )
        sys.exit(preemption.exit_status(error))
    except preemption.PeerEnded as error:
        if error.message:
            print(f"gankd: {error.message}", file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:  # the reader of our output, such as `head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full or read-only disk, missing rights, a file that disappeared
        print(f"gankd: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _configure_logging() -> None:
    """Prints the package's own lines as they are, and warnings of its libraries."""
    flags.FLAGS.mark_as_parsed()  # absl's own flags, which nobody sets; else it warns at each start
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    python_logging.captureWarnings(True)
    logger = python_logging.getLogger("gankd_jax")
    logger.handlers = [python_logging.StreamHandler(sys.stderr)]
    logger.setLevel(python_logging.INFO)
    logger.propagate = False  # absl's handler would print the lines again


def _run_command(words: list[str]) -> None:
    if not words or not {"-h", "--help"}.isdisjoint(words):
        parse_command([*words, "--help"])  # prints the help and exits
    _use_compilation_cache()  # before the config is read, which may import jax
    config, words = split_config_words(words)
    args = parse_command(words + ([f"--config={config.filename}"] if config else []))
    args.config = config
    args.run(args)


def _use_compilation_cache() -> None:
    """Keeps compiled programs for the next start, in JAX's folder if the user named one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home, "gankd-jax", "compiled")))
