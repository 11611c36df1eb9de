"""Progress on a terminal and in a log file."""

import logging
import sys
import time

from gankd_jax.utils import progress
from gankd_jax.utils.progress import ProgressBar


class Clock:
    """Seconds that pass only when the test says so."""

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


def test_a_notebook_gets_a_bar_and_a_silenced_process_does_not(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    package = logging.getLogger("gankd_jax")
    for level, is_shown in ((logging.NOTSET, True), (logging.WARNING, False)):
        monkeypatch.setattr(package, "level", level)
        bar = ProgressBar("2 students", first=0, total=10)
        bar.update(10, {"pixel_error": 0.25})
        bar.close()
        assert ("2 students: 100%" in capsys.readouterr().err) == is_shown


def test_a_terminal_of_80_columns_shows_every_metric(caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, logger="gankd_jax")
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    bar = ProgressBar("12 students (part 2 of 3)", first=0, total=5000)
    names = ("critic_loss", "generator_loss", "pixel_error")
    bar.update(5000, dict.fromkeys(names, -0.00012345))
    bar.close()
    assert " ".join(f"{name} -0.0001234" for name in names) in capsys.readouterr().err
