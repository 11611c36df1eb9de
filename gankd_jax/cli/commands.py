"""One function for each command: takes the parsed flags and calls the module that does the work.

Imports stand inside the functions, so that a command loads only what it needs.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from gankd_jax.cli.config_flag import names_config
from gankd_jax.config.constants import COMMAND_FILE
from gankd_jax.utils import preemption
from gankd_jax.utils.atomic_io import write_bytes
from gankd_jax.utils.errors import UserError

if TYPE_CHECKING:
    from gankd_jax.study.score_images import ScoreSettings

logger = logging.getLogger(__name__)


def run_describe(args: Namespace) -> None:
    """Print the cost of every width of a config, and of the whole study."""
    from gankd_jax.bench.cost_report import describe_costs

    print(describe_costs(args.config.load(), args.rate))


def run_data_prepare(args: Namespace) -> None:
    """Prepare digits, mnist, cifar10 or celeb_a, or images of your own under a name of your own."""
    from gankd_jax.data import image_folder, registry, stored
    from gankd_jax.data.prepare import prepare_dataset

    data_dir = args.data_dir or stored.default_data_dir()
    flags = {name: getattr(args, name) for name in ("crop", "image_size", "labels")}
    options = {name: value for name, value in flags.items() if value is not None}
    if args.name in registry.DATASETS:
        for name in options:
            raise UserError(
                f"--{name.replace('_', '-')} is for images of your own, not for {args.name}"
            )
        print(prepare_dataset(args.name, args.source_dir, data_dir))
    elif args.source_dir is None:
        registry.get_dataset(args.name, data_dir)  # refuses an unknown name
        print(stored.prepared_dir(args.name, data_dir))
    else:
        image_options = image_folder.ImageOptions(**options)
        print(image_folder.prepare_images(args.name, args.source_dir, data_dir, image_options))


def run_study(args: Namespace) -> None:
    """Train, score and report every run of a config that is not done yet."""
    from gankd_jax.study import runner
    from gankd_jax.utils import multihost

    def work(config: ConfigDict, workdir: Path) -> None:
        runner.run_study(config, workdir, args.shard, args.wait)
        multihost.on_primary(lambda: _store_command(workdir))
        multihost.on_primary(lambda: _print_report(workdir))

    _run_in_all_processes(args, work)


def run_train(args: Namespace) -> None:
    """Train one run of a study."""
    from gankd_jax.study import runner

    _run_in_all_processes(
        args, lambda config, workdir: runner.train_run(config, workdir, args.run_name)
    )


def run_evaluate(args: Namespace) -> None:
    """Score the runs that are trained and not scored yet, and generate missing report images."""
    from gankd_jax.study import runner

    _run_in_all_processes(args, runner.evaluate_study)


def _run_in_all_processes(args: Namespace, work: Callable[[ConfigDict, Path], None]) -> None:
    """Joins the other processes, if there are any, and does the same work in each."""
    from gankd_jax.utils import multihost, sharding

    writers = getattr(args, "writers", None)
    config = args.config.load({"training.writers": tuple(writers)} if writers else {})
    multihost.initialize(args.coordinator, args.processes, args.process)
    sharding.require_platform()
    preemption.install_handlers()
    with multihost.ends_all_processes():
        work(config, args.workdir)


def run_distill(args: Namespace) -> None:
    """Distill a trained generator of any kind into small ones, without a data set."""
    _share_device_memory()
    from gankd_jax.api import distill
    from gankd_jax.bench.export_latency import time_students
    from gankd_jax.export.formats import require_precision
    from gankd_jax.interop import inception_weights
    from gankd_jax.study import score_images
    from gankd_jax.study.generators import load_generator
    from gankd_jax.utils.sharding import require_platform

    require_platform()
    if not (args.out or args.workdir):
        raise UserError("`gankd distill` needs --out=FILE for the student, or --workdir=DIR")
    require_precision(args.precision)
    outs = distill.plan_files(args.out, args.width, args.family) if args.out else {}
    workdir = args.workdir or args.out.with_name(f"{args.out.name}.study")
    hints = {"latent_dim": args.latent_dim, "value_range": args.value_range}
    teacher = load_generator(args.teacher, **hints)
    source = distill.describe_source(args.teacher)
    options = {"steps": args.steps, "recipe": args.recipe, "batch_size": args.batch_size}
    options |= {"widths": args.width, "family": args.family}
    if args.writers:
        options["writers"] = args.writers
    config = distill.make_config(teacher, source, **options)
    if args.reference:  # before the work, which a missing data set or network would waste
        score_images.check_source(args.reference, _reference_settings(config))
        inception_weights.available_layers(inception_weights.default_weights_path())
    logger.info("teacher %s: %s", source, distill.describe_teacher(teacher))
    preemption.install_handlers()
    distill.train_students(config, workdir, teacher)
    time_students(config, workdir, teacher)
    _store_command(workdir)
    _print_report(workdir)
    students = distill.load_students(config, workdir, teacher)
    if args.reference:
        _score_students(args.reference, workdir, config)
    for width, out in outs.items():
        students[width].export(out, args.precision)
        print(f"{out}: d={width}, {out.stat().st_size:,} bytes")


def _share_device_memory() -> None:
    """Leaves memory of a GPU to other frameworks; else JAX takes three quarters when it starts."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _score_students(reference: str, workdir: Path, config: ConfigDict) -> None:
    """Prints the scores of every student against real images."""
    from gankd_jax.study import plan, score_images

    settings = _reference_settings(config)
    for run in plan.student_runs(config):
        result = score_images.score_with_inception(
            workdir / run.name, reference, weights=None, settings=settings
        )
        print(score_images.format_scores(result))


