"""The benchmark: its counts against XLA's, its numbers against one another, its command."""

import importlib.util
import json
import os
import shutil
import statistics
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny

from gankd_jax.bench import command, export, measure, operations, programs, report, start
from gankd_jax.bench.cases import CRITIC_STEPS, MATRIX, cases
from gankd_jax.bench.measure import SIDES
from gankd_jax.bench.memory import memory
from gankd_jax.config.recipe import Recipe
from gankd_jax.export.formats import export_generator
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import networks, plan
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.training import train_step
from gankd_jax.training.multi_run import RunSpec
from gankd_jax.training.train_state import StepSpec, create_train_state
from gankd_jax.utils.errors import UserError

SHAPE = {"width": 16, "image_size": 32, "channels": 3, "conv_impl": "dilated"}
BATCH = 8


def counted_by_xla(recipe, critic, *, target, eye=None):
    """Operations for one image of a step, as XLA counts them in the program before optimising.

    Its convolutions skip what falls on padding, where we count every tap.
    """
    spec = StepSpec(DCGANGenerator(**SHAPE), critic, recipe, eye)
    images = jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32)
    real = jax.ShapeDtypeStruct((1, *images.shape), jnp.float32) if critic else None
    of = {"critic_steps": 1, "batch": BATCH, "latent": 100}
    draws = jax.eval_shape(lambda: train_step.sample_noise(0, jnp.zeros((), int), **of))
    state = jax.eval_shape(lambda: create_train_state(spec, 0))

    frozen = jax.eval_shape(lambda: create_train_state(spec_of(eye), 0)).critic if eye else None

    def step(state, draws, real, images, params):
        target = None
        if images is not None:
            few = images[: recipe.feature_batch]
            seen = train_step.critic_features(eye, {"params": params}, few) if eye else None
            target = train_step.TeacherTargets(images, seen)
        frozen = {"params": params}
        return train_step.train_step(spec, state, draws, real=real, target=target, frozen=frozen)

    params = frozen.params if frozen else {}
    lowered = jax.jit(step).lower(state, draws, real, images if target else None, params)
    return lowered.cost_analysis()["flops"] / BATCH


def test_a_students_operations_are_those_that_xla_counts():
    ours = operations.student_step(DCGANGenerator(**SHAPE))
    theirs = counted_by_xla(Recipe(alpha=0.0, batch_size=BATCH), None, target=True)
    assert theirs == pytest.approx(ours, rel=0.15)


def spec_of(critic):
    return StepSpec(DCGANGenerator(**SHAPE), critic, Recipe())


def test_a_look_through_the_critic_costs_what_xla_counts():
    eye = DCGANCritic(**SHAPE, norm="none")
    recipe = Recipe(alpha=0.0, batch_size=BATCH, features="l1", feature_batch=4)
    member = RunSpec(StepSpec(DCGANGenerator(**SHAPE), None, recipe, eye), 0, 0)
    teacher = DCGANGenerator(**SHAPE)
    ours = operations.group_step({"run": member}, teacher) - BATCH * operations.forward(teacher)
    theirs = counted_by_xla(recipe, None, target=True, eye=eye)
    assert theirs == pytest.approx(ours / BATCH, rel=0.15)
    plain = operations.student_step(teacher)
    assert theirs - counted_by_xla(recipe, None, target=True) > 0.2 * plain


def test_a_group_s_program_has_the_critic_that_only_its_last_run_looks_through():
    looking = {"features": "energy", "feature_batch": 4}
    made = tiny.config(**{f"recipes__l1__{field}": value for field, value in looking.items()})
    critics = {p.title: p.arguments[1] and p.arguments[1].critic for p in programs.training(made)}
    teacher = networks.build_critic(made, 4, made.recipes.teacher.critic_norm)
    kernel = critics["students"]["params"]["layer0"]["kernel"]
    assert kernel.shape == (4, 4, teacher.channels, teacher.width)
    assert critics["teachers"] is critics["baselines"] is None


@pytest.mark.parametrize("loss", ["bce", "wgan_gp"])
def test_an_adversarial_steps_operations_are_those_that_xla_counts(loss):
    critic = DCGANCritic(**SHAPE, norm="none")
    penalty = loss == "wgan_gp"
    ours = operations.adversarial_step(DCGANGenerator(**SHAPE), critic, 1, penalty=penalty)
    recipe = Recipe(loss=loss, batch_size=BATCH)
    assert counted_by_xla(recipe, critic, target=False) == pytest.approx(ours, rel=0.15)


def test_more_critic_steps_add_what_one_costs():
    of = (DCGANGenerator(**SHAPE), DCGANCritic(**SHAPE, norm="none"))
    one, two, five = (operations.adversarial_step(*of, k, penalty=True) for k in (1, 2, 5))
    assert five - one == 4 * (two - one)


