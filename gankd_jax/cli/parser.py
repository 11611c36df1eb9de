"""The commands and their flags, as argparse parsers."""

import argparse
import functools
import inspect
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gankd_jax.cli import commands, stored_config
from gankd_jax.cli.config_flag import names_config
from gankd_jax.config.constants import PRECISIONS
from gankd_jax.utils.errors import UserError, suggest
from gankd_jax.utils.paths import expand_path

EXAMPLES_TITLE = (
    "Examples, from the root of a checkout (launch/quickstart makes the study in runs/digits):"
)
REMOVED = {"gankd weights export-torch": "use `gankd export --format=torch` instead"}


def parse_text(text: str) -> str:
    """Reads a value that must not be empty, as an unset variable of a script makes it."""
    if not text:
        raise argparse.ArgumentTypeError("the value is empty")
    return text


def parse_path(text: str) -> Path:
    """Reads the path of a file or folder, which may begin with ~."""
    return expand_path(parse_text(text))


def parse_whole_number(text: str, least: int = 0) -> int:
    """Reads a whole number that is at least `least`."""
    if not (text.isdecimal() and int(text) >= least):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `k/n`, 1 <= k <= n."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard, such as 1/4 to 4/4")
    return int(numbers[1]), int(numbers[2])


def parse_rate(text: str) -> float:
    """Reads a positive number of TFLOP/s."""
    if not re.fullmatch(r"\d*\.?\d+", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate in TFLOP/s, such as 0.2 or 80")
    return float(text)


def parse_widths(text: str) -> list[int]:
    """Reads widths with commas between, such as `4,8`."""
    widths = [parse_whole_number(word, least=1) for word in text.split(",")]
    if len(set(widths)) < len(widths):
        raise argparse.ArgumentTypeError(f"{text!r} repeats a width")
    return widths


def parse_names(text: str) -> list[str]:
    """Reads names with commas between."""
    return [name for name in text.split(",") if name]


_positive = functools.partial(parse_whole_number, least=1)

# What `add_argument` gets for each flag; "complete" is what a shell completes its value with.
# A metavar must have no colon: it would end the word in zsh's completion.
FLAGS: dict[str, dict[str, Any]] = {
    "config": {
        "metavar": "FILE",
        "complete": "file",
        "help": "a study's config, FILE[:variant,...], or gankd:NAME[:variant,...] for one of the"
        " package; --config.FIELD=VALUE changes a field",
    },
    "workdir": {
        "metavar": "DIR",
        "type": parse_path,
        "complete": "directory",
        "help": "the study's work directory",
    },
    "run": {
        "metavar": "NAME",
        "dest": "run_name",
        "type": parse_text,
        "help": "a run, such as student-mse-d4-s0",
    },
    "out": {
        "metavar": "FILE",
        "type": parse_path,
        "complete": "file",
        "help": "the file to write",
    },
    "shard": {
        "metavar": "K/N",
        "type": parse_shard,
        "default": (1, 1),
        "help": "train only this share of the study's runs: 1/4 to 4/4 (default: all)",
    },
    "wait": {
        "metavar": "SECONDS",
        "type": parse_whole_number,
        "default": 0,
        "help": "seconds to wait until another shard begins to train the teacher (default: 0)",
    },
    "writers": {
        "metavar": "NAME,...",
        "type": parse_names,
        "help": "where metrics, images and scores are written: jsonl (required), tensorboard,"
        " wandb (default: those of config.training.writers)",
    },
    "coordinator": {
        "metavar": "ADDRESS",
        "help": "HOST:PORT of process 0, where several processes meet to train as one",
    },
    "processes": {
        "metavar": "N",
        "help": "the number of these processes, or auto to ask the cluster, such as SLURM",
    },
    "process": {"metavar": "K", "help": "the number of this process, from 0"},
    "data-dir": {
        "metavar": "DIR",
        "type": parse_path,
        "complete": "directory",
        "help": "the folder of prepared data sets (default: that of TFDS)",
    },
    "rounds": {
        "metavar": "N",
        "type": _positive,
        "help": f"how often each case is timed (default: {commands.BENCH_ROUNDS})",
    },
}


class CommandParser(argparse.ArgumentParser):
    """A parser whose mistakes are a `UserError`, and which knows its commands by name."""

    def __init__(self, **arguments: Any):
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **arguments
        )
        self.commands: dict[str, CommandParser] = {}

    def error(self, message: str) -> NoReturn:
        """Raises the message in place of a usage text and an exit."""
        message = re.sub(r"^argument ([^:]*): ", r"\1: ", message)
        raise UserError(f"{message}; see `{self.prog} --help`")

    def add_flags(self, *names: str, required: bool = False) -> None:
        """Adds flags of the table `FLAGS`."""
        for name in names:
            self.add_flag(name, required=required, **FLAGS[name])

    def add_registering_config(self) -> None:
        """Adds the flag of a config file of which only what it registers is used."""
        summary = "a config file; only the losses, networks and metrics that it registers are used"
        # Without the flag there is no attribute, so that no config is read from a work directory.
        self.add_flag("config", **FLAGS["config"] | {"help": summary, "default": argparse.SUPPRESS})

    def add_study_flags(self, *names: str) -> None:
        """Adds the flags that name a study: its work directory, a config, and flags of `FLAGS`."""
        summary = f"{FLAGS['config']['help']} (default: the config of the study in --workdir)"
        self.add_flag("config", **FLAGS["config"] | {"help": summary})
        self.add_flags("workdir", *names, required=True)

    def add_flag(self, name: str, *, complete: str = "", **arguments: Any) -> None:
        """Adds a flag, or a positional argument, whose value a shell may complete.

        Args:
            name: Without dashes for a flag; in capitals for a positional argument.
            complete: 'file', 'directory' or nothing.
            **arguments: Of `ArgumentParser.add_argument`.
        """
        if name.isupper():
            arguments = {"metavar": name} | arguments
            action = self.add_argument(name.lower(), **arguments)
        else:
            action = self.add_argument(f"--{name}", **arguments)
        if complete:
            action.complete = complete  # type: ignore[attr-defined]  # read by shtab

    def add_command(
        self, name: str, run: Callable[[argparse.Namespace], None], *examples: str
    ) -> "CommandParser":
        """Adds a command.

        Args:
            name: Its last word.
            run: What to call with its flags; the first line of its docstring is the help.
            *examples: Commands that work when pasted one after the other.

        Returns:
            The command's parser, to add flags to.
        """
        summary = (inspect.getdoc(run) or "").splitlines()[0]
        parser = self._subparsers_action.add_parser(
            name,
            help=summary,
            description=summary,
            epilog="\n".join([EXAMPLES_TITLE, *(f"  {example}" for example in examples)]),
        )
        parser.set_defaults(run=run)
        self.commands[name] = parser
        return parser

    def add_group(self, name: str, summary: str) -> "CommandParser":
        """Adds the first word of commands of two words."""
        parser = self._subparsers_action.add_parser(name, help=summary, description=summary)
        self.commands[name] = parser
        return parser

    @functools.cached_property
    def _subparsers_action(self) -> Any:
        return self.add_subparsers(metavar="COMMAND", title="commands", required=True)

    def refuse_unknown_flags(self, words: list[str]) -> None:
        """Raises a `UserError` for a flag that the command does not have.

        argparse would rather name a required flag that is missing, perhaps since it is misspelt.
        Fields of a config are not the parser's: --config.FIELD=VALUE.
        """
        known_flags = ["--help", *re.findall(r"--?[a-z-]+", self.format_usage())]
        flags = [word.split("=")[0] for word in words if re.match(r"--?(?!config\.)[a-z]", word)]
        for flag in flags:
            if flag not in known_flags:
                advice = suggest(flag, known_flags) or f"see `{self.prog} --help`"
                raise UserError(f"`{self.prog}` takes no {flag}; {advice}")

    def find_command(self, words: list[str]) -> tuple["CommandParser", list[str]]:
        """Returns the parser of the command that words begin with, and the words after it.

        Raises:
            UserError: They name no command.
        """
        if not self.commands or words[:1] in (["-h"], ["--help"]):
            return self, words
        names = ", ".join(self.commands)
        if not words or words[0].startswith("-"):
            raise UserError(f"name a command of `{self.prog}`: {names}")
        if words[0] in self.commands:
            return self.commands[words[0]].find_command(words[1:])
        command = f"{self.prog} {words[0]}"
        advice = REMOVED.get(command) or suggest(words[0], self.commands) or f"there are {names}"
        raise UserError(f"no command `{command}`; {advice}")


