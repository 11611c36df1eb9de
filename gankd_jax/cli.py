"""The command line: flags to one function per command."""

import logging as python_logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from gankd_jax import usage
from gankd_jax.errors import UserError
from gankd_jax.runtime import stop
from gankd_jax.usage import Command

Values = flags.FlagValues


def describe(values: Values) -> None:
    """Print the cost of every width of a config, and of the study: [--rate=TFLOP/s]."""
    from gankd_jax.describe import describe as text_of

    print(text_of(_config(values), _rate(values)))


def data_prepare(values: Values, name: str) -> None:
    """Make a data set ready: digits, mnist, cifar10, celeb_a."""
    from gankd_jax.data.load import default_data_dir
    from gankd_jax.data.prepare import prepare

    target = _path(values, "data-dir") or default_data_dir()
    print(prepare(name, _path(values, "source-dir"), target))


def study(values: Values) -> None:
    """Train, score and report all that a config asks for and that is not done yet."""
    from gankd_jax import study as job

    def work(config: ConfigDict, folder: Path) -> None:
        job.study(config, folder, _share(values), _whole(values, "wait") or 0)
        report(values)

    _together(values, work)


def train(values: Values) -> None:
    """Train one run of a study."""
    from gankd_jax import study as job

    name = _needed(values, "run")
    _together(values, lambda config, folder: job.train_one(config, folder, name))


def evaluate(values: Values) -> None:
    """Score every run that is trained and not scored yet."""
    from gankd_jax import study as job

    _together(values, job.evaluate_study)


def _together(values: Values, work: Callable[[ConfigDict, Path], None]) -> None:
    """Do the work in the leading process; the others follow it to its end."""
    from gankd_jax import study as job
    from gankd_jax.runtime import distributed

    config, folder = _config(values), _workdir(values)
    distributed.start(*(values[name].value for name in ("coordinator", "processes", "process")))
    stop.listen()
    if not distributed.leads():
        job.follow(config, folder)
    with distributed.leading():
        work(config, folder)


def report(values: Values) -> None:
    """Write table.md, table.csv and report.html of what the work directory holds."""
    from gankd_jax.report.page import write_report
    from gankd_jax.report.runs import read
    from gankd_jax.report.table import text

    folder = _workdir(values)
    page = write_report(folder)
    print(text(read(folder)))
    print(page)


def watch(values: Values) -> None:
    """Show the state of a running study, on however many machines, until Ctrl-C."""
    from gankd_jax.report.watch import watch as show

    show(_workdir(values), once=bool(values["once"].value))


def sample(values: Values) -> None:
    """Write a grid of a trained run's images as PNG."""
    from gankd_jax import study as job

    out = Path(_needed(values, "out")).expanduser()
    job.sample(_config(values), _workdir(values), _needed(values, "run"), out=out)
    print(out)


def compare(values: Values) -> None:
    """Print a study's scores beside the paper's, or beside a table."""
    from gankd_jax.report.compare import compare as text_of

    print(text_of(_workdir(values), _path(values, "reference")))


def score(values: Values, a: str, b: str) -> None:
    """Print all scores of images A against B: a folder, a run's, .npz, mnist:test."""
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
    """Download the FID network's weights, or take them from a file."""
    from gankd_jax.interop import inception_weights

    target = inception_weights.default_path()
    inception_weights.fetch(_path(values, "from"), target)
    print(f"{target} serves the layers {', '.join(inception_weights.served(target))}")


def import_torch(values: Values, file: str) -> None:
    """Make a PyTorch DCGAN a study's teacher."""
    from gankd_jax import exchange

    path = Path(file).expanduser()
    run, critic = _needed(values, "run"), _path(values, "critic")
    print(
        exchange.import_torch(_config(values), _workdir(values), path, run=run, critic_path=critic)
    )


def export_torch(values: Values) -> None:
    """Write a run's generator as a PyTorch state_dict."""
    from gankd_jax import exchange

    out = Path(_needed(values, "out")).expanduser()
    exchange.export_torch(_config(values), _workdir(values), run=_needed(values, "run"), out=out)
    print(out)