def _reference_settings(config: ConfigDict) -> ScoreSettings:
    """Returns how real images are read to be compared with a study's."""
    from gankd_jax.data.stored import default_data_dir
    from gankd_jax.study.score_images import ScoreSettings

    data_dir = default_data_dir()
    return ScoreSettings(data_dir, config.data.image_size, pad=0)


def run_report(args: Namespace) -> None:
    """Write table.md, table.csv and report.html from the contents of a work directory."""
    _print_report(args.workdir, all_tables=args.all)


def _print_report(workdir: Path, *, all_tables: bool = False) -> None:
    """Writes a study's report, and prints its summary and main table, or all tables."""
    from gankd_jax.report.page import write_report
    from gankd_jax.report.study_results import load_study
    from gankd_jax.report.tables import format_all_tables, format_summary

    page = write_report(workdir)
    study = load_study(workdir)
    if all_tables:
        print(format_all_tables(study))
    else:
        print(format_summary(study))
        print(shlex.join(["gankd", "report", "--all", f"--workdir={workdir}"]), "prints all tables")
    print(page)


def _store_command(workdir: Path) -> None:
    """Stores the command line that trained a study, which the report shows.

    A command that goes on with a study without naming its config is not stored.
    """
    path, words = workdir / COMMAND_FILE, sys.argv[1:]
    if not path.exists() and (words[:1] == ["distill"] or names_config(words)):
        write_bytes(path, f"{shlex.join(['gankd', *words])}\n".encode())


def run_watch(args: Namespace) -> None:
    """Show the state of a running study, on any number of machines, until Ctrl-C."""
    from gankd_jax.report.monitor import monitor_study

    monitor_study(args.workdir, once=args.once)


def run_sample(args: Namespace) -> None:
    """Write images of a run or of a pretrained generator as PNG: a sheet, or single images."""
    from gankd_jax.study import generators
    from gankd_jax.utils.sharding import require_platform

    require_platform()
    run_flags = {"--workdir": args.workdir, "--run": args.run_name}
    missing_flags = [flag for flag, value in run_flags.items() if value is None]
    if args.pretrained:
        if args.config or len(missing_flags) < len(run_flags):
            raise UserError("--pretrained is not a run of a study: give it, or --workdir and --run")
        generators.sample_pretrained(args.pretrained, args.out, args.samples)
    elif missing_flags:
        raise UserError(f"`gankd sample` needs {missing_flags[0]}=... of a study, or --pretrained")
    else:
        generators.sample_run(
            args.config.load(), args.workdir, args.run_name, out=args.out, samples=args.samples
        )
    print(args.out)


def run_compare(args: Namespace) -> None:
    """Print a study's scores beside the paper's, or beside a table."""
    from gankd_jax.report.paper_results import compare_with_published

    print(compare_with_published(args.workdir, args.reference))


def run_score(args: Namespace) -> None:
    """Print all scores of images A against images B, or save the statistics of A."""
    from gankd_jax.data.stored import default_data_dir
    from gankd_jax.study import score_images
    from gankd_jax.utils import atomic_io
    from gankd_jax.utils.sharding import require_platform

    require_platform()
    _check_score_output(args)
    data_dir = args.data_dir or default_data_dir()
    settings = score_images.ScoreSettings(
        data_dir=data_dir,
        image_size=args.image_size,
        pad=args.pad,
        recursive=args.recursive,
        samples=args.samples,
        ppl_samples=args.ppl_samples,
    )
    if args.b is None:
        text = score_images.save_stats(args.a, args.out, weights=args.weights, settings=settings)
        print(text)
        return
    result = score_images.score_with_inception(
        args.a, args.b, weights=args.weights, settings=settings
    )
    print(score_images.format_scores(result))  # before the file: a full disk must not cost it
    if args.out:
        atomic_io.write_json(args.out, result)


