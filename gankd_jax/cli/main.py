"""Entry point of the command line: runs one command, and prints any mistake as one line."""

import codecs
import io
import logging as python_logging
import os
import sys

from absl import flags
from absl import logging as absl_logging

from gankd_jax.cli.config_flag import split_config_words
from gankd_jax.cli.parser import parse_command, stored_config_words
from gankd_jax.utils import paths, preemption
from gankd_jax.utils.errors import UserError

# What stands for a character that a terminal or pipe without UTF-8 cannot show.
ASCII_FORMS = {"±": "+-", "é": "e"}


def main() -> None:
    """Runs the command in `sys.argv`.

    The exit status is 2 after a mistake, and 128 plus the signal's number after a signal.
    """
    _configure_output()
    _configure_logging()
    try:
        _run_command(sys.argv[1:])
        print(end="", flush=True)  # so that an error of the output is found here, not at exit
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
        _drop_output()
    except OSError as error:  # a full or read-only disk, missing rights, a file that disappeared
        name = error.filename or ("standard output" if _drop_failed_output() else "")
        print(f"gankd: {name}{': ' * bool(name)}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)


def _drop_failed_output() -> bool:
    """Returns whether some output cannot be written, and drops it: exiting would try it again."""
    try:
        print(end="", flush=True)
    except OSError:
        _drop_output()
        return True
    return False


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _configure_output() -> None:
    """Lets every text be printed, whatever the encoding of the terminal or pipe."""
    codecs.register_error("ascii_forms", _replace_by_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a test captures the output
            stream.reconfigure(errors="ascii_forms")


def _replace_by_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(ASCII_FORMS.get(character, "?") for character in characters), error.end


def _configure_logging() -> None:
    """Prints the package's own lines as they are, and warnings of its libraries."""
    flags.FLAGS.mark_as_parsed()  # absl's own flags, which nobody sets; else it warns at each start
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    # Orbax's threads log tracebacks after a failed write, also when its call has returned.
    python_logging.getLogger("concurrent.futures").setLevel(python_logging.CRITICAL)
    python_logging.captureWarnings(True)
    python_logging.getLogger("PIL").setLevel(python_logging.CRITICAL)  # it raises what it logs
    logger = python_logging.getLogger("gankd_jax")
    logger.handlers = [python_logging.StreamHandler(sys.stderr)]
    logger.setLevel(python_logging.INFO)
    logger.propagate = False  # absl's handler would print the lines again


def _run_command(words: list[str]) -> None:
    if not words or not {"-h", "--help"}.isdisjoint(words):
        parse_command([*words, "--help"])  # prints the help and exits
    _configure_jax()  # before the config is read, which may import jax
    config, words = split_config_words(stored_config_words(words) + words)
    args = parse_command(words + ([f"--config={config.filename}"] if config else []))
    args.config = config
    args.run(args)


def _configure_jax() -> None:
    """Keeps compiled programs for the next start, and computes in float32."""
    logger = python_logging.getLogger(__name__)
    if os.environ.pop("JAX_ENABLE_X64", "0").lower() not in ("0", "false", "off", "no", "f", "n"):
        logger.warning("JAX_ENABLE_X64 is ignored: gankd computes in float32")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = paths.user_cache_dir() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, UserError) as error:
        logger.warning("compiled programs are not kept for the next start (%s)", error)
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
