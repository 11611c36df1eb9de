"""The state of a running study, on however many machines, out of the files that it leaves."""

import shutil
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankd_jax.report.runs import Key, failure, floats, planned, read_object, reading
from gankd_jax.report.wording import number
from gankd_jax.utils import file_lock
from gankd_jax.utils.errors import UserError
from gankd_jax.utils.metric_writer import read_log

REFRESH_SECONDS = 3.0  # seconds between looks
# A run at work writes a line of its log now and then, the first after its program is compiled.
LINES_LATE, LEAST_LATE, FIRST_LATE = 5, 120.0, 900.0  # lines; seconds; seconds
LOSSES = ("critic_loss", "generator_loss", "pixel_error")
FOLDED = ("scored", "waiting", "trained", "stopped")  # in this order, where a screen is too small


@dataclass(frozen=True)
class RunStatus:
    """A run's state in a word, where it is at work, and what else there is to say."""

    name: str
    state: str  # waiting, training, silent, stopped, trained, scored, failed
    host: str = ""
    text: str = ""


def monitor_study(folder: Path, *, once: bool) -> None:
    """Print the state of a study, and on until Ctrl-C; on a terminal the screen is kept.

    Raises:
      UserError: the folder holds no study, or a file in it is damaged.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"--workdir={folder} holds no study; `gankd study` begins one")
    shown = ""
    try:
        while True:
            size = shutil.get_terminal_size() if sys.stdout.isatty() else None
            found = read_status(folder, time.time())
            text = render_screen(
                str(folder), found, (size.columns, size.lines - 1) if size else None
            )
            if size and not once:
                text = "\x1b[H" + text.replace("\n", "\x1b[K\n") + "\x1b[K\x1b[J"
            if text != shown:
                print(text, flush=True)
            if once:
                return
            shown = text
            time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def read_status(folder: Path, now: float) -> list[RunStatus]:
    """Every run of a study at the time `now`, in seconds of the clock, in the plan's order."""
    path = folder / "config.json"
    config = read_object(path)
    with reading(path):
        steps = {key: int(config["recipes"][key.recipe]["steps"]) for key in planned(config)}
    return [_see(folder, key, count, now=now) for key, count in steps.items()]


def _see(folder: Path, key: Key, steps: int, *, now: float) -> RunStatus:
    own = folder / key.name
    if failed := failure(own / "failed.json"):
        return RunStatus(key.name, "failed", text=failed)
    path = own / "scores.json"
    if path.exists():
        return RunStatus(key.name, "scored", text=_scores(floats(read_object(path), path)))
    if (own / "checkpoints" / str(steps)).exists():
        return RunStatus(key.name, "trained", text="not scored yet")
    with reading(own / "log.jsonl"):
        return _at_work(folder, key.name, read_log(own), steps=steps, now=now)


def _scores(scores: dict[str, float]) -> str:
    names = [name for name in ("inception_score", "fid", "fd_classifier") if name in scores]
    return ", ".join(f"{name} {number(scores[name])}" for name in names)


def _last(log: list[dict[str, Any]]) -> tuple[int, float]:
    """The steps and the seconds between the last two lines, or up to the only one."""
    before = log[-2] if len(log) > 1 else {"step": 0, "seconds": 0.0}
    return log[-1]["step"] - before["step"], log[-1]["seconds"] - before["seconds"]


def _course(log: list[dict[str, Any]], steps: int) -> list[str]:
    """How far a run is; how fast it is, how long it will take, and its last losses."""
    if not log:
        return []
    last, (count, seconds) = log[-1], _last(log)
    pace = count / seconds
    left = (steps - last["step"]) / pace
    losses = [f"{name} {last[name]:.4g}" for name in LOSSES if name in last]
    place = f"step {last['step']:,} of {steps:,}"
    return [place, f"{pace:.3g} steps/s", f"{_time(left)} left", *losses]


def _at_work(
    folder: Path, name: str, log: list[dict[str, Any]], *, steps: int, now: float
) -> RunStatus:
    """A run that is not trained: at work if its lock is held, or if its log says so.

    A lock that a process of another machine holds is not seen on every file system.
    """
    path, course = folder / file_lock.LOCKS_DIR / name, _course(log, steps)
    holder, held = file_lock.lock_holder(path), file_lock.is_locked(path)
    host = holder.rpartition(" on ")[2]
    if not holder:
        return RunStatus(name, "stopped" if course else "waiting", text="".join(course[:1]))
    if not held and host == socket.gethostname():
        return RunStatus(name, "stopped", text=", ".join([*course[:1], f"{holder} has ended"]))
    age = now - max(p.stat().st_mtime for p in (path, folder / name / "log.jsonl") if p.exists())
    late = age > _patience(log)
    news = [f"no news for {_time(age)}"] if late else [] if log else ["no line of its log yet"]
    return RunStatus(
        name, "training" if held or not late else "silent", host, ", ".join(course + news)
    )


def _patience(log: list[dict[str, Any]]) -> float:
    """For how many seconds a run at work may be silent."""
    return max(LEAST_LATE, LINES_LATE * _last(log)[1]) if log else FIRST_LATE


def _time(seconds: float) -> str:
    """A span of time, to two digits or so."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def render_screen(title: str, found: list[RunStatus], size: tuple[int, int] | None = None) -> str:
    """The runs as text, within `size` columns and lines if given."""
    counts = Counter(seen.state for seen in found)
    hosts = Counter(seen.host for seen in found if seen.state == "training")
    lines = [
        f"{title}: {len(found)} runs: " + ", ".join(f"{n} {s}" for s, n in counts.items()),
        *(f"at work on {host}: {count} of them" for host, count in hosts.items()),
        "",
    ]
    rows = _fold(found, size[1] - len(lines)) if size else found
    widths = [max(len(getattr(row, field)) for row in rows) for field in ("name", "state")]
    for row in rows:
        place = f"on {row.host}: " if row.host else ""
        lines.append(f"{row.name:{widths[0]}}  {row.state:{widths[1]}}  {place}{row.text}".rstrip())
    return "\n".join(line[: size[0]] if size else line for line in lines)


def _fold(found: list[RunStatus], room: int) -> list[RunStatus]:
    """As many rows as there is room for: states in which little happens become one row each."""
    for state in FOLDED:
        alike = [seen for seen in found if seen.state == state]
        if len(found) > room and len(alike) > 1:
            rest = [seen for seen in found if seen.state != state]
            found = [*rest, RunStatus(f"{len(alike)} runs", state)]
    if len(found) > room > 0:
        found = [*found[: room - 1], RunStatus(f"{len(found) - room + 1} more", "")]
    return found
