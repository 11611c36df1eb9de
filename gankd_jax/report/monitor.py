"""Shows the state of a running study, on any number of machines, from the files in its folder."""

import shutil
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd_jax.report.formatting import format_number
from gankd_jax.report.study_results import (
    blame_file,
    list_planned_runs,
    read_failure,
    read_json_object,
    read_results,
)
from gankd_jax.study.plan import Run
from gankd_jax.utils import file_lock
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import LOG_FILE, read_log

REFRESH_SECONDS = 3.0
# A running process counts as silent after this time without a new line in its log. Larger values
# notice a dead machine later; smaller ones call slow runs silent.
SILENT_AFTER_LINES = 5  # times the interval between the last two lines
MIN_SILENT_SECONDS = 120.0
FIRST_LINE_SECONDS = 900.0  # before the first line, which comes after compilation
LOSSES = ("critic_loss", "generator_loss", "pixel_error")
# A run's line shows the first of these that it has; a student of `gankd distill` has the last.
SCORES = (
    *("inception_score", "fid", "fd_classifier", "fd_1280", "fd_768", "fd_192", "fd_64"),
    "pixel_error",
)
MAX_SCORES = 2
# States whose runs share a line where the screen is too small, in this order.
COLLAPSIBLE_STATES = ("scored", "waiting", "trained", "stopped")


@dataclass(frozen=True)
class RunStatus:
    """The state of a run.

    Attributes:
        name: The run's name.
        state: waiting, training, silent, stopped, trained, scored or failed.
        host: The machine that trains it; "" if none does.
        text: Progress, scores or the reason of a failure.
    """

    name: str
    state: str
    host: str = ""
    text: str = ""


