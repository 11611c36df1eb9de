"""The table of commands: what each one takes, and examples that work when pasted."""

from gankd_jax.cli import commands
from gankd_jax.cli.completion import script
from gankd_jax.cli.flags import SWITCHES, Values
from gankd_jax.cli.usage import Command


def completion(values: Values, shell: str) -> None:
    """Print the script that completes commands, flags, configs and runs in a shell."""
    print(script(shell, COMMANDS, SWITCHES))


MANY = ("coordinator", "processes", "process")  # of several processes that train as one

COMMANDS: dict[str, Command] = {
    "describe": Command(
        commands.describe,
        needs=("config",),
        may=("rate",),
        examples=("gankd describe --config=configs/mnist.py",),
    ),
    "data prepare": Command(
        commands.data_prepare,
        may=("source-dir", "data-dir"),
        takes=("NAME",),
        examples=("gankd data prepare digits", "gankd data prepare mnist"),
    ),
    "study": Command(
        commands.study,
        needs=("config", "workdir"),
        may=("shard", "wait", *MANY),
        examples=(
            "gankd study --config=configs/digits.py --workdir=runs/digits",
            "gankd study --config=configs/digits.py --config.study.widths='(2, 4)'"
            " --workdir=runs/two-widths",
        ),
    ),
    "train": Command(
        commands.train,
        needs=("config", "workdir", "run"),
        may=MANY,
        examples=(
            "gankd train --config=configs/digits.py --workdir=runs/digits --run=teacher-d32-s0",
        ),
    ),
    "evaluate": Command(
        commands.evaluate,
        needs=("config", "workdir"),
        may=MANY,
        examples=("gankd evaluate --config=configs/digits.py --workdir=runs/digits",),
    ),
    "report": Command(
        commands.report, needs=("workdir",), examples=("gankd report --workdir=runs/digits",)
    ),
    "watch": Command(
        commands.watch,
        needs=("workdir",),
        may=("once",),
        examples=(
            "gankd watch --workdir=runs/digits --once",
            "gankd watch --workdir=runs/digits",
        ),
    ),
    "sample": Command(
        commands.sample,
        needs=("out",),
        may=("pretrained", "config", "workdir", "run"),
        examples=(
            "gankd sample --pretrained=mnist-d2 --out=mnist-d2.png",
            "gankd sample --config=configs/digits.py --workdir=runs/digits"
            " --run=student-mse-d4-s0 --out=grid.png",
        ),
    ),
    "compare": Command(
        commands.compare,
        needs=("workdir",),
        may=("reference",),
        examples=(
            "gankd data prepare mnist",
            "gankd study --config=configs/mnist.py:small --workdir=runs/mnist-small",
            "gankd compare --workdir=runs/mnist-small",
        ),
    ),
    "export": Command(
        commands.export,
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
        commands.bench,
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
        commands.score,
        may=("data-dir", "image-size", "pad", "samples", "weights", "out"),
        takes=("A", "B"),
        examples=(
            "gankd weights fetch",
            "gankd score runs/digits/student-mse-d4-s0 digits:test --image-size=16 --pad=1",
        ),
    ),
    "weights fetch": Command(
        commands.weights_fetch, may=("from",), examples=("gankd weights fetch",)
    ),
    "weights import-torch": Command(
        commands.import_torch,
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
        commands.export_torch,
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
