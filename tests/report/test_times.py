"""What a model costs in bytes and time: as a table, and as the places of a chart's points."""

import json

import fake_study
import pytest

from gankd_jax.report.figures import together
from gankd_jax.report.lines import lines
from gankd_jax.report.runs import Study, read
from gankd_jax.report.table import markdown
from gankd_jax.report.times import not_faster, time_tables


@pytest.fixture(scope="module")
def timed(tmp_path_factory) -> Study:
    made = fake_study.make(tmp_path_factory.mktemp("timed"), seeds=(0, 1), students=("mse",))
    fake_study.time(made, widths=(2, 4, 8))
    return read(made)


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Study:
    """A study whose scores know of no precisions."""
    made = fake_study.make(tmp_path_factory.mktemp("old"), seeds=(0, 1), students=("mse",))
    for path in made.glob("*/scores.json"):
        file = json.loads(path.read_text())
        file.pop("precisions", None)
        path.write_text(json.dumps(file))
    return read(made)


def test_smaller_and_no_faster_is_called_so(timed):
    assert [not_faster(timed, d, "float32") for d in (2, 4, 8, 32)] == [4, None, None, None]
    assert not_faster(timed, 2, "float16") is None  # was not timed
    assert not_faster(timed, 3, "float32") is None


def test_the_table_has_the_times_of_each_width_and_precision(timed):
    [table] = time_tables(timed)
    texts = [[cell.text for cell in row] for row in table.rows]
    assert [text[:3] for text in texts[:3]] == [
        *(["32", "teacher", "float32"], ["32", "teacher", "int8"], ["2", "small", "float32"])
    ]
    assert len(texts) == 4 * 2
    # The teacher's 3.2 ms to 0.2.
    narrow = ["2", "small", "int8", "1,000", "0.200", "5,000", "50.00", "16.00", "d=4"]
    assert texts[3] == narrow
    assert "a made-up machine" in table.note
    assert "## Time" in markdown(timed)


def test_times_of_a_busy_machine_are_called_so(tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.time(tmp_path, widths=(2,))
    path = tmp_path / "latency.json"
    latency = json.loads(path.read_text())
    for spread, busy in ((1.1, False), (2.04, True)):
        latency["runs"]["teacher-d32-s0"]["int8"]["spread"] = spread
        path.write_text(json.dumps(latency))
        [table] = time_tables(read(tmp_path))
        assert ("The machine was busy: turns differ by up to 2.0 times." in table.note) == busy


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, [[1], [2], [4]]),
        ({1: 1.0, 2: 1.04, 4: 1.08, 8: 2.0}, [[1, 2, 4], [8]]),
        ({1: 1.06, 2: 1.0, 4: 3.0}, [[1, 2], [4]]),  # the smaller one is the slower one
        ({}, []),
    ],
)
def test_widths_that_lie_close_together_share_a_name(places, expected):
    assert together(places, 0.05 + 0.01) == expected


def test_what_was_not_timed_has_no_table(old):
    assert time_tables(old) == []
    assert lines(old, "inception_score", "milliseconds") == []


def test_times_of_a_run_that_is_gone_are_left_out(timed, tmp_path):
    fake_study.make(tmp_path, seeds=(0,), widths=(2,), students=("mse",))
    fake_study.time(tmp_path, widths=(2, 4))
    assert {width for width, _ in read(tmp_path).timed} == {2, 32}


def test_lines_against_bytes_are_by_precision(timed):
    by_bytes = {
        (line.recipe, line.precision): line for line in lines(timed, "inception_score", "bytes")
    }
    assert len(by_bytes) == 3 * 3  # teacher, mse, baseline
    smallest = by_bytes["mse", "int8"].points
    assert [(point.width, point.x) for point in smallest] == [(2, 400), (4, 1600), (8, 6400)]
    assert smallest[0].summary.mean == pytest.approx(0.9 * 5.05)
    assert len(lines(timed, "inception_score", "parameters")) == 3


def test_every_seed_and_baseline_takes_the_time_of_its_width(timed):
    by_time = {line.recipe: line for line in lines(timed, "inception_score", "milliseconds")}
    assert by_time.keys() == {"teacher", "mse", "baseline"}
    points = by_time["baseline"].points
    assert [point.x for point in points] == [0.4, 0.4, 0.8]
    assert [len(point.summary.values) for point in points] == [2, 2, 2]


def test_without_measurements_a_parameter_takes_four_bytes(old):
    [mse] = [line for line in lines(old, "inception_score", "bytes") if line.recipe == "mse"]
    assert [point.x for point in mse.points] == [1600, 6400, 25600]
