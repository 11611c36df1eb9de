"""Distillation of a given teacher: the study's engine, without data."""

import os
import shutil
import signal
from typing import ClassVar

import numpy as np
import pytest
import tiny

import gankd_jax
from gankd_jax.api import distill
from gankd_jax.bench import export_latency
from gankd_jax.models import sampling
from gankd_jax.models.dcgan import DCGANGenerator
from gankd_jax.models.resnet import ResNetGenerator
from gankd_jax.models.sampling import TrainedGenerator
from gankd_jax.report import study_results
from gankd_jax.report.page import write_report
from gankd_jax.study import runner, workdir
from gankd_jax.utils import preemption
from gankd_jax.utils.checkpoint import Checkpoints
from gankd_jax.utils.errors import UserError

TEACHER, STUDENT = "teacher-d4-s0", "student-mse-d1-s0"
RECIPE = {"alpha": 0.0, "steps": 10, "batch_size": 8, "generator_lr": 1e-2}


def paint_gradient(latents):
    """A teacher that JAX cannot trace: images `[b, 1, 16, 16]` in 0..1, brighter from left."""
    slopes = 1 / (1 + np.exp(-np.asarray(np.array(latents))[:, :1]))
    row = slopes * np.linspace(0, 1, 16)
    return np.repeat(row[:, None, None, :], 16, axis=2)


@pytest.mark.slow
def test_a_teacher_of_a_study_given_as_a_run_trains_the_studys_student_to_the_bit(
    finished, tmp_path
):
    config, study = tiny.config(), tmp_path / "study"
    for name in (TEACHER, "config.json", "teacher.json"):
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy
        study.mkdir(exist_ok=True)
        copy(finished / name, study / name)
    runner.train_run(config, study, STUDENT)
    teacher = gankd_jax.load_generator(finished / TEACHER)
    recipe = config.recipes.mse.to_dict()
    given = distill.make_config(teacher, "teacher", widths=(1,), steps=1, recipe=recipe)
    with given.unlocked():
        given.training.update(config.training.to_dict())
        given.evaluation.samples = 200
    distill.train_students(given, tmp_path / "given", teacher)
    arrays = [
        Checkpoints(folder / "checkpoints").arrays(tiny.STEPS)
        for folder in (study / STUDENT, tmp_path / "given" / "student-custom-d1-s0")
    ]
    assert arrays[0].keys() == arrays[1].keys()
    for name, values in arrays[0].items():
        np.testing.assert_array_equal(values, arrays[1][name], err_msg=name)


class Memory(gankd_jax.MetricWriter):
    """Keeps what it gets of all runs, by the run's name."""

    calls: ClassVar[list[tuple]] = []

    def __init__(self, folder, study, resume_step):
        self.name = folder.name

    def write_scalars(self, step, scalars):
        self.calls.append((self.name, step, *scalars))

    def write_images(self, step, images):
        self.calls.append((self.name, step, *images))

    def write_hparams(self, hparams):
        self.calls.append((self.name, hparams["kind"], hparams["width"], hparams["distance"]))


@pytest.mark.slow
def test_a_function_outside_of_jax_teaches_and_its_study_is_reported(tmp_path, registries):
    gankd_jax.register_writer("memory")(Memory)
    Memory.calls.clear()
    students = gankd_jax.distill(
        paint_gradient,
        widths=(1, 2),
        recipe=RECIPE | {"steps": 60},
        latent_dim=4,
        workdir=tmp_path / "study",
        writers=("jsonl", "memory"),
    )
    name = "student-custom-d2-s0"
    trained, *_, scored = [call[1:] for call in Memory.calls if call[0] == name]
    assert trained == ("student", 2, "mse")
    assert (name, 60, "fixed_latents") in Memory.calls
    assert scored[0] == 60
    assert {"scores/pixel_error", "scores/sharpness"} <= set(scored)
    assert not (tmp_path / "study" / name / "tensorboard").exists()
    assert sorted(students) == [1, 2]
    study = study_results.load_study(tmp_path / "study")
    runs = {run.width: run for run in study.runs if run.kind == "student"}
    for width, student in students.items():
        assert student.sample(seed=0, n=3).shape == (3, 16, 16, 1)
        errors = [line["pixel_error"] for line in runs[width].log]
        assert errors[-1] < 0.7 * errors[0]
        assert student.card["scores"]["pixel_error"] < errors[0]
    assert study.teacher.name == "teacher-d0-s0"
    config = workdir.read_config(tmp_path / "study")
    teacher = gankd_jax.load_generator(paint_gradient, latent_dim=4)
    export_latency.time_students(config, tmp_path / "study", teacher)
    study = study_results.load_study(tmp_path / "study")
    assert "jax" in study.latency_machine  # the function has no file
    assert study.latency.keys() == {(width, "float32") for width in (0, 1, 2)}
    assert all(t.images_per_second > 0 and t.milliseconds > 0 for t in study.latency.values())
    page = write_report(tmp_path / "study").read_text()
    assert "student-custom-d1-s0" in page or "custom" in page
    assert study.latency_machine in page
    students[2].export(tmp_path / "student.stablehlo")
    exported = gankd_jax.load_generator(tmp_path / "student.stablehlo")
    difference = exported.sample(seed=0, n=4) - students[2].sample(seed=0, n=4)
    assert np.abs(difference).max() < 1e-5
    # The same call has nothing left to do, and another one does not fit the folder.
    again = gankd_jax.distill(
        paint_gradient,
        widths=(1, 2),
        recipe=RECIPE | {"steps": 60},
        latent_dim=4,
        workdir=tmp_path / "study",
    )
    np.testing.assert_array_equal(again[1].sample(), students[1].sample())
    with pytest.raises(UserError, match="holds another config"):
        gankd_jax.distill(
            paint_gradient, widths=(4,), recipe=RECIPE, latent_dim=4, workdir=tmp_path / "study"
        )