def parse_command(words: list[str]) -> argparse.Namespace:
    """Parses a command line.

    Args:
        words: Without the program's name; of the config's words at most --config=FILE.

    Returns:
        The values of the command's flags; its attribute `run` is the function to call with them.

    Raises:
        UserError: The command or a flag does not exist, or a value is missing or wrong.
    """
    parser, args, unknown = _parse_known_words(words)
    if unknown:
        parser.error(f"`{parser.prog}` takes no argument {unknown[0].split('=')[0]!r}")
    return args


def stored_config_words(words: list[str]) -> list[str]:
    """Returns the word --config=FILE that reads a study's config from its work directory.

    Args:
        words: A command line without the program's name.

    Returns:
        No word if the command line names a config, or a command that needs none.

    Raises:
        UserError: The command does not exist, or a value is missing or wrong.
    """
    if names_config(words):
        return []
    _, args, _ = _parse_known_words(words)
    if "config" not in args or args.workdir is None:
        return []
    return [f"--config={stored_config.__file__}:{args.workdir}"]


def _parse_known_words(words: list[str]) -> tuple[CommandParser, argparse.Namespace, list[str]]:
    """Returns the parser of a command, its flags and the words that it does not know."""
    flags = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    parser, words = build_parser().find_command(words[len(flags) :] + flags)
    parser.refuse_unknown_flags(words)
    args, unknown = parser.parse_known_args(words)
    return parser, args, unknown


