"""The benchmark: its files, its table, the order of its turns, its worker processes."""

import dataclasses
import importlib.util
import json
import statistics
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gankd_jax.bench import measure
from gankd_jax.bench.cases import CRITIC_STEPS, Case, choose_matrix_products, make_cases
from gankd_jax.bench.measure import PACKAGES, WORKERS, Worker, format_table, run_benchmark
from gankd_jax.utils.errors import UserError


def is_installed(worker):
    return all(map(importlib.util.find_spec, PACKAGES[worker]))


@pytest.fixture(scope="module")
def cases():
    return make_cases()


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The folder, table and JSON of a benchmark of the smallest case."""
    folder = tmp_path_factory.mktemp("bench") / "results"
    against = [name for name in WORKERS if is_installed(name)]
    table = run_benchmark(folder, against=against, only=["draw-2"], rounds=2)
    return folder, table, json.loads((folder / "bench.json").read_text())


@pytest.mark.slow  # starts the workers
def test_benchmark_writes_every_measured_time(benchmark):
    folder, table, results = benchmark
    assert (folder / "bench.md").read_text() == table + "\n"
    assert results.keys() == {"machine", "precision", "cases"}
    assert results["precision"] == "float32"  # that of a CPU
    assert results["machine"]["platform"]
    case = results["cases"]["draw-2"]
    assert case.keys() == {"title", "operations", "seconds"}
    workers = {name for name in WORKERS if is_installed(name)}
    assert case["seconds"].keys() == {"ours", "matrix"} | workers
    assert all(len(values) == 2 and min(values) > 0 for values in case["seconds"].values())
    assert results["machine"]["jax"] == jax.__version__


@pytest.mark.slow  # starts the workers
def test_shares_in_the_table_follow_from_the_times(benchmark):
    _, table, results = benchmark
    case = results["cases"]["draw-2"]
    seconds = case["seconds"]
    shares = [
        case["operations"] / ours / (choose_matrix_products().flops / product)
        for ours, product in zip(seconds["ours"], seconds["matrix"], strict=True)
    ]
    row = next(line for line in table.splitlines() if "d=2" in line)
    assert f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})" in row


@pytest.mark.slow  # starts the workers
def test_benchmark_does_not_overwrite_an_earlier_one(benchmark):
    with pytest.raises(UserError, match=r"bench.json exists; name another file"):
        run_benchmark(benchmark[0], against=[], only=["draw-2"], rounds=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ["nothing"]}, "--only=nothing is no case of the benchmark: students, "),
        ({"against": ["caffe"]}, "--against=caffe is not known; it can be torch"),
        ({"precision": "float16"}, "--precision=float16 is not known; it can be auto, float32"),
        ({"precision": "tf32"}, "--precision=tf32 needs a GPU; this machine's device is a cpu"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(tmp_path, settings, message):
    settings = {"against": [], "only": [], "rounds": 1} | settings
    with pytest.raises(UserError, match=message):
        run_benchmark(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


def test_speedup_is_the_median_of_the_ratios_of_each_round(cases):
    seconds = {"ours": [1.0, 2.0, 4.0], "torch": [4.0, 4.0, 4.0], "matrix": [1.0] * 3}
    assert "| 2.00 (1.00 to 4.00) |" in format_table(cases, {"student": seconds}, "float32")


def test_every_rival_of_a_case_has_a_row(cases):
    seconds = {"ours": [1.0, 1.25], "matrix": [1.0, 1.0], "torch": [2.0, 5.0], "a twin": [1.0, 1.0]}
    table = format_table(cases, {"draw-2": seconds}, "tf32").splitlines()
    assert any("torch" in row and "| 3.00 (2.00 to 4.00) |" in row for row in table)
    assert any("a twin" in row and "| 0.90 (0.80 to 1.00) |" in row for row in table)


def test_streamed_and_constant_batches_take_turns(cases):
    assert cases["streamed"].variants.keys() == {"a constant batch"}
    calls = {"ours": [], "a": []}
    timers = {
        name: (lambda name=name: calls[name].append(len(calls["a"])) or 1.0) for name in calls
    }
    assert measure._take_turns(timers, 3) == {"ours": [1.0] * 3, "a": [1.0] * 3}
    assert calls["ours"] == [0, 1, 2]  # one of the other before each


def test_more_seeds_add_students_but_no_pass_of_the_teacher(cases):
    teacher = cases["draw-64"].flops
    one_seed, three_seeds = cases["students"].flops, cases["students-seeds"].flops
    assert three_seeds - teacher == 3 * (one_seed - teacher)
    assert cases["teacher"].worker_cases["torch"]["critic_steps"] == CRITIC_STEPS


def test_error_names_a_worker_that_ended(capfd):
    # Importing this module prints nothing, and its process ends.
    with (
        Worker("gankd_jax.utils.errors", "the torch worker") as worker,
        pytest.raises(UserError, match=r"the torch worker ended \(status 0\)"),
    ):
        worker.measure({"kind": "sampling"})


def test_products_of_a_call_are_those_that_its_operations_are_of():
    products = dataclasses.replace(choose_matrix_products("gpu"), size=8)
    matrix = np.asarray(jax.random.normal(jax.random.key(0), (8, 8)))
    expected = matrix
    for _ in range(products.count):
        expected = expected @ (matrix / 8**0.5)
    np.testing.assert_allclose(products.build("float32")(), expected, rtol=1e-4, atol=1e-5)
    assert products.flops == products.count * 2 * 8**3
    assert products.build("bfloat16")().dtype == jnp.bfloat16


def test_cases_for_accelerators_run_on_a_cpu_only_if_they_are_named():
    assert "draw-64-4096" not in measure._select_cases([])
    assert "draw-64" in measure._select_cases([])
    assert list(measure._select_cases(["draw-64-4096"])) == ["draw-64-4096"]


def test_torch_updates_twice_a_step_by_losses_in_float32():
    """Each update has a finite loss in float32, whatever the layers' precision."""
    torch_worker = pytest.importorskip("gankd_jax.bench.torch_worker", reason="torch is missing")
    torch = torch_worker.torch
    shape = {"image_size": 8, "channels": 1}
    builders = {
        "students": {"teacher": 2, "widths": [1], "seeds": 2},
        "teacher": {"width": 2, "critic_steps": 1},
        "gan": {"width": 2},
    }
    for kind, arguments in builders.items():
        for precision in ("float32", "bfloat16"):
            settings = torch_worker.Settings(precision, compiles=False)
            with mock.patch.object(torch_worker, "_update") as update:
                torch_worker.BUILDERS[kind](settings, **shape, **arguments)()
            losses = [call.args[0] for call in update.call_args_list]
            assert len(losses) == 2
            assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)