def test_seeds_add_students_and_no_pass_of_the_teacher():
    found = cases()
    teacher = found["draw-64"].operations
    once, thrice = found["students"].operations, found["students-seeds"].operations
    assert thrice - teacher == 3 * (once - teacher)
    assert found["teacher"].sides["torch"]["with"]["critic_steps"] == CRITIC_STEPS


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    against = [name for name in SIDES if importlib.util.find_spec(name)]
    folder = tmp_path_factory.mktemp("bench") / "made"
    table = command.bench(folder, against=against, only=["draw-2"], rounds=2)
    return folder, table, json.loads((folder / "bench.json").read_text())


def test_the_benchmark_writes_what_it_measured(measured):
    folder, table, found = measured
    assert (folder / "bench.md").read_text() == table + "\n"
    case = found["cases"]["draw-2"]
    sides = {name for name in SIDES if found["machine"][name]}
    assert case["seconds"].keys() == {"ours", "matrix"} | sides
    assert all(len(values) == 2 and min(values) > 0 for values in case["seconds"].values())
    assert found["machine"]["jax"] == jax.__version__


def test_the_tables_shares_follow_from_the_seconds(measured):
    _, table, found = measured
    case = found["cases"]["draw-2"]
    seconds = case["seconds"]
    shares = [
        case["operations"] / ours / (2 * MATRIX**3 / product)
        for ours, product in zip(seconds["ours"], seconds["matrix"], strict=True)
    ]
    row = next(line for line in table.splitlines() if "d=2" in line)
    assert f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})" in row


def test_a_ratio_is_of_the_rounds_side_by_side():
    found = cases()
    seconds = {"ours": [1.0, 2.0, 4.0], "torch": [4.0, 4.0, 4.0], "matrix": [1.0] * 3}
    table = report.table(found, {"student": seconds})
    assert "| 2.00 (1.00 to 4.00) |" in table


def test_each_that_a_case_is_compared_with_has_its_row():
    seconds = {"ours": [1.0, 1.25], "matrix": [1.0, 1.0], "torch": [2.0, 5.0], "a twin": [1.0, 1.0]}
    table = report.table(cases(), {"draw-2": seconds}).splitlines()
    assert any("torch" in row and "| 3.00 (2.00 to 4.00) |" in row for row in table)
    assert any("a twin" in row and "| 0.90 (0.80 to 1.00) |" in row for row in table)


def test_the_streamed_batch_is_measured_in_turn_with_the_constant_one():
    assert cases()["streamed"].variants.keys() == {"a constant batch"}
    work = {"ours": [], "a": []}
    takers = {name: (lambda name=name: work[name].append(len(work["a"])) or 1.0) for name in work}
    assert measure._turns(takers, 3) == {"ours": [1.0] * 3, "a": [1.0] * 3}
    assert work["ours"] == [0, 1, 2]  # one of the other before each


def test_an_earlier_benchmark_is_not_overwritten(measured):
    with pytest.raises(UserError, match=r"bench.json exists; name another folder"):
        command.bench(measured[0], against=[], only=["draw-2"], rounds=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"only": ["nothing"]}, "no case 'nothing'"), ({"against": ["caffe"]}, "it can be torch")],
)
def test_a_wrong_word_is_said_before_anything_runs(tmp_path, settings, message):
    settings = {"against": [], "only": [], "rounds": 1} | settings
    with pytest.raises(UserError, match=message):
        command.bench(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_memory_is_told_for_every_group_without_running_it():
    config = tiny.config(study__teacher_widths=(64,), model__conv="dilated")
    rows = [line.split() for line in memory(config).splitlines()[2:]]
    assert [row[0] for row in rows] == ["teachers", "students", "baselines"]
    assert [row[1] for row in rows] == ["1", "4", "2"]
    for row in rows:
        arguments, images, temporary, together, operations, exchanged = map(float, row[2:])
        assert images <= arguments
        assert together == pytest.approx(arguments + temporary, abs=1.5)  # rounded to MB
        assert operations > 0
        assert exchanged == 0  # there is one device
    # A teacher's weights and both moments: d=64 at 16 pixels has 2d and d channels, counted by
    # hand: kernels, biases, batch norm's two.
    hidden = (128, 64)
    generator = 16 * (100 * 128 + 128 * 64 + 64 * 1) + 128 + 64 + 1 + 2 * sum(hidden)
    critic = 16 * (1 * 64 + 64 * 128 + 128 * 1) + 64 + 128 + 1
    images = 1438 * 16 * 16 / 1e6
    average = generator  # the exponential average of its weights
    numbers = 3 * (generator + critic) + average
    assert float(rows[0][2]) == pytest.approx(4 * numbers / 1e6 + images, abs=1)


def test_a_start_is_timed_cold_and_warm(tmp_path_factory):
    root = tiny.shared(tmp_path_factory)
    done = tiny.gankd(root, "bench", "--start", "--rounds=1", *tiny.flags())
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert "first compiled call" in title
    found = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert found["cold"] > found["warm"] > 0


def test_a_side_that_has_ended_is_named(monkeypatch):
    monkeypatch.setitem(measure.SIDES, "torch", "gankd_jax.utils.errors")  # says nothing and ends
    side = measure.Side("torch")
    with pytest.raises(UserError, match="the torch side ended; what it said last stands above"):
        side.seconds({"kind": "generator", "of": [], "with": {}})
    side.close()


def test_a_file_whose_process_ends_is_named(tmp_path, capfd):
    with pytest.raises(UserError, match=r"the process that times no.onnx ended \(status 1\)"):
        export._measure(tmp_path / "no.onnx")
    assert "no.onnx" in capfd.readouterr().err


def test_a_start_that_fails_without_a_word_is_told_by_its_status():
    with pytest.raises(UserError, match="the start failed: it ended with status 3"):
        start._seconds([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))


def test_a_start_that_fails_says_why(tmp_path_factory):
    root = tiny.shared(tmp_path_factory)
    wrong = "--config.recipes.teacher.batch_size=100000"
    done = tiny.gankd(root, "bench", "--start", "--rounds=1", *tiny.flags(), wrong)
    assert done.returncode == 2
    assert "start failed: gankd: config.recipes.teacher.batch_size is 100000" in done.stderr


# Exported files


@pytest.fixture
def study(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.shared(tmp_path_factory)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.data(root)))
    return tiny.config(), shutil.copytree(tiny.finished(root), tmp_path / "study")


