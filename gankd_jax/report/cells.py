"""What a table is made of, before it is written for a terminal, as Markdown or as HTML."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and what it is sorted by (None: by its text)."""

    text: str
    value: int | float | None = None


@dataclass(frozen=True)
class Table:
    """A table to be shown; a terminal gets its first `narrow` columns only."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    narrow: int


def whole(value: int) -> Cell:
    """A whole number, with commas."""
    return Cell(f"{value:,}", value)
