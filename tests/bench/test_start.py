"""The time from a command to its first steps."""

import os
import sys
from pathlib import Path

import pytest
import tiny

from gankd_jax.bench import compile_report, start
from gankd_jax.utils import sharding
from gankd_jax.utils.errors import UserError

# ml_collections loads config files with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.slow
def test_start_is_timed_to_the_first_compiled_call(tmp_path_factory):
    root = tiny.session_dir(tmp_path_factory)
    done = tiny.run_gankd(root, "bench", "--start", "--rounds=1", *tiny.flags())
    assert done.returncode == 0, done.stderr
    title, *lines = done.stdout.splitlines()
    assert "first compiled call" in title
    seconds = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert seconds["cold"] > 0
    assert seconds["warm"] > 0


def test_cold_start_has_empty_caches_and_warm_start_those_that_it_left(monkeypatch):
    cached_names = []

    def list_and_fill_cache(command, environment):
        del command
        folder = Path(environment["XDG_CACHE_HOME"])
        cached_names.append([path.name for path in folder.iterdir()])
        (folder / "compiled").touch()
        assert "JAX_COMPILATION_CACHE_DIR" not in environment
        return 1.0

    monkeypatch.setattr(start, "_time_command", list_and_fill_cache)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    start._time_pair(["gankd"])
    assert cached_names == [[], ["compiled"]]


def test_start_leaves_the_device_to_the_command_that_it_times(command, monkeypatch):
    checks = []
    monkeypatch.setattr(sharding, "require_platform", lambda: checks.append("device"))
    monkeypatch.setattr(start, "time_start", lambda *_: "times")
    monkeypatch.setattr(compile_report, "describe_memory", lambda _: "memory")
    config = f"--config={tiny.DIGITS}"
    assert command("bench", "--start", config)[:2] == (0, "times\n")
    assert checks == []
    assert command("bench", "--memory", config)[:2] == (0, "memory\n")
    assert checks == ["device"]


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
