"""The time from a command to its first steps."""

import os
import sys

import pytest
import tiny

from gankd_jax.bench import start
from gankd_jax.utils.errors import UserError


@pytest.mark.slow
def test_cold_start_takes_longer_than_warm_start(tmp_path_factory):
    root = tiny.session_dir(tmp_path_factory)
    done = tiny.run_gankd(root, "bench", "--start", "--rounds=1", *tiny.flags())
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert "first compiled call" in title
    seconds = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert seconds["cold"] > seconds["warm"] > 0


def test_start_that_fails_without_a_message_is_named_by_its_status():
    with pytest.raises(UserError, match="the start failed: status 3, no message"):
        start._time_command([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))


@pytest.mark.slow
def test_start_that_fails_repeats_the_message_of_the_command(tmp_path_factory):
    root = tiny.session_dir(tmp_path_factory)
    wrong = "--config.recipes.teacher.batch_size=100000"
    done = tiny.run_gankd(root, "bench", "--start", "--rounds=1", *tiny.flags(), wrong)
    assert done.returncode == 2
    assert "start failed: gankd: config.recipes.teacher.batch_size is 100000" in done.stderr