def run_completion(args: argparse.Namespace) -> None:
    """Print a script that completes commands, flags, files and folders in a shell."""
    print(completion_script(args.shell))


def completion_script(shell: str) -> str:
    """Returns the script that completes `gankd` in a shell, 'bash' or 'zsh'."""
    import shtab

    script = shtab.complete(build_parser(), shell)
    # zsh: --flag=VALUE beside shtab's --flag VALUE
    return re.sub(r'^(  "--[a-z-]+)(\[.*\]:)', r"\1=\2", script, flags=re.MULTILINE)


def build_parser() -> CommandParser:
    """Returns the parser of all commands."""
    parser = CommandParser(
        prog="gankd",
        description="Compresses GANs by knowledge distillation.",
        epilog="`gankd COMMAND --help` shows a command's flags and examples. To begin:\n"
        "  gankd study --config=configs/digits.py --workdir=runs/digits",
    )
    _add_study_commands(parser)
    _add_distill_command(parser)
    _add_sample_command(parser)
    _add_score_command(parser)
    _add_export_command(parser)
    _add_weights_commands(parser)
    _add_measuring_commands(parser)
    _add_setup_commands(parser)
    return parser


def _add_study_commands(parser: CommandParser) -> None:
    study = parser.add_command(
        "study",
        commands.run_study,
        "gankd study --config=configs/digits.py --workdir=runs/digits",
        "gankd study --config=configs/digits.py --config.study.widths='(2, 4)'"
        " --workdir=runs/two-widths",
    )
    study.add_study_flags()
    study.add_flags("shard", "wait", "writers", "coordinator", "processes", "process")
    train = parser.add_command(
        "train",
        commands.run_train,
        "gankd train --workdir=runs/digits --run=student-mse-d4-s0",
        "gankd train --config=configs/digits.py --workdir=runs/new --run=teacher-d32-s0",
    )
    train.add_study_flags("run")
    train.add_flags("writers", "coordinator", "processes", "process")
    evaluate = parser.add_command(
        "evaluate", commands.run_evaluate, "gankd evaluate --workdir=runs/digits"
    )
    evaluate.add_study_flags()
    evaluate.add_flags("coordinator", "processes", "process")
    report = parser.add_command(
        "report",
        commands.run_report,
        "gankd report --workdir=runs/digits",
        "gankd report --workdir=runs/digits --all",
    )
    report.add_flags("workdir", required=True)
    report.add_flag(
        "all", action="store_true", help="print the tables of all main scores, not only the first"
    )
    report.add_registering_config()
    watch = parser.add_command(
        "watch",
        commands.run_watch,
        "gankd watch --workdir=runs/digits --once",
        "gankd watch --workdir=runs/digits",
    )
    watch.add_flags("workdir", required=True)
    watch.add_flag("once", action="store_true", help="print the state once and exit")
    compare = parser.add_command(
        "compare",
        commands.run_compare,
        "gankd data prepare mnist",
        "gankd study --config=configs/mnist.py:small --workdir=runs/mnist-small",
        "gankd compare --workdir=runs/mnist-small",
    )
    compare.add_flags("workdir", required=True)
    compare.add_flag(
        "reference",
        metavar="FILE.csv",
        type=parse_path,
        complete="file",
        help="a table to compare with (default: the paper's)",
    )