def monitor_study(workdir: Path, *, once: bool) -> None:
    """Prints the state of a study whenever it changes, until Ctrl-C.

    On a terminal the screen is redrawn in place; elsewhere the output is plain text.

    Args:
        workdir: The study's work directory.
        once: Whether to print a single time and return.

    Raises:
        UserError: The folder holds no study, or a file in it is damaged.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"--workdir={workdir} holds no study; `gankd study` begins one")
    printed = ""
    try:
        while True:
            size = shutil.get_terminal_size() if sys.stdout.isatty() else None
            statuses = read_status(workdir, time.time())
            text = render_screen(
                str(workdir), statuses, (size.columns, size.lines - 1) if size else None
            )
            if size and not once:  # go to the top left, clear each line's rest and what is below
                text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\x1b[J"
            if text != printed:
                print(text, flush=True)
            if once:
                return
            printed = text
            time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def read_status(workdir: Path, now: float) -> list[RunStatus]:
    """Returns the status of every run of a study, in the order of the report.

    Args:
        workdir: The study's work directory.
        now: The time in seconds since the epoch, for the age of logs.
    """
    path = workdir / "config.json"
    config = read_json_object(path)
    with blame_file(path):
        runs = list_planned_runs(config)
        steps = [int(config["recipes"][run.recipe]["steps"]) for run in runs]
    return [_run_status(workdir, *item, now=now) for item in zip(runs, steps, strict=True)]


def _run_status(workdir: Path, run: Run, steps: int, *, now: float) -> RunStatus:
    folder = workdir / run.name
    if failure := read_failure(folder / "failed.json"):
        return RunStatus(run.name, "failed", text=failure)
    if (folder / "scores.json").exists():
        return RunStatus(run.name, "scored", text=_format_scores(read_results(folder).scores))
    if (folder / "checkpoints" / str(steps)).exists():
        return RunStatus(run.name, "trained", text="not scored yet")
    with blame_file(folder / LOG_FILE):
        return _unfinished_status(workdir, run.name, read_log(folder), steps=steps, now=now)


def _format_scores(scores: dict[str, float]) -> str:
    keys = [key for key in SCORES if key in scores][:MAX_SCORES]
    return ", ".join(f"{key} {format_number(scores[key])}" for key in keys)


def _last_interval(log: list[dict[str, Any]]) -> tuple[int, float]:
    """Returns the steps and seconds between the last two lines, or up to the only one."""
    previous = log[-2] if len(log) > 1 else {"step": 0, "seconds": 0.0}
    return log[-1]["step"] - previous["step"], log[-1]["seconds"] - previous["seconds"]


def _describe_progress(log: list[dict[str, Any]], steps: int) -> list[str]:
    """Returns step, speed, remaining time and last losses; nothing before the first line."""
    if not log:
        return []
    last, (count, seconds) = log[-1], _last_interval(log)
    steps_per_second = count / seconds
    remaining = (steps - last["step"]) / steps_per_second
    losses = [f"{name} {last[name]:.4g}" for name in LOSSES if name in last]
    return [
        f"step {last['step']:,} of {steps:,}",
        f"{steps_per_second:.3g} steps/s",
        f"{_format_duration(remaining)} left",
        *losses,
    ]


def _unfinished_status(
    workdir: Path, name: str, log: list[dict[str, Any]], *, steps: int, now: float
) -> RunStatus:
    """Returns the status of a run that is not trained.

    It is training if its lock is held, or if its log is fresh: not every file system shows a lock
    that a process of another machine holds.
    """
    lock_path, log_path = workdir / file_lock.LOCKS_DIR / name, workdir / name / LOG_FILE
    progress = _describe_progress(log, steps)
    holder, held = file_lock.lock_holder(lock_path), file_lock.is_locked(lock_path)
    host = holder.rpartition(" on ")[2]
    if not holder:
        state = "stopped" if progress else "waiting"
        return RunStatus(name, state, text="".join(progress[:1]))
    if not held and host == socket.gethostname():
        text = ", ".join([*progress[:1], f"{holder} has ended"])
        return RunStatus(name, "stopped", text=text)
    age = now - max(path.stat().st_mtime for path in (lock_path, log_path) if path.exists())
    late = age > _silent_seconds(log)
    if late:
        progress.append(f"no news for {_format_duration(age)}")
    elif not log:
        progress.append("no line in its log yet")
    return RunStatus(name, "training" if held or not late else "silent", host, ", ".join(progress))


def _silent_seconds(log: list[dict[str, Any]]) -> float:
    """Returns after how many seconds without a new line a run counts as silent."""
    if not log:
        return FIRST_LINE_SECONDS
    return max(MIN_SILENT_SECONDS, SILENT_AFTER_LINES * _last_interval(log)[1])


def _format_duration(seconds: float) -> str:
    for unit_seconds, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def render_screen(
    title: str, statuses: list[RunStatus], size: tuple[int, int] | None = None
) -> str:
    """Returns the status of the runs as text.

    Args:
        title: The first line's start.
        statuses: The runs.
        size: Columns and lines of the screen; None for no limit.
    """
    counts = Counter(status.state for status in statuses)
    hosts = Counter(status.host for status in statuses if status.state == "training")
    lines = [
        f"{title}: {len(statuses)} runs: " + ", ".join(f"{n} {s}" for s, n in counts.items()),
        *(f"{count} training on {host}" for host, count in hosts.items()),
        "",
    ]
    rows = _collapse_rows(statuses, size[1] - len(lines)) if size else statuses
    name_width = max(len(row.name) for row in rows)
    state_width = max(len(row.state) for row in rows)
    for row in rows:
        host = f"on {row.host}: " if row.host else ""
        line = f"{row.name:{name_width}}  {row.state:{state_width}}  {host}{row.text}"
        lines.append(line.rstrip())
    return "\n".join(line[: size[0]] if size else line for line in lines)


def _collapse_rows(rows: list[RunStatus], max_rows: int) -> list[RunStatus]:
    """Merges runs of uneventful states into one row each until the rows fit on the screen."""
    for state in COLLAPSIBLE_STATES:
        count = sum(row.state == state for row in rows)
        if len(rows) > max_rows and count > 1:
            rows = [row for row in rows if row.state != state]
            rows.append(RunStatus(f"{count} runs", state))
    if len(rows) > max_rows > 0:
        rows = [*rows[: max_rows - 1], RunStatus(f"{len(rows) - max_rows + 1} more", "")]
    return rows
