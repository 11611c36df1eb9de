"""The command line: flags to one function per command."""

import logging as python_logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from gankd_jax.errors import UserError

Values = flags.FlagValues


def describe(values: Values) -> None:
    """Print the size and the cost of every width of a config."""
    from gankd_jax.describe import describe as text_of

    print(text_of(_config(values)))


def data_prepare(values: Values, name: str) -> None:
    """Make a data set ready: gankd data prepare NAME [--source-dir=DIR] [--data-dir=DIR]."""
    from gankd_jax.data.load import default_data_dir
    from gankd_jax.data.prepare import prepare

    source, target = values["source-dir"].value, values["data-dir"].value
    path = prepare(
        name,
        Path(source).expanduser() if source else None,
        Path(target).expanduser() if target else default_data_dir(),
    )
    print(path)


def study(values: Values) -> None:
    """Train, score and report everything that a config asks for and that is not done yet."""
    from gankd_jax import study as job

    job.study(_config(values), _workdir(values))
    report(values)


def train(values: Values) -> None:
    """Train one run of a study: --run=NAME."""
    from gankd_jax import study as job

    job.train_one(_config(values), _workdir(values), _needed(values, "run"))


def evaluate(values: Values) -> None:
    """Score every run that is trained and not scored yet."""
    from gankd_jax import study as job

    job.evaluate_study(_config(values), _workdir(values))


def report(values: Values) -> None:
    """Write table.md, table.csv and report.html from what the work directory holds."""
    from gankd_jax.report.page import write_report
    from gankd_jax.report.runs import read
    from gankd_jax.report.table import text

    folder = _workdir(values)
    page = write_report(folder)
    print(text(read(folder)))
    print(page)


def sample(values: Values) -> None:
    """Write a grid of a trained run's images: --run=NAME --out=grid.png."""
    from gankd_jax import study as job

    out = Path(_needed(values, "out")).expanduser()
    job.sample(_config(values), _workdir(values), _needed(values, "run"), out=out)
    print(out)


COMMANDS: dict[str, Callable[..., None]] = {
    "describe": describe,
    "data prepare": data_prepare,
    "study": study,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "sample": sample,
}


def main() -> None:
    """Run the command that `sys.argv` names; a mistake is one line and exit status 2."""
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.WARNING)
    python_logging.captureWarnings(True)
    try:
        _dispatch(sys.argv)
    except UserError as error:
        print(f"gankd: {error}", file=sys.stderr)
        sys.exit(2)


def _dispatch(argv: list[str]) -> None:
    words = [word for word in argv[1:] if not word.startswith("-")]
    if not words or "--help" in argv or "-h" in argv:
        print(_help())
        return
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'; there are {', '.join(COMMANDS)}")
    arguments = words[len(name.split()) :]
    expected = 1 if name == "data prepare" else 0
    if len(arguments) != expected:
        what = "a data set: digits, mnist, cifar10 or celeb_a" if expected else "flags only"
        raise UserError(f"`gankd {name}` takes {what}, not {' '.join(arguments) or 'nothing'}")
    values = _parse(argv)
    _use_compilation_cache()
    COMMANDS[name](values, *arguments)


def _parse(argv: list[str]) -> Values:
    """The flags; every way in which they can be wrong becomes a UserError."""
    values = Values()
    config_flags.DEFINE_config_file(
        "config", None, "FILE[:variant,variant]", lock_config=True, flag_values=values
    )
    for flag, text in FLAGS.items():
        flags.DEFINE_string(flag, None, text, flag_values=values)
    _check_config_file(argv)
    try:
        values(argv)
    except AttributeError as error:  # ml_collections' own for a field that is not there
        field = str(error).strip("\"'")
        raise UserError(f"the config has no field {field}; see its file for those it has") from None
    except (flags.Error, KeyError, TypeError, ValueError) as error:
        # A config file that raises comes with its traceback; the last line is the message.
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    return values


FLAGS = {
    "workdir": "the study's folder",
    "run": "a run's name, such as student-mse-d4-s0",
    "out": "the file to write",
    "source-dir": "folder of original files",
    "data-dir": "folder of prepared data sets (default: TFDS's own)",
}


def _check_config_file(argv: list[str]) -> None:
    for k, word in enumerate(argv):
        if word in ("--config", "-config"):
            word = f"--config={argv[k + 1]}" if k + 1 < len(argv) else "--config="
        if word.startswith("--config="):
            path = word.removeprefix("--config=").split(":")[0]
            if not Path(path).is_file():
                raise UserError(f"--config={path} is no file; try configs/digits.py")


def _config(values: Values) -> ConfigDict:
    from gankd_jax.config import validate

    if values["config"].value is None:
        raise UserError("this command needs --config=FILE, such as --config=configs/digits.py")
    config = values["config"].value
    validate(config)
    return config


def _workdir(values: Values) -> Path:
    return Path(_needed(values, "workdir")).expanduser()


def _needed(values: Values, flag: str) -> Any:
    if not values[flag].value:
        raise UserError(f"this command needs --{flag}=..., {FLAGS[flag]}")
    return values[flag].value


def _use_compilation_cache() -> None:
    """Keep compiled programs between starts, in JAX's folder if the user named one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home, "gankd-jax", "compiled")))


def _help() -> str:
    lines = ["gankd COMMAND --config=FILE[:variant] --config.field=value --workdir=DIR", ""]
    lines += [f"  {name:13} {(f.__doc__ or '').splitlines()[0]}" for name, f in COMMANDS.items()]
    lines += ["", *(f"  --{flag:11} {text}" for flag, text in FLAGS.items())]
    return "\n".join(lines)
