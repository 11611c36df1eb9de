"""How many times as wide as a student a baseline must be: by hand, and the paper's."""

import fake_study
import pytest

from gankd_jax.report.advantage import advantage, advantage_table
from gankd_jax.report.runs import read


@pytest.mark.parametrize(
    ("score", "expected", "text"),
    [
        (2.0, 1.0, "at most 1"),  # the narrowest is as good: it could be narrower still
        (2.0 * 2**0.5, 2**0.5, "1.4"),  # half-way between 2 at d=2 and 4 at d=4, by logarithms
        (4.0, 2.0, "2"),
        (6.0, 4.0, "4"),
        (6.5, 4.0, "above 4"),
    ],
)
def test_the_factor_by_hand(score, expected, text):
    baselines = {2: 2.0, 4: 4.0, 8: 6.0}
    assert advantage(score, 2, baselines, "higher") == (text, pytest.approx(expected))
    falling = {width: 10 / value for width, value in baselines.items()}
    assert advantage(10 / score, 2, falling, "lower") == (text, pytest.approx(expected))


def test_the_table_has_every_student_and_the_papers(tmp_path):
    table = advantage_table(read(fake_study.make(tmp_path, seeds=(0,))))
    assert table.header == ("score", "model", "d=2", "d=4", "d=8")
    lines = {tuple(c.text for c in row[:2]): [c.text for c in row[2:]] for row in table.rows}
    # mse 5, 6, 6.5 and baseline 2, 5, 7: at d=2 the baseline of d=4 is equal, at d=8 it is ahead.
    mse = lines["Inception Score", "mse student"]
    assert mse[0] == "2"
    assert float(mse[1]) > 1 > float(mse[2])
    # The paper's baselines on MNIST: 6.08 at d=32 and 6.51 at d=64 against students' 6.41, 6.60.
    paper = lines["Inception Score", "paper's student*"]
    assert float(paper[0]) == pytest.approx(12, rel=0.1)


def test_without_baselines_there_is_no_table(tmp_path):
    folder = fake_study.make(tmp_path, seeds=(0,), widths=(2,))
    fake_study.remove(folder / "baseline-d2-s0")
    assert advantage_table(read(folder)) is None