def _add_distill_command(parser: CommandParser) -> None:
    distill = parser.add_command(
        "distill",
        commands.run_distill,
        "gankd distill mnist-d4 --width=1,2 --steps=100 --workdir=runs/distilled",
        "gankd distill mnist-d16 --width=4 --steps=100 --out=student.onnx",
    )
    distill.add_registering_config()
    distill.add_flag(
        "TEACHER",
        complete="file",
        help="a PyTorch DCGAN (FILE.pth or FILE.pth:KEY), an .onnx, .stablehlo or .safetensors"
        " file, an .npz of pairs (its arrays latents and images), a run's folder, the name of a"
        " pretrained generator, or package.module:function, which is or returns one",
    )
    distill.add_flag(
        "width",
        metavar="D,...",
        type=parse_widths,
        default=[8],
        help="channels of each student's last hidden layer (default: 8)",
    )
    distill.add_flag(
        "steps", metavar="N", type=_positive, default=5_000, help="training steps (default: 5000)"
    )
    distill.add_flag(
        "batch-size",
        metavar="N",
        type=_positive,
        default=64,
        help="latents a step (default: 64)",
    )
    distill.add_flag(
        "recipe", metavar="NAME", default="best", help="mse, l1 or best (default: best)"
    )
    distill.add_flag(
        "family", default="dcgan", help="of the students: dcgan or resnet (default: dcgan)"
    )
    distill.add_flag(
        "latent-dim",
        metavar="N",
        type=_positive,
        default=0,
        help="numbers in a latent, for a teacher that does not say",
    )
    distill.add_flag(
        "value-range",
        metavar="RANGE",
        default="",
        help="of the teacher's images: 0..1, 0..255, or -1..1, written --value-range=-1..1"
        " (default: inferred from a few images)",
    )
    distill.add_flag(
        "reference",
        metavar="B",
        default="",
        help="real images to score the students against, as the B of `gankd score`",
    )
    distill.add_flags("out", "workdir", "writers")
    distill.add_flag(
        "precision",
        metavar="PRECISION",
        default="float32",
        help=f"of the weights in --out: {', '.join(PRECISIONS)} (default: float32)",
    )


def _add_sample_command(parser: CommandParser) -> None:
    sample = parser.add_command(
        "sample",
        commands.run_sample,
        "gankd sample --pretrained=mnist-d2 --out=mnist-d2.png",
        "gankd sample --workdir=runs/digits --run=student-mse-d4-s0 --out=grid.png",
        "gankd sample --pretrained=mnist-d2 --samples=1000 --out=mnist-d2",
    )
    sample.add_flag(
        "out",
        metavar="PATH",
        type=parse_path,
        complete="file",
        required=True,
        help="the PNG file of the sheet, or with --samples the folder of the images",
    )
    sample.add_flag(
        "samples",
        metavar="N",
        type=_positive,
        help="write this many single images (default: a sheet of 64)",
    )
    sample.add_flag(
        "pretrained",
        metavar="NAME",
        type=parse_text,
        complete="file",
        help="a generator of the package, such as mnist-d2, or a .safetensors file",
    )
    sample.add_flags("config", "workdir", "run")