def export(values: Values) -> None:
    """Write a run's generator as a file for other programs, and try it."""
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
    """Time training and drawing; or, of a config, what --memory, --start and the others name."""
    if values["memory"].value:
        from gankd_jax.bench.memory import memory

        print(memory(_config(values)))
        return
    rounds = _whole(values, "rounds") or 5
    if values["start"].value:
        from gankd_jax.bench.start import start

        made = [f"--config={config_flags.get_config_filename(values['config'])}"]
        made += [word for word in sys.argv if word.startswith("--config.")]
        print(start(_config(values), made, rounds))
        return
    if values["compile-for"].value:
        os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is run; else JAX would look for the TPU
        from gankd_jax.bench.compile_for import compile_for

        print(compile_for(_config(values), values["compile-for"].value))
        return
    if values["export"].value:
        from gankd_jax.bench.export import bench_export

        print(bench_export(_config(values), _workdir(values), rounds=rounds))
        return
    from gankd_jax.bench import command

    folder = _path(values, "out") or Path("bench")
    names = {flag: (values[flag].value or "").split(",") for flag in ("only", "against")}
    chosen = {flag: [name for name in words if name] for flag, words in names.items()}
    print(command.bench(folder, rounds=rounds, **chosen))


def completion(values: Values, shell: str) -> None:
    """Print the script that completes commands, flags, configs and runs in a shell."""
    from gankd_jax.completion import script

    print(script(shell, COMMANDS, SWITCHES))


MANY = ("coordinator", "processes", "process")  # of several processes that train as one

