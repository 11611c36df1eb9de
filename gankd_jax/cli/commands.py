"""What each command does: its flags' values, handed to one function."""

import os
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict, config_flags

from gankd_jax.cli import flags
from gankd_jax.cli.flags import Values
from gankd_jax.utils import preemption
from gankd_jax.utils.errors import UserError


def describe(values: Values) -> None:
    """Print the cost of every width of a config, and of the study: [--rate=TFLOP/s]."""
    from gankd_jax.bench.cost_report import describe_costs as text_of

    print(text_of(flags.config(values), flags.rate(values)))


def data_prepare(values: Values, name: str) -> None:
    """Make a data set ready: digits, mnist, cifar10, celeb_a."""
    from gankd_jax.data.loading import default_data_dir
    from gankd_jax.data.prepare import prepare_dataset

    target = flags.path(values, "data-dir") or default_data_dir()
    print(prepare_dataset(name, flags.path(values, "source-dir"), target))


def study(values: Values) -> None:
    """Train, score and report all that a config asks for and that is not done yet."""
    from gankd_jax.study import runner

    def work(config: ConfigDict, folder: Path) -> None:
        runner.run_study(config, folder, flags.share(values), flags.whole(values, "wait") or 0)
        report(values)

    _together(values, work)


def train(values: Values) -> None:
    """Train one run of a study."""
    from gankd_jax.study import runner

    name = flags.needed(values, "run")
    _together(values, lambda config, folder: runner.train_run(config, folder, name))


def evaluate(values: Values) -> None:
    """Score every run that is trained and not scored yet, and draw what its report lacks."""
    from gankd_jax.study import runner

    _together(values, runner.evaluate_study)


def _together(values: Values, work: Callable[[ConfigDict, Path], None]) -> None:
    """Do the work in the leading process; the others follow it to its end."""
    from gankd_jax.study import train
    from gankd_jax.utils import multihost

    config, folder = flags.config(values), flags.workdir(values)
    multihost.initialize(*(values[name].value for name in ("coordinator", "processes", "process")))
    preemption.install_handlers()
    if not multihost.is_primary():
        train.follow(config, folder)
    with multihost.primary_scope():
        work(config, folder)


def report(values: Values) -> None:
    """Write table.md, table.csv and report.html of what the work directory holds."""
    from gankd_jax.report.page import write_report
    from gankd_jax.report.runs import read
    from gankd_jax.report.table import text

    folder = flags.workdir(values)
    page = write_report(folder)
    print(text(read(folder)))
    print(page)


def watch(values: Values) -> None:
    """Show the state of a running study, on however many machines, until Ctrl-C."""
    from gankd_jax.report.monitor import monitor_study as show

    show(flags.workdir(values), once=bool(values["once"].value))


def sample(values: Values) -> None:
    """Write a grid of images as PNG: of a study's run, or of a pretrained generator."""
    from gankd_jax.study import sample_run

    out = Path(flags.needed(values, "out")).expanduser()
    if name := values["pretrained"].value:
        if any(values[flag].present for flag in ("config", "workdir", "run")):
            raise UserError("--pretrained is no run of a study: name one or the other")
        sample_run.sample_pretrained(name, out)
    else:
        run = flags.needed(values, "run")
        sample_run.sample_run(flags.config(values), flags.workdir(values), run, out=out)
    print(out)


def compare(values: Values) -> None:
    """Print a study's scores beside the paper's, or beside a table."""
    from gankd_jax.report.compare import compare as text_of

    print(text_of(flags.workdir(values), flags.path(values, "reference")))


def score(values: Values, a: str, b: str) -> None:
    """Print all scores of images A against B: a folder, a run's, .npz, mnist:test."""
    from gankd_jax.data.loading import default_data_dir
    from gankd_jax.study import score_images as job

    data_dir = flags.path(values, "data-dir") or default_data_dir()
    settings = job.ScoreSettings(
        data_dir=data_dir,
        image_size=flags.whole(values, "image-size", least=1),
        pad=flags.whole(values, "pad") or 0,
        cache=data_dir / "gankd_cache",
        samples=flags.whole(values, "samples"),
    )
    weights, out = flags.path(values, "weights"), flags.path(values, "out")
    result = job.score_with_inception(a, b, weights=weights, settings=settings, out=out)
    print(job.format_scores(result))


