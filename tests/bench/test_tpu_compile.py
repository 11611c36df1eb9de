"""Programs for chips that are not at hand: lowered for GPU and TPU, compiled for TPU slices.

The TPU's compiler comes with the wheel `libtpu` (the extra `tpu`).  By itself this compiles the
steps of the paper's MNIST study, with its narrowest student and baseline, and the teacher's
drawing; GANKD_TEST_TPU=all has it compile the whole study, which takes half an hour on two cores.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import pytest
import tiny

from gankd_jax.bench import account, chips, compile_for, footprint, operations, programs
from gankd_jax.bench.cost_report import describe_costs
from gankd_jax.config.recipe import Recipe
from gankd_jax.models import conv
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import networks, plan
from gankd_jax.training.train_state import StepSpec, create_train_state
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.sharding import mesh_of_devices

PLATFORMS = ("cuda", "tpu")
CONFIGS = ("digits", "mnist", "cifar10", "celeb_a")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)


def of(name, **changes):
    """A config of the repository; in the names of fields `__` is a dot."""
    config = tiny.load(tiny.REPO / "configs" / f"{name}.py").copy_and_resolve_references()
    with config.unlocked():
        fields = {key.replace("__", "."): value for key, value in changes.items()}
        config.update_from_flattened_dict(fields)
    return config


def narrowed(name, **changes):
    """With the narrowest and the widest of the students alone."""
    widths = of(name).study.widths
    return of(name, study__widths=(min(widths), max(widths)), **changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_program_of_every_config_lowers_for_gpu_and_tpu(name):
    form = conv.resolve_conv_impl("auto", "tpu")
    assert form == conv.resolve_conv_impl("auto", "gpu")
    config = narrowed(name, study__seeds=(0,), model__conv=form)
    found = [*programs.training(config), *programs.evaluation(config)]
    assert [program.title for program in found][:2] == ["teachers", "students"]
    for program in found:
        exported = jax.export.export(program.function, platforms=PLATFORMS)(*program.arguments)
        assert exported.platforms == PLATFORMS
        shapes = jax.tree.leaves(jax.eval_shape(program.function, *program.arguments))
        assert [leaf.shape for leaf in exported.out_avals] == [leaf.shape for leaf in shapes]


@pytest.mark.parametrize("width", [2, 16, 256])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_the_cost_model_in_closed_form(width, size):
    """The formulas of README's cost model."""
    d, s, c, z = width, size, 3, 100
    generator = DCGANGenerator(d, s, c, latent_dim=z)
    products = 2 * d * d * s * s * int(math.log2(s / 8)) + 4 * c * d * s * s + 2 * z * d * s
    assert operations.forward(generator) == 2 * products
    kernels = d * d * (s * s - 64) // 6 + 2 * z * d * s + 16 * c * d
    assert generator_cost(generator).parameters == pytest.approx(
        kernels, rel=0.05 if width == 2 else 0.01
    )


def test_a_groups_operations_are_those_that_xla_counts():
    fields = {"study__widths": (2, 8), "study__teacher_widths": (16,), "model__conv": "dilated"}
    config = of("mnist", **fields)
    for group, program in zip(
        plan.group_runs(config, plan.plan_runs(config)), programs.training(config), strict=True
    ):
        teacher = plan.teacher_runs(config)[0]
        members = {run.name: networks.make_run_spec(config, run, teacher) for run in group}
        drawn = networks.build_generator(config, 16) if group[0].kind == "student" else None
        counted = program.function.lower(*program.arguments).cost_analysis()["flops"]
        assert operations.group_step(members, drawn) == pytest.approx(counted, rel=0.2)


def test_describe_adds_up_the_study():
    config = of("mnist", study__widths=(2,), study__teacher_widths=(16,))
    text = describe_costs(config, rate=0.5)
    words = [line.split() for line in text.splitlines()]
    rows = {row[0]: row[1:] for row in words if row}
    each = [float(rows[name][2]) for name in ("teachers", "students", "baselines")]
    total = sum(each) * 1e9 * 20_000
    assert f"training in all: {total / 0.5e12 / 3600:.1f} hours at 0.5 TFLOP/s" in text
    for chip, peak in {"v5e": 197e12, "A100": 156e12}.items():
        assert float(rows[chip][1]) == pytest.approx(total / (peak / 4) / 3600, abs=0.0051)
    # A teacher's weights move once a step, and Adam keeps two numbers of each.
    teacher = 4 * (
        generator_cost(DCGANGenerator(16, 64, 1)).parameters + _parameters(DCGANCritic(16, 64, 1))
    )
    states, gradients = (float(word) * 1e6 for word in rows["teachers"][5:])
    assert gradients == pytest.approx(teacher, abs=0.051e6)
    assert states == pytest.approx(3 * teacher, rel=0.01)


