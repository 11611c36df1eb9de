import dataclasses

import fake_study
import pytest

from gankd_jax.report.costs import Cost, cost_tables, costs, not_faster
from gankd_jax.report.lines import lines
from gankd_jax.report.runs import Study, read
from gankd_jax.report.table import markdown


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Study:
    made = fake_study.make(tmp_path_factory.mktemp("measured"), seeds=(0, 1), students=("mse",))
    fake_study.measure(made)
    return read(made)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory) -> Study:
    return read(fake_study.make(tmp_path_factory.mktemp("plain"), seeds=(0, 1), students=("mse",)))


def cost(width: int, milliseconds: float | None, *, kind: str = "student") -> Cost:
    return Cost(kind, kind, width, "int8", 100.0, milliseconds, None, None, {})


def test_costs_are_the_files_own(measured):
    [found] = [c for c in costs(measured) if (c.recipe, c.width, c.precision) == ("mse", 4, "int8")]
    assert found.bytes == 100 * 4**2 + 1000
    assert found.milliseconds == 0.4
    assert found.peak_mib == 50.0
    assert found.scores["inception_score"].values == {
        0: pytest.approx(0.9 * 6.0),
        1: pytest.approx(0.9 * 6.1),
    }


def test_without_measurements_a_parameter_takes_four_bytes(unmeasured):
    found = {c.width: c.bytes for c in costs(unmeasured) if c.recipe == "mse"}
    assert found == {2: 1600, 4: 6400, 8: 25600}
    assert all(c.milliseconds is None for c in costs(unmeasured))
    assert cost_tables(unmeasured) == []


def test_smaller_and_no_faster_is_called_so():
    teacher = cost(32, 1.0, kind="teacher")
    wide, middle, narrow = cost(8, 0.99, kind="student"), cost(4, 0.5), cost(2, 0.49)
    found = [teacher, narrow, middle, wide]
    assert [not_faster(c, found) for c in found] == ["", "d=4", "", "the teacher"]
    assert not_faster(cost(2, None), found) == ""
    other = dataclasses.replace(narrow, precision="float32")
    assert not_faster(other, [*found, other]) == ""  # nothing to compare it with


def test_the_table_has_bytes_and_times_of_each_precision(measured):
    [table] = cost_tables(measured)
    texts = [[cell.text for cell in row] for row in table.rows]
    line = next(text for text in texts if text[:3] == ["2", "mse student", "int8"])
    # The teacher's float32: 4 * 102,400 + 1,000 bytes; this one's 400 + 1,000.
    assert line[3:9] == ["1 kB", "293:1", "0.400", "12,500", "50.00", "d=4"]
    assert "a made-up machine" in table.note
    assert "## Bytes and time" in markdown(measured)


def test_lines_are_by_precision_but_for_the_parameters(measured):
    by_bytes = {
        (line.recipe, line.precision): line for line in lines(measured, "inception_score", "bytes")
    }
    assert len(by_bytes) == 3 * 3  # teacher, mse, baseline
    halved = by_bytes["mse", "float16"].points
    assert [(point.width, point.x) for point in halved] == [(2, 1800), (4, 4200), (8, 13800)]
    assert halved[0].summary.mean == pytest.approx(0.9 * 5.05)
    assert len(lines(measured, "inception_score", "parameters")) == 3


def test_there_is_no_line_without_a_measurement(unmeasured):
    assert lines(unmeasured, "inception_score", "milliseconds") == []
    assert len(lines(unmeasured, "inception_score", "bytes")) == 3
