"""The log of a run, as JSON lines and for TensorBoard."""

import errno
import io
import json
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from gankd_jax.utils import metric_writer
from gankd_jax.utils.metric_writer import MetricWriter, read_log


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_log_is_a_line_for_each_step(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(10, {"seconds": 1.5, "loss": 0.25})
    assert lines(tmp_path) == [{"step": 10, "seconds": 1.5, "loss": 0.25}]  # at once
    writer.write_scalars(20, {"seconds": 3.0, "loss": 0.125})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    assert read_log(tmp_path) == lines(tmp_path)


def test_a_resumed_log_drops_later_lines_and_one_cut_short(tmp_path):
    whole = [json.dumps({"step": step, "seconds": step / 10.0}) for step in (10, 20, 30)]
    (tmp_path / "log.jsonl").write_text("\n".join([*whole, '{"step": 40, "sec']))
    writer = MetricWriter(tmp_path, 20)
    assert writer.seconds == 2.0
    writer.write_scalars(30, {"seconds": 2.5})
    writer.close()
    found = [(line["step"], line["seconds"]) for line in lines(tmp_path)]
    assert found == [(10, 1.0), (20, 2.0), (30, 2.5)]


def test_the_error_of_a_full_disk_names_the_log(tmp_path, monkeypatch):
    def raise_full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = MetricWriter(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_file", SimpleNamespace(name="log.jsonl", write=raise_full))
        with pytest.raises(OSError, match="No space left on device") as error:
            writer.write_scalars(10, {"loss": 0.25})
    writer.close()
    assert error.value.filename == "log.jsonl"


def test_a_log_from_step_0_is_empty(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 10, "seconds": 1.0}\n')
    writer = MetricWriter(tmp_path, 0)
    writer.close()
    assert writer.seconds == 0
    assert read_log(tmp_path) == []
    assert read_log(tmp_path / "none") == []


def events(folder) -> list[Event]:
    """The events of a TensorBoard file: length, check, bytes, check, again and again."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return found


def test_tensorboard_has_the_curves_and_the_images(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    writer = MetricWriter(tmp_path, 0)
    writer.write_scalars(10, {"seconds": 1.0, "loss": 0.25})
    writer.write_scalars(20, {"seconds": 2.0, "loss": 0.5})
    writer.write_images(20, {"fixed_latents": picture})
    writer.close()
    values = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    curve = [(step, v.simple_value) for step, v in values if v.tag == "loss"]
    assert curve == [(10, 0.25), (20, 0.5)]
    ((step, shown),) = [(step, v.image) for step, v in values if v.HasField("image")]
    with Image.open(io.BytesIO(shown.encoded_image_string)) as image:
        assert (step, np.asarray(image).tolist()) == (20, picture.tolist())


def test_tensorboard_gets_the_step_that_a_run_resumes_from(tmp_path):
    writer = MetricWriter(tmp_path, 20)
    writer.write_scalars(30, {"seconds": 1.0})
    writer.close()
    restarts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert restarts == [21]  # what an earlier file holds from there on is not shown


def test_tensorboard_shows_one_channel_too(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write_images(10, {"grey": np.full((4, 4, 1), 7, np.uint8)})
    writer.close()
    (image,) = [v.image for e in events(tmp_path) for v in e.summary.value]
    assert np.unique(np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))) == [7]


def test_importing_the_module_does_not_import_tensorboard():
    assert not hasattr(metric_writer, "SummaryWriter")  # it would import PyTorch at each start
