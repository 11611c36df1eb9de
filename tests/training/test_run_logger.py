"""Log, checkpoints, image grids and failure report of a training run."""

import errno
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from gankd_jax.training.run_logger import RunLogger
from gankd_jax.utils import atomic_io
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log


def create_state(step: int) -> dict:
    key = jax.random.fold_in(jax.random.key(0), step)
    return {"step": jnp.array(step, jnp.int32), "kernel": jax.random.normal(key, (4, 4, 3))}


def test_full_disk_raises_user_error_and_keeps_earlier_checkpoints(tmp_path, monkeypatch):
    def raise_disk_full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunLogger(tmp_path / "run") as logger:
        logger.resume_from(0)
        logger.save_checkpoint(10, create_state(10))
        monkeypatch.setattr(logger.checkpoints._manager, "save", raise_disk_full)
        with pytest.raises(UserError, match=r"step 20 .* No space left .* is kept: 10$"):
            logger.save_checkpoint(20, create_state(20))
        assert (
            tiny.differences(logger.checkpoints.restore(10, create_state(0)), create_state(10))
            == []
        )


def test_log_line_holds_means_since_the_previous_line(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.resume_from(0)
        for loss in (1.0, 2.0):
            logger.add_metrics({"loss": loss})
        assert logger.write_metrics(10, seconds=2.0, images=640) == {"loss": 1.5}
        logger.add_metrics({"loss": 5.0})
        logger.write_metrics(20, seconds=4.0, images=640)
    assert read_log(tmp_path) == [
        {"step": 10, "seconds": 2.0, "images_per_second": 320.0, "loss": 1.5},
        {"step": 20, "seconds": 6.0, "images_per_second": 160.0, "loss": 5.0},
    ]


def test_resume_removes_newer_log_lines_and_checkpoints(tmp_path):
    with RunLogger(tmp_path) as logger:
        logger.resume_from(0)
        for step in (10, 20):
            logger.add_metrics({"loss": 1.0})
            logger.write_metrics(step, seconds=1.0, images=1)
            logger.save_checkpoint(step, create_state(step))
        logger.mark_failed(25, {"loss": float("nan")})
    with RunLogger(tmp_path) as logger:
        logger.resume_from(10)
        assert logger.checkpoints.steps() == [10]
        assert not (tmp_path / "failed.json").exists()
        logger.add_metrics({"loss": 1.0})
        logger.write_metrics(20, seconds=0.5, images=1)
    assert [(line["step"], line["seconds"]) for line in read_log(tmp_path)] == [
        (10, 1.0),
        (20, 1.5),
    ]


def test_writing_metrics_before_resume_from_is_an_error(tmp_path):
    with RunLogger(tmp_path) as logger, pytest.raises(RuntimeError, match="resume_from first"):
        logger.writer.write_scalars(1, {"loss": 1.0})


def test_failure_reason_names_non_finite_metrics_and_last_checkpoint(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    with RunLogger(tmp_path) as logger:
        logger.resume_from(0)
        logger.mark_failed(5, {"a": 1.0, "b": float("nan"), "c": float("inf")})
        failed = atomic_io.read_json(tmp_path / "failed.json")
        assert failed["step"] == 5
        values = "not finite: b nan, c inf; finite: a 1"
        assert failed["reason"] == f"{values}; last checkpoint before: none"
        assert caplog.messages == [f"{tmp_path.name} has failed at step 5: {failed['reason']}"]
        logger.save_checkpoint(10, create_state(10))
        logger.mark_failed(15, {"a": float("-inf")})
    assert atomic_io.read_json(tmp_path / "failed.json")["reason"].endswith("before: 10")


def test_grid_is_written_as_png(tmp_path):
    grid = np.random.default_rng(0).integers(0, 256, (4, 4, 1), np.uint8)
    with RunLogger(tmp_path) as logger:
        logger.resume_from(0)
        logger.write_grid(20, grid)
    with Image.open(tmp_path / "grids" / "0000020.png") as image:
        assert np.asarray(image).tolist() == grid[..., 0].tolist()