def test_torch_without_a_gpu_is_no_rival_of_a_gpu(monkeypatch):
    torch_worker = pytest.importorskip("gankd_jax.bench.torch_worker", reason="torch is missing")
    monkeypatch.setattr(torch_worker.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch_worker, "set_precision", lambda precision: None)  # of all tests
    case = make_cases()["draw-2"].worker_cases["torch"] | {"precision": "float32", "steps": 1}
    with pytest.raises(SystemExit, match="PyTorch finds no GPU here: install its CUDA build"):
        torch_worker._build_measurement(case | {"backend": "gpu"})
    assert torch_worker._build_measurement(case | {"backend": "cpu"})() > 0


def test_onnxruntime_without_a_gpu_is_no_rival_of_a_gpu(monkeypatch):
    for package in PACKAGES["onnxruntime"]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    from gankd_jax.bench import onnx_worker

    monkeypatch.setattr(onnx_worker, "available_providers", lambda: ["CPUExecutionProvider"])
    fields = {"width": 1, "image_size": 8, "channels": 1}
    with pytest.raises(SystemExit, match="ONNX Runtime finds no GPU here: install onnxruntime-gpu"):
        onnx_worker.build_sampling(2, backend="gpu", **fields)
    [images] = onnx_worker.build_sampling(2, backend="cpu", **fields)()
    assert images.shape == (2, 1, 8, 8)


def test_workers_are_told_the_device_that_they_are_compared_with(monkeypatch):
    worker = mock.Mock(spec=Worker)
    case = Case("a case", lambda precision: lambda: 0, 1, worker_cases={"torch": {"kind": "a"}})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    measure._build_timers(case, {"torch": worker}, "tf32")["torch"]()
    expected = {"kind": "a", "precision": "tf32", "steps": 1, "backend": "gpu"}
    worker.measure.assert_called_once_with(expected)


def test_workers_leave_the_device_to_their_parent(tmp_path, monkeypatch):
    worker = mock.Mock(side_effect=UserError("not started"))
    monkeypatch.setattr(measure, "Worker", worker)
    monkeypatch.setattr(measure, "_check_worker", lambda name: None)
    with pytest.raises(UserError, match="not started"):
        run_benchmark(tmp_path, against=["onnxruntime"], only=["draw-2"], rounds=1)
    _, _, env = worker.call_args.args
    assert env["JAX_PLATFORMS"] == "cpu"