COMMANDS: dict[str, Command] = {
    "describe": Command(
        describe,
        needs=("config",),
        may=("rate",),
        examples=("gankd describe --config=configs/mnist.py",),
    ),
    "data prepare": Command(
        data_prepare,
        may=("source-dir", "data-dir"),
        takes=("NAME",),
        examples=("gankd data prepare digits", "gankd data prepare mnist"),
    ),
    "study": Command(
        study,
        needs=("config", "workdir"),
        may=("shard", "wait", *MANY),
        examples=(
            "gankd study --config=configs/digits.py --workdir=runs/digits",
            "gankd study --config=configs/digits.py --config.study.widths='(2, 4)'"
            " --workdir=runs/two-widths",
        ),
    ),
    "train": Command(
        train,
        needs=("config", "workdir", "run"),
        may=MANY,
        examples=(
            "gankd train --config=configs/digits.py --workdir=runs/digits --run=teacher-d32-s0",
        ),
    ),
    "evaluate": Command(
        evaluate,
        needs=("config", "workdir"),
        may=MANY,
        examples=("gankd evaluate --config=configs/digits.py --workdir=runs/digits",),
    ),
    "report": Command(report, needs=("workdir",), examples=("gankd report --workdir=runs/digits",)),
    "watch": Command(
        watch,
        needs=("workdir",),
        may=("once",),
        examples=(
            "gankd watch --workdir=runs/digits --once",
            "gankd watch --workdir=runs/digits",
        ),
    ),
    "sample": Command(
        sample,
        needs=("config", "workdir", "run", "out"),
        examples=(
            "gankd sample --config=configs/digits.py --workdir=runs/digits"
            " --run=student-mse-d4-s0 --out=grid.png",
        ),
    ),
    "compare": Command(
        compare,
        needs=("workdir",),
        may=("reference",),
        examples=(
            "gankd data prepare mnist",
            "gankd study --config=configs/mnist.py:small --workdir=runs/mnist-small",
            "gankd compare --workdir=runs/mnist-small",
        ),
    ),
    "export": Command(
        export,
        needs=("config", "workdir", "run", "format", "out"),
        may=("precision",),
        examples=(
            "gankd export --config=configs/digits.py --workdir=runs/digits"
            " --run=student-mse-d4-s0 --format=onnx --precision=int8 --out=student.onnx",
            "gankd export --config=configs/digits.py --workdir=runs/digits"
            " --run=student-mse-d4-s0 --format=stablehlo --out=student.stablehlo",
        ),
    ),
    "bench": Command(
        bench,
        may=(
            *("against", "only", "rounds", "out", "memory", "start", "compile-for", "export"),
            *("config", "workdir"),
        ),
        examples=(
            "gankd bench --only=draw-2 --out=runs/bench",
            "gankd bench --memory --config=configs/mnist.py",
            "gankd bench --start --config=configs/digits.py --rounds=1",
            "gankd bench --export --config=configs/digits.py --workdir=runs/digits",
        ),
    ),
    "score": Command(
        score,
        may=("data-dir", "image-size", "pad", "weights", "out"),
        takes=("A", "B"),
        examples=(
            "gankd weights fetch",
            "gankd score runs/digits/student-mse-d4-s0 digits:test --image-size=16 --pad=1",
        ),
    ),
    "weights fetch": Command(weights_fetch, may=("from",), examples=("gankd weights fetch",)),
    "weights import-torch": Command(
        import_torch,
        needs=("config", "workdir", "run"),
        may=("critic",),
        takes=("FILE.pth",),
        examples=(
            "gankd weights export-torch --config=configs/digits.py --workdir=runs/digits"
            " --run=teacher-d32-s0 --out=teacher.pth",
            "gankd weights import-torch teacher.pth --config=configs/digits.py"
            " --workdir=runs/imported --run=teacher-d32-s0",
        ),
    ),
    "weights export-torch": Command(
        export_torch,
        needs=("config", "workdir", "run", "out"),
        examples=(
            "gankd weights export-torch --config=configs/digits.py --workdir=runs/digits"
            " --run=student-mse-d4-s0 --out=student.pth",
        ),
    ),
    "completion": Command(
        completion,
        takes=("bash|zsh",),
        examples=('eval "$(gankd completion bash)"', 'eval "$(gankd completion zsh)"'),
    ),
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
        sys.exit(stop.status_of(error))
    except stop.Ended as error:
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
    values, words = _parse(argv)
    name, command = _command(words)
    arguments = words[len(name.split()) :]
    if len(arguments) != len(command.takes):
        given = " ".join(arguments) or "nothing"
        takes = " ".join(command.takes) or "flags only"
        raise UserError(f"`gankd {name}` takes {takes}, not {given}")
    for flag in values:
        if values[flag].present and flag.split(".")[0] not in command.flags:
            raise UserError(f"`gankd {name}` takes no --{flag}; see `gankd {name} --help`")
    _use_compilation_cache()
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


def _parse(argv: list[str]) -> tuple[Values, list[str]]:
    """The flags and the other words; every way in which flags can be wrong becomes a UserError."""
    values = Values()
    values.set_gnu_getopt(True)  # words and flags in any order
    config_flags.DEFINE_config_file(
        "config", None, CONFIG["config"], lock_config=True, flag_values=values
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
        if "get_config" in found:
            raise UserError("the file of --config has no function get_config") from None
        advice = f"did you mean {found[-4]}?" if "mean" in found else "see gankd_jax/config.py"
        raise UserError(f"the config has no field {found[-1]}; {advice}") from None
    except UserError:
        raise
    except (flags.Error, TypeError, ValueError) as error:
        # A config file that raises comes with its traceback; the last line is the message.
        raise UserError(str(error).strip().splitlines()[-1].split("UserError: ")[-1]) from None
    except Exception as error:  # a config file is code and may raise anything
        told = " ".join(str(error).split())
        raise UserError(f"the config file raises {type(error).__name__}: {told}") from None
    return values, words


CONFIG = {"config": "a study's file, FILE[:variant,variant]; --config.FIELD=VALUE changes a field"}
FLAGS = {
    "workdir": "the study's folder",
    "shard": "the share of a study's groups that `study` takes: 1/4 to 4/4",
    "wait": "seconds that a share waits for another to begin with its teacher (default: 0)",
    "processes": "how many processes train as one: a number, or auto, which asks the cluster",
    "process": "which of them this one is, from 0",
    "coordinator": "HOST:PORT of process 0, where they meet",
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
    "against": "what `bench` compares with: torch, onnxruntime, or both with a comma",
    "only": "the cases that `bench` times, with commas between (default: all)",
    "compile-for": "a TPU slice, such as tpu:v5e:2x4: `bench` compiles a config's programs for it",
    "rounds": "turns that `bench` takes at each case (default: 5)",
    "rate": "TFLOP/s at which `describe` reckons hours (default: 1)",
    "source-dir": "folder of original files",
    "data-dir": "folder of prepared data sets (default: TFDS's own)",
}

SWITCHES = {
    "memory": "`bench` prints the memory of a config's groups, and runs nothing",
    "start": "`bench` times how long a config's first step takes to come, cold and warm",
    "once": "`watch` looks once",
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

    if not values["config"].present:
        raise UserError("this command needs --config=FILE, such as --config=configs/digits.py")
    config = values["config"].value
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of the file of --config gives {config!r}, no ConfigDict")
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


def _rate(values: Values) -> float:
    text = values["rate"].value or "1"
    if not re.fullmatch(r"\d*\.?\d+", text) or float(text) == 0:
        raise UserError(f"--rate={text} is no rate, such as 0.2 or 80 TFLOP/s")
    return float(text)


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
