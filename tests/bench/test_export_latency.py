"""Timing of a study's exported files, and what is said of the times."""

import importlib.util
import json
import shutil

import pytest
import tiny

from gankd_jax.bench import export_latency
from gankd_jax.bench.export_latency import FileTiming, time_exported_files
from gankd_jax.export.formats import export_generator
from gankd_jax.study import plan
from gankd_jax.study.context import StudyContext
from gankd_jax.study.plan import Run
from gankd_jax.utils.errors import UserError


@pytest.fixture
def study(tmp_path_factory, tmp_path, monkeypatch):
    root = tiny.session_dir(tmp_path_factory)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_data(root)))
    return tiny.config(), shutil.copytree(tiny.run_finished_study(root), tmp_path / "study")


@pytest.mark.slow
def test_teacher_and_students_are_timed_as_files(study):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    config, folder = study
    teacher = StudyContext(config, folder).load_generator(plan.find_run(config, "teacher-d4-s0"))
    export_latency.time_students(config, folder, teacher)
    brief = json.loads((folder / "latency.json").read_text())
    assert {name: list(timings) for name, timings in brief["runs"].items()} == {
        "teacher-d4-s0": ["float32"],
        "student-mse-d1-s0": ["float32"],
    }
    printed = time_exported_files(config, folder, rounds=1)
    latency = json.loads((folder / "latency.json").read_text())
    assert latency.keys() == {"machine", "runs"}
    # The students of the other recipe have failed; each width is represented by its lowest seed.
    assert list(latency["runs"]) == ["teacher-d4-s0", "student-mse-d1-s0"]
    for name, timings in latency["runs"].items():
        assert list(timings) == ["float32", "float16", "int8"]
        generator = StudyContext(config, folder).load_generator(plan.find_run(config, name))
        for precision, timing in timings.items():
            file = export_generator(generator, "onnx", precision, run_name=name).content
            assert timing["bytes"] == len(file)
            assert timing["milliseconds"] > 0
            assert timing["images_per_second"] > 0
            assert 10 < timing["peak_mib"] < 1000
            row = next(x for x in printed.splitlines() if name in x and precision in x)
            assert f"{timing['bytes']:,}" in row
    with pytest.raises(UserError, match=r"latency.json exists; remove it"):
        time_exported_files(config, folder, rounds=1)
    export_latency.time_students(config, folder, teacher)  # does not replace what took longer
    assert json.loads((folder / "latency.json").read_text()) == latency


def test_lowest_trained_seed_represents_a_width(tmp_path):
    config = tiny.config(study__widths=(1, 2), study__students=("mse",))
    (tmp_path / "teacher.json").write_text('{"run": "teacher-d4-s0"}')
    for name in ("mse-d1-s1", "mse-d2-s1", "mse-d2-s0"):
        (tmp_path / f"student-{name}" / "checkpoints" / "40").mkdir(parents=True)
    (tmp_path / "student-mse-d1-s0" / "checkpoints" / "30").mkdir(parents=True)
    runs = export_latency.select_runs(StudyContext(config, tmp_path))
    names = ["teacher-d4-s0", "student-mse-d1-s1", "student-mse-d2-s0"]
    assert [run.name for run in runs] == names


def make_timing(name, parameters, milliseconds, images_per_second):
    kind, recipe, width = name.split()
    values = {"milliseconds": milliseconds, "images_per_second": images_per_second}
    run = Run(kind, recipe, int(width), 0)
    return FileTiming(run, parameters, "float32", 4 * parameters, [values])


def test_runs_that_are_not_faster_than_larger_ones_are_named():
    small = make_timing("student mse 1", 10, 1.0, 900.0)
    middle = make_timing("student mse 2", 20, 1.04, 700.0)
    other = make_timing("student l1 2", 20, 0.5, 9.0)
    teacher = make_timing("teacher teacher 4", 40, 3.0, 700.0)
    timings = [teacher, small, middle, other]
    assert export_latency.describe_slow_runs(small, timings) == [
        "student-mse-d1-s0 (10 parameters) is not faster one image at a time than"
        " student-mse-d2-s0 (20)."
    ]
    assert export_latency.describe_slow_runs(middle, timings) == [
        "student-mse-d2-s0 (20 parameters) is not faster in batches than teacher-d4-s0 (40)."
    ]
    assert export_latency.describe_slow_runs(teacher, timings) == []


def test_turns_that_differ_are_reported():
    calm = make_timing("student mse 1", 10, 1.0, 9.0)
    busy = make_timing("teacher teacher 4", 40, 3.0, 7.0)
    calm.rounds.append({"milliseconds": 1.1, "images_per_second": 9.0})
    busy.rounds.append({"milliseconds": 6.3, "images_per_second": 7.0})
    assert busy.spread == pytest.approx(2.1)
    [line] = export_latency.describe_disturbance([calm, busy])
    assert line.startswith("The turns of 1 of 2 files differ by up to 2.1 times:")
    assert export_latency.describe_disturbance([calm]) == []


def test_a_file_of_another_program_is_timed_with_its_own_batches_and_latents(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    kind = onnx.TensorProto.FLOAT16
    value, result = (
        onnx.helper.make_tensor_value_info(name, kind, [3, 4, 1, 1]) for name in ("z", "images")
    )
    node = onnx.helper.make_node("Tanh", ["z"], ["images"])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, tmp_path / "teacher.onnx")
    times = export_latency._measure_file(tmp_path / "teacher.onnx", latent_dim=4)
    # Three images, at any time.
    seconds = times["milliseconds"] / 1e3
    assert times["images_per_second"] * seconds == pytest.approx(3, rel=0.9)


def test_error_names_the_file_whose_process_ended(tmp_path, capfd):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with pytest.raises(UserError, match=r"the process that times no.onnx ended \(status 1\)"):
        export_latency._measure_file(tmp_path / "no.onnx")
    assert "no.onnx" in capfd.readouterr().err


def test_without_onnx_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"onnx files need onnx: pip install 'gankd-jax\[export\]'"):
        time_exported_files(tiny.config(), tmp_path, rounds=1)
    assert not (tmp_path / "latency.json").exists()