@pytest.fixture
def pairs(tmp_path):
    """A file of pairs, as any program could write it."""
    latents = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", latents=latents, images=paint_gradient(latents))
    return tmp_path / "pairs.npz"


@pytest.mark.slow
def test_pairs_of_a_file_teach_and_a_resumed_student_has_the_same_bits(pairs, tmp_path):
    teacher = gankd_jax.load_generator(pairs)
    recipe = RECIPE | {"steps": 40, "distance": "l1"}
    config = distill.make_config(teacher, str(pairs), widths=(1,), steps=1, recipe=recipe)
    with config.unlocked():
        intervals = {"log_every": 10, "checkpoint_every": 20, "grid_every": 20}
        config.training.update(intervals | {"steps_per_call": 10})
    folders, name = (tmp_path / "once", tmp_path / "resumed"), "student-custom-d1-s0"
    distill.train_students(config, folders[0], teacher)
    shutil.copytree(folders[0], folders[1])
    shutil.rmtree(folders[1] / name / "checkpoints" / "40")
    (folders[1] / name / "scores.json").unlink()
    distill.train_students(config, folders[1], teacher)
    a, b = (Checkpoints(folder / name / "checkpoints").arrays(40) for folder in folders)
    for key, values in a.items():
        np.testing.assert_array_equal(values, b[key], err_msg=key)
    study = study_results.load_study(folders[1])
    run = next(run for run in study.runs if run.kind == "student")
    assert run.log[-1]["pixel_error"] < 0.7 * run.log[0]["pixel_error"]
    assert run.scores["pixel_error"] < run.log[0]["pixel_error"]
    assert "pixel_error_between" not in run.scores
    # The pictures are those of the pairs that no step has seen, teacher and student alike.
    module, variables = teacher
    rows = module.row_latents(variables, sampling.grid_latents(4))
    unseen = np.asarray(variables["order"])[module.train_count :]
    latents = np.asarray(variables["latents"])[unseen]
    assert {*map(bytes, np.asarray(rows))} <= {*map(bytes, latents)}
    painted = paint_gradient(rows).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(study.teacher.grid, sampling.to_uint8(2 * painted - 1))
    student = distill.load_students(config, folders[1], teacher)[1]
    expected = sampling.to_uint8(sampling.sample_images(student.module, student.variables, rows))
    assert np.abs(run.grid.astype(int) - expected).max() <= 1
    assert "student-custom-d1-s0" in write_report(folders[1]).read_text()


