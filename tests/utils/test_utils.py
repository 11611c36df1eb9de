"""The files that a run keeps, and what a person sees of it."""

import errno
import io
import json
import logging
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from gankd_jax.utils import atomic_io, file_lock, metric_writer, preemption, progress
from gankd_jax.utils.checkpoint import MAX_TO_KEEP, Checkpoints, is_intact
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import MetricWriter, read_log
from gankd_jax.utils.progress import ProgressBar


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


def test_a_checkpoint_gives_back_values_types_and_structure(checkpoints):
    checkpoints.save(10, state(10))
    for like in (state(0), jax.eval_shape(lambda: state(0))):
        found = checkpoints.restore(10, like)
        assert jax.tree.structure(found) == jax.tree.structure(state(10))
        assert tiny.differences(found, state(10)) == []
        assert found["step"].dtype == jnp.int32


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
    with pytest.raises(UserError, match=r"checkpoints/10 holds no state of this run"):
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
def test_a_damaged_checkpoint_is_known(checkpoints, tmp_path, damage):
    checkpoints.save(10, state(10))
    folder = tmp_path / "checkpoints" / "10"
    assert is_intact(folder)
    damage(largest(folder))
    assert not is_intact(folder)


def test_a_checkpoint_that_was_not_sealed_in_time_counts_as_sound(checkpoints, tmp_path):
    checkpoints.save(10, state(10))
    (tmp_path / "checkpoints" / "10" / "sha256").unlink()
    assert is_intact(tmp_path / "checkpoints" / "10")


def test_what_is_set_aside_is_no_step(checkpoints, tmp_path):
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


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    atomic_io.write_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    monkeypatch.setattr(
        atomic_io.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        atomic_io.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]  # nothing half-written is left


def test_of_two_that_write_once_the_first_one_s_stays(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.npz"
    for value in (1, 2):
        atomic_io.write_npz_if_absent(path, x=np.array(value))
    assert atomic_io.read_npz(path)["x"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["a.npz"]
    monkeypatch.setattr(atomic_io.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    atomic_io.write_npz_if_absent(tmp_path / "b.npz", x=np.array(3))
    assert atomic_io.read_npz(tmp_path / "b.npz")["x"] == 3


def test_a_file_has_the_rights_of_any_other(tmp_path):
    atomic_io.write_bytes(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_json_comes_back(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"c": "ä"}}
    atomic_io.write_json(tmp_path / "v.json", value)
    assert atomic_io.read_json(tmp_path / "v.json") == value
    assert (tmp_path / "v.json").read_text().endswith("}\n")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    atomic_io.write_png(tmp_path / "p.png", pixels)
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == {1: "L", 3: "RGB"}[channels]
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_arrays_come_back_and_objects_are_not_unpickled(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array(0.5)}
    atomic_io.write_npz(tmp_path / "a.npz", **arrays)
    found = atomic_io.read_npz(tmp_path / "a.npz")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)
    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([{}], dtype=object))
    (tmp_path / "bad.npz").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        atomic_io.read_npz(tmp_path / "bad.npz")


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


def test_a_log_begun_anew_is_empty(tmp_path):
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


def test_tensorboard_has_the_curves_and_the_pictures(tmp_path):
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


def test_tensorboard_is_told_from_where_a_run_goes_on(tmp_path):
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


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_file_gets_a_line_now_and_then_and_at_the_end(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    clock = Clock(monkeypatch)
    shown = ProgressBar("2 students", first=100, total=1000)
    for step in range(110, 1001, 10):
        clock.now += 1.0
        shown.update(step, {"loss": 0.5, "pixel_error": 1.0})
    shown.close()
    told = caplog.messages
    assert told[0] == ("2 students: step 310/1000, 10 steps/s, 69 s left, loss 0.5 pixel_error 1")
    assert [line.split()[3] for line in told] == [
        *(f"{step}/1000," for step in (310, 520, 730, 940, 1000))
    ]


def test_a_terminal_gets_a_bar(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = ProgressBar("teacher-d4-s0", first=100, total=200)
    shown.update(150, {"loss": 0.25})
    time.sleep(0.11)  # tqdm draws at most ten times a second
    shown.update(200, {"loss": 0.125})
    shown.close()
    drawn = capsys.readouterr().err
    assert "teacher-d4-s0: 100%" in drawn
    assert "200/200" in drawn
    assert "loss 0.125" in drawn


def test_no_line_comes_from_a_module_that_is_only_imported():
    assert not hasattr(metric_writer, "SummaryWriter")  # it would import PyTorch at each start


def test_a_lock_is_held_until_its_holder_ends(tmp_path):
    path = tmp_path / "locks" / "run"
    assert not file_lock.is_locked(path)
    with file_lock.hold_lock(path, "the run"):
        assert file_lock.is_locked(path)
        taken = pytest.raises(UserError, match=r"the run is taken: process \d+ on \S+ is at it")
        with taken, file_lock.hold_lock(path, "the run"):
            pass
    assert not file_lock.is_locked(path)
    with file_lock.hold_lock(path, "the run"):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock.fcntl, "flock", none)
    missing = pytest.raises(UserError, match=r"run cannot be locked \(No locks available\)")
    with missing, file_lock.hold_lock(tmp_path / "run", "the run"):
        pass


IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)"  # as deaf as a compiler
IN_PYTHON = "import time; time.sleep(600)"


@pytest.mark.parametrize("work", [IN_C, IN_PYTHON], ids=["in one long call", "in Python"])
def test_a_second_interrupt_stops_at_once(work):
    install = "from gankd_jax.utils import preemption; preemption.install_handlers()"
    code = f"{install}; print(flush=True); {work}"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tiny.REPO, **streams) as process:
        assert process.stdout.readline() == b"\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == preemption.STOPPING
        process.send_signal(signal.SIGTERM)  # only a SIGINT is so urgent
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (128 + signal.SIGINT, -signal.SIGINT)  # the latter by Python