def _add_score_command(parser: CommandParser) -> None:
    score = parser.add_command(
        "score",
        commands.run_score,
        "gankd weights fetch",
        "gankd score runs/digits/student-mse-d4-s0 digits:test --image-size=16 --pad=1",
        "gankd score digits:test --image-size=16 --pad=1 --out=digits-test.npz",
        "gankd score runs/digits/student-mse-d4-s0 digits-test.npz",
    )
    score.add_registering_config()
    score.add_flag(
        "A",
        complete="file",
        help="the generated images: a folder, a run's folder, a generator (its name, or an .onnx,"
        " .stablehlo, .pth or .safetensors file), an .npz of statistics, an .npy or .npz of images,"
        " or a split such as mnist:test",
    )
    score.add_flag(
        "B",
        nargs="?",
        complete="file",
        help="the real images, likewise; without them --out=FILE.npz saves the statistics of A",
    )
    score.add_flags("data-dir")
    score.add_flag(
        "out",
        metavar="FILE",
        type=parse_path,
        complete="file",
        help="FILE.json for the scores, or FILE.npz for the statistics of A alone",
    )
    score.add_flag(
        "image-size",
        metavar="PIXELS",
        type=_positive,
        help="resize a data set's images to this size (default: as they are)",
    )
    score.add_flag(
        "pad",
        metavar="PIXELS",
        type=parse_whole_number,
        default=0,
        help="pixels of zero border added to a data set's images before resizing (default: 0)",
    )
    score.add_flag(
        "samples",
        metavar="N",
        type=parse_whole_number,
        help="compare this many random images of A and of B (default: all)",
    )
    score.add_flag(
        "ppl-samples",
        metavar="N",
        type=functools.partial(parse_whole_number, least=10),
        default=0,
        help="also give the perceptual path length of A, a generator or a run, over this many paths"
        " between latents; it is by the FID network, and takes two images a path",
    )
    score.add_flag(
        "recursive", action="store_true", help="read the images in a folder's sub-folders too"
    )
    score.add_flag(
        "weights",
        metavar="FILE",
        type=parse_path,
        complete="file",
        help="folded weights of the FID network (default: those of `gankd weights fetch`)",
    )


def _add_export_command(parser: CommandParser) -> None:
    export = parser.add_command(
        "export",
        commands.run_export,
        "gankd export --workdir=runs/digits --run=student-mse-d4-s0 --out=student.onnx",
        "gankd export --workdir=runs/digits --run=student-mse-d4-s0 --precision=int8"
        " --out=student.pth",
    )
    export.add_study_flags("run", "out")
    export.add_flag(
        "format",
        metavar="FORMAT",
        type=parse_text,
        help="onnx, stablehlo, torch or safetensors (default: that of --out's ending)",
    )
    export.add_flag(
        "precision",
        metavar="PRECISION",
        type=parse_text,
        default="float32",
        help=f"how the weights are stored: {', '.join(PRECISIONS)} (default: float32)",
    )


def _add_weights_commands(parser: CommandParser) -> None:
    weights = parser.add_group("weights", "Fetch the FID network, or import a PyTorch teacher.")
    fetch = weights.add_command("fetch", commands.run_weights_fetch, "gankd weights fetch")
    fetch.add_flag(
        "from",
        metavar="FILE",
        dest="source",
        type=parse_path,
        complete="file",
        help="a copy of the published weights, or folded ones (default: download)",
    )
    import_torch = weights.add_command(
        "import-torch",
        commands.run_weights_import_torch,
        "gankd export --workdir=runs/digits --run=teacher-d32-s0 --out=teacher.pth",
        "gankd weights import-torch teacher.pth --config=configs/digits.py --workdir=runs/imported",
    )
    import_torch.add_flag(
        "FILE",
        metavar="FILE.pth",
        type=parse_path,
        complete="file",
        help="the state_dict of the generator, of torch.save or safetensors",
    )
    import_torch.add_flags("config", "workdir", required=True)
    import_torch.add_flag(
        "run",
        metavar="NAME",
        dest="run_name",
        type=parse_text,
        help="the teacher to import it as (default: the first of the generator's width)",
    )
    import_torch.add_flag(
        "key",
        metavar="NAME",
        type=parse_text,
        help="the generator in a file that holds several, such as g_ema",
    )
    import_torch.add_flag(
        "critic",
        metavar="FILE.pth",
        type=parse_path,
        complete="file",
        help="the state_dict of its critic; may be the same file",
    )


