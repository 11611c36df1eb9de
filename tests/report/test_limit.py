import fake_study
import pytest

from gankd_jax.report.limit import limit_lines, limit_table
from gankd_jax.report.runs import read


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(fake_study.make(tmp_path_factory.mktemp("study"), seeds=(0,)))


def test_the_smallest_width_that_keeps_a_part_by_hand(study):
    # Of the teacher's 8.0: mse 5, 6, 6.5; joint 0.05 more; baseline 2, 5, 7.
    table = limit_table(study)
    texts = {tuple(cell.text for cell in row[:2]): [c.text for c in row[2:]] for row in table.rows}
    assert table.header[2:] == tuple(f"keeps {n}%" for n in (99, 95, 90, 75, 50))
    score = "Inception Score"
    assert texts[score, "mse student"] == ["none", "none", "none", "d=4 (64:1)", "d=2 (256:1)"]
    assert texts[score, "baseline"] == ["none", "none", "none", "d=8 (16:1)", "d=4 (64:1)"]
    # The teacher's distance of 10 to theirs: 30 at best, so a third is kept.
    assert set(texts["Fréchet distance, classifier features", "mse student"]) == {"none"}


def test_the_papers_students_stand_beside(study):
    [paper] = [row for row in limit_table(study).rows if row[1].text == "paper's student*"]
    # Of its teacher's 6.99: 5.80 (83 %), 6.41 (92 %), 6.60 (94 %), 6.83 (98 %), 6.93 (99.1 %).
    assert [cell.text for cell in paper[2:]] == [
        *("d=64", "d=16 (125:1)", "d=4 (762:1)", "d=2 (1669:1)", "d=2 (1669:1)")
    ]


def test_the_limit_is_said_in_a_sentence(study):
    score, distance = limit_lines(study)
    assert score == (
        "Inception Score: 75% of the teacher's is kept down to d=4 (64:1, joint); 50% of the "
        "teacher's is kept down to d=2 (256:1, joint). The smallest, d=2 (256:1, joint), keeps 63%."
    )
    assert "no student keeps 50% of the teacher's" in distance


def test_without_a_teacher_there_is_no_limit(tmp_path):
    study = read(fake_study.no_teacher(tmp_path))
    assert limit_lines(study) == []
    assert limit_table(study) is None
