"""A study's programs: lowered for GPU and TPU, compiled for one and eight devices, and read."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from gankd_jax.bench import compile_report, programs
from gankd_jax.bench.chips import CHIPS
from gankd_jax.bench.gpu import gpu_report
from gankd_jax.models import conv
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import networks, plan, train
from gankd_jax.utils.sharding import batch_sharding, mesh_of_devices

PLATFORMS = ("cuda", "tpu")
CONFIGS = ("digits", "mnist", "cifar10", "celeb_a")


@pytest.mark.parametrize(
    "name",
    [n if n == "cifar10" else pytest.param(n, marks=tiny.ONLY_IF_ALL) for n in CONFIGS],
)
@pytest.mark.slow
def test_every_program_lowers_for_gpu_and_tpu(name):
    conv_impl = conv.resolve_conv_impl("auto", "tpu")
    assert conv_impl == conv.resolve_conv_impl("auto", "gpu")
    widths = tiny.repository_config(name).study.widths
    widths = (min(widths), max(widths))
    config = tiny.repository_config(
        name, study__widths=widths, study__seeds=(0,), model__conv=conv_impl
    )
    all_programs = [*programs.training_programs(config), *programs.evaluation_programs(config)]
    assert [program.title for program in all_programs][:2] == ["teachers", "students"]
    for program in all_programs:
        exported = jax.export.export(program.function, platforms=PLATFORMS)(*program.arguments)
        assert exported.platforms == PLATFORMS
        shapes = jax.tree.leaves(jax.eval_shape(program.function, *program.arguments))
        assert [leaf.shape for leaf in exported.out_avals] == [leaf.shape for leaf in shapes]


def test_program_has_the_critic_that_only_its_last_run_compares_features_in():
    fields = {"recipes__l1__features": "energy", "recipes__l1__feature_batch": 4}
    config = tiny.config(**fields)
    features = {
        program.title: program.arguments[1] and program.arguments[1].features
        for program in programs.training_programs(config)
    }
    teacher = networks.build_critic(config, plan.widest_teacher(config))
    kernel = features["students"]["critic"]["params"]["layer0"]["kernel"]
    assert kernel.shape == (4, 4, teacher.channels, teacher.width)
    assert features["teachers"] is features["baselines"] is None


def test_calls_of_a_gpu_or_tpu_are_dispatched_ahead_and_as_long_as_the_intervals_allow():
    """The shortest interval of the tiny study is 10 steps; its config has calls of 5."""
    config = tiny.config(study__students=("mse",), study__baselines=())
    devices = jax.devices()[:1]
    tpu_slice = compile_report.TpuSlice("tpu:v5e:1x1", CHIPS["v5e"], devices)
    listed = {
        "cpu": programs.training_programs(config),
        "tpu": (program for program, _ in compile_report._list_programs(config, tpu_slice)),
        "gpu": gpu_report._list_programs(config, mesh_of_devices(devices)),
    }
    for platform, listed_programs in listed.items():
        program = next(iter(listed_programs))  # of the teacher
        (states, *_), _ = program.function.trace(*program.arguments).args_info
        assert {leaf.donated for leaf in jax.tree.leaves(states)} == {platform == "cpu"}
        batches = program.arguments[3]
        assert (program.steps, batches.shape[0]) == ((5, 5) if platform == "cpu" else (10, 10))


def test_memory_is_that_of_calls_that_are_dispatched_ahead_except_on_a_cpu(monkeypatch):
    calls = []

    def list_no_program(config, mesh, *, dispatches_ahead):
        calls.append(dispatches_ahead)
        return iter(())

    monkeypatch.setattr(programs, "training_programs", list_no_program)
    compile_report.describe_memory(tiny.config())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compile_report.describe_memory(tiny.config())
    assert calls == [False, True]


@pytest.mark.parametrize(
    ("placement", "limit", "on_device"),
    [
        ("device", 0, True),
        ("host", 2**40, False),
        ("auto", 1438 * 16 * 16, True),  # digits has 1,438 training images
        ("auto", 1438 * 16 * 16 - 1, False),
    ],
)
def test_data_set_is_an_argument_where_it_is_on_the_device(
    placement, limit, on_device, monkeypatch
):
    monkeypatch.setattr(train, "MAX_DEVICE_BYTES", limit)
    mesh = mesh_of_devices(jax.devices()[:1])
    program = next(programs.training_programs(tiny.config(data__placement=placement), mesh))
    images, batches = program.arguments[2:]
    recipe = tiny.config().recipes.teacher
    indices = (5, 1, recipe.critic_steps, recipe.batch_size)
    if on_device:
        assert (images.size, program.images) == (1438 * 16 * 16, 1438 * 16 * 16)
        assert (batches.shape, batches.dtype) == (indices, np.int32)
    else:
        assert (images, program.images) == (None, 0)
        assert (batches.shape, batches.dtype) == ((*indices, 16, 16, 1), np.uint8)
    # The devices share each batch, as in training.
    *_, shared = programs.replicate_shapes(mesh, program.arguments)
    assert shared.sharding == batch_sharding(mesh, 3)


HLO = """\
HloModule written_by_hand

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


