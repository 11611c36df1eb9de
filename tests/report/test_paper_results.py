import itertools

import pytest

from gankd_jax.models.dcgan import count_paper_parameters
from gankd_jax.report import paper_results


def counted(width: int) -> int:
    """Layer by layer: 4x4 kernels with biases, 100 -> 8d -> 4d -> 2d -> d -> 1."""
    channels = [100, 8 * width, 4 * width, 2 * width, width, 1]
    return sum(16 * i * o + o for i, o in itertools.pairwise(channels))


@pytest.mark.parametrize("row", paper_results.PAPER_ROWS, ids=lambda row: f"d{row.width}")
def test_parameters_are_those_of_the_layers(row):
    assert row.parameters == count_paper_parameters(row.width) == counted(row.width)


def test_ratios_follow_from_the_teachers_width():
    printed = {
        (data, row.width): result.ratio
        for row in paper_results.PAPER_ROWS
        for data, result in row.results.items()
        if result.ratio
    }
    worked_out = {
        (data, width): round(counted(paper_results.PAPER_TEACHER_WIDTH[data]) / counted(width))
        for data, width in printed
    }
    assert printed == worked_out
    assert len(printed) == 6 + 6 + 6


def test_the_papers_headline_numbers():
    assert count_paper_parameters(256) == 47_324_929
    assert paper_results.paper_result("mnist", 2) == paper_results.PaperResult(1669, 5.80, 1.86)
    assert paper_results.paper_result("cifar10", 4) == paper_results.PaperResult(58, 11.00, 14.28)
    assert paper_results.paper_result("celeb_a", 8) == paper_results.PaperResult(87, 8.78, 11.06)
    assert round(5.80 / paper_results.PAPER_TEACHER_SCORE["mnist"], 2) == 0.83


def test_every_student_beats_its_baseline_and_grows_with_width():
    for data, score in paper_results.PAPER_METRIC.items():
        sign = 1 if score == "Inception Score" else -1
        column = [row.results[data] for row in paper_results.PAPER_ROWS if data in row.results]
        students = [sign * result.student for result in column]
        assert students == sorted(students)
        assert all(sign * (r.student - r.baseline) > 0 for r in column if r.baseline)


@pytest.mark.parametrize(("data", "width"), [("mnist", 48), ("cifar10", 64), ("digits", 2)])
def test_there_is_no_result_where_the_paper_has_a_dash(data, width):
    assert paper_results.paper_result(data, width) is None
