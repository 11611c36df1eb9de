"""The command line: flags to one function per command."""

import logging as python_logging
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from gankd_jax.errors import UserError
from gankd_jax.runtime import stop

Values = flags.FlagValues


def describe(values: Values) -> None:
    """Print the size and the cost of every width of a config."""
    from gankd_jax.describe import describe as text_of

    print(text_of(_config(values)))


def data_prepare(values: Values, name: str) -> None:
    """Make a data set ready: gankd data prepare NAME [--source-dir=DIR] [--data-dir=DIR]."""
    from gankd_jax.data.load import default_data_dir
    from gankd_jax.data.prepare import prepare

    target = _path(values, "data-dir") or default_data_dir()
    print(prepare(name, _path(values, "source-dir"), target))


def study(values: Values) -> None:
    """Train, score and report everything that a config asks for and that is not done yet."""
    from gankd_jax import study as job

    stop.listen()
    job.study(_config(values), _workdir(values), _share(values))
    report(values)


def train(values: Values) -> None:
    """Train one run of a study: --run=NAME."""
    from gankd_jax import study as job

    stop.listen()
    job.train_one(_config(values), _workdir(values), _needed(values, "run"))


def evaluate(values: Values) -> None:
    """Score every run that is trained and not scored yet."""
    from gankd_jax import study as job

    stop.listen()
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


def compare(values: Values) -> None:
    """Print a study's scores beside the paper's, or beside a table: [--reference=FILE.csv]."""
    from gankd_jax.report.compare import compare as text_of

    print(text_of(_workdir(values), _path(values, "reference")))


def score(values: Values, a: str, b: str) -> None:
    """Print all scores of images A against B: folder, run, .npz, mnist:test [--out=FILE.json]."""
    from gankd_jax import score as job
    from gankd_jax.data.load import default_data_dir

    data_dir = _path(values, "data-dir") or default_data_dir()
    settings = job.Settings(
        data_dir=data_dir,
        image_size=_whole(values, "image-size"),
        pad=_whole(values, "pad") or 0,
        cache=data_dir / "gankd_cache",
    )
    weights, out = _path(values, "weights"), _path(values, "out")
    result = job.score_with_inception(a, b, weights=weights, settings=settings, out=out)
    print(job.text(result))


def weights_fetch(values: Values) -> None:
    """Download the FID network's weights, or take them from a file: [--from=FILE]."""
    from gankd_jax.interop import inception_weights

    target = inception_weights.default_path()
    inception_weights.fetch(_path(values, "from"), target)
    print(f"{target} serves the layers {', '.join(inception_weights.served(target))}")


def import_torch(values: Values, file: str) -> None:
    """Make a PyTorch DCGAN a study's teacher: FILE.pth --run=NAME [--critic=FILE.pth]."""
    from gankd_jax import exchange

    path = Path(file).expanduser()
    run, critic = _needed(values, "run"), _path(values, "critic")
    print(
        exchange.import_torch(_config(values), _workdir(values), path, run=run, critic_path=critic)
    )


def export_torch(values: Values) -> None:
    """Write a run's generator as a PyTorch state_dict: --run=NAME --out=FILE.pth."""
    from gankd_jax import exchange

    out = Path(_needed(values, "out")).expanduser()
    exchange.export_torch(_config(values), _workdir(values), run=_needed(values, "run"), out=out)
    print(out)


def export(values: Values) -> None:
    """Write a run's generator as a file: --run=NAME --format=onnx|stablehlo|torch --out=FILE."""
    from gankd_jax.export import command

    print(
        command.export(
            _config(values),
            _workdir(values),
            run=_needed(values, "run"),
            kind=_needed(values, "format"),
            precision=values["precision"].value or "float32",
            out=Path(_needed(values, "out")).expanduser(),
        )
    )


def bench(values: Values) -> None:
    """Time training and drawing; or --memory of a config's groups; or --export of a study."""
    if values["memory"].value:
        from gankd_jax.bench.memory import memory

        print(memory(_config(values)))
        return
    rounds = _whole(values, "rounds") or 5
    if values["export"].value:
        from gankd_jax.bench.export import bench_export

        print(bench_export(_config(values), _workdir(values), rounds=rounds))
        return
    from gankd_jax.bench import command

    folder = _path(values, "out") or Path("bench")
    only = [name for name in (values["only"].value or "").split(",") if name]
    print(command.bench(folder, against=values["against"].value, only=only, rounds=rounds))