HLO = """\
HloModule made_by_hand

%body (p: (f32[4,8])) -> (f32[4,8]) {
  %a = f32[4,8]{1,0:T(8,128)} fusion(%p), backend_config={"estimated_cycles":"70"}
  %b = (f32[4,8]{1,0}, bf16[3]{0}) all-reduce(%a, %c), replica_groups={{0,1}}
  %d = f32[] all-reduce-start(%e), to_apply=%sum
  %f = f32[] all-reduce-done(%d)
  ROOT %g = s32[5]{0} all-gather(%h), backend_config={"estimated_cycles":"30"}
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %i = f32[4,8] copy(%p), backend_config={"estimated_cycles":"9"}
  %j = f32[8,8] custom-call(%i), custom_call_target="ConcatBitcast"
  ROOT %k = f32[4,8]{1,0} while(%i), body=%body
}
"""


def test_a_program_is_read_as_by_hand():
    assert account._cycles(HLO, steps=50) == (100, 9)
    assert account._cycles(HLO, steps=1) == (109, 0)
    found = account.collectives(HLO)
    assert found == {"all-reduce": (2, 4 * 32 + 2 * 3 + 4), "all-gather": (1, 4 * 5)}
    assert account._optimal(-0.75, HLO) == 0.25
    assert math.isnan(account._optimal(-1.75, HLO))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("v5e:2x4", "is no slice, such as tpu:v5e:2x4"),
        ("tpu:v5e:2", "is no slice, such as tpu:v5e:2x4"),
        ("tpu:v99:2x4", "no chip v99; there are v4, v5e, v5p"),
    ],
)
def test_an_unknown_slice_is_said(target, message):
    with pytest.raises(UserError, match=message):
        compile_for.compile_for(of("digits"), target)


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gankd-jax\[tpu\]'"):
        compile_for.compile_for(of("digits"), "tpu:v5e:2x4")


@needs_libtpu
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tpu:v5e:3x5", "is no slice: Topology layout"),
        ("tpu:v5e:4x6", r"24 chips cannot share config.recipes.teacher.batch_size=64 evenly"),
    ],
)
def test_a_slice_that_does_not_suit_is_said(target, message):
    with pytest.raises(UserError, match=message):
        compile_for.compile_for(of("digits"), target)


@needs_libtpu
def test_the_papers_teacher_draws_on_a_chip():
    where = chips.parse("tpu:v5e:1x1")
    config = compile_for.aimed(of("mnist"))
    draw, _ = programs.evaluation(config)
    found = account.compile_on(mesh_of_devices(where.devices), draw)
    # XLA does not count what a 4x4 kernel multiplies beyond the image: 1 / 2n of either side.
    plain = 250 * operations.forward(networks.build_generator(config, 256))
    assert 0.8 * plain < found.operations < plain
    weights = generator_cost(networks.build_generator(config, 256)).bytes_float32
    assert weights < found.arguments < found.peak < where.chip.memory
    assert found.collectives == {}
    assert found.operations < found.cycles / where.chip.clock * where.chip.peak


@needs_libtpu
@pytest.mark.parametrize("title", ["teachers", "students", "baselines"])
def test_the_papers_mnist_steps_share_a_slice(title):
    """The teacher of d=256, the narrowest student and baseline: three minutes of one core."""
    where = chips.parse("tpu:v5e:2x2")
    config = compile_for.aimed(of("mnist", study__widths=(2,), study__students=("mse",)))
    mesh = mesh_of_devices(where.devices)
    found = {p.title: p for p in programs.training(config, mesh)}
    step = account.compile_on(mesh, found[title])
    group = next(
        g for g in plan.group_runs(config, plan.plan_runs(config)) if f"{g[0].kind}s" == title
    )
    members = {
        run.name: networks.make_run_spec(config, run, plan.teacher_runs(config)[0]) for run in group
    }
    drawn = networks.build_generator(config, 256) if title == "students" else None
    # XLA does not count what a 4x4 kernel multiplies beyond the image: a half of a row at each of
    # both ends, most where a layer has 4 pixels.
    plain = operations.group_step(members, drawn) / 4
    assert (1 - 1 / 8) ** 2 * plain < step.operations < plain
    # Every gradient is added up over the chips once; batch norm's sums come on top.
    gradients = footprint.gradients(members)
    assert gradients <= step.collectives["all-reduce"][1] < 1.05 * gradients
    assert step.peak < where.chip.memory