def weights_fetch(values: Values) -> None:
    """Download the FID network's weights, or take them from a file."""
    from gankd_jax.interop import inception_weights

    target = inception_weights.default_weights_path()
    inception_weights.fetch_weights(flags.path(values, "from"), target)
    print(f"{target} serves the layers {', '.join(inception_weights.available_layers(target))}")


def import_torch(values: Values, file: str) -> None:
    """Make a PyTorch DCGAN a study's teacher."""
    from gankd_jax.study import import_torch

    path = Path(file).expanduser()
    run, critic = flags.needed(values, "run"), flags.path(values, "critic")
    print(
        import_torch.import_torch_teacher(
            flags.config(values), flags.workdir(values), path, run=run, critic_path=critic
        )
    )


def export_torch(values: Values) -> None:
    """Write a run's generator as a PyTorch state_dict."""
    from gankd_jax.study import import_torch

    out = Path(flags.needed(values, "out")).expanduser()
    import_torch.export_torch(
        flags.config(values), flags.workdir(values), run=flags.needed(values, "run"), out=out
    )
    print(out)


def export(values: Values) -> None:
    """Write a run's generator as a file for other programs, and try it."""
    from gankd_jax.study.export_run import export_run

    print(
        export_run(
            flags.config(values),
            flags.workdir(values),
            run=flags.needed(values, "run"),
            kind=flags.needed(values, "format"),
            precision=values["precision"].value or "float32",
            out=Path(flags.needed(values, "out")).expanduser(),
        )
    )


def bench(values: Values) -> None:
    """Time training and drawing; or, of a config, what --memory, --start and the others name."""
    measure, _ = BENCHES[_asked(values)]
    measure(values, flags.whole(values, "rounds", least=1) or 5)


def _asked(values: Values) -> str:
    """Which of `BENCHES` is asked for.

    Raises:
      UserError: two are, or a flag is given that does not go with it.
    """
    asked = [name for name in BENCHES if name and values[name].value not in (None, False)]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} are measured apart: name one")
    name = asked[0] if asked else ""
    flags.only(values, (name, *BENCHES[name][1]), f"bench --{name}" if name else "bench")
    return name


def _memory(values: Values, _: int) -> None:
    from gankd_jax.bench.memory import memory

    print(memory(flags.config(values)))


def _start(values: Values, rounds: int) -> None:
    from gankd_jax.bench.start import start

    print(start(flags.config(values), _config_flags(values), rounds))


def _config_flags(values: Values) -> list[str]:
    """The config's file and its changed fields, each as one word of a command."""
    fields = config_flags.get_override_values(values["config"])
    return [
        f"--config={config_flags.get_config_filename(values['config'])}",
        *(f"--config.{field}={value}" for field, value in fields.items()),
    ]


def _compile_for(values: Values, _: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is run; else JAX would look for the TPU
    from gankd_jax.bench.compile_for import compile_for

    print(compile_for(flags.config(values), flags.needed(values, "compile-for")))


def _bench_export(values: Values, rounds: int) -> None:
    from gankd_jax.bench.export import bench_export

    print(bench_export(flags.config(values), flags.workdir(values), rounds=rounds))


def _cases(values: Values, rounds: int) -> None:
    from gankd_jax.bench import command

    folder = flags.path(values, "out") or Path("bench")
    names = {flag: (values[flag].value or "").split(",") for flag in ("only", "against")}
    chosen = {flag: [name for name in words if name] for flag, words in names.items()}
    print(command.bench(folder, rounds=rounds, **chosen))


# What `gankd bench` measures by a switch, and the flags that go with it; "": the cases.
BENCHES: dict[str, tuple[Callable[[Values, int], None], tuple[str, ...]]] = {
    "memory": (_memory, ("config",)),
    "start": (_start, ("config", "rounds")),
    "compile-for": (_compile_for, ("config",)),
    "export": (_bench_export, ("config", "workdir", "rounds")),
    "": (_cases, ("against", "only", "rounds", "out")),
}