def _add_measuring_commands(parser: CommandParser) -> None:
    describe = parser.add_command(
        "describe", commands.run_describe, "gankd describe --config=configs/mnist.py"
    )
    describe.add_flags("config", required=True)
    describe.add_flag(
        "rate",
        metavar="TFLOP/s",
        type=parse_rate,
        default=1.0,
        help="the speed to estimate hours for (default: 1)",
    )
    bench = parser.add_command(
        "bench",
        commands.run_bench,
        "gankd bench --only=draw-2 --out=runs/bench",
        "gankd bench --memory --config=configs/mnist.py",
        "gankd bench --start --config=configs/digits.py --rounds=1",
        "gankd bench --export --workdir=runs/digits",
    )
    modes = bench.add_mutually_exclusive_group()
    for name, summary in {
        "memory": "print the memory of a config's groups; runs nothing",
        "start": "time a config's first step, cold and warm",
        "export": "time a study's exported files; writes its latency.json",
    }.items():
        modes.add_argument(f"--{name}", action="store_true", dest=f"bench_{name}", help=summary)
    modes.add_argument(
        "--compile-for",
        metavar="CHIP",
        dest="bench_compile_for",
        type=parse_text,
        help="compile a config's programs for a GPU such as gpu:h100, or a TPU slice: tpu:v5e:2x4",
    )
    bench.add_flag(
        "only",
        metavar="CASE,...",
        type=parse_names,
        help="the cases to time (default: all; on a CPU without the four largest)",
    )
    bench.add_flag(
        "against",
        metavar="NAME,...",
        type=parse_names,
        help="what to compare with: torch, torch-compiled, onnxruntime, with commas between",
    )
    bench.add_flag(
        "precision",
        metavar="NAME",
        type=parse_text,
        help="of the training on both sides: float32, tf32 or bfloat16 (default: float32 on a CPU,"
        " tf32 on a GPU, bfloat16 on a TPU)",
    )
    bench.add_flag(
        "out",
        metavar="DIR",
        type=parse_path,
        complete="directory",
        help="the folder of the results (default: bench)",
    )
    bench.add_flags("rounds", "config", "workdir")


def _add_setup_commands(parser: CommandParser) -> None:
    data = parser.add_group("data", "Prepare data sets.")
    prepare = data.add_command(
        "prepare",
        commands.run_data_prepare,
        "gankd data prepare digits",
        "gankd data prepare mnist",
        "gankd data prepare flowers --source-dir=PHOTOS",
    )
    prepare.add_flag(
        "NAME", help="digits, mnist, cifar10 or celeb_a; or a new name, for images of your own"
    )
    prepare.add_flag(
        "source-dir",
        metavar="DIR",
        type=parse_path,
        complete="directory",
        help="the folder or archive of the original files (default: download, where that is"
        " allowed); or the folder or .zip of your own images, with sub-folders",
    )
    prepare.add_flag(
        "crop",
        choices=("centre", "none"),
        help="cut out the centre square of your own images, or squeeze the whole image into the"
        " square (default: centre)",
    )
    prepare.add_flag(
        "image-size",
        metavar="PIXELS",
        type=_positive,
        help="the side of the stored images of your own (default: 64)",
    )
    prepare.add_flag(
        "labels",
        choices=("folders", "none"),
        help="whether the sub-folders are class labels (default: if every image lies in one)",
    )
    prepare.add_flags("data-dir")
    completion = parser.add_command(
        "completion",
        run_completion,
        'eval "$(gankd completion bash)"',
        'eval "$(gankd completion zsh)"',
    )
    completion.add_argument("shell", choices=("bash", "zsh"), help="bash or zsh")