def test_teacher_and_students_are_timed_as_files(study):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    config, folder = study
    printed = export.bench_export(config, folder, rounds=1)
    written = json.loads((folder / "latency.json").read_text())
    assert written.keys() == {"machine", "runs"}
    # The students of the other recipe have failed; of each width the lowest seed stands.
    assert list(written["runs"]) == ["teacher-d4-s0", "student-mse-d1-s0"]
    for name, found in written["runs"].items():
        assert list(found) == ["float32", "float16", "int8"]
        drawer = StudyContext(config, folder).drawer(plan.find_run(config, name))
        for precision, one in found.items():
            assert one["bytes"] == len(export_generator(drawer, "onnx", precision, what=name).file)
            assert 64 * one["milliseconds"] / 1e3 > 64 / one["images_per_second"] > 0
            assert 10 < one["peak_mib"] < 1000
            row = next(x for x in printed.splitlines() if name in x and precision in x)
            assert f"{one['bytes']:,}" in row
    with pytest.raises(UserError, match=r"latency.json exists; remove it"):
        export.bench_export(config, folder, rounds=1)


def test_the_lowest_seed_that_is_trained_is_timed(tmp_path):
    config = tiny.config(study__widths=(1, 2), study__students=("mse",))
    (tmp_path / "teacher.json").write_text('{"run": "teacher-d4-s0"}')
    for name in ("mse-d1-s1", "mse-d2-s1", "mse-d2-s0"):
        (tmp_path / f"student-{name}" / "checkpoints" / "40").mkdir(parents=True)
    (tmp_path / "student-mse-d1-s0" / "checkpoints" / "30").mkdir(parents=True)
    names = [run.name for run in export.chosen(StudyContext(config, tmp_path))]
    assert names == ["teacher-d4-s0", "student-mse-d1-s1", "student-mse-d2-s0"]


def timed(name, parameters, milliseconds, rate):
    kind, recipe, width = name.split()
    one = {"milliseconds": milliseconds, "images_per_second": rate}
    run = Run(kind, recipe, int(width), 0)
    return export.Timed(run, parameters, "float32", 4 * parameters, [one])


def test_fewer_parameters_that_are_not_faster_are_called_so():
    small, middle = timed("student mse 1", 10, 1.0, 900.0), timed("student mse 2", 20, 1.04, 700.0)
    other, teacher = timed("student l1 2", 20, 0.5, 9.0), timed("teacher teacher 4", 40, 3.0, 700.0)
    found = [teacher, small, middle, other]
    assert export.not_faster(small, found) == [
        "student-mse-d1-s0 (10 parameters) is not faster one image at a time than"
        " student-mse-d2-s0 (20)."
    ]
    assert export.not_faster(middle, found) == [
        "student-mse-d2-s0 (20 parameters) is not faster in batches than teacher-d4-s0 (40)."
    ]
    assert export.not_faster(teacher, found) == []


def test_turns_that_differ_are_told():
    calm, busy = timed("student mse 1", 10, 1.0, 9.0), timed("teacher teacher 4", 40, 3.0, 7.0)
    calm.rounds.append({"milliseconds": 1.1, "images_per_second": 9.0})
    busy.rounds.append({"milliseconds": 6.3, "images_per_second": 7.0})
    assert busy.spread == pytest.approx(2.1)
    [line] = export.disturbed([calm, busy])
    assert line.startswith("The turns of 1 of 2 files differ by up to 2.1 times:")
    assert export.disturbed([calm]) == []


def test_without_onnx_one_line_names_the_extra(study, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"onnx files need onnx: pip install 'gankd-jax\[export\]'"):
        export.bench_export(*study, rounds=1)
    assert not (study[1] / "latency.json").exists()