def test_too_few_pairs_for_a_batch_are_refused_before_any_work(pairs, tmp_path):
    with pytest.raises(
        UserError, match=r"pairs\.npz has 180 pairs to train on, beside 20 to score"
    ):
        gankd_jax.distill(pairs, widths=(1,), batch_size=181, workdir=tmp_path / "study")
    with pytest.raises(UserError, match=r"alpha is 0.5; it must be 0 without a data set"):
        gankd_jax.distill(pairs, recipe={"alpha": 0.5}, workdir=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_folder_of_another_teachers_students_is_refused(tmp_path):
    options = {"widths": (1,), "recipe": RECIPE, "latent_dim": 4, "workdir": tmp_path / "study"}
    students = gankd_jax.distill(lambda latents: paint_gradient(latents), **options)
    again = gankd_jax.distill(lambda latents: paint_gradient(latents) * 0.999, **options)
    np.testing.assert_array_equal(again[1].sample(), students[1].sample())
    before = tiny.snapshot(tmp_path)
    with pytest.raises(UserError, match="students of another teacher, whose images differ by"):
        gankd_jax.distill(lambda latents: 1 - paint_gradient(latents), **options)
    assert tiny.snapshot(tmp_path) == before


def test_the_error_of_a_failed_student_says_why():
    recipe = RECIPE | {"generator_lr": 1e38}
    with pytest.raises(UserError, match=r"student-custom-d1-s0 has failed: .*not finite|nan|inf"):
        gankd_jax.distill(paint_gradient, widths=(1,), recipe=recipe, latent_dim=4)


def test_fields_of_a_recipe_leave_the_other_arguments_as_they_are():
    teacher = TrainedGenerator(DCGANGenerator(4, 32, 1), {})
    config = distill.make_config(
        teacher, "x", widths=(2,), steps=5, recipe={"distance": "l1"}, batch_size=32
    )
    custom = config.recipes.custom
    assert (custom.steps, custom.batch_size, custom.distance) == (5, 32, "l1")


def test_a_warm_start_from_a_teacher_of_another_norm_is_refused(tmp_path):
    with pytest.raises(UserError, match="warm_start copies channels of the teacher, and mnist-d4"):
        gankd_jax.distill(
            "mnist-d4", widths=(2,), recipe={"warm_start": True}, workdir=tmp_path / "study"
        )
    assert not (tmp_path / "study").exists()


def test_a_study_with_pairs_of_other_latents_needs_the_statistics_of_the_training(pairs, tmp_path):
    with np.load(pairs) as arrays:
        np.savez(pairs, latents=3 * arrays["latents"], images=arrays["images"])
    teacher = gankd_jax.load_generator(pairs)
    config = distill.make_config(teacher, str(pairs), widths=(1,), steps=10, recipe="best")
    with config.unlocked():
        config.evaluation.statistics = "recomputed"
    with pytest.raises(UserError, match=r"recomputed; set --config.evaluation.statistics=running"):
        runner.run_study(config, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_pairs_of_other_latents_get_a_line_and_the_statistics_of_the_training(pairs, caplog):
    with np.load(pairs) as arrays:
        np.savez(pairs, latents=3 * arrays["latents"], images=arrays["images"])
    teacher = gankd_jax.load_generator(pairs)
    config = distill.make_config(teacher, "pairs.npz", widths=(1,), steps=10, recipe="best")
    assert config.evaluation.statistics == "running"
    assert "the latents of pairs.npz are no standard normal numbers" in caplog.text


@pytest.mark.slow
def test_ctrl_c_returns_the_students_at_the_step_that_they_reached(tmp_path):
    calls = []

    def paint_and_interrupt(latents):
        calls.append(len(latents))
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return paint_gradient(latents)

    handler = signal.getsignal(signal.SIGINT)
    recipe = RECIPE | {"steps": 5_000}  # 50 a call, and a checkpoint every 1,000
    students = gankd_jax.distill(
        paint_and_interrupt, widths=(1,), recipe=recipe, latent_dim=4, workdir=tmp_path
    )
    [checkpoint] = Checkpoints(tmp_path / "student-custom-d1-s0" / "checkpoints").steps()
    assert 0 < checkpoint < 1_000
    assert students[1].sample(seed=0, n=2).shape == (2, 16, 16, 1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert preemption.signal_received() == 0


WRONG = {
    "recipe": ({"recipe": "fast"}, "the recipe is 'fast'; it can be mse, l1, best"),
    "field": ({"recipe": {"speed": 1}}, "speed"),
    "width": ({"widths": (0,)}, "config.study.widths is"),
    "steps": ({"steps": 0}, "steps is 0"),
    "size": ({"image_size": 64}, "image_size is 64; the teacher's images have 16 pixels"),
    "critic": (
        {"recipe": {"alpha": 0.5, "critic": "teacher"}},
        "it must be without the teacher's critic",
    ),
    "data": ({"recipe": {"alpha": 0.5}}, "alpha is 0.5; it must be 0 without a data set"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_before_any_work(tmp_path, name):
    options, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        gankd_jax.distill(paint_gradient, latent_dim=4, workdir=tmp_path / "study", **options)
    assert not list(tmp_path.iterdir())


def test_students_of_another_family_than_the_teachers_start_cold():
    module = ResNetGenerator(4, 32, 1, latent_dim=3)
    teacher = TrainedGenerator(module, {})
    for family in ("dcgan", "resnet"):
        config = distill.make_config(
            teacher, "x", widths=(2,), steps=5, recipe="best", family=family
        )
        assert config.model.student.family == family
        assert config.model.teacher.family == "resnet"
        assert not config.recipes.best.warm_start
    dcgan = TrainedGenerator(DCGANGenerator(4, 32, 1), {})
    config = distill.make_config(dcgan, "x", widths=(2,), steps=5, recipe="best")
    assert config.recipes.best.warm_start


def test_a_file_that_no_resnet_fits_is_refused_before_the_work(tmp_path):
    with pytest.raises(UserError, match="no onnx file: the student is a resnet generator"):
        distill.plan_files(tmp_path / "student.onnx", [4], "resnet")


def test_several_students_get_a_file_each(tmp_path):
    files = distill.plan_files(tmp_path / "small.stablehlo", [4, 8])
    assert files == {
        4: tmp_path / "small-d4.stablehlo",
        8: tmp_path / "small-d8.stablehlo",
    }
    assert distill.plan_files(tmp_path / "a.pth", [4]) == {4: tmp_path / "a.pth"}
    files[8].touch()
    with pytest.raises(UserError, match=r"small-d8.stablehlo exists"):
        distill.plan_files(tmp_path / "small.stablehlo", [4, 8])
    with pytest.raises(UserError, match=r"name of the file must end in .*\.onnx"):
        distill.plan_files(tmp_path / "student.tflite", [4])