@needs_libtpu
@pytest.mark.skipif(os.environ.get("GANKD_TEST_TPU") != "all", reason="GANKD_TEST_TPU is not all")
@pytest.mark.parametrize("target", ["tpu:v5e:1x1", "tpu:v5e:2x2"])
def test_the_papers_mnist_study_compiles(target):
    table = compile_for.compile_for(of("mnist"), target)
    print(table)  # pytest's -s shows it
    rows = table.splitlines()[2:7]
    groups = ("teachers", "students", "baselines")
    assert tuple(row.split()[0] for row in rows[:3]) == groups
    for row in rows:
        assert compile_for.CRASHED not in row
        assert "does not fit" not in row
        assert ("all-reduce" in row) == (target != "tpu:v5e:1x1" and row.split()[0] in groups)


SHARED = """
import json
import jax
from test_tpu_compile import of
from gankd_jax.bench import account, footprint, programs
from gankd_jax.study import networks, plan
from gankd_jax.utils.sharding import mesh_of_devices
widths = {"study__teacher_widths": (8,), "study__widths": (4,)}
kinds = {"study__students": ("mse",), "study__baselines": ()}
config = of("mnist", data__image_size=16, model__conv="dilated", **widths, **kinds)
found = {}
for run in plan.plan_runs(config):
    members = {run.name: networks.make_run_spec(config, run, plan.teacher_runs(config)[0])}
    found[f"{run.kind}s"] = [footprint.states(members), footprint.gradients(members)]
for count in (1, 8):
    mesh = mesh_of_devices(jax.devices()[:count])
    for program in programs.training(config, mesh):
        arguments = account.lying_everywhere(mesh, program.arguments)
        made = program.function.lower(*arguments).compile()
        memory = made.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        used = account.collectives(made.as_text())
        found[program.title].append((made.cost_analysis()["flops"], *sizes, used))
print(json.dumps(found))
"""


def test_eight_devices_share_a_step_and_exchange_its_gradients():
    """The cost model against the compiled programs of 1 and of 8 virtual CPU devices."""
    fast = "--xla_backend_optimization_level=0"  # to compile; the program is partitioned before
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {fast}"}
    run = subprocess.run(
        [sys.executable, "-c", SHARED],
        cwd=tiny.REPO / "tests" / "bench",
        env=os.environ | flags | {"PYTHONPATH": f"{tiny.REPO}:{tiny.REPO / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    generator = {d: generator_cost(DCGANGenerator(d, 16, 1)).parameters for d in (4, 8)}
    weights = {"teachers": 4 * (generator[8] + _parameters(DCGANCritic(8, 16, 1)))}
    weights["students"] = 4 * generator[4]
    images = {"teachers": 55_000 * 16 * 16, "students": 0}  # which a student does not read
    taught = {"teachers": 0, "students": 4 * generator[8]}
    assert found.keys() == weights.keys()
    for title, (states, gradients, alone, each) in found.items():
        assert gradients == weights[title]
        # Adam's two moments; batch norm's statistics and the steps' numbers come on top.
        assert 3 * gradients < states < 3.05 * gradients
        assert each[0] == pytest.approx(alone[0] / 8, rel=0.25)  # Adam is every device's
        for arguments in (alone[1], each[1]):
            assert arguments == pytest.approx(states + taught[title] + images[title], rel=0.05)
        # Gradients and the images' activations are all that is made.
        assert gradients < each[2] < gradients + (alone[2] - gradients) / 4
        assert alone[3] == {}
        assert each[3].keys() == {"all-reduce"}
        # Batch norm's moments, forward and back, and the losses come on top.
        assert gradients < each[3]["all-reduce"][1] < 1.5 * gradients


def _parameters(critic):
    state = jax.eval_shape(
        lambda: create_train_state(StepSpec(DCGANGenerator(4, 16, 1), critic, Recipe()), 0)
    )
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.critic.params))
