"""A table for a terminal: a line for each row, its columns aligned to the right."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, two spaces between columns; all rows are as long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pairs = (zip(row, widths, strict=True) for row in rows)
    return ["  ".join(cell.rjust(width) for cell, width in pair) for pair in pairs]
