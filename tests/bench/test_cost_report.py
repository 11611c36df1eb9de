"""The tables of `gankd describe`."""

import math
import re

import jax
import pytest
import tiny

from gankd_jax.bench.cost_report import describe_costs
from gankd_jax.models.cost import generator_cost
from gankd_jax.models.dcgan import DCGANCritic, DCGANGenerator
from gankd_jax.study import networks, plan


def test_tables_add_up():
    config = tiny.repository_config("mnist", study__widths=(2,), study__teacher_widths=(16,))
    text = describe_costs(config, rate=0.5)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    gflops = [float(rows[name][2]) for name in ("teachers", "students", "baselines")]
    total = sum(gflops) * 1e9 * 20_000
    assert f"training in all: {total / 0.5e12 / 3600:.1f} hours at 0.5 TFLOP/s" in text
    for chip, peak in {"v5e": 197e12, "A100": 156e12}.items():
        assert float(rows[chip][1]) == pytest.approx(total / (peak / 4) / 3600, abs=0.0051)
    # A teacher's weights are updated once a step, and Adam keeps two numbers of each.
    critic = jax.eval_shape(
        lambda: DCGANCritic(16, 64, 1).init(
            jax.random.key(0), jax.numpy.zeros((2, 64, 64, 1)), train=False
        )
    )
    parameters = generator_cost(DCGANGenerator(16, 64, 1)).parameters + sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(critic["params"])
    )
    states, gradients = (float(word) * 1e6 for word in rows["teachers"][5:])
    assert gradients == pytest.approx(4 * parameters, abs=0.051e6)
    assert states == pytest.approx(12 * parameters, rel=0.01)


def test_shards_help_until_the_longest_student_follows_the_teacher():
    config = tiny.repository_config("mnist", study__widths=(2, 4), study__teacher_widths=(8,))
    text = describe_costs(config)
    count = int(re.search(r"Up to (\d+) shards help", text)[1])
    rows = [line.split() for line in text.splitlines() if re.fullmatch(r" +\d+ .* \S+-s0", line)]
    hours = {int(row[0]): float(row[2]) for row in rows}
    assert list(hours) == sorted({*(n for n in (1, 2, 4) if n <= count), count})
    assert sorted(hours.values(), reverse=True) == list(hours.values())
    # One joint student of the largest width, which has the teacher's critic.
    assert rows[-1][3:] == ["student-joint-d4-s0"]
    teacher, student = (networks.run_flops(config, run) for run in last_runs(config))
    assert float(rows[-1][1]) == pytest.approx((teacher + student) / 1e15, abs=0.0051)


def last_runs(config):
    """The teacher and the costliest student."""
    return [plan.find_run(config, name) for name in ("teacher-d8-s0", "student-joint-d4-s0")]