def test_text_of_a_program_is_read_as_by_hand():
    assert programs._count_cycles(HLO, steps=50) == (100, 9)
    assert programs._count_cycles(HLO, steps=1) == (109, 0)
    collectives = {"all-reduce": (2, 4 * 32 + 2 * 3 + 4), "all-gather": (1, 4 * 5)}
    assert programs._count_collectives(HLO) == collectives
    assert programs._correct_optimal_seconds(-0.75, HLO) == 0.25
    assert math.isnan(programs._correct_optimal_seconds(-1.75, HLO))


# Prints for each group [state bytes, gradient bytes, stats on 1 device, stats on 8 devices].
COMPILE_ON_1_AND_8 = """
import json
import jax
import tiny
from gankd_jax.bench import programs
from gankd_jax.training import cost_model
from gankd_jax.study import networks, plan
from gankd_jax.utils.sharding import mesh_of_devices
widths = {"study__teacher_widths": (8,), "study__widths": (4,)}
kinds = {"study__students": ("mse",), "study__baselines": ()}
shape = {"data__image_size": 16, "model__conv": "dilated"}
config = tiny.repository_config("mnist", **shape, **widths, **kinds)
groups = {}
for run in plan.plan_runs(config):
    specs = {run.name: networks.make_run_spec(config, run, plan.teacher_runs(config)[0])}
    groups[f"{run.kind}s"] = [cost_model.state_bytes(specs), cost_model.gradient_bytes(specs)]
for count in (1, 8):
    mesh = mesh_of_devices(jax.devices()[:count])
    for program in programs.training_programs(config, mesh):
        stats = programs.compile_program(mesh, program)
        sizes = (stats.argument_bytes, stats.temporary_bytes)
        groups[program.title].append((stats.flops, *sizes, stats.collectives))
print(json.dumps(groups))
"""


@pytest.mark.slow
def test_eight_devices_share_a_step_and_exchange_its_gradients():
    """The cost model against the compiled programs of 1 and of 8 virtual CPU devices."""
    groups = run_on_8_devices(COMPILE_ON_1_AND_8)
    generator = {d: generator_cost(DCGANGenerator(d, 16, 1)).parameters for d in (4, 8)}
    weights = {"teachers": 4 * (generator[8] + count_parameters(DCGANCritic(8, 16, 1)))}
    weights["students"] = 4 * generator[4]
    images = {"teachers": 55_000 * 16 * 16, "students": 0}  # which a student does not read
    teacher = {"teachers": 0, "students": 4 * generator[8]}
    assert groups.keys() == weights.keys()
    for title, (states, gradients, alone, shared) in groups.items():
        assert gradients == weights[title]
        # Adam's two moments; batch norm's statistics and the numbers of steps come on top.
        assert 3 * gradients < states < 3.05 * gradients
        assert shared[0] == pytest.approx(alone[0] / 8, rel=0.25)  # every device runs Adam
        for arguments in (alone[1], shared[1]):
            assert arguments == pytest.approx(states + teacher[title] + images[title], rel=0.05)
        # Temporary memory is that of the gradients and of the images' activations.
        assert gradients < shared[2] < gradients + (alone[2] - gradients) / 4
        assert alone[3] == {}
        assert shared[3].keys() == {"all-reduce"}
        # Batch norm's moments, forward and backward, and the losses come on top.
        assert gradients < shared[3]["all-reduce"][1] < 1.5 * gradients


def run_on_8_devices(script):
    """Runs a script on 8 virtual CPU devices; returns the JSON that it prints."""
    fast = tiny.FAST_COMPILE_FLAGS  # the program is partitioned before
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {fast}"}
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tiny.REPO / "tests",
        env=os.environ | flags | {"PYTHONPATH": f"{tiny.REPO}:{tiny.REPO / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


# Prints for students of one data seed, then of one each, [operations on 1 device, on 8, exchanges].
COMPILE_SEVERAL_SEEDS = """
import json
import jax
import tiny
from gankd_jax.bench import programs
from gankd_jax.utils.sharding import mesh_of_devices
results = []
for warm_start in (False, True):
    config = tiny.repository_config(
        "mnist", data__image_size=16, model__conv="dilated", study__teacher_widths=(8,),
        study__widths=(4,), study__seeds=(0, 1, 2), study__students=("mse",), study__baselines=(),
        recipes__mse__warm_start=warm_start,
    )
    stats = []
    for count in (1, 8):
        mesh = mesh_of_devices(jax.devices()[:count])
        _, students = programs.training_programs(config, mesh)
        stats.append(programs.compile_program(mesh, students))
    assert students.runs == 3
    results.append([*(s.flops for s in stats), sorted(stats[1].collectives)])
print(json.dumps(results))
"""


@pytest.mark.slow
def test_eight_devices_share_a_step_of_several_seeds():
    """A grouped convolution, and data seeds that are joined before the batch, are not divided."""
    for alone, shared, collectives in run_on_8_devices(COMPILE_SEVERAL_SEEDS):
        assert shared == pytest.approx(alone / 8, rel=0.25)
        assert collectives == ["all-reduce"]


def count_parameters(critic):
    blank = jax.ShapeDtypeStruct((2, critic.image_size, critic.image_size, critic.channels), float)
    shapes = jax.eval_shape(lambda x: critic.init(jax.random.key(0), x, train=False), blank)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
