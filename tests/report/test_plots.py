import pytest

from gankd_jax.report.plots import average_log, group_close_widths


def test_long_training_curves_are_averaged_to_100_points():
    log = [{"step": step, "generator_loss": 2.0 * step} for step in range(1, 1001)]
    without_value = {"step": 1001, "generator_loss": None}
    steps, values = average_log([*log, without_value], "generator_loss")
    assert len(steps) == 100
    assert steps[0] == 5.5
    assert values == [2 * step for step in steps]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0}, [[1], [2], [4]]),
        ({1: 1.0, 2: 1.04, 4: 1.08, 8: 2.0}, [[1, 2, 4], [8]]),
        ({1: 1.06, 2: 1.0, 4: 3.0}, [[1, 2], [4]]),  # the smaller one is the slower one
        ({}, []),
    ],
)
def test_close_widths_share_a_label(positions, expected):
    assert group_close_widths(positions, 0.05 + 0.01) == expected