# Each command, and what it takes beside flags.
COMMANDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "describe": (describe, ()),
    "data prepare": (data_prepare, ("NAME",)),
    "study": (study, ()),
    "train": (train, ()),
    "evaluate": (evaluate, ()),
    "report": (report, ()),
    "sample": (sample, ()),
    "compare": (compare, ()),
    "export": (export, ()),
    "bench": (bench, ()),
    "score": (score, ("A", "B")),
    "weights fetch": (weights_fetch, ()),
    "weights import-torch": (import_torch, ("FILE.pth",)),
    "weights export-torch": (export_torch, ()),
}


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
    except (KeyboardInterrupt, stop.Stopped) as error:
        print("gankd: stopped; the same command goes on from where it was", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> None:
    if len(argv) < 2 or "--help" in argv or "-h" in argv:
        print(_help())
        return
    values, words = _parse(argv)
    if not words:
        raise UserError(f"name a command: {', '.join(COMMANDS)}")
    name = next((n for n in (" ".join(words[:2]), words[0]) if n in COMMANDS), None)
    if name is None:
        raise UserError(f"no command '{words[0]}'; there are {', '.join(COMMANDS)}")
    run, takes = COMMANDS[name]
    arguments = words[len(name.split()) :]
    if len(arguments) != len(takes):
        given = " ".join(arguments) or "nothing"
        raise UserError(f"`gankd {name}` takes {' '.join(takes) or 'flags only'}, not {given}")
    _use_compilation_cache()
    run(values, *arguments)


def _parse(argv: list[str]) -> tuple[Values, list[str]]:
    """The flags and the other words; every way in which flags can be wrong becomes a UserError."""
    values = Values()
    values.set_gnu_getopt(True)  # words and flags in any order
    config_flags.DEFINE_config_file(
        "config", None, "FILE[:variant,variant]", lock_config=True, flag_values=values
    )
    for flag, text in FLAGS.items():
        flags.DEFINE_string(flag, None, text, flag_values=values)
    for flag, text in SWITCHES.items():
        flags.DEFINE_bool(flag, False, text, flag_values=values)
    _check_config_file(argv)
    try:
        words = values(argv)[1:]
    except (AttributeError, KeyError) as error:  # ml_collections' own for a field that is not there
        found = re.findall(r"\w[\w.]*", str(error.args[0]).replace("\\n", " "))
        advice = f"did you mean {found[-4]}?" if "mean" in found else "see gankd_jax/config.py"
        raise UserError(f"the config has no field {found[-1]}; {advice}") from None
    except (flags.Error, TypeError, ValueError) as error:
        # A config file that raises comes with its traceback; the last line is the message.
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    return values, words


FLAGS = {
    "workdir": "the study's folder",
    "shard": "the share of a study's groups that `study` takes: 1/4 to 4/4",
    "run": "a run's name, such as student-mse-d4-s0",
    "out": "the file to write",
    "reference": "a table to compare with (default: the paper's)",
    "weights": "folded weights of the FID network (default: those that were fetched)",
    "from": "a copy of the published weights, or folded ones",
    "critic": "a PyTorch file of the teacher's critic",
    "image-size": "pixels to which `score` resizes a data set's images (default: none)",
    "pad": "pixels that `score` adds on each side of them before",
    "format": "of an exported file: onnx, stablehlo, torch",
    "precision": "of an exported file's weights: float32 (default), float16, int8",
    "against": "what `bench` compares with: torch",
    "only": "the cases that `bench` times, with commas between (default: all)",
    "rounds": "turns that `bench` takes at each case (default: 5)",
    "source-dir": "folder of original files",
    "data-dir": "folder of prepared data sets (default: TFDS's own)",
}

SWITCHES = {
    "memory": "`bench` prints the memory of a config's groups, and runs nothing",
    "export": "`bench` times a study's exported files, and writes its latency.json",
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


def _whole(values: Values, flag: str) -> int | None:
    text = values[flag].value
    if text and not text.isdecimal():
        raise UserError(f"--{flag}={text} is no whole number")
    return int(text) if text else None


def _share(values: Values) -> tuple[int, int]:
    """--shard=k/n; all of it without."""
    text = values["shard"].value or "1/1"
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard={text} is no share, such as 1/4 to 4/4")
    return int(found[1]), int(found[2])


def _path(values: Values, flag: str) -> Path | None:
    text: str | None = values[flag].value
    return Path(text).expanduser() if text else None


def _use_compilation_cache() -> None:
    """Keep compiled programs between starts, in JAX's folder if the user named one."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home, "gankd-jax", "compiled")))


def _help() -> str:
    lines = ["gankd COMMAND --config=FILE[:variant] --config.field=value --workdir=DIR", ""]
    for name, (run, takes) in COMMANDS.items():
        lines.append(f"  {' '.join((name, *takes)):29} {(run.__doc__ or '').splitlines()[0]}")
    lines += ["", *(f"  --{flag:27} {text}" for flag, text in (FLAGS | SWITCHES).items())]
    return "\n".join(lines)
