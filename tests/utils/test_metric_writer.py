"""What a run logs: JSON lines, TensorBoard, W&B offline, and writers of a user."""

import contextlib
import errno
import io
import json
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import gankd_jax
from gankd_jax.utils import metric_writer
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import (
    WRITERS,
    JsonlWriter,
    TensorBoardWriter,
    WriterSettings,
    open_writers,
    read_log,
)


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_log_is_a_line_for_each_step(tmp_path):
    writer = JsonlWriter(tmp_path, "", 0)
    writer.write_scalars(10, {"seconds": 1.5, "loss": 0.25})
    assert lines(tmp_path) == [{"step": 10, "seconds": 1.5, "loss": 0.25}]  # at once
    writer.write_scalars(20, {"seconds": 3.0, "loss": 0.125})
    writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    assert read_log(tmp_path) == lines(tmp_path)


def test_a_resumed_log_drops_later_lines_and_one_cut_short(tmp_path):
    whole = [json.dumps({"step": step, "seconds": step / 10.0}) for step in (10, 20, 30)]
    (tmp_path / "log.jsonl").write_text("\n".join([*whole, '{"step": 40, "sec']))
    writer = JsonlWriter(tmp_path, "", 20)
    writer.write_scalars(30, {"seconds": 2.5})
    writer.close()
    found = [(line["step"], line["seconds"]) for line in lines(tmp_path)]
    assert found == [(10, 1.0), (20, 2.0), (30, 2.5)]


def test_the_error_of_a_full_disk_names_the_log(tmp_path, monkeypatch):
    def raise_full(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = JsonlWriter(tmp_path, "", 0)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_file", SimpleNamespace(name="log.jsonl", write=raise_full))
        with pytest.raises(OSError, match="No space left on device") as error:
            writer.write_scalars(10, {"loss": 0.25})
    writer.close()
    assert error.value.filename == "log.jsonl"


def test_closing_a_log_on_a_full_disk_does_not_hide_the_error_that_names_it(tmp_path):
    writer = JsonlWriter(tmp_path, "", 0)
    writer.close()
    full = pytest.raises(OSError, match="No space left on device")
    with Path("/dev/full").open("a") as file, full as error, contextlib.closing(writer):
        writer._file = file
        writer.write_scalars(10, {"loss": 0.25})
    assert error.value.filename == "/dev/full"


def test_a_log_from_step_0_is_empty(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 10, "seconds": 1.0}\n')
    writer = JsonlWriter(tmp_path, "", 0)
    writer.close()
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
    writer = TensorBoardWriter(tmp_path, "", 0)
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
    writer = TensorBoardWriter(tmp_path, "", 20)
    writer.write_scalars(30, {"seconds": 1.0})
    writer.close()
    restarts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert restarts == [21]  # what an earlier file holds from there on is not shown


def test_tensorboard_shows_one_channel_too(tmp_path):
    writer = TensorBoardWriter(tmp_path, "", 0)
    writer.write_images(10, {"grey": np.full((4, 4, 1), 7, np.uint8)})
    writer.close()
    (image,) = [v.image for e in events(tmp_path) for v in e.summary.value]
    assert np.unique(np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))) == [7]


def test_tensorboard_gets_the_hyperparameters(tmp_path):
    writer = TensorBoardWriter(tmp_path, "", 0)
    writer.write_hparams({"recipe": "mse", "width": 4, "warm_start": True})
    writer.close()
    [value] = [v for e in events(tmp_path) for v in e.summary.value]
    stored = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    hparams = stored.session_start_info.hparams
    assert hparams["recipe"].string_value == "mse"
    assert (hparams["width"].number_value, hparams["warm_start"].bool_value) == (4, True)


def test_importing_the_module_does_not_import_tensorboard():
    assert not hasattr(metric_writer, "SummaryWriter")  # it would import PyTorch at each start


class Memory(gankd_jax.MetricWriter):
    """Keeps what it gets, and fails when it is asked to."""

    def __init__(self, folder, study, resume_step):
        self.opened, self.calls, self.fails = (folder, study, resume_step), [], False
        made.append(self)

    def write_scalars(self, step, scalars):
        if self.fails:
            raise ConnectionError("the server\nis gone")
        self.calls.append((step, dict(scalars)))

    def write_hparams(self, hparams):
        self.calls.append(hparams)


made: list[Memory] = []


@pytest.fixture
def memory(registries) -> list[Memory]:
    gankd_jax.register_writer("memory")(Memory)
    made.clear()
    return made