def _check_score_output(args: Namespace) -> None:
    """Refuses an --out of `gankd score` that does not end as what A, or A and B, give."""
    from gankd_jax.utils import paths

    suffix = args.out.suffix.lower() if args.out else ".json"
    if args.b is None and suffix != ".npz":
        raise UserError("`gankd score` needs B, or --out=FILE.npz to save the statistics of A")
    if args.b is None and args.ppl_samples:
        raise UserError("--ppl-samples is one of the scores of A and B, which needs B")
    if args.b is not None and suffix != ".json":
        raise UserError(
            f"--out={args.out}: the scores of A and B are a .json; leave out B to save the"
            " statistics of A as .npz"
        )
    if args.out:
        paths.require_new_file(args.out)


def run_weights_fetch(args: Namespace) -> None:
    """Download the FID network's weights, or take them from a file."""
    from gankd_jax.interop import inception_weights

    target = inception_weights.default_weights_path()
    inception_weights.fetch_weights(args.source, target)
    print(f"{target} serves the layers {', '.join(inception_weights.available_layers(target))}")


def run_weights_import_torch(args: Namespace) -> None:
    """Make a PyTorch DCGAN the teacher of a study."""
    from gankd_jax.study.import_torch import import_torch_teacher
    from gankd_jax.utils.sharding import require_platform

    require_platform()
    folder, fields = import_torch_teacher(
        args.config.load(),
        args.workdir,
        args.file,
        run=args.run_name,
        critic_path=args.critic,
        key=args.key,
    )
    config = dataclasses.replace(args.config, changes=args.config.changes | fields)
    print(folder)
    print(shlex.join(["gankd", "study", *config.to_words(), f"--workdir={args.workdir}"]))


def run_export(args: Namespace) -> None:
    """Write a run's generator as a file for other programs, after checking its images."""
    from gankd_jax.export.formats import format_of
    from gankd_jax.study.generators import export_run
    from gankd_jax.utils.sharding import require_platform

    require_platform()
    print(
        export_run(
            args.config.load(),
            args.workdir,
            run=args.run_name,
            format_name=args.format or format_of(args.out),
            precision=args.precision,
            out=args.out,
        )
    )


def run_bench(args: Namespace) -> None:
    """Time training and sampling, or measure what one of the switches names."""
    mode = next((mode for mode in BENCH_MODES if mode and getattr(args, f"bench_{mode}")), "")
    measure, used_flags = BENCH_MODES[mode]
    command = f"gankd bench --{mode.replace('_', '-')}" if mode else "gankd bench"
    for flag in ("against", "only", "precision", "rounds", "out", "workdir", "config"):
        is_given = getattr(args, flag) is not None
        if is_given and flag not in used_flags:
            raise UserError(f"`{command}` takes no --{flag}; see `gankd bench --help`")
        if not is_given and flag in used_flags and flag in ("config", "workdir"):
            raise UserError(f"`{command}` needs --{flag}=...; see `gankd bench --help`")
    if args.against:
        _share_device_memory()
    # One sets the platform before it imports JAX; the other times a process that needs the device.
    if mode not in ("compile_for", "start"):
        from gankd_jax.utils.sharding import require_platform

        require_platform()
    measure(args)


def _bench_memory(args: Namespace) -> None:
    from gankd_jax.bench.compile_report import describe_memory

    print(describe_memory(args.config.load()))


def _bench_start(args: Namespace) -> None:
    from gankd_jax.bench.start import time_start

    print(time_start(args.config.load(), args.config.to_words(), args.rounds or BENCH_ROUNDS))


def _bench_compile_for(args: Namespace) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs; otherwise JAX would look for the chip
    from gankd_jax.bench.compile_report import describe_tpu_programs
    from gankd_jax.bench.gpu.gpu_report import describe_gpu_programs

    is_gpu = args.bench_compile_for.startswith("gpu:")
    describe = describe_gpu_programs if is_gpu else describe_tpu_programs
    print(describe(args.config.load(), args.bench_compile_for))


def _bench_export(args: Namespace) -> None:
    from gankd_jax.bench.export_latency import time_exported_files

    print(time_exported_files(args.config.load(), args.workdir, rounds=args.rounds or BENCH_ROUNDS))


def _bench_cases(args: Namespace) -> None:
    from gankd_jax.bench.measure import run_benchmark

    print(
        run_benchmark(
            args.out or Path("bench"),
            against=args.against or [],
            only=args.only or [],
            rounds=args.rounds or BENCH_ROUNDS,
            precision=args.precision or "auto",
        )
    )


BENCH_ROUNDS = 5  # more rounds narrow the spread of the timings
# What each switch of `gankd bench` runs, and the flags that go with it; "": none of the switches.
BENCH_MODES: dict[str, tuple[Callable[[Namespace], None], tuple[str, ...]]] = {
    "memory": (_bench_memory, ("config",)),
    "start": (_bench_start, ("config", "rounds")),
    "compile_for": (_bench_compile_for, ("config",)),
    "export": (_bench_export, ("config", "workdir", "rounds")),
    "": (_bench_cases, ("against", "only", "rounds", "out", "precision")),
}
