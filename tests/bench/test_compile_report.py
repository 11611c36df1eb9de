"""Tables of compiled programs: the memory of a study's groups here, and programs for TPU slices.

The TPU compiler comes with the wheel `libtpu` (the extra `tpu`).  By default this compiles the
steps of the paper's MNIST study with its narrowest student and baseline, and the teacher's
sampling.  With GANKD_TEST_TPU=all it compiles the whole study, half an hour on two cores.
"""

import importlib.util
import os

import pytest
import tiny

from gankd_jax.bench import compile_report, programs
from gankd_jax.bench.compile_report import describe_memory, describe_tpu_programs
from gankd_jax.models.cost import generator_cost
from gankd_jax.study import networks, plan
from gankd_jax.training import cost_model
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.sharding import mesh_of_devices

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)


@pytest.mark.slow
def test_memory_of_every_group_is_reported_without_running_it():
    config = tiny.config(study__teacher_widths=(64,), model__conv="dilated")
    rows = [line.split() for line in describe_memory(config).splitlines()[2:]]
    assert [row[0] for row in rows] == ["teachers", "students", "baselines"]
    assert [row[1] for row in rows] == ["1", "4", "2"]
    for row in rows:
        arguments, images, temporary, together, gflops, reduced = map(float, row[2:])
        assert images <= arguments
        assert together == pytest.approx(arguments + temporary, abs=1.5)  # rounded to MB
        assert gflops > 0
        assert reduced == 0  # there is one device
    # A teacher's weights and both moments: d=64 at 16 pixels has 2d and d channels, counted by
    # hand: kernels, biases, batch norm's two.
    hidden = (128, 64)
    generator = 16 * (100 * 128 + 128 * 64 + 64 * 1) + 128 + 64 + 1 + 2 * sum(hidden)
    critic = 16 * (1 * 64 + 64 * 128 + 128 * 1) + 64 + 128 + 1
    images = 1438 * 16 * 16 / 1e6
    ema_params = generator
    numbers = 3 * (generator + critic) + ema_params
    assert float(rows[0][2]) == pytest.approx(4 * numbers / 1e6 + images, abs=1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("v5e:2x4", "is no slice, such as tpu:v5e:2x4"),
        ("tpu:v5e:2", "is no slice, such as tpu:v5e:2x4"),
        ("tpu:v99:2x4", "no chip v99; there are v4, v5e, v5p"),
    ],
)
def test_unknown_slices_are_refused(target, message):
    with pytest.raises(UserError, match=message):
        describe_tpu_programs(tiny.repository_config("digits"), target)


def test_without_the_compiler_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gankd-jax\[tpu\]'"):
        describe_tpu_programs(tiny.repository_config("digits"), "tpu:v5e:2x4")


@needs_libtpu
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tpu:v5e:3x5", "is no slice: Topology layout"),
        ("tpu:v5e:4x6", r"24 chips cannot share config.recipes.teacher.batch_size=64 evenly"),
    ],
)
def test_slices_that_do_not_suit_are_refused(target, message):
    with pytest.raises(UserError, match=message):
        describe_tpu_programs(tiny.repository_config("digits"), target)


@needs_libtpu
def test_sampling_from_the_papers_teacher_fits_a_chip():
    tpu_slice = compile_report.find_slice("tpu:v5e:1x1")
    config = compile_report.resolve_for_tpu(tiny.repository_config("mnist"))
    sampling, _ = programs.evaluation_programs(config)
    stats = programs.compile_program(mesh_of_devices(tpu_slice.devices), sampling)
    # XLA does not count what a 4x4 kernel multiplies beyond the image: 1 / 2n of either side.
    flops = 250 * cost_model.generator_flops(
        networks.build_generator(config, plan.widest_teacher(config))
    )
    assert 0.8 * flops < stats.flops < flops
    weights = generator_cost(
        networks.build_generator(config, plan.widest_teacher(config))
    ).bytes_float32
    assert weights < stats.argument_bytes < stats.peak_bytes < tpu_slice.chip.memory
    assert stats.collectives == {}
    assert stats.flops < stats.step_cycles / tpu_slice.chip.clock * tpu_slice.chip.peak


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("title", ["teachers", "students", "baselines"])
def test_slice_shares_the_steps_of_the_papers_mnist_study(title):
    """The teacher of d=256, the narrowest student and baseline: three minutes of one core."""
    tpu_slice = compile_report.find_slice("tpu:v5e:2x2")
    fields = {"study__widths": (2,), "study__students": ("mse",)}
    config = compile_report.resolve_for_tpu(tiny.repository_config("mnist", **fields))
    mesh = mesh_of_devices(tpu_slice.devices)
    by_title = {program.title: program for program in programs.training_programs(config, mesh)}
    stats = programs.compile_program(mesh, by_title[title])
    groups = plan.group_runs(config, plan.plan_runs(config))
    group = next(g for g in groups if f"{g[0].kind}s" == title)
    teacher = plan.teacher_runs(config)[0]
    specs = {run.name: networks.make_run_spec(config, run, teacher) for run in group}
    generator = (
        networks.build_generator(config, plan.widest_teacher(config))
        if title == "students"
        else None
    )
    # XLA does not count what a 4x4 kernel multiplies beyond the image: half a row at each of both
    # ends, which is most where a layer has 4 pixels.
    flops = cost_model.group_step_flops(specs, generator) / 4
    assert (1 - 1 / 8) ** 2 * flops < stats.flops < flops
    # Every gradient is added up over the chips once; batch norm's sums come on top.
    gradients = cost_model.gradient_bytes(specs)
    assert gradients <= stats.collectives["all-reduce"][1] < 1.05 * gradients
    assert stats.peak_bytes < tpu_slice.chip.memory


@needs_libtpu
@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("GANKD_TEST_TPU") != "all", reason="GANKD_TEST_TPU is not all")
@pytest.mark.parametrize("target", ["tpu:v5e:1x1", "tpu:v5e:2x2"])
def test_the_papers_mnist_study_compiles(target):
    table = describe_tpu_programs(tiny.repository_config("mnist"), target)
    print(table)  # pytest's -s shows it
    rows = table.splitlines()[2:7]
    groups = ("teachers", "students", "baselines")
    assert tuple(row.split()[0] for row in rows[:3]) == groups
    for row in rows:
        assert programs.COMPILER_CRASHED not in row
        assert "does not fit" not in row
        assert ("all-reduce" in row) == (target != "tpu:v5e:1x1" and row.split()[0] in groups)
