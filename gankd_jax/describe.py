"""What each width of a config costs, as a text table."""

import ml_collections

from gankd_jax import runs
from gankd_jax.models.cost import Cost, cost

HEADER = ("width", "paper's count", "parameters", "multiply-adds", "bytes", "ratio", "paper's")


def describe(config: ml_collections.ConfigDict) -> str:
    """One row per width, teachers last; ratios are to the widest teacher, by both counts."""
    study = config.study
    widths = sorted({*study.widths, *study.teacher_widths})
    teacher = cost(runs.generator(config, max(study.teacher_widths)))
    rows = [_row(width, cost(runs.generator(config, width)), teacher) for width in widths]
    table = [HEADER, *rows]
    columns = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    lines = [
        "  ".join(cell.rjust(n) for cell, n in zip(row, columns, strict=True)) for row in table
    ]
    size, channels = config.data.image_size, runs.channels(config)
    title = f"{config.name}: {size}x{size}x{channels}, teacher d={max(study.teacher_widths)}"
    notes = (
        "multiply-adds: of one image; bytes: of the parameters in float32; paper's count: kernels"
        " and their biases\nfor one output channel, batch norm left out; ratio: the teacher's"
        " parameters over this width's."
    )
    return "\n".join([title, *lines, notes])


def _row(width: int, size: Cost, teacher: Cost) -> tuple[str, ...]:
    return (
        str(width),
        f"{size.paper_parameters:,}",
        f"{size.parameters:,}",
        f"{size.multiply_adds:,}",
        f"{size.bytes_float32:,}",
        f"{teacher.parameters / size.parameters:.0f}:1",
        f"{teacher.paper_parameters / size.paper_parameters:.0f}:1",
    )
