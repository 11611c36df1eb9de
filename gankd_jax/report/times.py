"""How fast each width draws in each precision, as a table, and which are no faster than larger."""

from gankd_jax.report.cells import Cell, Table, whole
from gankd_jax.report.runs import Study, Timed
from gankd_jax.report.wording import number
from gankd_jax.utils.constants import FASTER_FACTOR, PRECISIONS, STEADY_SPREAD

MEASURE = "`gankd bench --export --config=... --workdir=...` measures it"
HEADER = (
    *("d", "model", "weights", "file's bytes", "ms", "images/s", "MiB"),
    *("times faster", "not faster than"),
)


def not_faster(study: Study, width: int, precision: str) -> int | None:
    """Return the next wider width if it is as fast in the same precision, within `AS_FAST`."""
    wider = [other for other, p in study.timed if p == precision and other > width]
    if not wider or (width, precision) not in study.timed:
        return None
    ours, theirs = (study.timed[d, precision].milliseconds for d in (width, min(wider)))
    return None if theirs > FASTER_FACTOR * ours else min(wider)


def time_tables(study: Study) -> list[Table]:
    """Return the table, once something is timed."""
    teacher = study.teacher.key.width if study.teacher else None
    order = {precision: place for place, precision in enumerate(PRECISIONS)}
    timed = sorted(study.timed, key=lambda one: (one[0] != teacher, one[0], order[one[1]]))
    lines = tuple(_line(study, *one, is_teacher=one[0] == teacher) for one in timed)
    note = (
        "ms: for one image; images/s: in batches of 64; MiB: the most memory; all on one CPU "
        f"thread: {study.machine}. times faster: than the teacher with float32 weights. "
        "not faster than: the next wider model is as fast, within 5 %."
    )
    spread = max((one.spread for one in study.timed.values()), default=1)
    if spread > STEADY_SPREAD:
        note += f" The machine was busy: turns differ by up to {spread:.1f} times."
    return [Table("Time", note, HEADER, lines, len(HEADER))] if lines else []


def _line(study: Study, width: int, precision: str, *, is_teacher: bool) -> tuple[Cell, ...]:
    timed, rival = study.timed[width, precision], not_faster(study, width, precision)
    return (
        whole(width),
        Cell("teacher" if is_teacher else "small"),
        Cell(precision),
        whole(timed.bytes),
        *map(_number, (timed.milliseconds, timed.images_per_second, timed.peak_mib)),
        _against(study, timed),
        Cell("" if rival is None else f"d={rival}"),
    )


def _number(value: float) -> Cell:
    return Cell(number(value), value)


def _against(study: Study, timed: Timed) -> Cell:
    teacher = study.timed.get((study.teacher.key.width, "float32")) if study.teacher else None
    times = teacher.milliseconds / timed.milliseconds if teacher else None
    return Cell("-" if times is None else number(times), times)
