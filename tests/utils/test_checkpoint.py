"""Checkpoints: what is written is restored, and damage is noticed."""

import logging
import shutil
import subprocess
import sys

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gankd_jax.utils.checkpoint import LOG_LEVELS, MAX_TO_KEEP, Checkpoints, is_intact
from gankd_jax.utils.errors import UserError


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


def state(step: int) -> dict:
    key = jax.random.fold_in(jax.random.key(0), step)
    return {
        "step": jnp.array(step, jnp.int32),
        "weights": {"kernel": jax.random.normal(key, (4, 4, 3)), "bias": jnp.zeros(3)},
        "none": None,
        "empty": {},
    }


def test_a_checkpoint_restores_values_types_and_structure(checkpoints):
    checkpoints.save(10, state(10))
    for like in (state(0), jax.eval_shape(lambda: state(0))):
        found = checkpoints.restore(10, like)
        assert jax.tree.structure(found) == jax.tree.structure(state(10))
        assert tiny.differences(found, state(10)) == []
        assert found["step"].dtype == jnp.int32


def test_importing_the_library_sets_no_level_of_other_loggers():
    code = """
import logging
import absl.logging
levels = [logging.getLogger(name).level for name in ("absl", "concurrent.futures")]
import gankd_jax.study.runner, gankd_jax.utils.checkpoint
print(levels == [logging.getLogger(name).level for name in ("absl", "concurrent.futures")])
"""
    streams = {"capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.REPO, check=False, **streams)
    assert done.stdout == "True\n", done.stderr


def test_lines_of_orbax_are_left_out_and_later_ones_are_not(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loggers = [logging.getLogger(name) for name in LOG_LEVELS]
    before = [(logger.level, list(logger.filters)) for logger in loggers]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, state(10))
    checkpoints.restore(10, state(0))
    checkpoints.discard_after(5)
    checkpoints.close()
    assert [record for record in caplog.records if record.name in LOG_LEVELS] == []
    assert [(logger.level, list(logger.filters)) for logger in loggers] == before
    absl.logging.info("another line")
    assert caplog.messages[-1] == "another line"


def test_the_arrays_of_a_checkpoint_have_their_names(checkpoints):
    checkpoints.save(10, state(10) | {"more": jnp.arange(6, dtype=jnp.int32).reshape(2, 3)})
    found = checkpoints.arrays(10)
    assert found.keys() == {
        *("['step']", "['weights']['kernel']", "['weights']['bias']", "['more']"),
    }
    assert found["['more']"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["['step']"] == 10
    kernel = found["['weights']['kernel']"]
    assert kernel.tobytes() == np.asarray(state(10)["weights"]["kernel"]).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"kernel": jnp.zeros((4, 4, 3))}},  # one array fewer
        {"step": jnp.zeros((), jnp.float32)},
        {"weights": {"kernel": jnp.zeros((4, 3, 4)), "bias": jnp.zeros(3)}},
        {"other": jnp.zeros(2)},
    ],
    ids=["fewer", "another dtype", "another shape", "more"],
)
def test_a_checkpoint_of_another_state_is_refused(checkpoints, change):
    checkpoints.save(10, state(10))
    with pytest.raises(
        UserError, match=r"checkpoints/10 (holds no state of this run|has another precision)"
    ):
        checkpoints.restore(10, state(0) | change)


def test_the_newest_checkpoints_are_kept(checkpoints):
    assert checkpoints.steps() == []
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == [30, 40]
    assert len(checkpoints.steps()) == MAX_TO_KEEP
    assert tiny.differences(checkpoints.restore(30, state(0)), state(30)) == []


def flip(path):
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: path.with_name("more").write_bytes(b""),
    ],
    ids=["flipped", "truncated", "missing", "added"],
)
def test_a_damaged_checkpoint_is_noticed(checkpoints, tmp_path, damage):
    checkpoints.save(10, state(10))
    folder = tmp_path / "checkpoints" / "10"
    assert is_intact(folder)
    damage(largest(folder))
    assert not is_intact(folder)


def test_a_checkpoint_without_a_hash_counts_as_intact(checkpoints, tmp_path):
    checkpoints.save(10, state(10))
    (tmp_path / "checkpoints" / "10" / "sha256").unlink()
    assert is_intact(tmp_path / "checkpoints" / "10")


def test_a_quarantined_checkpoint_is_no_step(checkpoints, tmp_path):
    for step in (10, 20):
        checkpoints.save(step, state(step))
    (tmp_path / "checkpoints" / "20").rename(tmp_path / "checkpoints" / "20.damaged")
    again = Checkpoints(tmp_path / "checkpoints")
    assert again.steps() == [10]
    again.save(20, state(20))
    assert again.steps() == [10, 20]
    again.close()


def test_checkpoints_after_a_step_are_discarded_and_can_be_written_again(checkpoints):
    checkpoints.save(10, state(10))
    checkpoints.save(20, state(20))
    checkpoints.discard_after(10)
    assert checkpoints.steps() == [10]
    checkpoints.save(20, state(21))
    assert int(checkpoints.restore(20, state(0))["step"]) == 21


def test_a_deletion_that_was_cut_short_leaves_no_half_of_a_checkpoint(tmp_path, monkeypatch):
    made = Checkpoints(tmp_path)
    for step in (10, 20):
        made.save(step, state(step))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed before
    made.discard_after(10)
    assert made.steps() == [10]
    made.close()
    monkeypatch.undo()
    again = Checkpoints(tmp_path)
    assert again.steps() == [10]
    assert {path.name for path in tmp_path.iterdir()} == {"10"}
    again.close()


def test_a_save_that_was_cut_short_is_absent(tmp_path):
    unfinished = tmp_path / "20.orbax-checkpoint-tmp" / "default"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_bytes(b"half")
    made = Checkpoints(tmp_path)
    assert made.steps() == []
    made.save(20, state(20))
    assert tiny.differences(made.restore(20, state(0)), state(20)) == []
    made.close()