def test_a_registered_writer_is_opened_by_name(tmp_path, memory):
    settings = WriterSettings(("jsonl", "memory"), "digits", {"width": 2})
    writer = open_writers(tmp_path, settings, 10)
    writer.write_scalars(20, {"loss": 0.5})
    writer.close()
    assert memory[0].opened == (tmp_path, "digits", 10)
    assert memory[0].calls == [{"width": 2}, (20, {"loss": 0.5})]
    assert read_log(tmp_path) == [{"step": 20, "loss": 0.5}]
    with pytest.raises(UserError, match="a writer named 'jsonl' is registered already"):
        gankd_jax.register_writer("jsonl")(Memory)


def test_a_writer_that_fails_is_named_once_and_the_others_go_on(tmp_path, memory, caplog):
    writer = open_writers(tmp_path, WriterSettings(("memory", "jsonl")), 0)
    memory[0].fails = True
    for step in (10, 20):
        writer.write_scalars(step, {"loss": 0.5})
    writer.close()
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20]
    reason = "ConnectionError: the server is gone"
    assert caplog.messages == [f"the writer memory fails and gets nothing more: {reason}"]


def test_a_writer_that_does_not_open_is_one_line_and_the_others_are_closed(tmp_path, memory):
    def refuse(folder, study, resume_step):
        raise ValueError("no\nlogin")

    WRITERS["refusing"] = refuse
    with pytest.raises(UserError, match=r"^the writer refusing cannot be opened: .*no login$"):
        open_writers(tmp_path, WriterSettings(("jsonl", "refusing")), 0)


def test_scores_go_to_all_writers_but_the_log(tmp_path, memory, caplog):
    settings = WriterSettings(("jsonl", "memory", "refusing"))
    WRITERS["refusing"] = lambda *_: 1 / 0
    metric_writer.write_scores(tmp_path, settings, 30, {"fid": 2.5})
    assert memory[0].calls[-1] == (30, {"scores/fid": 2.5})
    assert read_log(tmp_path) == []
    [message] = caplog.messages
    assert "scores are not written to refusing" in message


def test_wandb_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr(metric_writer.importlib.util, "find_spec", lambda _: None)
    metric_writer.require_writers(["jsonl", "tensorboard"])
    with pytest.raises(UserError, match=r"wandb, which is not installed: pip install 'gankd-jax"):
        metric_writer.require_writers(["jsonl", "wandb"])


def wandb_records(folder) -> list:
    """The records of W&B's offline files: LevelDB's log, in blocks of chunks with a head each."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, content = [], b""
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place = path.read_bytes(), 7
        while place + 7 <= len(data):
            if place % 2**15 > 2**15 - 7:  # the end of a block has no room for a head
                place += -place % 2**15
                continue
            length, kind = struct.unpack_from("<HB", data, place + 4)
            content += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # a whole record, or its last chunk
                found.append(Record.FromString(content))
                content = b""
    return found


@pytest.mark.slow  # it starts a process
def test_wandb_has_one_run_for_a_run_that_trains_is_resumed_and_scored(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(tmp_path / "settings"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    settings = WriterSettings(("jsonl", "wandb"), "digits", {"width": 2, "recipe": "mse"})
    folders = [tmp_path / "student-a", tmp_path / "student-b"]
    for first in (0, 10):  # trained, then resumed
        writers = [open_writers(folder, settings, first) for folder in folders]  # side by side
        for writer in writers:
            writer.write_scalars(first + 10, {"loss": 0.5})
        writers[0].write_images(first + 10, {"grid": np.full((8, 8, 1), 7, np.uint8)})
        for writer in writers:
            writer.close()
        time.sleep(1.1)  # wandb names an offline run's folder by the second
    metric_writer.write_scores(folders[0], settings, 20, {"fid": 2.5})
    records = wandb_records(folders[0])
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert len(runs) == 3
    assert len({run.run_id for run in runs}) == 1
    assert {(run.run_group, run.display_name) for run in runs} == {("digits", "student-a")}
    lines = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [
        (10, 0.5),
        (20, 0.5),
    ]
    assert [(line["step"], line["scores/fid"]) for line in lines if "scores/fid" in line] == [
        (20, 2.5)
    ]
    hparams = {u.key: u.value_json for r in records for u in r.config.update}
    assert (hparams["width"], hparams["recipe"]) == ("2", '"mse"')
    [picture, _] = sorted(folders[0].glob("wandb/offline-run-*/files/media/images/*.png"))
    with Image.open(picture) as image:
        assert (image.size, np.unique(np.asarray(image)).tolist()) == ((8, 8), [7])
    other_ids = {r.run.run_id for r in wandb_records(folders[1]) if r.HasField("run")}
    assert len(other_ids) == 1
    assert other_ids != {runs[0].run_id}
